# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Test your own objective, and test the test
#
# An objective with a wrong gradient trains: it only ends somewhere else. So an objective of your
# own deserves a test that fails when its gradient is biased, for parameters and estimators that
# you did not think of, and a bug that shows that the test can fail.
#
# The objective here is an importance-weighted bound of two draws, written by hand. The bug is a
# trick that everyone knows from the ELBO: hold the density of the guide fixed, because its score
# has mean zero. For the ELBO that is right. For this bound it is not, and nothing looks wrong.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ppgen
from ppgen.testing import assert_unbiased, estimators


def log_weight(q, z):
    prior, guide = (dist.Bernoulli(p, validate_args=False) for p in (0.3, q))
    return prior.log_prob(z) + jnp.log(0.2) + z * jnp.log(4.5) - guide.log_prob(z)


def bound(q, estimator, held=lambda q: q):
    z = jnp.stack([ppgen.draw(dist.Bernoulli(q), name=name, grad=estimator) for name in "ab"])
    return jax.nn.logsumexp(log_weight(held(q), z)) - jnp.log(2)


def with_the_bug(q, estimator):
    return bound(q, estimator, held=jax.lax.stop_gradient)


# %% [markdown]
# ## What is it compared with?
#
# Two flips have four outcomes, so the expectation is a formula. It knows nothing of estimators, nor
# of ppgen. Without a formula, `assert_unbiased` sums over the outcomes itself, but lets JAX
# differentiate the sum, which would stop at the `stop_gradient` as the estimators do.

# %%


def exact(q):
    one, none = jnp.exp(log_weight(q, jnp.array([1.0, 0.0])))
    mixed = 2 * q * (1 - q) * jnp.log((one + none) / 2)
    return q**2 * jnp.log(one) + mixed + (1 - q) ** 2 * jnp.log(none)


# %% [markdown]
# ## One test for all estimators and many parameters
#
# `estimators` draws every estimator that is sound for the family. Hypothesis draws the parameter as
# well; where the gradient is small next to its noise no bias could be seen, and `assert_unbiased`
# says so with an error, so the range keeps away from there. `detect=0.3` is the smallest bias that
# has to be found, relative to the gradient. Shrinking an example would cost a compilation each
# time, for an example that is no simpler.

# %%
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


def property_of(objective):
    @settings(max_examples=6, deadline=None, derandomize=True, phases=PHASES, database=None)
    @given(estimators(dist.Bernoulli(0.5)), st.integers(10, 30).map(lambda percent: percent / 100))
    def test(estimator, q):
        assert_unbiased(lambda q: objective(q, estimator), q, order=1, exact=exact, detect=0.3)

    return test


property_of(bound)()
print("the bound: unbiased in six examples")

# %% [markdown]
# ## A test of the test
#
# With the bug, some example has to fail. If none did, the test would prove nothing.

# %%
try:
    property_of(with_the_bug)()
except AssertionError as error:
    print(next(line for line in str(error).splitlines() if "biased" in line))
else:
    raise SystemExit("the test found nothing")

# %% [markdown]
# ## What the bug does
#
# Twenty thousand gradients at each of a few parameters, with the score function. Those of the bound
# lie on the slope of the formula; with the bug they do not, nor do they vanish where the bound is
# largest: an optimizer would stop elsewhere.

# %%
grid, keys = jnp.linspace(0.1, 0.9, 9), jax.random.split(jax.random.key(0), 20_000)
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
fine = jnp.linspace(0.08, 0.92, 100)
ax.plot(fine, jax.vmap(jax.grad(exact))(fine), color="black", label="slope of the formula")
for name, objective in {"as written": bound, "with the bug": with_the_bug}.items():
    g = ppgen.expectation(lambda q, f=objective: f(q, ppgen.ScoreFunction()))
    each = jax.jit(
        lambda q, g=g: jax.lax.map(lambda key: jax.grad(g, 1)(key, q), keys, batch_size=2000)
    )
    found = np.array([(x.mean(), x.std() / len(keys) ** 0.5) for x in map(each, grid)])
    ax.errorbar(grid, found[:, 0], 2 * found[:, 1], fmt="o", ms=4, label=name)
ax.axhline(0.0, color="0.7", lw=0.8)
ax.set(xlabel="probability in the guide", ylabel="mean gradient (nats)")
ax.legend()
plt.show()

# %% [markdown]
# ## Where there is no formula
#
# `ppgen.audit` needs none: it compares the mean gradient with the slope of the *value*, which no
# derivative rule touches. It looks at one argument instead of many, and costs more draws.

# %%
audit = ppgen.audit(lambda q: with_the_bug(q, ppgen.ScoreFunction()), progress=False)
print("audit of the bug:", audit(jax.random.key(1), 0.2).verdict)
assert audit(jax.random.key(1), 0.2).verdict == "disagrees"

# %% [markdown]
# In a file of tests, the two cells above are two functions, `test_bound` and `test_the_test`, the
# second with `pytest.raises(AssertionError, match="biased")`. [Testing](../testing.md) has the
# other checks, and what each of them cannot see.
