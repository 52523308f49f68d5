"""Fitting and checkpoints."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.inference import (
    CheckpointError,
    FitError,
    elbo,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from ppgen.inference.fitting._batches import Batches

KEY = jax.random.key(0)


def square(params, batch):
    return jnp.mean((batch - params) ** 2)


def test_fit_reaches_the_posterior_of_a_conjugate_model():
    def model(theta, x):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(theta, x):
        numpyro.sample("z", dist.Normal(theta["mean"], jnp.exp(theta["log_scale"])))

    bound = elbo(model, guide)
    start = {"mean": jnp.zeros(()), "log_scale": jnp.zeros(())}
    schedule = optax.cosine_decay_schedule(0.05, 1000)
    fitted = fit(
        lambda theta: bound(theta, 2.0),
        start,
        optax.adam(schedule),
        key=KEY,
        steps=1000,
        draws=8,
        maximize=True,
    )
    assert fitted.history.shape == (1000,)
    np.testing.assert_allclose(fitted.params["mean"], 1.0, atol=0.03)
    np.testing.assert_allclose(jnp.exp(fitted.params["log_scale"]), 0.5**0.5, atol=0.03)


def test_fit_learns_a_discrete_choice():
    def cost(logit):
        return jnp.where(ppgen.draw(dist.Bernoulli(logits=logit), name="b") == 1, 0.0, 1.0)

    fitted = fit(cost, jnp.array(-1.0), optax.adam(0.1), key=KEY, steps=200, draws=4)
    assert jax.nn.sigmoid(fitted.params) > 0.9
    assert fitted.history[-50:].mean() < fitted.history[:50].mean()


def test_fit_without_randomness_is_gradient_descent():
    data = jnp.array([1.0, 2.0, 6.0])
    fitted = fit(square, jnp.array(0.0), optax.sgd(0.5), key=KEY, steps=1, data=data)
    np.testing.assert_allclose(fitted.params, 3.0, rtol=1e-6)
    np.testing.assert_allclose(fitted.history, [41 / 3], rtol=1e-6)


def test_fit_optimises_only_the_inexact_arrays_of_a_module():
    network = eqx.nn.MLP(2, 1, 4, 1, key=KEY)
    count = jnp.arange(3)
    x = jnp.ones((5, 2))

    def loss(params, batch):
        network, _ = params
        return jnp.mean((jax.vmap(network)(batch) - 1.0) ** 2)

    fitted = fit(loss, (network, count), optax.adam(2e-2), key=KEY, steps=500, data=x)
    trained, untouched = fitted.params
    assert jnp.array_equal(untouched, count)
    assert trained.activation is network.activation
    np.testing.assert_allclose(trained(x[0]), 1.0, atol=0.02)


def test_history_does_not_depend_on_the_chunk():
    data = jnp.arange(12.0)

    def noisy(params, batch):
        return jnp.mean((batch - ppgen.draw(dist.Normal(params, 1.0))) ** 2)

    runs = [
        fit(
            noisy,
            jnp.array(0.0),
            optax.adam(0.1),
            key=KEY,
            steps=10,
            data=data,
            batch_size=4,
            chunk=chunk,
        )
        for chunk in (3, 10, 100)
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.history, runs[0].history, rtol=1e-6)
        np.testing.assert_allclose(run.params, runs[0].params, rtol=1e-6)


def test_every_epoch_visits_every_row_once_in_a_new_order():
    data = jnp.arange(10.0)
    batches = Batches(data, 3)
    order, epochs = batches.unknown_order(), []
    for step in range(6):
        order = batches.order(KEY, jnp.int32(step), order)
        rows = batches.take(data, jnp.int32(step), order)
        epochs.append(np.asarray(rows))
    first, second = np.concatenate(epochs[:3]), np.concatenate(epochs[3:])
    assert len(set(first)) == len(set(second)) == 9
    assert not np.array_equal(first, second)


def test_callback_sees_every_step_and_can_stop():
    seen = []

    def callback(progress):
        seen.append((progress.step, len(progress.values), float(progress.params)))
        return progress.step >= 8

    fitted = fit(
        square,
        jnp.array(0.0),
        optax.sgd(0.1),
        key=KEY,
        steps=20,
        data=jnp.ones(3),
        callback=callback,
        chunk=4,
    )
    assert [entry[:2] for entry in seen] == [(4, 4), (8, 4)]
    assert len(fitted.history) == 8
    assert seen[-1][2] == fitted.params


def test_an_objective_that_turns_nan_is_an_error_that_names_the_step():
    def loss(params):
        return jnp.log(params)  # the third step leaves the domain

    with pytest.raises(FitError, match="objective is nan at step 3"):
        fit(loss, jnp.array(0.5), lambda_descent(0.2), key=KEY, steps=10, chunk=4)


def lambda_descent(size):
    """Moves every parameter down by `size`, whatever the gradient."""
    return optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (jax.tree.map(lambda _: -size, updates), state),
    )


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_parameter():
    def loss(params):
        return jnp.sqrt(params["b"]) + params["a"]

    with pytest.raises(FitError, match=r"gradient of params\['b'\] is not finite at step 0"):
        fit(loss, {"a": jnp.array(1.0), "b": jnp.array(0.0)}, optax.sgd(0.1), key=KEY, steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "must be positive"),
        ({"batch_size": 4}, "batch_size must be from 1 to 3"),
        ({"data": None, "batch_size": 2}, "needs data"),
        ({"data": (jnp.ones(3), jnp.ones(4))}, r"share one leading axis.*\(3,\), \(4,\)"),
        ({"params": jnp.array(1)}, "nothing to optimise"),
    ],
)
def test_arguments_that_make_no_sense(change, message):
    arguments = {"params": jnp.array(0.0), "steps": 1, "data": jnp.ones(3)} | change
    params = arguments.pop("params")
    with pytest.raises(ValueError, match=message):
        fit(square, params, optax.sgd(0.1), key=KEY, **arguments)


def test_checkpoint_round_trip(tmp_path):
    tree = {
        "network": eqx.nn.MLP(2, 3, 4, 1, key=KEY),
        "key": jax.random.key(7),
        "count": jnp.arange(3),
        "half": jnp.ones(2, jnp.bfloat16),
    }
    save_checkpoint(tmp_path / "checkpoint", tree)
    like = eqx.filter_eval_shape(lambda: jax.tree.map(lambda leaf: leaf, tree))
    loaded = load_checkpoint(tmp_path / "checkpoint", like)
    assert eqx.tree_equal(loaded, tree)


def test_checkpoint_of_another_model_is_an_error(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", eqx.nn.MLP(2, 3, 4, 1, key=KEY))
    with pytest.raises(CheckpointError, match=r"layers/0/weight is float32\[4, 2\]"):
        load_checkpoint(tmp_path / "checkpoint", eqx.nn.MLP(2, 3, 5, 1, key=KEY))
    with pytest.raises(CheckpointError, match="layers/2/bias is only in the model"):
        load_checkpoint(tmp_path / "checkpoint", eqx.nn.MLP(2, 3, 4, 2, key=KEY))


def test_checkpoint_that_is_missing_or_damaged_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nothing", jnp.ones(2))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "_METADATA").write_text("not JSON")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "damaged", jnp.ones(2))


def test_checkpoint_never_overwrites(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(tmp_path / "mine", jnp.ones(2))
    assert (tmp_path / "mine").read_text() == "precious"
