"""Each score multiplies only the cost terms that its choice influences, and all of them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import assert_close_in_mean, check, estimates, gradient, over_flips

import ppgen
from ppgen import Enumerate, MeasureValued, ScoreFunction

P = 0.3


def flip(p, estimator=None):
    return ppgen.draw(dist.Bernoulli(p), grad=estimator or ScoreFunction()) * 1.0


# --- variance: the gradient of sum_i b_i over N flips ---------------------------------------------


def _loop(t, n):
    return sum(flip(t) for _ in range(n))


def _batch(t, n):
    return jnp.sum(flip(jnp.full(n, t)))


def _expanded(t, n):
    b = ppgen.draw(dist.Bernoulli(t).expand([n]).to_event(1), grad=ScoreFunction())
    return jnp.sum(b * 1.0)


def _plate(t, n):
    with numpyro.plate("N", n):
        return jnp.sum(numpyro.sample("b", dist.Bernoulli(t)) * 1.0)


def _plate_of_a_program(t, n):
    def program():
        with numpyro.plate("N", n):
            numpyro.sample("b", dist.Bernoulli(t))

    return jnp.sum(ppgen.simulate(program)()["b"] * 1.0)


def _vmap(t, n):
    return jnp.sum(jax.vmap(lambda _: flip(t))(jnp.arange(n)))


def _vmap_of_programs(t, n):
    def program(i):
        numpyro.sample("b", dist.Bernoulli(t))

    return jnp.sum(jax.vmap(lambda i: ppgen.simulate(program)(i)["b"] * 1.0)(jnp.arange(n)))


def _scan_carry(t, n):
    return jax.lax.scan(lambda total, _: (total + flip(t), None), 0.0, None, length=n)[0]


def _scan_outputs(t, n):
    return jnp.sum(jax.lax.scan(lambda c, _: (c, flip(t)), None, None, length=n)[1])


def _map(t, n):
    return jnp.sum(jax.lax.map(lambda _: flip(t), jnp.arange(n)))


def _matrix(t, n):
    # Summed one axis at a time, after a detour.
    b = flip(jnp.full((max(1, n // 4), min(4, n)), t))
    return jnp.sum(jnp.sum(b.T[None], axis=1)[0])


def _vmap_of_images(t, n):
    # Under vmap a scalar times an image is an equation of shapes (n, 1, 1) and (n, 2, 2).
    return jnp.sum(jax.vmap(lambda x: jnp.mean((flip(t) * x) ** 2))(jnp.ones((n, 2, 2))))


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(
    "program",
    [
        _loop,
        _batch,
        _expanded,
        _plate,
        _plate_of_a_program,
        _vmap,
        _vmap_of_programs,
        _scan_carry,
        _scan_outputs,
        _map,
        _matrix,
        _vmap_of_images,
    ],
)
def test_variance_of_a_sum_grows_linearly(program):
    samples = 4000
    for n in (1, 4, 16) if program is _loop else (1, 64):
        g = ppgen.expectation(functools.partial(program, n=n))
        _, grad = estimates(g, P, samples=samples)
        assert_close_in_mean(grad, n)
        # b / p has the variance (1 - p) / p.
        ideal = n * (1 - P) / P
        assert 0.8 * ideal < grad.var() < 1.25 * ideal, f"N={n}: {grad.var()}, ideal {ideal}"


def score_variance(cost, t):
    """Of the gradient of one flip's cost by its score, exactly: over the two values of the flip."""
    terms = [(t, cost(1.0) / t), (1 - t, -cost(0.0) / (1 - t))]
    mean = sum(p * g for p, g in terms)
    return sum(p * (g - mean) ** 2 for p, g in terms)


def _scalar_sites(t, weights):
    flips = [ppgen.draw(dist.Bernoulli(t), grad=ScoreFunction()) for _ in weights]
    return sum(w * (b - 0.8) ** 2 for w, b in zip(weights, flips, strict=True))


def _vector_site(t, weights):
    b = ppgen.draw(dist.Bernoulli(jnp.full(len(weights), t)), grad=ScoreFunction())
    return jnp.sum(weights * (b - 0.8) ** 2)


