"""Points that are no vectors of floats: tokens, trees, labels; and regressions on them."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.inference import (
    PathError,
    coefficients,
    fit,
    path_point,
    per_batch,
    regress,
    squared_error,
)
from ppgen.testing import exact

KEY = jax.random.key(0)
DATA = jnp.array([[0, 1], [1, 1], [1, 0], [1, 1]])
MASK = 2


def masked(times=(0.25, 0.75)):
    """Two tokens of rows of DATA, each kept with probability t, at one of two times."""
    t = jnp.asarray(times)[numpyro.sample("when", dist.Categorical(jnp.full(len(times), 0.5)))]
    t = numpyro.sample("t", dist.Delta(t))
    i = numpyro.sample("row", dist.Categorical(jnp.full(len(DATA), 0.25)))
    x1 = numpyro.sample("x1", dist.Delta(DATA[i], event_dim=1))
    kept = numpyro.sample("kept", dist.Bernoulli(t).expand([2]).to_event(1))
    return jnp.where(kept == 1, x1, MASK)


def cross_entropy(logits, tokens):
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, tokens))


def table(params, x, t):
    """Logits for each pair of tokens, masks included, and each of the two times."""
    return params[(t > 0.5).astype(int), x[0], x[1]]


def right_loss(params):
    """The expected cross-entropy, by Python's loops."""
    total = 0.0
    for t, row, kept in itertools.product((0.25, 0.75), DATA, itertools.product((0, 1), repeat=2)):
        chance = 0.5 * 0.25 * math.prod(t if k else 1 - t for k in kept)
        x = [int(v) if k else MASK for v, k in zip(row, kept, strict=True)]
        log_p = jax.nn.log_softmax(params[int(t > 0.5), x[0], x[1]])
        total -= chance * sum(log_p[i, int(v)] for i, v in enumerate(row))
    return total


