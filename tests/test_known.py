"""What enumeration knows of its points: no gathers, no scatters, nothing computed twice."""

from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import ppgen
from ppgen._evaluation import constant_indexing as _steered
from ppgen.inference import elbo

KEY = jax.random.key(0)
POINTS, CLASSES = 200, 10


# --- a Gaussian mixture against what one writes by hand -------------------------------------------


def mixture():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=POINTS), float) * 3
    p = {
        "means": jnp.linspace(-6.0, 6.0, CLASSES),
        "prior": jnp.asarray(rng.normal(size=CLASSES), float),
        "logits": jnp.asarray(rng.normal(size=(POINTS, CLASSES)), float),
    }

    def model(p, x):
        with numpyro.plate("points", POINTS):
            z = numpyro.sample("z", dist.Categorical(logits=p["prior"]))
            numpyro.sample("x", dist.Normal(p["means"][z], 1.0), obs=x)

    def guide(p, x):
        with numpyro.plate("points", POINTS):
            q = dist.Categorical(logits=p["logits"])
            numpyro.sample("z", q, infer={"grad": ppgen.Enumerate()})

    def by_hand(key, p, x):
        log_q = jax.nn.log_softmax(p["logits"])
        log_p = jax.nn.log_softmax(p["prior"]) + norm.logpdf(x[:, None], p["means"])
        return jnp.sum(jnp.exp(log_q) * (log_p - log_q))

    return ppgen.expectation(elbo(model, guide)), by_hand, p, x


def gradient(f):
    return lambda key, *args: jax.value_and_grad(f, argnums=1)(key, *args)


@pytest.mark.parametrize("order", [1, 2])
def test_a_mixture_has_the_derivatives_of_the_sum_by_hand(order):
    ours, by_hand, p, x = mixture()
    with jax.enable_x64(True):
        p, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (p, x))
        direction = jax.tree.map(jnp.cos, p)

        def derivative(f):
            slope = gradient(f)
            if order == 1:
                return slope(KEY, p, x)
            return jax.jvp(lambda p: slope(KEY, p, x), (p,), (direction,))[1]

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            derivative(ours),
            derivative(by_hand),
        )


def compiled(f, *args):
    # What is fused depends on an option that tests/conftest.py sets: back to XLA's default.
    options = {"xla_backend_extra_options": ""}
    return jax.jit(f).lower(KEY, *args).compile(compiler_options=options)


def test_a_mixture_compiles_to_about_what_one_writes_by_hand():
    ours, by_hand, p, x = mixture()
    text = compiled(gradient(ours), p, x).as_text()
    # Indexing by all classes in order is no indexing, and neither is its derivative.
    assert not re.search(r"\b(gather|scatter|dynamic-slice)\(", text)
    flops = [compiled(gradient(f), p, x).cost_analysis()["flops"] for f in (ours, by_hand)]
    # Above one: nothing may come of a weight of zero, nor of an observation outside of the support,
    # which by hand nobody looks at. Comparisons and selections count as operations, and are in
    # kernels that are there anyway; the term itself is computed once.
    assert flops[0] < 1.36 * flops[1]
    # As many passes over all data and classes: each is a kernel, and they are what takes time.
    kernels = [
        len(re.findall(r" fusion\(", compiled(gradient(f), p, x).as_text().split("ENTRY")[1]))
        for f in (ours, by_hand)
    ]
    assert kernels[0] <= kernels[1] + 2


def test_what_a_density_and_the_weights_both_need_is_computed_once():
    ours, _, p, x = mixture()
    text = str(jax.make_jaxpr(gradient(ours))(KEY, p, x))
    # One maximum for the logits of the guide and one for those of the model.
    assert len(re.findall(r"= reduce_max\[", text)) == 2


# --- indices that are functions of choices, against sums by hand ----------------------------------

TABLE = np.random.default_rng(1).normal(size=(6, 6))

# What to look up in the table; the classes go from 0 to 5.
LOOKUPS = {
    "in order": lambda t, z: t[z, 0],
    "rows": lambda t, z: jnp.sum(jnp.sin(t[z])),
    "columns": lambda t, z: jnp.sum(jnp.sin(t[:, z])),
    "backwards": lambda t, z: t[5 - z, 1],
    "a permutation": lambda t, z: t[jax.lax.rem(z * 5 + 2, 6), 1],
    "every second": lambda t, z: t.reshape(-1)[2 * z + 1],
    "repeated": lambda t, z: t[jnp.where(z < 3, 2, z), 0],
    "negative": lambda t, z: t[z - 3, 2],
    "outside": lambda t, z: t[z + 2, 3],
    "dropped outside": lambda t, z: t.at[z + 2, 3].get(mode="fill", fill_value=7.0),
    "the diagonal": lambda t, z: t[z, z],
    "from a block": lambda t, z: jnp.prod(jax.lax.dynamic_slice(t, (z, 1), (2, 3))),
    "a predicate": lambda t, z: jnp.where(z >= 0, t[z, 4], jnp.inf),
    "half a predicate": lambda t, z: jnp.where(z % 2 == 0, t[z, 4], t[4, z]),
    "twice": lambda t, z: t[jnp.argsort(t[0])[z], z],
}
PAIRS = {
    "in order": lambda t, y, z: t[y, z],
    "transposed": lambda t, y, z: t[z, y],
    "one after the other": lambda t, y, z: t[y][5 - z],
    "mixed": lambda t, y, z: t[jax.lax.rem(y + z, 6), z],
}


