"""What `fit` does beyond a loop: optimisers, averages, state, what is not finite, stopping."""

from __future__ import annotations

import json

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.primitives import mutable

import ppgen
from ppgen.inference import Checkpoints, DataError, EarlyStopping, FitError, elbo, fit

KEY = jax.random.key(0)


def square(params, batch):
    return jnp.mean((batch - params) ** 2)


def descend(size):
    """Moves every parameter down by `size`, whatever the gradient."""
    return optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (jax.tree.map(lambda _: -size, updates), state),
    )


def test_is_traced_once_whatever_the_batches_and_the_boundaries(tmp_path):
    traces = []

    def loss(params, batch):
        traces.append(batch.shape)
        return jnp.mean((batch - ppgen.draw(dist.Normal(params, 1.0))) ** 2)

    def run(data, **more):
        traces.clear()
        fit(loss, 0.0, optax.adam(0.1), key=KEY, steps=23, data=data, chunk=5, **more)
        return traces

    rows = np.arange(23, dtype=np.float32)
    ragged = grain.MapDataset.source(rows).batch(5).to_iter_dataset()
    saved = {"checkpoints": Checkpoints(tmp_path / "checkpoints", every=7)}
    assert run(ragged, **saved) == [(5,)]
    assert run(rows, batch_size=7) == [(7,)]
    assert run(lambda: ppgen.draw(dist.Normal(0, 1).expand([4]))) == [(4,)]


def test_a_stream_and_arrays_give_the_same_steps():
    rows = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)

    def run(data):
        return fit(square, jnp.zeros(3), optax.sgd(0.1), key=KEY, steps=9, data=data, chunk=4)

    class Twice:
        def __iter__(self):
            return iter([rows, rows])

    np.testing.assert_allclose(run(rows).history, run(Twice()).history, rtol=1e-6)


def test_data_that_run_out_are_an_error():
    batches = (np.ones(4, np.float32) for _ in range(7))
    with pytest.raises(DataError, match="ran out after 7 of 9 steps"):
        fit(square, 0.0, optax.sgd(0.1), key=KEY, steps=9, data=batches, chunk=3)
    enough = (np.ones(4, np.float32) for _ in range(9))
    assert len(fit(square, 0.0, optax.sgd(0.1), key=KEY, steps=9, data=enough).history) == 9


def test_data_that_a_program_draws_are_fresh_in_every_step():
    def data():
        return numpyro.sample("x", dist.Normal(2.0, 1.0).expand([8]))

    fitted = fit(square, 0.0, optax.sgd(optax.linear_schedule(0.3, 0, 800)), key=KEY, steps=800,
                 data=data)  # fmt: skip
    assert len(set(fitted.history.tolist())) == 800
    assert abs(fitted.params - 2) < 0.1


def test_several_optimisers_by_label():
    optimizer = optax.partition(
        {"moves": optax.sgd(0.5), "rests": optax.set_to_zero()}, {"a": "moves", "b": "rests"}
    )
    start = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    fitted = fit(lambda p: p["a"] ** 2 + p["b"] ** 2, start, optimizer, key=KEY, steps=3)
    assert (fitted.params["a"], fitted.params["b"]) == (0.0, 1.0)


def test_accumulated_gradients_are_those_of_larger_batches():
    rows = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)

    class Rows:
        def __iter__(self):
            return iter(np.split(rows, 4))

    def run(optimizer, steps, size):
        start = jnp.zeros(2)
        return fit(square, start, optimizer, key=KEY, steps=steps, data=Rows(), batch_size=size)

    small = run(optax.MultiSteps(optax.adam(0.1), every_k_schedule=2), 8, 3)
    np.testing.assert_allclose(small.params, run(optax.adam(0.1), 4, 6).params, rtol=1e-5)


def test_optimisers_that_want_the_value_or_the_function():
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=2))
    flat = fit(lambda p: 0 * p + 1.0, 0.0, plateau, key=KEY, steps=20)
    assert flat.history.tolist() == [1.0] * 20

    def rosenbrock(p):
        return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2

    searched = fit(rosenbrock, jnp.zeros(2), optax.lbfgs(), key=KEY, steps=40)
    np.testing.assert_allclose(searched.params, 1.0, atol=1e-3)
    up = fit(
        lambda p: -rosenbrock(p), jnp.zeros(2), optax.lbfgs(), key=KEY, steps=40, maximize=True
    )
    np.testing.assert_array_equal(up.params, searched.params)


