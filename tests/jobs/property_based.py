"""A property-based test of an objective of one's own, which finds a bug that was planted."""

# --- user code
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ppgen
from ppgen.testing import assert_unbiased, estimators


def log_weight(q, z):
    prior, q = (dist.Bernoulli(p, validate_args=False) for p in (0.3, q))
    return prior.log_prob(z) + jnp.log(0.2) + z * jnp.log(4.5) - q.log_prob(z)


def bound(q, estimator, held=lambda q: q):  # importance-weighted, of two draws
    z = jnp.stack([ppgen.draw(dist.Bernoulli(q), name=n, grad=estimator) for n in "ab"])
    return jax.nn.logsumexp(log_weight(held(q), z)) - jnp.log(2)


def exact(q):
    one, none = jnp.exp(log_weight(q, jnp.array([1.0, 0.0])))
    mixed = 2 * q * (1 - q) * jnp.log((one + none) / 2)
    return q**2 * jnp.log(one) + mixed + (1 - q) ** 2 * jnp.log(none)


def sweep(test):
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    options = {"max_examples": 6, "deadline": None, "derandomize": True, "phases": phases}
    return settings(**options)(given(estimators(dist.Bernoulli(0.5)), st.integers(1, 3))(test))


@sweep
def test_bound(estimator, tenths):
    assert_unbiased(lambda q: bound(q, estimator), tenths / 10, order=1, exact=exact, detect=0.3)


@sweep
def test_bound_with_the_guide_held(estimator, tenths):  # right for an ELBO, wrong for this bound
    def objective(q):
        return bound(q, estimator, jax.lax.stop_gradient)

    assert_unbiased(objective, tenths / 10, order=1, exact=exact, detect=0.3)


# --- end of user code

import pytest  # noqa: E402

test_bound()
with pytest.raises(AssertionError, match="biased"):
    test_bound_with_the_guide_held()
