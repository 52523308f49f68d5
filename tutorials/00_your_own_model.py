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
# # Train your own model on your own data
#
# From arrays in a file to a fitted model that is compared with something, saved, loaded and tested:
# the job that most other pages assume. It takes 20 minutes to read, and one to run.
#
# ## Arrays from a file
#
# Whatever ends up in arrays with one row for each datum will do. Here the file is one that we write
# first: 569 tissue samples with 30 measured numbers each, which come with scikit-learn.

# %%
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_breast_cancer

import ppgen
from ppgen.inference import (
    Checkpoints,
    CSVLogger,
    EarlyStopping,
    elbo,
    fit,
    iwelbo,
    load_checkpoint,
    mean_over_data,
    per_batch,
    per_datum,
    save_checkpoint,
)

folder = Path(tempfile.mkdtemp())
np.savez(folder / "samples.npz", x=load_breast_cancer().data)

# %% [markdown]
# Three parts, chosen once and at random: one to fit to, one to say when to stop, one that is not
# looked at before the end. The scale of each column is that of the first part, in logarithms,
# because the numbers are sizes.

# %%
x = np.log(np.load(folder / "samples.npz")["x"] + 1e-3).astype(np.float32)
x = x[np.random.RandomState(0).permutation(len(x))]
train, validation, held_out = np.split(x, [369, 449])
centre, scale = train.mean(0), train.std(0)
train, validation, held_out = ((part - centre) / scale for part in (train, validation, held_out))
train.shape, validation.shape, held_out.shape


# %% [markdown]
# ## A program and its guide
#
# Both are NumPyro programs over *one* datum. What is fitted, here the weights of two networks, is
# their first argument: any pytree, such as an Equinox module.


# %%
class Net(eqx.Module):
    decoder: eqx.nn.MLP
    encoder: eqx.nn.MLP
    log_noise: jax.Array

    def __init__(self, columns, latent, key):
        keys = jax.random.split(key)
        self.decoder = eqx.nn.MLP(latent, columns, 64, 2, jax.nn.gelu, key=keys[0])
        self.encoder = eqx.nn.MLP(columns, 2 * latent, 64, 2, jax.nn.gelu, key=keys[1])
        self.log_noise = jnp.zeros(columns)


LATENT = 6


def model(net, x=None):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
    noise = jnp.exp(net.log_noise)
    return numpyro.sample("x", dist.Normal(net.decoder(z), noise).to_event(1), obs=x)


def guide(net, x):
    mean, log_scale = jnp.split(net.encoder(x), 2)
    numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))


# %% [markdown]
# ## An objective, and a fit
#
# `elbo` is of one datum, and so is any objective of your own; `per_batch` is its mean over a batch.
# `fit` evaluates it on the validation part every 50 steps, ends when that has not improved for 20
# times, and returns the best parameters. It saves itself meanwhile: the same call again would go on
# from the last checkpoint, after a crash as well.

# %%
fresh = Net(train.shape[1], LATENT, jax.random.key(0))
bound = elbo(model, guide)
fitted = fit(
    per_batch(bound),
    fresh,
    optax.adamw(2e-3, weight_decay=0.02),
    key=jax.random.key(1),
    steps=4000,
    data=train,
    batch_size=64,
    maximize=True,
    early_stopping=EarlyStopping(validation, every=50, patience=20, draws=10),
    checkpoints=Checkpoints(folder / "checkpoints", every=1000),
    loggers=[CSVLogger(folder / "metrics.csv")],
)
print(f"ended by {fitted.stopped} after {len(fitted.history)} steps")

# %%
smooth = np.convolve(fitted.history, np.ones(25) / 25, "valid")
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(smooth)
ax.set(xlabel="step", ylabel="ELBO (nats per sample)", ylim=(np.quantile(smooth, 0.02), None))
fig.tight_layout()

# %% [markdown]
# ## Is it any good?
#
# A number in nats means nothing alone. So the held-out bound has a *floor* beside it: what a model
# reaches that knows nothing but the mean and the spread of each column. IWELBO with 200 particles
# is a bound as well, a tighter one. Each figure comes with its standard error.

# %%
floor = mean_over_data(np.asarray(dist.Normal(0.0, 1.0).log_prob(held_out).sum(-1)))
tight = iwelbo(model, guide, particles=200)
figures = {"independent columns": floor}
for name, objective in {"ELBO": bound, "IWELBO-200": tight}.items():
    each = per_datum(objective, fitted.params, held_out, key=jax.random.key(2))
    figures[name] = mean_over_data(each)
for name, figure in figures.items():
    print(f"{name:<20} {figure} nats per held-out sample")

# %% [markdown]
# ## Samples
#
# `ppgen.seed` gives a program the key that its choices need. Two columns, as they are and as the
# model draws them:

# %%
draw = jax.jit(jax.vmap(lambda key: ppgen.seed(model)(key, fitted.params)))
drawn = np.exp(np.asarray(draw(jax.random.split(jax.random.key(3), 400))) * scale + centre)
fig, axes = plt.subplots(1, 2, figsize=(6, 3), sharex=True, sharey=True)
real = np.exp(held_out * scale + centre)
for ax, rows, title in zip(axes, (real, drawn), ("held out", "drawn"), strict=True):
    ax.scatter(rows[:, 0], rows[:, 7], s=6)
    ax.set(title=title, xlabel="radius")
axes[0].set(ylabel="concave points", xlim=(5, 30), ylim=(0, 0.2))
fig.tight_layout()

# %% [markdown]
# ## Save, load
#
# A checkpoint holds numbers only. It is read into fresh parameters of the same structure, and
# loading it executes nothing.

# %%
save_checkpoint(folder / "fitted", fitted.params)
again = load_checkpoint(folder / "fitted", fresh)
assert eqx.tree_equal(again, fitted.params)

# %% [markdown]
# ## A test
#
# Two things are worth testing of a model of one's own: that the gradient is the slope of the
# objective, which `ppgen.audit` finds out from values alone (at fresh parameters, where there is a
# slope to see), and that the fit beats the floor by more than chance.

# %%
arrays, static = eqx.partition(fresh, eqx.is_inexact_array)
audit = ppgen.audit(lambda p: bound(eqx.combine(p, static), train[0]), progress=False)
verdict = audit(jax.random.key(4), arrays).verdict
gain = figures["IWELBO-200"].mean - floor.mean
assert verdict == "agrees", verdict
assert gain > 5 * (floor.standard_error + figures["IWELBO-200"].standard_error)
print(f"the gradient {verdict}; {gain:.0f} nats above the floor")

# %% [markdown]
# From here: [an objective that is in no library](01_your_own_objective), or the
# [command line](../command_line.md), which does all of this for a model in one file.
