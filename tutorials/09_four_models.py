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
# # Four models, each a program
#
# `ppgen.models` holds four families of generative models. What they have in common is how they are
# written: a program over *one* datum, a guide, an objective made of the two, and `fit`. This
# tutorial trains a small one of each and compares it with a known answer, or with a rival. The
# full-sized ones, over several seeds, are in `benchmarks/models.md`; each has a command too, `ppgen
# fit vae`, `diffuse_vae`, `marginalization` and `random_grid`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ppgen.inference import dreg, elbo, fit, mean_over_data, per_datum
from ppgen.models.parts.data import Ising, load_digits

digits = load_digits()
keys = jax.random.split(jax.random.key(0), 20)


def adam(rate, steps):
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


# %% [markdown]
# ## A variational autoencoder, and the gradient it is trained by
#
# The program draws a code and then an image; `ppgen.models.vae` has it in four lines. The objective
# is a choice: here the ELBO, and the bound of eight particles with the doubly reparameterised
# gradient. Both networks begin with the same weights and take as many steps. What they reach is
# compared by the same bound of 50 particles, image by image, on images that neither has seen.

# %%
from ppgen.inference import iwelbo
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood
from ppgen.models.vae import VAE, batch_objective, image_objective, vae_guide, vae_model

start = VAE(pixels=64, levels=17, dimensions=8, hidden=64, key=keys[0])
held_out = jnp.asarray(digits.held_out)
objectives = {
    "ELBO": elbo(vae_model, vae_guide),
    "8 particles": dreg(vae_model, vae_guide, particles=8),
}
score = image_objective(iwelbo(vae_model, vae_guide, particles=50))
nats = {
    "histograms of pixels": pixel_marginal_log_likelihood(digits.train, digits.held_out, values=17)
}
for name, bound in objectives.items():
    trained = fit(
        batch_objective(bound),
        start,
        adam(5e-3, 400),
        key=keys[1],
        steps=400,
        data=digits.train,
        batch_size=64,
        maximize=True,
    ).params
    nats[name] = np.asarray(per_datum(score, trained, held_out, key=keys[2]))
    print(f"{name}: {mean_over_data(nats[name])} nats for each image")
gain = mean_over_data(nats["8 particles"] - nats["ELBO"])
print(f"gained by the particles: {gain}")
# %% [markdown]
# ## DiffuseVAE: a chain that is conditioned on an autoencoder
#
# The first stage is an autoencoder, whose images are blurred. The second is a diffusion whose
# network sees them, and draws in five moves here. The negative control trains the same chain
# without the condition: `dropout=1`. The distance is Fréchet's in pixels, between what is drawn
# and the training images; its floor is that of other images of the same kind.

# %%
from ppgen.models import diffuse_vae as dv
from ppgen.models.parts.metrics.distances import frechet_distance
from ppgen.models.parts.networks import DenoisingMLP

x = digits.train / 8 - 1
schedule = dv.linear_schedule(1000)
sampler = dv.Sampler(schedule, dv.quadratic_times(1000, 5), eta=0.0)
first = dv.Autoencoder(pixels=64, latent=8, hidden=64, scale=0.35, key=keys[3])
first = dv.fit_autoencoder(first, x, adam(5e-3, 400), key=keys[4], steps=400).params
prior = dv.fit_mixture_prior(first, x, key=keys[5])
drawn, distances = {}, {}
for name, dropout in {"told": 0.0, "not told": 1.0}.items():
    model = dv.DiffuseVAE(first, DenoisingMLP(64, hidden=128, key=keys[6]))
    options = {"key": keys[7], "steps": 400, "dropout": dropout, "ema": 0.99}
    chain = dv.fit_denoiser(model, schedule, x, adam(5e-3, 400), **options).ema
    drawn[name] = dv.draw_images(keys[8], chain, sampler, 1500, prior=prior)
    distances[name] = frechet_distance(drawn[name], x)
distances["held-out images"] = frechet_distance(digits.held_out / 8 - 1, x)
for name, distance in distances.items():
    print(f"{name}: {distance:.2f}")
# %% [markdown]
# ## A marginalization model: the probability of any part of a vector
#
# An Ising model on a torus of 3 × 3 spins is an energy: its density is known up to a constant, and
# there are no data. The model is trained towards it by an unbiased gradient of the divergence, with
# a penalty that makes its marginals and its conditionals agree. With nine spins the exact
# probability of any part is a sum, and the network gives it in one pass.