def test_tokens_are_regressed_by_cross_entropy():
    objective = regress(table, masked, predict="x1", loss=cross_entropy)
    with jax.enable_x64(True):
        params = jax.random.normal(KEY, (2, 3, 3, 2, 2))
        value, gradient = jax.jit(jax.value_and_grad(exact(objective)))(params)
        right = jax.value_and_grad(right_loss)(params)
        np.testing.assert_allclose(value, right[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, right[1], atol=1e-12)
        # The power of this: tokens that are kept too often have another loss.
        wrong = regress(table, lambda: masked((0.35, 0.75)), predict="x1", loss=cross_entropy)
        assert abs(jax.jit(exact(wrong))(params) - right[0]) > 1e-3


def test_a_trained_token_network_knows_the_other_token():
    objective = regress(table, masked, predict="x1", loss=cross_entropy)
    fitted = fit(
        objective, jnp.zeros((2, 3, 3, 2, 2)), optax.adam(0.1), key=KEY, steps=300, draws=64
    )
    probs = jax.nn.softmax(fitted.params)
    # Given that the second is 0, the first is 1; given 1, it is 1 in two rows of three.
    np.testing.assert_allclose(probs[0, MASK, 0, 0, 1], 1.0, atol=0.05)
    np.testing.assert_allclose(probs[0, MASK, 1, 0, 1], 2 / 3, atol=0.08)
    np.testing.assert_allclose(probs[0, MASK, MASK, 0, 1], 3 / 4, atol=0.08)


def test_tokens_at_a_time_for_every_row_with_a_weight_a_proposal_and_an_input():
    def bridge(rows):
        t = numpyro.sample("t", dist.Uniform(jnp.zeros(3), 1.0))
        label = numpyro.sample("label", dist.Bernoulli(0.5 * jnp.ones(3)))
        x1 = numpyro.sample("x1", dist.Delta(rows, event_dim=1))
        kept = numpyro.sample("kept", dist.Bernoulli(t[:, None] * jnp.ones(5)).to_event(1))
        assert label.shape == (3,)
        return jnp.where(kept == 1, x1, 4)

    seen = []

    def model(params, x, t, label):
        seen.append((x.shape, x.dtype, t.shape, label.shape))
        return params + jnp.zeros((*x.shape, 4))

    options = {"weight": lambda t: 2 * t, "proposal": dist.Beta(2.0 * jnp.ones(3), 1.0)}
    objective = regress(
        model, bridge, predict="x1", loss=cross_entropy, inputs=("label",), **options
    )
    rows = jnp.zeros((3, 5), int)
    # The weight is the proposal's density, so that each draw is the mean, 5 log 4.
    value = ppgen.expectation(objective)(KEY, jnp.zeros(4), rows)
    np.testing.assert_allclose(value, 5 * math.log(4), rtol=1e-5)
    assert seen[0] == ((3, 5), jnp.int32, (3,), (3,))


def test_a_discrete_time_needs_no_derivative():
    def bridge():
        t = numpyro.sample("t", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        x1 = numpyro.sample("x1", dist.Bernoulli(0.25))
        noise = numpyro.sample("noise", dist.Bernoulli(0.5))
        return jnp.where(noise == 1, t, x1)

    def model(p, x, t):
        return p * t

    found = exact(regress(model, bridge, predict="x1"))(0.7)
    right = sum(
        w * (0.25 * (0.7 * t - 1) ** 2 + 0.75 * (0.7 * t) ** 2)
        for t, w in enumerate((0.2, 0.3, 0.5))
    )
    np.testing.assert_allclose(found, right, rtol=1e-6)
    with pytest.raises(PathError, match="continuous time"):
        ppgen.seed(path_point(bridge))(KEY)


# --- trees ----------------------------------------------------------------------------------------


def graph():
    """Nodes and edges, nested, on two schedules."""
    t = numpyro.sample("t", dist.Uniform(0.1, 0.9))
    a = numpyro.sample("x1", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    b = numpyro.sample("b", dist.Normal(1.0, 0.5))
    x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    return {"nodes": t * a + (1 - t) * x0, "rest": (t**3 * b, jnp.ones(()))}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_velocity_of_a_tree_is_a_tree(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        point = jax.jit(ppgen.seed(path_point(graph)))(KEY)
        s, t = point.sites, point.t
        right = {"nodes": s["x1"] - s["x0"], "rest": (3 * t**2 * s["b"], jnp.zeros(()))}
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), point.velocity, right
        )
        assert point.velocity["nodes"].dtype == dtype
        many = jax.vmap(ppgen.seed(path_point(graph)))(jax.random.split(KEY, 3))
        assert many.velocity["nodes"].shape == (3, 2)
        one = regress(lambda p, x, t: jax.tree.map(lambda v: p * v, x), graph)
        assert jax.eval_shape(ppgen.expectation(one), KEY, jnp.ones((), dtype)).dtype == dtype


def test_trees_are_regressed_as_the_vector_of_their_leaves():
    def flat():
        x = graph()
        return jnp.concatenate([x["nodes"], jnp.stack(x["rest"])])

    def tree_model(p, x, t):
        return {"nodes": p[0] * x["nodes"], "rest": (p[1] * x["rest"][0], p[2] + t)}

    def flat_model(p, x, t):
        return jnp.stack([p[0] * x[0], p[0] * x[1], p[1] * x[2], p[2] + t])

    params = jnp.array([0.3, -0.2, 0.5])
    for options in ({}, {"predict": lambda point: point.velocity}):
        one, two = (
            jax.value_and_grad(ppgen.expectation(regress(m, b, **options)), argnums=1)(KEY, params)
            for m, b in ((tree_model, graph), (flat_model, flat))
        )
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    weighted = regress(
        tree_model, graph, loss=lambda p, y: 3 * squared_error(p["nodes"], y["nodes"])
    )
    assert ppgen.expectation(weighted)(KEY, params).shape == ()


def test_nothing_is_differentiated_that_is_not_asked_for():
    @jax.custom_jvp
    def only_once(t):
        return t

    @only_once.defjvp
    def _(primals, tangents):
        raise AssertionError("the path was differentiated")

    def bridge():
        t = only_once(numpyro.sample("t", dist.Uniform()))
        x1 = numpyro.sample("x1", dist.Normal())
        return t * x1 + (1 - t) * numpyro.sample("x0", dist.Normal())

    model = lambda p, x, t: p * x  # noqa: E731
    for predict in ("x1", "x0", lambda point: point.sites["x1"]):
        jax.grad(ppgen.expectation(regress(model, bridge, predict=predict)), argnums=1)(KEY, 0.5)
    for predict in ("velocity", lambda point: point.velocity):
        with pytest.raises(AssertionError, match="differentiated"):
            ppgen.expectation(regress(model, bridge, predict=predict))(KEY, 0.5)
    still = ppgen.seed(path_point(bridge, velocity=False))(KEY)
    with pytest.raises(PathError, match="without its velocity"):
        _ = still.velocity


def test_what_such_points_refuse():
    def run(model, bridge, **options):
        return ppgen.expectation(regress(model, bridge, **options))(KEY, 0.5)

    def returning(value):
        def bridge():
            t = numpyro.sample("t", dist.Uniform())
            numpyro.sample("x1", dist.Normal())
            numpyro.sample("x0", dist.Normal())
            return value(t)

        return bridge

    tokens = lambda p, x, t: jnp.zeros((2, 3))  # noqa: E731
    for predict in ("velocity", "score", lambda point: point.velocity):
        with pytest.raises(PathError, match="floats"):
            run(tokens, masked, predict=predict, noise="kept")
    with pytest.raises(PathError, match="one array"):
        run(lambda p, x, t: x["nodes"], graph, predict="score")
    with pytest.raises(PathError, match="one array"):
        coefficients(graph)(0.5, jnp.zeros(2))
    # Bridges that return no point.
    for value in (lambda t: None, lambda t: (), lambda t: "x", lambda t: {"a": t, "b": "x"}):
        with pytest.raises(PathError, match="returns the point"):
            run(lambda p, x, t: p, returning(value), predict="x1")
    # Logits need a loss that knows labels, and leading axes that agree.
    with pytest.raises(PathError, match="shape"):
        run(tokens, masked, predict="x1")
    with pytest.raises(PathError, match="shape"):
        run(lambda p, x, t: jnp.zeros((3, 2)), masked, predict="x1", loss=cross_entropy)
    with pytest.raises(PathError, match="shape"):
        run(
            lambda p, x, t: jnp.zeros(2),
            returning(lambda t: t),
            predict="x1",
            loss=lambda p, y: jnp.sum(p - y),
        )
    with pytest.raises(PathError, match="predicts a"):
        run(lambda p, x, t: x["nodes"], graph)


def test_batches_of_tokens_are_fitted_per_row():
    def bridge(row):
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", dist.Delta(row, event_dim=1))
        kept = numpyro.sample("kept", dist.Bernoulli(t).expand([2]).to_event(1))
        return jnp.where(kept == 1, x1, MASK)

    model = lambda p, x, t: p  # noqa: E731
    objective = per_batch(regress(model, bridge, predict="x1", loss=cross_entropy))
    fitted = fit(objective, jnp.zeros((2, 2)), optax.sgd(0.3), data=DATA, key=KEY, steps=100)
    np.testing.assert_allclose(jax.nn.softmax(fitted.params)[:, 1], [0.75, 0.75], atol=0.02)