def _plate_site(t, weights):
    with numpyro.plate("N", len(weights)):
        b = numpyro.sample("b", dist.Bernoulli(t), infer={"grad": ScoreFunction()})
    return jnp.sum(weights * (b - 0.8) ** 2)


def _lanes(t, weights):
    return jnp.sum(jax.vmap(lambda w: w * (flip(t) - 0.8) ** 2)(weights))


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize(
    ("program", "sizes"),
    [
        (_scalar_sites, (1, 4, 16)),
        (_vector_site, (1, 4, 16, 64, 256)),
        (_plate_site, (1, 4, 16, 64, 256)),
        (_lanes, (1, 4, 16, 64, 256)),
    ],
)
def test_variance_of_a_sum_is_the_sum_of_the_variances(program, sizes):
    # Each score times its own cost and no other: within 5 % of the variance that this has. The
    # standard error of a variance is measured, so that 5 % are four of them at least.
    for n in sizes:
        weights = np.linspace(0.5, 1.5, n) if n > 1 else np.ones(1)
        ideal = sum(score_variance(lambda b, w=w: w * (b - 0.8) ** 2, P) for w in weights)
        g = ppgen.expectation(functools.partial(program, weights=jnp.asarray(weights, float)))
        grad = many_gradients(g, P, samples=40_000)
        squares = (grad - grad.mean()) ** 2
        error = squares.std() / np.sqrt(len(grad)) / ideal
        assert 4 * error < 0.05
        assert abs(squares.mean() / ideal - 1) < 0.05, f"N={n}: {grad.var()}, ideal {ideal}"


def many_gradients(g, t, *, samples, batch=4000):
    """In batches, because all of them at once do not fit."""
    keys = jax.random.split(jax.random.key(0), (samples // batch, batch))
    one = jax.grad(g, argnums=1)
    run = jax.jit(lambda keys: jax.lax.map(jax.vmap(lambda key: one(key, t)), keys))
    return np.asarray(run(keys), np.float64).ravel()


def test_variance_of_an_elbo_over_a_plate_grows_linearly():
    def model(n):
        with numpyro.plate("N", n):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=jnp.ones(n))

    def guide(t, n):
        with numpyro.plate("N", n):
            numpyro.sample("z", dist.Bernoulli(t))

    def elbo(t, n):
        trace = ppgen.simulate(lambda: guide(t, n))()
        return ppgen.log_density(model)(trace, n) - trace.log_density

    one, many = (
        estimates(ppgen.expectation(functools.partial(elbo, n=n)), P, samples=8000)[1].var()
        for n in (1, 32)
    )
    assert 0.75 < many / (32 * one) < 1.33


def test_a_site_multiplies_only_what_it_influences():
    # Exactly: the gradient of 1000 c + b has no trace of the constant or of the other flip.
    def f(t):
        with numpyro.plate("N", 2):
            b = numpyro.sample("b", dist.Bernoulli(t[:2])) * 1.0
        c = numpyro.sample("c", dist.Bernoulli(t[2])) * 1.0
        return 1000.0 * b[0] + 3.0 * c + 500.0 + jnp.sum(b * jnp.array([0.0, 1.0]))

    p = np.array([0.3, 0.6, 0.5])
    _, grad = estimates(ppgen.expectation(f), jnp.asarray(p), samples=1000)
    score = np.array([1 / 0.6, -1 / 0.4])
    assert set(np.unique(np.round(grad[:, 1], 4))) <= {0.0, np.round(score[0], 4)}
    assert set(np.unique(np.round(grad[:, 2], 4))) <= {0.0, 6.0}


def test_costs_before_a_choice_do_not_multiply_its_score():
    def chain(t, n=3):
        def step(carry, _):
            b = flip(0.2 + 0.5 * t * carry)
            return b, b

        return jax.lax.scan(step, 1.0, None, length=n)[1]

    # The cost of the first step only: later steps must leave no variance.
    _, grad = estimates(ppgen.expectation(lambda t: chain(t)[0]), 0.5, samples=4000)
    p = 0.2 + 0.5 * 0.5
    assert abs(grad.var() - 0.25 * (1 - p) / p) < 0.05


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("accumulate", ["carry", "outputs"])
def test_chain_in_a_scan_keeps_future_costs(reverse, accumulate):
    weights = np.array([1.0, -2.0, 0.5, 3.0])

    def f(t):
        def step(state, w):
            previous, total = state
            b = flip(0.1 + t[0] * previous + t[1])
            cost = w * b + previous * b
            return (b, total + cost), cost

        (_, total), costs = jax.lax.scan(
            step, (1.0, 0.0), jnp.asarray(weights, float), reverse=reverse
        )
        return total if accumulate == "carry" else jnp.sum(costs)

    def exact(t):
        total = 0.0
        for bits in np.ndindex(2, 2, 2, 2):
            previous, weight, cost = 1.0, 1.0, 0.0
            for w, b in zip(weights[::-1] if reverse else weights, bits, strict=True):
                p = 0.1 + t[0] * previous + t[1]
                weight *= p if b else 1 - p
                cost += w * b + previous * b
                previous = b
            total += weight * cost
        return total

    check(f, [0.4, 0.3], exact, samples=12_000)


# --- alignment: wrong bookkeeping of axes gives a biased gradient ---------------------------------

W = np.array([[1.0, -2.0, 0.5], [3.0, 0.7, -1.0]])
PROBS = np.array([[0.3, 0.6, 0.5], [0.8, 0.4, 0.2]])
INDEX = np.array([2, 0, 0, 1])
PICK = np.array([[1, 0, 1], [0, 1, 1]])
KERNEL = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 1.5], [-1.0, 1.0, 2.0]])


