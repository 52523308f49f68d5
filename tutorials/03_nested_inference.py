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
# # Nested inference: guides with auxiliary choices
#
# A guide is limited by its family of distributions. The cheapest way to a richer family is an
# auxiliary choice (a mode, an angle, the noise in a network) that is integrated out again. The
# density of the remaining sites, and with it the ELBO, is then a sum or an integral without a
# closed form.
#
# `ppgen.marginal` makes a program of such a guide nevertheless. Its density is *estimated*, in such
# a way that every bound that contains it is still a bound, and its gradient is still unbiased. This
# tutorial goes from the ELBO of a pair of normals to the doubly importance-weighted hierarchical
# bound, on the cone of Becker et al. (PLDI 2024).
#
# ## A posterior that is a ring
#
# Two coordinates, and a noisy measurement `z` of the square of their norm.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist
import optax

import ppgen
from ppgen.inference import elbo, iwelbo

z = 5.0
log_evidence = -5.3232  # by quadrature


def model(params):
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    y = numpyro.sample("y", dist.Normal(0.0, 10.0))
    r = x**2 + y**2
    numpyro.sample("z", dist.Normal(r, 0.1 + r / 100), obs=z)


def normals(params):
    numpyro.sample("x", dist.Normal(params[0], jnp.exp(params[1])))
    numpyro.sample("y", dist.Normal(params[2], jnp.exp(params[3])))


def train(objective, params, steps=1500):
    """Adam with a decaying rate, 32 draws a step; then the bound on 20,000 fresh draws."""
    bound = ppgen.expectation(objective, draws=32)
    adam = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def step(carry, key):
        params, state = carry
        updates, state = adam.update(-jax.grad(bound, argnums=1)(key, params), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), steps)
    start = params, adam.init(params)
    params = jax.jit(lambda c: jax.lax.scan(step, c, keys)[0][0])(start)
    value = jax.jit(ppgen.expectation(objective, draws=20_000))(jax.random.key(1), params)
    return params, float(value)


bounds = {}
at, bounds["ELBO, normals"] = train(elbo(model, normals), jnp.array([3.0, 0.0, 0.0, 0.0]))
bounds["ELBO, normals"]

# %% [markdown]
# The pair of normals sits on one side of the ring. More particles see more of it, at a price:

# %%
_, bounds["IWELBO 5, normals"] = train(iwelbo(model, normals, particles=5), at)
bounds["IWELBO 5, normals"]

# %% [markdown]
# ## Draw the angle first
#
# A guide that knows that the posterior is a ring draws an angle, and the coordinates around the
# point that it gives. The model has no angle, so this is not a guide for it:

# %%


def ring(params):
    angle = 2 * jnp.pi * numpyro.sample("u", dist.Uniform(0.0, 1.0))
    numpyro.sample("x", dist.Normal(jnp.sqrt(z) * jnp.cos(angle), jnp.exp(params[0])))
    numpyro.sample("y", dist.Normal(jnp.sqrt(z) * jnp.sin(angle), jnp.exp(params[1])))


try:
    ppgen.expectation(elbo(model, ring))(jax.random.key(0), jnp.zeros(2))
except ppgen.PpgenError as error:
    print(error)

# %% [markdown]
# `marginal` integrates the angle out. With one particle, the bound uses only the angle that was
# drawn: the hierarchical variational bound (HVI). With five, it averages the density over that
# angle and four more: IWHVI. Both are the ELBO, of other programs.

# %%
for particles in (1, 5):
    guide = ppgen.marginal(ring, keep=["x", "y"], particles=particles)
    _, bounds[f"ELBO, ring, {particles} angles"] = train(elbo(model, guide), jnp.zeros(2))

# %% [markdown]
# Worse than the normals! The angle that was drawn is far likelier than the others to have led to
# the coordinates, so a few others do not help. What the ring needs is an importance-weighted bound
# on the outside, over a guide whose density is importance-weighted on the inside. Programs compose,
# so only the objective changes:

# %%
for particles in (5, 20):
    guide = ppgen.marginal(ring, keep=["x", "y"], particles=particles)
    objective = iwelbo(model, guide, particles=particles)
    _, bounds[f"IWELBO {particles}, ring, {particles} angles"] = train(objective, jnp.zeros(2))

# %%
figure, axis = plt.subplots(figsize=(7, 3.5))
names = list(bounds)
axis.barh(names[::-1], [bounds[name] for name in names][::-1], color="tab:blue")
axis.axvline(log_evidence, color="black", linestyle="--", label="log evidence")
axis.set_xlim(-10.5, -5)
axis.set_xlabel("bound, nats")
axis.legend(loc="lower left")
figure.tight_layout()

# %% [markdown]
# All of them are lower bounds, and all gradients were unbiased: where a density is estimated, the
# estimate is unbiased when values are given (so its logarithm is too small on average), and its
# reciprocal is when they are drawn (so its logarithm is too large); and a guide's density enters
# the ELBO with a minus sign.
#
# The other angles were drawn as the guide draws them, anywhere on the ring. A better `proposal` for
# them, a program of the kept sites, saves particles; it need not be right, only to have the right
# support. And `normalize` makes a program that draws from the posterior of another one, to be used
# wherever a program is.

# %%
assert all(value < log_evidence + 0.02 for value in bounds.values())
assert bounds["IWELBO 20, ring, 20 angles"] > bounds["IWELBO 5, ring, 5 angles"]
assert bounds["IWELBO 5, ring, 5 angles"] > bounds["IWELBO 5, normals"]
bounds