# %%
from ppgen.models.marginalization import MaM
from ppgen.models.marginalization.scores import ancestral, log_marginals, subsets
from ppgen.models.marginalization.training import fit_energy
from ppgen.models.parts.networks import DualMLP

ising = Ising(3)
untrained = MaM(DualMLP(9, 2, 64, 1, key=keys[9]), 9, 2)
mam = fit_energy(
    untrained,
    ising.log_weight,
    adam(5e-3, 400),
    key=keys[10],
    steps=400,
    objective="importance",
    draws=128,
)
spins, _ = ancestral(mam, 200, key=keys[11])
parts = subsets(200, 9, key=keys[12])
exact = np.array([ising.log_marginal(*pair) for pair in zip(np.asarray(spins), parts, strict=True)])
in_one_pass = {"trained": log_marginals(mam, spins, parts)}
in_one_pass["untrained"] = log_marginals(untrained, spins, parts)
errors = {name: mean_over_data(np.abs(np.asarray(y) - exact)) for name, y in in_one_pass.items()}
for name, error in errors.items():
    print(f"{name}: {error} nats of error")
# %% [markdown]
# ## A random grid neural process: a differential equation without solutions
#
# The nonlinear Poisson problem is learned from its residuals alone, on eight points. The points are
# a *site* of the program, which the objective integrates out: each problem of each step has a grid
# of its own. The negative control keeps one grid. The result is compared with finite differences.

# %%
from ppgen.models import random_grid

problem = random_grid.Poisson()
references = random_grid.draw_references(problem, 64, key=keys[13])
fixed = np.asarray(jax.random.uniform(keys[14], (8, 1), minval=-1, maxval=1)).tolist()
solved, solutions = {}, {}
for name, grid in {"random grids": None, "one grid": fixed}.items():
    process = random_grid.RGNP(problem, points=8, width=32, grid=grid, key=keys[15])
    process = random_grid.fit_random_grid(process, key=keys[16], steps=300, batch=16).params
    solved[name] = random_grid.score(process, references, key=keys[17]).nse_u
    solutions[name] = np.asarray(
        random_grid.solve_references(process, references, key=keys[17]).u.mean
    )
    print(f"{name}: median squared error of the solution {np.median(solved[name]):.3g} of its own")
# %% [markdown]
# ## The four answers

# %%
figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
names = list(nats)
estimates = [mean_over_data(nats[name]) for name in names]
axes[0, 0].barh(
    names, [e.mean for e in estimates], xerr=[e.standard_error for e in estimates], color="C0"
)
axes[0, 0].set(title="VAE: held-out log likelihood", xlabel="nats for each image, from below")
axes[0, 0].set_xlim(right=min(e.mean for e in estimates) * 0.7)
image = jnp.concatenate([drawn["told"][:24], x[:24]]).reshape(6, 8, 8, 8)
axes[0, 1].imshow(image.transpose(0, 2, 1, 3).reshape(48, 64), cmap="gray_r")
axes[0, 1].axhline(23.5, color="C3")
axes[0, 1].set(title="DiffuseVAE: drawn, and below data", xticks=[], yticks=[])
axes[1, 0].plot([exact.min(), 0], [exact.min(), 0], color="0.7")
for name in ("untrained", "trained"):
    axes[1, 0].plot(exact, in_one_pass[name], ".", label=name)
axes[1, 0].legend()
axes[1, 0].set(title="Marginals of an Ising model", xlabel="exact (nats)", ylabel="in one pass")
best = int(np.argsort(np.ptp(references.u[:, :, 0], axis=1))[-1])
line = np.argsort(references.points[:, 0])
axes[1, 1].plot(references.points[line], references.u[best, line], "k", label="finite differences")
for name in solutions:
    axes[1, 1].plot(references.points[line], solutions[name][best, line], "--", label=name)
axes[1, 1].legend()
axes[1, 1].set(title="A Poisson problem, from 8 points", xlabel="x", ylabel="u(x)")

# %% [markdown]
# The claims, as assertions:

# %%
assert gain.mean > 2 * gain.standard_error
assert estimates[1].mean > estimates[0].mean + 3 * estimates[0].standard_error
assert distances["told"] < distances["not told"]
assert errors["trained"].mean < errors["untrained"].mean / 5
assert np.median(solved["random grids"]) < np.median(solved["one grid"]) / 2