def squares(x, xp):
    return xp.sum(xp.cos(1.3 * x) + x**3)


COSTS = {
    # name: cost(b, xp), of (2, 3) flips
    "elementwise": lambda b, xp: squares(b * W + 0.3, xp),
    "transpose": lambda b, xp: squares(b.T * W.reshape(3, 2), xp),
    "transpose_sum": lambda b, xp: squares(xp.sum(b.T * W.T, axis=0), xp),
    "rows": lambda b, xp: squares(xp.sum(b * W, axis=1), xp),
    "columns": lambda b, xp: squares(xp.sum(b * W, axis=0), xp),
    "columns_kept": lambda b, xp: squares(xp.sum(b * W, axis=0, keepdims=True) * b, xp),
    "flat": lambda b, xp: squares(b.reshape(6) * W.reshape(6), xp),
    "other_shape": lambda b, xp: squares(xp.sum(b.reshape(3, 2) * W.reshape(3, 2), axis=0), xp),
    "same_shape_after_flat": lambda b, xp: squares(
        xp.sum(b.reshape(6).reshape(2, 3) * W, axis=0), xp
    ),
    "new_axes": lambda b, xp: squares(b[:, None, :] * W[None, :, :], xp),
    "outer": lambda b, xp: squares(b[:, :, None] * b[:, None, :], xp),
    "outer_of_itself_transposed": lambda b, xp: squares(b[:, :2] * b[:, :2].T, xp),
    "cumsum": lambda b, xp: squares(xp.cumsum(b * W, axis=1), xp),
    "cumsum_rows": lambda b, xp: squares(xp.cumsum(b, axis=0) * W, xp),
    "cumsum_twice": lambda b, xp: squares(xp.cumsum(xp.cumsum(b, axis=1), axis=0) * W, xp),
    "cumsum_backwards": lambda b, xp: squares(xp.flip(xp.cumsum(xp.flip(b, 1), axis=1), 1), xp),
    "cumsum_both_ways": lambda b, xp: squares(
        xp.cumsum(b, axis=1) * xp.flip(xp.cumsum(xp.flip(b, 1), axis=1), 1), xp
    ),
    "cumsum_times_self": lambda b, xp: squares(xp.cumsum(b, axis=1) * b, xp),
    "cumprod": lambda b, xp: squares(xp.cumprod(1 + b, axis=1) * W, xp),
    "flip": lambda b, xp: squares(xp.flip(b, 1) * b * W, xp),
    "roll": lambda b, xp: squares(xp.roll(b, 1, axis=1) * b * W, xp),
    "slice": lambda b, xp: squares(b[:, 1:] * b[:, :-1], xp) + squares(b[1:] * 2, xp),
    "strided": lambda b, xp: squares(b[:, ::2] + 2 * b[::-1, ::2], xp),
    "gather": lambda b, xp: squares(b[:, INDEX] * (1 + xp.arange(4)), xp),
    "gather_rows": lambda b, xp: squares(b[np.array([1, 0, 1])] * KERNEL, xp),
    "gather_pairs": lambda b, xp: squares(b[np.array([1, 0, 1]), np.array([2, 2, 0])], xp),
    "take_along": lambda b, xp: squares(xp.take_along_axis(b, PICK, axis=1) * W, xp),
    "index_by_choice": lambda b, xp: squares(
        xp.asarray(KERNEL)[b.astype(int), xp.arange(3)] * W, xp
    ),
    "concatenate": lambda b, xp: squares(xp.concatenate([b, 2 * b[:, ::-1]], axis=0), xp),
    "concatenate_then_product": lambda b, xp: squares(
        xp.concatenate([b, b * 2], axis=1)[:, 2:5] * b, xp
    ),
    "stack": lambda b, xp: squares(xp.stack([b[0], b[1]]) * b[::-1], xp),
    "pad": lambda b, xp: squares(xp.pad(b, ((0, 0), (1, 0)))[:, :3] + b, xp),
    "matmul": lambda b, xp: squares(b @ KERNEL, xp),
    "matmul_left": lambda b, xp: squares(W.T @ b, xp),
    "gram": lambda b, xp: squares(b @ b.T, xp),
    "einsum": lambda b, xp: squares(xp.einsum("ij,ik->jk", b, W), xp),
    "einsum_batched": lambda b, xp: squares(xp.einsum("ij,ij->i", b, b * W), xp),
    "einsum_batched_last": lambda b, xp: squares(
        xp.einsum("ij,kj->jk", b, W + 1) * KERNEL[:, :2], xp
    ),
    "where": lambda b, xp: squares(xp.where(W > 0, b, 2 * b + xp.sum(b)), xp),
    "where_choice": lambda b, xp: squares(xp.where(b > 0.5, W, xp.sum(b * W)), xp),
    "max": lambda b, xp: squares(xp.max(b * W, axis=1), xp),
    "sort": lambda b, xp: squares(xp.sort(b * W, axis=1) * W, xp),
    "broadcast_mean": lambda b, xp: squares(b - xp.mean(b, axis=0), xp),
    "linear_then_not": lambda b, xp: xp.sum(b * W) + xp.sum(xp.sum(b, axis=1) ** 2),
    "product_of_sums": lambda b, xp: xp.sum(b[0] * W[0]) * xp.sum(b[1] * W[1]),
    "square_of_mean": lambda b, xp: xp.mean(b * W) ** 2 + xp.mean(b[0]),
}