def weights(logits):
    return jax.nn.softmax(logits)


def of_one(lookup):
    def f(theta):
        logits, table = theta
        z = ppgen.draw(dist.Categorical(logits=logits), grad=ppgen.Enumerate())
        return lookup(table, z) ** 2

    def by_hand(theta):
        logits, table = theta
        terms = [lookup(table, jnp.array(k)) ** 2 for k in range(6)]
        return sum(w * term for w, term in zip(weights(logits), terms, strict=True))

    return f, by_hand


def of_a_plate(lookup):
    def f(theta):
        logits, table = theta
        many = jnp.stack([logits, -logits, 0.5 * logits])
        z = ppgen.draw(dist.Categorical(logits=many), grad=ppgen.Enumerate())
        return jnp.sum(jax.vmap(lambda z: lookup(table, z))(z) ** 2)

    def by_hand(theta):
        logits, table = theta
        total = 0.0
        for scale, k in itertools.product((1.0, -1.0, 0.5), range(6)):
            total += weights(scale * logits)[k] * lookup(table, jnp.array(k)) ** 2
        return total

    return f, by_hand


def of_two(lookup):
    def f(theta):
        logits, table = theta
        y = ppgen.draw(dist.Categorical(logits=logits), grad=ppgen.Enumerate())
        z = ppgen.draw(dist.Categorical(logits=table[y]), grad=ppgen.Enumerate())
        return lookup(table, y, z) ** 2

    def by_hand(theta):
        logits, table = theta
        total = 0.0
        for i, j in itertools.product(range(6), range(6)):
            term = lookup(table, jnp.array(i), jnp.array(j)) ** 2
            total += weights(logits)[i] * weights(table[i])[j] * term
        return total

    return f, by_hand


CASES = {
    **{f"one, {name}": of_one(lookup) for name, lookup in LOOKUPS.items()},
    **{f"a plate, {name}": of_a_plate(lookup) for name, lookup in LOOKUPS.items()},
    **{f"two, {name}": of_two(lookup) for name, lookup in PAIRS.items()},
}


def check(f, by_hand):
    with jax.enable_x64(True):
        theta = (jnp.linspace(-1.0, 1.0, 6), jnp.asarray(TABLE))
        direction = (jnp.cos(theta[0]), jnp.sin(theta[1]))

        def derivatives(f):
            def slope(theta):
                return jax.value_and_grad(f)(theta)

            return jax.jvp(slope, (theta,), (direction,))

        ours = jax.jit(lambda: derivatives(lambda theta: ppgen.expectation(f)(KEY, theta)))()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            ours,
            jax.jit(lambda: derivatives(by_hand))(),
        )


@pytest.mark.sweep(of=6)
@pytest.mark.parametrize("name", CASES)
def test_looking_up_what_a_choice_says(name):
    check(*CASES[name])


@pytest.mark.long
@pytest.mark.parametrize("name", ["one, a permutation", "a plate, backwards"])
def test_taking_all_indices_for_ones_in_order_would_be_seen(name, monkeypatch):
    def whole(x, axis, index):
        return x if len(index) == x.shape[axis] else along(x, axis, index)

    along = _steered._along
    monkeypatch.setattr(_steered, "_along", whole)
    with pytest.raises(AssertionError):
        check(*CASES[name])


def test_a_table_of_pairs_is_read_as_it_is():
    f, _ = of_two(PAIRS["transposed"])
    theta = (jnp.linspace(-1.0, 1.0, 6), jnp.asarray(TABLE, float))
    text = compiled(gradient(ppgen.expectation(f)), theta).as_text()
    assert not re.search(r"\b(gather|scatter|dynamic-slice)\(", text)


def test_points_of_an_enumeration_stay_small_however_large_the_plate():
    def f(theta):
        logits = jnp.broadcast_to(theta, (100_000, 3))
        z = ppgen.draw(dist.Categorical(logits=logits), grad=ppgen.Enumerate())
        return jnp.sum(theta[z] ** 2)

    jaxpr = jax.make_jaxpr(ppgen.expectation(f))(KEY, jnp.arange(3.0))
    assert all(np.size(c) <= 3 for c in jaxpr.consts)