def test_the_average_is_debiased():
    seen = []
    fitted = fit(
        lambda p: jnp.sum(p**2),
        jnp.array([1.0, -2.0]),
        optax.sgd(0.2),
        key=KEY,
        steps=6,
        ema=0.8,
        chunk=1,
        callback=lambda progress: seen.append(np.asarray(progress.params, np.float64)) and None,
    )
    weights = 0.8 ** np.arange(6)[::-1]
    np.testing.assert_allclose(fitted.ema, weights @ np.stack(seen) / weights.sum(), rtol=1e-5)


def test_what_the_user_gave_is_not_overwritten():
    start, given = jnp.arange(3.0), jnp.zeros(3)
    kept = []
    fit(square, start, optax.sgd(0.1), key=KEY, steps=4, data=given, chunk=1,
        callback=lambda progress: kept.append(progress.params) and None)  # fmt: skip
    np.testing.assert_array_equal(start, [0, 1, 2])
    assert len({float(x.sum()) for x in kept}) == 4  # what a callback was given neither


def test_keys_may_be_of_the_old_kind():
    def noisy(p):
        return ppgen.draw(dist.Normal(p, 1.0)) ** 2

    new, old = (fit(noisy, 1.0, optax.sgd(0.1), key=key, steps=3, draws=2)
                for key in (jax.random.key(4), jax.random.PRNGKey(4)))  # fmt: skip
    np.testing.assert_array_equal(new.history, old.history)


# --- state ----------------------------------------------------------------------------------------


def test_state_of_a_program():
    def model(x):
        seen = mutable("seen", {"count": 0, "mean": jnp.zeros(())})
        seen["count"] = seen["count"] + 1
        seen["mean"] = 0.5 * seen["mean"] + 0.5 * jnp.mean(x)
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        with numpyro.plate("N", 4):
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.5), 1.0))

    x = jnp.arange(4.0)
    bound = elbo(ppgen.functional(model), ppgen.functional(guide))
    for draws in (1, 3):
        fitted = fit(
            lambda params, state, x: ppgen.with_state(bound)(params | state, x),
            ppgen.init_params(guide)(KEY, x),
            optax.sgd(0.01),
            key=KEY,
            steps=3,
            data=x,
            maximize=True,
            draws=draws,
            state=ppgen.init_state(model)(KEY, x),
        )
        assert fitted.state["seen"]["count"] == 3
        np.testing.assert_allclose(fitted.state["seen"]["mean"], 1.5 * (1 - 0.5**3), rtol=1e-6)


def test_batch_normalisation():
    network, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="batch", dtype=None)
    rows = jax.random.normal(KEY, (64, 2)) * 3 + 5

    def loss(network, state, batch):
        out, state = jax.vmap(network, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
            batch, state
        )
        return jnp.mean((out - ppgen.draw(dist.Normal(1.0, 0.1))) ** 2), state

    fitted = fit(loss, network, optax.adam(0.1), key=KEY, steps=600, data=rows, state=state)
    calm = eqx.nn.inference_mode(fitted.params)
    out, _ = jax.vmap(calm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        rows, fitted.state
    )
    np.testing.assert_allclose(out.mean(0), 1.0, atol=0.1)


def test_a_state_of_another_structure_is_an_error():
    def loss(p, state):
        return p**2, {"b": state["a"]}

    with pytest.raises(ppgen.PpgenError, match="state of the structure"):
        fit(loss, 0.0, optax.sgd(0.1), key=KEY, steps=1, state={"a": jnp.zeros(2)})


# --- what is not finite ---------------------------------------------------------------------------