MEASURED = ("elementwise", "transpose_sum", "cumsum", "gather", "matmul", "where_choice", "max")


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("name", COSTS)
def test_alignment(name):
    cost = COSTS[name]

    def exact(p):
        return over_flips(p, lambda b: cost(b, np))

    score = check(lambda t: cost(flip(t), jnp), PROBS, exact, samples=6000)
    assert np.all(score[1].std(0) > 0)
    check(lambda t: cost(flip(t, Enumerate()), jnp), PROBS, exact, samples=2)
    if name in MEASURED:
        check(lambda t: cost(flip(t, MeasureValued()), jnp), PROBS, exact, samples=2500)


# Random compositions of operations that move axes about.

STEPS = {
    "transpose": lambda x, r: jnp.transpose(x, tuple(map(int, r.permutation(x.ndim)))),
    "reshape": lambda x, r: x.reshape([(x.size,), (2, -1), (-1, 2), (x.size, 1)][r.integers(4)]),
    "flip": lambda x, r: jnp.flip(x, int(r.integers(x.ndim))),
    "cumsum": lambda x, r: jnp.cumsum(x, axis=int(r.integers(x.ndim))),
    "reverse_cumsum": lambda x, r: jax.lax.cumsum(x, int(r.integers(x.ndim)), reverse=True),
    "concatenate": lambda x, r: jnp.concatenate([x, x * 2], axis=int(r.integers(x.ndim))),
    "sum": lambda x, r: jnp.sum(x, axis=int(r.integers(x.ndim)), keepdims=True),
    "weights": lambda x, r: x * r.normal(size=x.shape) + r.normal(),
    "gather": lambda x, r: jnp.take(
        x, r.integers(x.shape[-1], size=min(4, x.shape[-1])), axis=x.ndim - 1
    ),
    "shift": lambda x, r: jnp.roll(x, 1, axis=int(r.integers(x.ndim))) + x,
    "square": lambda x, r: jnp.tanh(x) + x * 0.3,
    "broadcast": lambda x, r: x[..., None] * r.normal(size=2) if x.size < 16 else x + 1,
    "dot": lambda x, r: x @ r.normal(size=(x.shape[-1], 3)),
    "scan": lambda x, r: jax.lax.scan(
        lambda c, y: (0.5 * c + y, c * y + y), jnp.zeros(x.shape[1:]), x
    )[1],
    "scan_back": lambda x, r: jax.lax.scan(
        lambda c, y: (c + y, c * y), jnp.ones(x.shape[1:]), x, reverse=True
    )[1],
    "vmap": lambda x, r: jax.vmap(lambda y: y * jnp.sum(y))(x),
    "map": lambda x, r: jax.lax.map(lambda y: y + jnp.max(y), x),
    "slice": lambda x, r: x[1:] if x.shape[0] > 1 else x,
}


