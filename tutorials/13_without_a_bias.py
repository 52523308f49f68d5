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
# # Maximum likelihood without a bound
#
# A bound on the likelihood is maximal somewhere else than the likelihood: its gap depends on the
# parameters too, and pulls them to where the guide fits. Here a random number of particles takes
# the gap away, at the average cost of a few.
#
# The model has one factor for five measurements, so that everything is known exactly: the
# likelihood, and where it is maximal.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree

import ppgen
from ppgen.inference import iwelbo, log_evidence

ROWS, WIDTH = 200, 5
rng = np.random.default_rng(0)
loadings = np.array([1.2, -0.8, 0.6, 0.4, 0.0])
x = rng.normal(size=(ROWS, 1)) * loadings + 0.7 * rng.normal(size=(ROWS, WIDTH))
x = jnp.asarray(x - x.mean(axis=0), jnp.float32)


def model(params, x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        mean, scale = z[..., None] * params["loadings"], jnp.exp(params["log_scale"])
        numpyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


def guide(params, x):  # a poor one, and fixed: the prior, a little wider
    with numpyro.plate("rows", len(x)):
        numpyro.sample("z", dist.Normal(0.0, 1.2))


# %% [markdown]
# The covariance of a measurement is `w wᵀ + s² I`, so the likelihood is that of a normal
# distribution, and it is maximal at the first principal component (Tipping and Bishop 1999).


# %%
def exact(params, x):
    w, s = params["loadings"], jnp.exp(params["log_scale"])
    covariance = jnp.outer(w, w) + s**2 * jnp.eye(WIDTH)
    return dist.MultivariateNormal(jnp.zeros(WIDTH), covariance).log_prob(x).sum()


values, vectors = np.linalg.eigh(np.asarray(x.T @ x) / ROWS)
variance = values[:-1].mean()
best = {
    "loadings": jnp.asarray(vectors[:, -1] * np.sqrt(values[-1] - variance), jnp.float32),
    "log_scale": jnp.asarray(np.log(variance) / 2, jnp.float32),
}
print(f"log likelihood at its maximum: {exact(best, x):.1f} nats")

# %% [markdown]
# ## How far the bounds are
#
# The gap of the importance-weighted bound falls as 1/K. `ppgen.debias` takes the *family* of these
# bounds, and estimates the one of the last level, 1024 particles, with a random number of them:
# `log_evidence` is the name of that. It always draws `base` particles, and mostly a few more.

# %%
key = jax.random.key(0)
truth = float(exact(best, x))
bounds = {f"IWELBO, K = {k}": iwelbo(model, guide, particles=k) for k in (5, 20, 80)}
unbiased = log_evidence(model, guide, base=4, levels=8)
bounds[f"unbiased, {unbiased.mean_particles:.1f} particles"] = unbiased


def runs(bound, count):
    """Values and gradients of independent runs, one after the other."""
    g = jax.value_and_grad(ppgen.expectation(bound), argnums=1)
    keys = jax.random.split(key, count)
    return jax.jit(lambda keys: jax.lax.map(lambda k: g(k, best, x), keys))(keys)


ran = {name: runs(b, 3000 if b is unbiased else 1000) for name, b in bounds.items()}
for name, (values, _) in ran.items():
    error = values.std() / len(values) ** 0.5
    print(f"{name:27} off by {values.mean() - truth:8.2f} ± {error:.2f} nats")

# %% [markdown]
# Each level draws twice the particles of the one before, and compares the bound of all of them with
# the bounds of their halves. Those are the same draws, so the difference is small, and smaller at
# each level: its mean square falls faster than the levels become rare, which makes the variance
# finite. `ppgen.decay` measures that, and refuses a rate at which it would not be.

# %%
report = ppgen.decay(unbiased, draws=100, levels=6)(key, best, x)
print(report)

levels = range(1, len(report.particles))
plt.figure(figsize=(5, 3))
plt.semilogy(levels, report.value[1:], "o-", label="of the value")
plt.semilogy(levels, report.gradient[1:], "s-", label="of the gradient")
start = report.value[1] * 2.0**unbiased.rate
plt.semilogy(levels, [start * 2.0 ** (-unbiased.rate * k) for k in levels], ":", label="levels")
plt.xlabel("level (particles double)")
plt.ylabel("mean square difference, nats²")
plt.legend()
plt.tight_layout()

# %% [markdown]
# ## What it changes
#
# At the maximum of the likelihood its gradient is zero. That of a bound is not: it points to where
# the bound is maximal, about a Newton step away. So the mean of the gradients says what each of
# them would find, without an optimiser and its own noise.

# %%
flat, unravel = ravel_pytree(best)
curvature = jax.hessian(lambda v: exact(unravel(v), x))(flat)


def size(v):
    return jnp.linalg.norm(unravel(v)["loadings"])


print(f"|w| at the maximum of the likelihood: {size(flat):.3f}")
moved = {}
for name, (_, gradients) in ran.items():
    gradients = jax.vmap(lambda g: ravel_pytree(g)[0])(gradients)
    steps = -jnp.linalg.solve(curvature, gradients.T).T
    change = steps @ jax.grad(size)(flat)
    moved[name] = change.mean(), change.std() / len(change) ** 0.5
    print(f"{name:27} |w| is off by {moved[name][0]:7.4f} ± {moved[name][1]:.4f}")

# %%
plt.figure(figsize=(5, 2.2))
middle, error = (np.array([float(m[i]) for m in moved.values()]) for i in (0, 1))
plt.errorbar(middle, range(len(moved)), xerr=2 * error, fmt="o", capsize=3)
plt.axvline(0.0, color="grey", lw=1)
plt.yticks(range(len(moved)), list(moved))
plt.xlabel("error of |w|, in a Newton step (two standard errors)")
plt.tight_layout()
assert abs(middle[-1]) < 4 * error[-1] and abs(middle[1]) > 10 * error[1]

# %% [markdown]
# ## When to use it
#
# More runs make the error of the unbiased one smaller; that of a bound stays. But a single value
# may lie far from its mean, so average many. The variance is that of logarithms of weights: with a
# hopeless guide it is large, and a bound of many particles is the better choice. The guide itself
# gains nothing: the gradient of the log evidence by its parameters is zero. And under `vmap` all
# levels are computed for all lanes, so give it a minibatch, as here.
#
# Any other family of consistent estimates is debiased alike: `forward_kl`, whose gradient becomes
# that of the posterior, ratios of means, or the log evidence of a particle filter, where a particle
# is one run of the filter.