def test_stops_before_the_step_and_names_the_site():
    def model(params):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=1.0)

    def guide(params):
        numpyro.sample("z", dist.Normal(0.0, params))

    with pytest.raises(FitError) as caught:
        fit(elbo(model, guide), 0.5, descend(0.2), key=KEY, steps=10, chunk=4, maximize=True)
    error = caught.value
    assert error.site == "z" and "test_fit_features.py" in error.where
    assert "nan at step 3: log of values in [-0.2507, -0.2507]" in error.message
    np.testing.assert_allclose(error.fitted.params, -0.1, rtol=1e-5)
    assert len(error.fitted.history) == 3


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5, 1), (1, 5), (3, 4), (2, 3, 1)], ids=str)
def test_one_gradient_that_is_not_finite_is_seen(shape):
    """Whatever a compiler makes of the test for it: the objective is finite at all three steps."""

    def objective(p, kind):
        last = p.reshape(-1)[-1]
        kinds = [lambda x: x, jnp.sqrt, lambda x: 0.0 * jnp.sqrt(x)]
        return jnp.sum(p**2) + jax.lax.switch(kind.reshape(()), kinds, last)

    fitted = fit(
        objective,
        jnp.zeros(shape),
        optax.sgd(0.0),
        key=KEY,
        steps=3,
        data=jnp.arange(3),
        batch_size=1,
        on_nonfinite="skip",
    )
    assert fitted.skipped == 2
    np.testing.assert_array_equal(fitted.history, 0.0)


def test_skips_and_counts():
    rows = np.array([1.0, np.nan, 3.0], np.float32)

    class Rows:
        def __iter__(self):
            return iter(rows[:, None])

    def run(data):
        return fit(square, 0.0, optax.adam(0.1), key=KEY, steps=6, data=data, chunk=2, ema=0.5,
                   on_nonfinite="skip")  # fmt: skip

    fitted = run(Rows())
    assert fitted.skipped == 2
    np.testing.assert_array_equal(np.isnan(fitted.history), [0, 1, 0, 0, 1, 0])
    clean = fit(square, 0.0, optax.adam(0.1), key=KEY, steps=4, ema=0.5,
                data=iter(rows[[0, 2, 0, 2], None]))  # fmt: skip
    np.testing.assert_allclose(fitted.params, clean.params, rtol=1e-6)
    np.testing.assert_allclose(fitted.ema, clean.ema, rtol=1e-6)
    with pytest.raises(FitError, match=r"nan at step 1: data held nan"):
        fit(square, 0.0, optax.adam(0.1), key=KEY, steps=6, data=Rows(), chunk=2)


def test_an_optimiser_that_leaves_the_numbers_is_an_error():
    with pytest.raises(FitError, match="not finite after 2 steps"):
        fit(lambda p: p, 1.0, descend(jnp.float32(2e38)), key=KEY, steps=2)


# --- early stopping, metrics ----------------------------------------------------------------------


def test_early_stopping_keeps_the_best():
    held_out = jnp.array([1.0])
    fitted = fit(
        square,
        0.0,
        descend(-0.25),
        key=KEY,
        steps=100,
        data=jnp.array([9.0]),
        early_stopping=EarlyStopping(held_out, every=2, patience=3),
    )
    # .5, 1.0 (the best), 1.5, 2.0, 2.5
    assert (fitted.params, len(fitted.history), fitted.stopped) == (1.0, 10, "early stopping")
    up = EarlyStopping(held_out, every=2, patience=3, objective=lambda p, x: -square(p, x))
    same = fit(lambda p, x: -square(p, x), 0.0, descend(-0.25), key=KEY, steps=100,
               data=jnp.array([9.0]), maximize=True, early_stopping=up)  # fmt: skip
    assert same.params == 1.0


def test_metrics_and_callbacks(tmp_path, capsys):
    seen = []
    fitted = fit(
        square,
        0.0,
        optax.sgd(0.1),
        key=KEY,
        steps=5,
        data=jnp.ones(3),
        chunk=2,
        early_stopping=EarlyStopping(jnp.zeros(2), every=3),
        metrics=tmp_path / "metrics.jsonl",
        callback=[lambda p: seen.append(p.step) and None, lambda p: seen.append(p.held_out)],
        progress=True,
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    means = [fitted.history[:2].mean(), fitted.history[2:4].mean(), fitted.history[4]]
    np.testing.assert_allclose([line["objective"] for line in lines], means, rtol=1e-6)
    assert seen == [2, None, 4, lines[1]["held_out"], 5, None]
    assert "5/5" in capsys.readouterr().err
