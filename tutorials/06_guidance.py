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
# # Guidance: from plug-in to exact
#
# A diffusion model samples from $p(x)$. You want samples of $p(x)\, e^{-E(x)} / Z$: of an inverse
# problem, of a class, of what a reward prefers. The usual method shifts every step by the gradient
# of the energy *of the expected data*, without a guarantee. This tutorial measures the resulting
# error, and corrects it: importance weights make the same sampler right, for any shift, and
# estimate $Z$ without bias.
#
# The data are a Gaussian mixture, of which everything is known: the denoiser, the tilted law, its
# normaliser, and the best possible push. So every error below is that of the method.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppgen
from ppgen.inference import (
    Chain,
    Learned,
    PlugIn,
    ancestral,
    decode,
    guide,
    guide_approximately,
)
from ppgen.models.parts.data import GaussianMixture

mixture = GaussianMixture.isotropic(
    [0.2, 0.3, 0.5], [[-2.0, 0.0], [0.5, 1.5], [2.0, -1.0]], [0.5, 0.4, 0.7]
)


def bridge():
    t = numpyro.sample("t", dist.Uniform())
    x1 = numpyro.sample("x1", mixture.distribution)
    x0 = numpyro.sample("x0", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    return t * x1 + (1 - t) * x0


def denoised(x, t):
    return mixture.denoised(x, t, 1 - t)


times = jnp.linspace(0.01, 0.995, 65)
first = mixture.smoothed(times[0], 1 - times[0]).distribution
chain = Chain(first, ancestral(decode(denoised, bridge, given="x1")), times)

# %% [markdown]
# ## The energy, and what is known of it
#
# One linear measurement with noise: $E(x) = (Hx - y)^2 / 2 s^2$. The tilted law is a mixture again.

# %%
H, y, s = jnp.array([[1.0, 0.6]]), jnp.array([-0.6]), 0.5


def energy(x):
    return 0.5 * jnp.sum((H @ x - y) ** 2) / s**2


tilted, log_z = mixture.tilted(H, y, s)
print("weights of the modes before:", np.round(mixture.weights, 3))
print("weights of the modes after: ", np.round(tilted.weights, 3))
print(f"log Z = {log_z:.4f}")

# %% [markdown]
# ## Lookaheads
#
# Guidance needs to predict, at a point of the chain, the energy at its end: $h(x, t) =
# E[e^{-E(x_1)} \mid x_t = x]$. Doob's transform says that the push $\nabla \log h$ is exactly
# right. A `lookahead` is an approximation of $\log h$.
#
# - The plug-in takes $-E(E[x_1 \mid x_t])$: the energy of the mean instead of the mean of the
#   exponential. That is what most guided samplers do; `PlugIn(denoised)` is it.
# - The spread costs as little, and takes into account that $x_1$ is not its mean: as if it were
#   normal around it, with the variance $r_t^2$ that a standard normal would have. It is still an
#   approximation.
# - The exact one is known for a mixture and a linear measurement.
# - Nothing at all gives the prior, which is the trivial baseline.
#
# `PlugIn(denoised, tempering)` is another approximation, which reduces the weight of the energy of
# the mean at earlier times, for energies that are not squares; `benchmarks/energies.md` has what it
# reaches.
#
# `Learned` takes any function of a point and a time. All four are put into one, so that only one
# program has to be compiled.

# %%
NAMES = ["prior", "plug-in", "spread", "exact"]


def beliefs(x, t, y):
    miss = 0.5 * jnp.sum((H @ denoised(x, t) - y) ** 2)
    variance = s**2 + jnp.sum(H**2) * (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    given = mixture.given_noised(x, t, 1 - t)
    variances = jnp.sum((H[0] @ given.axes * given.scales) ** 2, -1) + s**2
    logs = 0.5 * jnp.log(s**2 / variances) - 0.5 * (given.means @ H[0] - y[0]) ** 2 / variances
    return jnp.stack(
        [
            0.0 * miss,
            -miss / s**2,
            0.5 * jnp.log(s**2 / variance) - miss / variance,
            jax.nn.logsumexp(jax.nn.log_softmax(given.logits) + logs),
        ]
    )


def lookahead(which, y):
    return Learned(lambda x, t: which @ beliefs(x, t, y))


# %% [markdown]
# ## Without weights, and with
#
# `guide_approximately` shifts the steps without weights. `guide` returns weights as well, and its
# method `smc` runs many chains together and resamples them by their weights. Everything is repeated
# over independent runs, for standard errors.

# %%
RUNS, PARTICLES = 16, 500
keys = jax.random.split(jax.random.key(0), RUNS)
even = jnp.full((RUNS, PARTICLES), -jnp.log(PARTICLES))


@jax.jit
def pushed(which, y):
    def one(key):
        return ppgen.seed(guide_approximately(chain, energy, lookahead(which, y)))(key)

    return jax.vmap(jax.vmap(one))(jax.vmap(lambda k: jax.random.split(k, PARTICLES))(keys))


@jax.jit
def filtered(which, y):
    guided = guide(chain, energy, lookahead(which, y))
    return [
        jax.vmap(ppgen.seed(guided.smc(particles=PARTICLES, threshold=threshold)))(keys)
        for threshold in (0.0, 0.5)
    ]


def alone(name, y=y):
    xs = pushed(jnp.array([1.0 * (name == n) for n in NAMES]), y)
    return xs, even, None, jnp.ones(RUNS)


def with_weights(name):
    for found in filtered(jnp.array([1.0 * (name == n) for n in NAMES]), y):
        yield found.x, found.log_weights, found.log_evidence, found.ess[:, -1] / PARTICLES


methods = {
    "floor: draws of the answer": (
        tilted.distribution.sample(jax.random.key(1), (RUNS, PARTICLES)),
        even,
        None,
        jnp.ones(RUNS),
    ),
    "plug-in alone": alone("plug-in"),
    "spread alone": alone("spread"),
    "control: another measurement": alone("spread", jnp.array([2.0])),
}
for name in NAMES:
    methods[f"{name}, weighted"], methods[f"{name}, SMC"] = with_weights(name)

# %% [markdown]
# ## The table
#
# Errors against the closed form: of the mean (first coordinate), of the weight of the first mode,
# and of $Z$ itself, as a ratio. Each is a mean over runs with its standard error.


# %%
def with_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


component = jax.jit(jax.vmap(jax.vmap(tilted.component)))
rows = {}
for name, (xs, log_weights, log_evidence, ess) in methods.items():
    w = jnp.exp(log_weights)
    means = jnp.einsum("rk,rkd->rd", w, xs)[:, 0] - tilted.mean[0]
    mode = jnp.einsum("rk,rk->r", w, component(xs)[..., 0])
    ratio = None if log_evidence is None else with_error(jnp.exp(log_evidence - log_z))
    rows[name] = with_error(means), with_error(mode - tilted.weights[0]), ratio, float(ess.mean())

print(f"{'':30s}{'mean':>16s}{'mode':>16s}{'Z / exact':>16s}{'ESS':>6s}")
for name, (mean, mode, ratio, ess) in rows.items():
    z = "–" if ratio is None else f"{ratio[0]:.3f} ± {ratio[1]:.3f}"
    cells = "".join(f"{f'{m:+.3f} ± {e:.3f}':>16s}" for m, e in (mean, mode))
    print(f"{name:30s}{cells}{z:>16s}{ess:6.2f}")

# %% [markdown]
# Read the last column first, in the rows of weights (SMC has just resampled, which makes weights
# even and forgets why). The plug-in alone has most of its mass in the wrong mode, and its samples
# do not show that. Its weights do: the effective sample size is about one in a hundred. They are
# unbiased, $\hat Z$ too, but of a law with a tail so long that 500 draws do not see it: at this
# price, no weight makes up for a push this bad. The spread costs the same. Alone it is biased as
# well; but enough of its particles count for weights to make it right, within the error of finitely
# many particles and steps (they stand for the tilted law of the chain *as it is discretised*). With
# the exact lookahead nearly every particle counts.
#
# So guidance can be checked. Look at the effective sample size, and at how $\hat Z$ differs between
# a few runs, before you trust a guided sample.

# %%
SIGMAS, DISCRETISED = 4, 0.03


def is_right(entry, target=0.0):
    return abs(entry[0] - target) < SIGMAS * entry[1] + DISCRETISED


right = [f"{name}, {how}" for name in ("spread", "exact") for how in ("weighted", "SMC")]
right.append("floor: draws of the answer")
for name in right:
    mean, mode, ratio, _ = rows[name]
    assert is_right(mean) and is_right(mode), name
    assert ratio is None or is_right(ratio, 1.0), name
for name in ("plug-in alone", "spread alone", "control: another measurement"):
    mode, error = rows[name][1]
    assert abs(mode) > 10 * error and abs(mode) > DISCRETISED, name
sizes = [rows[f"{name}, weighted"][3] for name in ("plug-in", "spread", "exact")]
assert sizes[0] < 0.05 < 0.2 < sizes[1] < sizes[2]
assert rows["prior, weighted"][3] < sizes[1]

# %% [markdown]
# A last control: no energy changes nothing. Weights are then exactly one, not nearly.

# %%
silent = guide(chain, lambda x: 0.0 * jnp.sum(x), PlugIn(denoised))
_, log_weight = ppgen.seed(silent)(jax.random.key(2))
assert log_weight == 0.0

# %%
shown = ["plug-in alone", "spread, SMC", "exact, weighted"]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), sharex=True, sharey=True)
grid = jnp.stack(jnp.meshgrid(jnp.linspace(-4, 4, 90), jnp.linspace(-3, 3, 70)), -1)
density = jnp.exp(jax.vmap(jax.vmap(tilted.log_density))(grid))
draws = {"without guidance": (mixture.distribution.sample(jax.random.key(3), (1, 500)), None)}
for name in shown:
    xs, log_weights, *_ = methods[name]
    picked = jax.random.categorical(jax.random.key(4), log_weights[0], shape=(PARTICLES,))
    draws[name] = (xs[:1][:, picked], None)
for axis, (name, (xs, _)) in zip(axes, draws.items(), strict=True):
    axis.contour(grid[..., 0], grid[..., 1], density, levels=6, colors="tab:orange", linewidths=1)
    axis.scatter(*np.asarray(xs[0]).T, s=3, alpha=0.5)
    axis.set_title(name, fontsize=10)
axes[0].set_ylabel("contours: the tilted law, exact")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Where to go on
#
# An energy may be a classifier, a reward, a decoder of $x$, a measurement that is not linear: only
# `energy` changes. Where $\log h$ is not known, `regress` with `log_mean_exp_error` as its loss
# gives a `Learned` lookahead. `kl_to_tilted` trains a guide that then samples directly.
# `benchmarks/energies.md` has such a table at larger sizes, misses included.
