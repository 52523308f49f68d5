"""Masks: what they hide contributes nothing, and a bound needs the same one on both sides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import ppgen
from ppgen.errors import ChoiceMismatchError
from ppgen.inference import elbo, iwelbo

KEY = jax.random.key(0)
MASK = jnp.array([True, False, True])
DATA = jnp.array([0.3, 0.6, 0.8])

# Of a real parameter and a positive one, neither of which is a number where it is hidden.
FAMILIES = {
    "Normal": lambda a, s: dist.Normal(a, s),
    "one scale": lambda a, s: dist.Normal(a, 2.0),
    "StudentT": lambda a, s: dist.StudentT(s, a, 1.0),
    "Gamma": lambda a, s: dist.Gamma(s, s),
    "Beta": lambda a, s: dist.Beta(s, 2.0),
    "LogNormal": lambda a, s: dist.LogNormal(a, s),
    "affine": lambda a, s: dist.TransformedDistribution(
        dist.Laplace(a, 1.0), dist.transforms.AffineTransform(a, s)
    ),
    "Bernoulli": lambda a, s: dist.Bernoulli(logits=a),
    "Poisson": lambda a, s: dist.Poisson(s),
    "Categorical": lambda a, s: dist.Categorical(logits=jnp.stack([a, -a], -1)),
    "MultivariateNormal": lambda a, s: dist.MultivariateNormal(
        jnp.stack([a, -a], -1), scale_tril=s[:, None, None] * jnp.eye(2)
    ),
}


def values_of(d):
    wide = jnp.broadcast_to(DATA[(..., *(None,) * len(d.event_shape))], d.shape())
    return jnp.round(wide).astype(int) if d.is_discrete else wide


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_parameter_that_is_no_number_is_hidden_with_its_derivative(family, bad):
    """By the handler, by the distribution's own mask, and by one inside of an event."""
    make = FAMILIES[family]

    def parameters(t, lost):
        # What makes them no numbers has derivatives that are: those of t * nan are JAX's own.
        return t * jnp.array([0.4, 1.0, -0.2]) + lost, 1 + t**2 + lost

    def scored(density):
        def run(t):
            d = make(*parameters(t, jnp.array([0.0, bad, 0.0])))
            value = jnp.where(MASK, values_of(d).T, jnp.nan).T  # nor are the data a number
            value = value if not d.is_discrete else values_of(d)
            return ppgen.log_density(density)({}, d, value)

        return jax.jit(jax.value_and_grad(run))(0.7)  # outside, NumPyro refuses them

    def by_handler(d, value):
        with handlers.mask(mask=MASK):
            numpyro.sample("x", d, obs=value)

    def own(d, value):
        numpyro.sample("x", d.mask(MASK), obs=value)

    def in_an_event(d, value):
        numpyro.sample("x", d.mask(MASK).to_event(1), obs=value)

    def exact(t):
        d = make(*parameters(t, jnp.zeros(3)))
        return jnp.sum(jnp.where(MASK, ppgen.densities.log_prob(d, values_of(d)), 0.0))

    wanted = jax.value_and_grad(exact)(0.7)
    for density in (by_handler, own, in_an_event):
        # (That of Beta is the small sum of two that are not.)
        np.testing.assert_allclose(
            scored(density), wanted, rtol=1e-5, atol=3e-6, err_msg=density.__name__
        )


def test_a_parameter_that_counts_for_an_element_that_is_shown_is_not_hidden():
    """One scale for all: it is hidden with the last of them, and not before."""

    def model(scale, mask):
        with handlers.mask(mask=mask):
            numpyro.sample("x", dist.Normal(0.0, scale).expand([3]), obs=DATA)

    def slope(scale, mask):
        run = jax.jit(jax.value_and_grad(lambda s: ppgen.log_density(model)({}, s, mask)))
        return np.stack(run(scale))

    assert np.all(np.isfinite(slope(0.7, MASK)))
    assert not np.isfinite(slope(jnp.nan, MASK)).any()
    np.testing.assert_array_equal(slope(jnp.nan, jnp.zeros(3, bool)), [0.0, 0.0])


def _bare(d):
    return d.to_event(1)


def _masked(d):
    return d.mask(MASK).to_event(1)


def _below_a_map(d):
    return dist.TransformedDistribution(_masked(d), dist.transforms.ExpTransform())


def _map(d):
    return dist.TransformedDistribution(_bare(d), dist.transforms.ExpTransform())


@pytest.mark.parametrize(
    "masked, bare", [(_masked, _bare), (_below_a_map, _map)], ids=["event", "map"]
)
@pytest.mark.parametrize("objective", [elbo, lambda m, g: iwelbo(m, g, particles=2)])
def test_a_mask_inside_of_an_event_is_one_that_both_have_or_neither(objective, masked, bare):
    def program(wrap):
        def run(t):
            numpyro.sample("z", wrap(dist.Normal(t, jnp.ones(3))))

        return run

    for model, guide in ((masked, bare), (bare, masked)):
        with pytest.raises(ChoiceMismatchError, match="is masked in the program") as error:
            ppgen.expectation(objective(program(model), program(guide)))(KEY, 0.3)
        assert "handlers.mask" in error.value.instead and "test_masks.py" in error.value.where
    for both in (masked, bare):
        bound = ppgen.expectation(objective(program(both), program(both)))
        np.testing.assert_allclose(bound(KEY, 0.3), 0.0, atol=1e-5)


def test_what_proposes_for_itself_is_drawn_without_the_mask():
    """The weight of a draw is the masked density over the one that it was drawn from."""

    def program(t):
        numpyro.sample("z", dist.Normal(t, jnp.ones(3)).mask(MASK).to_event(1))
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    kept = ppgen.marginal(program, ["x"], particles=2)
    log_p = ppgen.expectation(lambda t: jnp.exp(ppgen.log_density(kept)({"x": 0.0}, t)))
    draws = jax.vmap(lambda key: log_p(key, 0.3))(jax.random.split(KEY, 2000))
    # The integral of a density that is one on the whole line has no value; it varies.
    assert np.std(np.asarray(draws)) > 0.1
