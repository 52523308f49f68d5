"""What `fit` refuses: arguments that make no sense, bounds in the wrong direction, other fits."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.errors import SiteError
from ppgen.inference import Checkpoints, EarlyStopping, elbo, fit, iwelbo, per_batch, per_datum
from ppgen.inference.fitting import CheckpointError
from ppgen.inference.fitting._arguments import check_arguments

KEY = jax.random.key(0)
DATA = jnp.arange(8.0)

SENSELESS = {
    "steps": [0, -1, 2.5, True, "3"],
    "chunk": [0, -1, 2.5],
    "draws": [0, -3, 1.5],
    "batch_size": [0, -1, 9, 2.5],
    "ema": [1.5, 1.0, -0.1, float("nan"), "0.9", True],
    "on_nonfinite": ["Skip", "", None, True],
    "compute_dtype": ["int32", "float99", jnp.int8],
}


def square(p, batch):
    return jnp.mean((p - batch) ** 2)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in SENSELESS.items() for value in values]
)
def test_arguments_that_make_no_sense_are_refused(name, value):
    options = {"steps": 3, "data": DATA} | {name: value}
    # Of another type than is annotated: a TypeError where types are checked, as in these tests.
    with pytest.raises((ValueError, TypeError), match=name):
        fit(square, jnp.array(0.0), optax.adam(0.1), key=KEY, **options)
    sound = dict.fromkeys(SENSELESS, 1) | {"ema": None, "on_nonfinite": "skip"}
    sound["compute_dtype"] = jnp.bfloat16
    check_arguments(**sound)
    if (name, value) != ("batch_size", 9):  # which only the data tell
        with pytest.raises(ValueError, match=name):
            check_arguments(**sound | {name: value})


def model(p):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z, 1), obs=0.5)


def guide(p):
    numpyro.sample("z", dist.Normal(p, 1))


BOUND = elbo(model, guide)
SEEN = {
    "itself": BOUND,
    "iwelbo": iwelbo(model, guide, particles=3),
    "partial": functools.partial(BOUND),
    "jit": jax.jit(BOUND),
    "vmap": jax.vmap(BOUND),
    "partial of vmap": functools.partial(jax.vmap(BOUND)),
    "wraps": functools.wraps(BOUND)(lambda p: BOUND(p)),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_lower_bound_is_not_descended(name):
    with pytest.raises(ValueError, match="maximize=True"):
        fit(SEEN[name], jnp.array(0.0), optax.adam(0.1), key=KEY, steps=3)


def test_a_lower_bound_is_climbed_and_its_negative_descended():
    climbed = fit(BOUND, jnp.array(0.0), optax.adam(0.1), key=KEY, steps=3, maximize=True)
    descended = fit(lambda p: -BOUND(p), jnp.array(0.0), optax.adam(0.1), key=KEY, steps=3)
    np.testing.assert_allclose(climbed.params, descended.params)


def test_what_runs_off_is_said():
    with pytest.warns(UserWarning, match="may have no optimum"):
        fit(lambda p: -(p**2), jnp.array(1.0), optax.sgd(1.0), key=KEY, steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(lambda p: p**2, jnp.array(1e6), optax.sgd(0.1), key=KEY, steps=20)


def test_a_checkpoint_of_a_later_step_or_of_other_batches_is_refused(tmp_path):
    run = functools.partial(
        fit, square, jnp.array(0.0), optax.adam(0.1), key=KEY, data=DATA,
        checkpoints=Checkpoints(tmp_path, every=2),
    )  # fmt: skip
    whole = run(steps=6, batch_size=2)
    with pytest.raises(CheckpointError, match="of step 6, and the fit is to end at step 2"):
        run(steps=2, batch_size=2)
    with pytest.raises(CheckpointError, match="batch_size=2, not 4"):
        run(steps=8, batch_size=4)
    np.testing.assert_array_equal(run(steps=6, batch_size=2).history, whole.history)


PYTREES = {
    "array": np.ones(4),
    "pair": (np.ones(4), np.zeros((4, 2))),
    "dict": {"x": np.ones((4, 3)), "y": [np.arange(4)]},
}


@pytest.mark.parametrize("name", PYTREES)
def test_data_are_any_pytree_with_a_common_axis(name):
    data = PYTREES[name]

    def objective(p, batch):
        return sum(jnp.sum(leaf) * p for leaf in jax.tree.leaves(batch))

    rows = [jax.tree.map(lambda leaf: leaf[i], data) for i in range(4)]  # noqa: B023
    np.testing.assert_allclose(
        per_datum(objective, 1.5, data, key=KEY), [float(objective(1.5, r)) for r in rows]
    )
    stopping = EarlyStopping(data, every=1, patience=1)
    fit(
        lambda p, b: objective(p, b) ** 2, jnp.array(1.0), optax.sgd(0.01), key=KEY, steps=2,
        data=data, batch_size=2, early_stopping=stopping,
    )  # fmt: skip


@pytest.mark.parametrize("data", [(), (np.ones(3), np.ones(4)), jnp.float32(1.0)])
def test_data_without_a_common_axis_are_refused(data):
    with pytest.raises(ValueError, match="share one leading axis"):
        per_datum(lambda p, d: p, 1.0, data, key=KEY)


def test_a_bound_of_each_datum_is_a_bound_of_the_batch():
    """Its claim is followed through `per_batch`, which claims something of its own."""

    def model(loc, x):
        z = numpyro.sample("z", dist.Normal(loc, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(loc, x):
        numpyro.sample("z", dist.Normal(loc, 1.0))

    bound = per_batch(elbo(model, guide))
    assert float(ppgen.expectation(bound)(jax.random.key(0), 0.0, jnp.ones(3))) < 0
    options = {"key": jax.random.key(0), "steps": 2, "data": jnp.ones(4)}
    with pytest.raises(ValueError, match="lower bound of"):
        fit(bound, jnp.zeros(()), optax.sgd(0.1), **options)
    assert fit(bound, jnp.zeros(()), optax.sgd(0.1), **options, maximize=True).params != 0
    with pytest.raises(ValueError, match="no rows"):
        bound(0.0, jnp.ones(0))


# --- a batch that was not mapped ------------------------------------------------------------------


def row_model(net, x, *label):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("x", dist.Normal(net.T @ z, 1.0).to_event(1), obs=x)


def row_guide(net, x, *label):
    numpyro.sample("z", dist.Normal(net @ x, 1.0).to_event(1))


def rows_guide(net, x):  # its product is of rows as well as of one
    numpyro.sample("z", dist.Normal(x @ net.T, 1.0).to_event(1))


def labelled_guide(net, x, label):
    row_guide(net, x)


ROWS = jnp.ones((10, 5))
PER_BATCH = "per_batch(objective), for an objective of one row"
PARTS = "lambda params, batch: per_batch(objective)(params, *batch)"
UNMAPPED = {
    "in a network": (elbo(row_model, row_guide), ROWS, PER_BATCH),
    "at a site": (elbo(row_model, rows_guide), ROWS, PER_BATCH),
    "in a function": (lambda net, x: -elbo(row_model, row_guide)(net, x), ROWS, PER_BATCH),
    "not one number": (lambda net, x: -jnp.sum((x @ net.T) ** 2, -1), ROWS, PER_BATCH),
    "with labels": (elbo(row_model, labelled_guide), (ROWS, jnp.ones(10)), PARTS),
    "mapped, with labels": (
        per_batch(elbo(row_model, labelled_guide)),
        (ROWS, jnp.ones(10)),
        "lambda params, batch: objective(params, *batch)",
    ),
}


@pytest.mark.parametrize("name", UNMAPPED)
def test_a_batch_that_was_not_mapped_gets_advice_that_is_right(name):
    objective, data, advice = UNMAPPED[name]
    net = jnp.ones((3, 5))
    options = {"key": KEY, "steps": 1, "data": data, "maximize": True}
    with pytest.raises(Exception) as caught:  # noqa: B017 (whatever the mistake leads to)
        fit(objective, net, optax.sgd(1e-3), **options)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert said.count(f"Write instead: {advice}") == 1 == said.count("Write instead"), said
    written = said.split("Write instead: ")[1].split(", for ")[0]
    objective = eval(written, {"per_batch": per_batch, "objective": objective})
    fit(objective, net, optax.sgd(1e-3), **options)


def test_early_stopping_advises_as_well():
    bound = elbo(row_model, row_guide)
    stopping = EarlyStopping(ROWS, every=1, objective=bound)
    options = {"key": KEY, "steps": 1, "data": ROWS, "maximize": True, "early_stopping": stopping}
    with pytest.raises(TypeError) as caught:
        fit(per_batch(bound), jnp.ones((3, 5)), optax.sgd(1e-3), **options)
    assert PER_BATCH in "\n".join(caught.value.__notes__)


def test_an_error_that_mapping_does_not_help_gets_no_advice():
    def broken(net, x):
        raise RuntimeError("not this")

    with pytest.raises(RuntimeError, match="not this") as caught:
        fit(broken, jnp.ones(3), optax.sgd(1e-3), key=KEY, steps=1, data=ROWS)
    assert "Write instead" not in "".join(getattr(caught.value, "__notes__", ()))
    with pytest.raises(SiteError) as caught:  # outside of a fit, where it is the shape that tells
        ppgen.expectation(elbo(row_model, rows_guide))(KEY, jnp.ones((3, 5)), ROWS)
    assert "per_batch(objective)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("every", 0), ("every", True), ("patience", True), ("draws", 0), ("least", -1.0)]
    + [("least", float("nan")), ("least", float("inf"))],
)
def test_early_stopping_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        EarlyStopping(None, **{name: value})