@pytest.mark.sweep(of=8)
@pytest.mark.parametrize("seed", range(20))
def test_alignment_of_random_compositions(seed):
    names = np.random.default_rng(seed).choice(list(STEPS), size=5)

    def cost(b):
        r = np.random.default_rng(1000 + seed)
        x = b
        for name in names:
            x = STEPS[name](x, r)
        return jnp.sum(jnp.sin(x * r.normal(size=x.shape)) + 0.1 * x * x)

    # The same cost at all 64 outcomes, without any random choice: an oracle for the bookkeeping.
    outcomes = np.array(list(np.ndindex(*(2,) * 6)), float).reshape(-1, 2, 3)
    costs = np.asarray(jax.jit(jax.vmap(cost))(jnp.asarray(outcomes, float)), np.float64)

    def exact(p):
        return np.sum(np.prod(np.where(outcomes == 1, p, 1 - p), axis=(1, 2)) * costs)

    check(lambda t: cost(flip(t)), PROBS, exact, samples=8000, seed=seed)
    check(lambda t: cost(flip(t, Enumerate())), PROBS, exact, samples=2, seed=seed)


def test_two_batches_that_meet():
    # A second batch of choices depends on the first one, elementwise and through a sum.
    def f(t):
        a = flip(t[0])
        b = flip(0.1 + 0.3 * a + 0.5 * t[1] * jnp.mean(a))
        return jnp.sum(b * jnp.array([1.0, -2.0, 3.0])) + jnp.sum(a * b[::-1])

    def exact(t):
        def given(a):
            p = 0.1 + 0.3 * a + 0.5 * t[1] * np.mean(a)
            return over_flips(p, lambda b: np.sum(b * [1.0, -2.0, 3.0]) + np.sum(a * b[::-1]))

        return over_flips(t[0], given)

    check(f, PROBS, exact, samples=12_000)


def test_gradient_helper_is_right():
    assert np.allclose(gradient(lambda t: t[0] ** 2 * t[1], np.array([2.0, 3.0])), [12.0, 4.0])
