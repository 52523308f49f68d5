"""Variational autoencoders: held-out bounds of digits, against NumPyro's SVI.

    python -m ppgen.models.vae.marks --seeds 0 --fast  # prints one table

Every fit has the same networks, initial weights, optimiser, batch size and number of steps, and
five draws of z for each image and step. What differs is the objective and its gradient, and whose
they are. All fits are scored by one function: the bound of 500 particles on the log likelihood of
the held-out images, with the same draws for each fit, so that differences are paired by image.

- trivial baseline: independent pixels, each with its own histogram;
- floor: two fits of one objective that differ in their randomness only, and how far the bound of
  500 particles rises with ten times as many;
- negative control: the same figure, where the guide looks at another image.
"""

# pyright: reportArgumentType=false, reportReturnType=false
# (JAX and NumPyro annotate arrays more widely than what they are.)

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.optim import optax_to_numpyro

import ppgen
from ppgen.inference import dreg, elbo, fit, iwelbo, per_datum
from ppgen.models.parts.data import Images, load_digits
from ppgen.models.parts.marks import Mark, above, below, report, table
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood
from ppgen.models.vae import VAE, batch_objective, image_objective, vae_guide, vae_model

PARTICLES = 5
"""Draws of z for each image and step."""
BATCH = 128
OTHER = "elbo, other draws"
TIE = 0.5
"""Nats per image within which two fits of one objective have to be."""

ABOUT = (
    f"{PARTICLES} draws of z for each image and step, Adam with weight decay, the learning rate on "
    "a cosine, one seed for the weights of all fits. Differences are means over the 297 held-out "
    "images, of pairs; their standard errors cover the choice of images, not that of the fit, the "
    "spread of which is the floor."
)


class Size(NamedTuple):
    """How much is trained and drawn."""

    steps: int
    particles: int
    hidden: int = 128
    dimensions: int = 16


FULL = Size(steps=2000, particles=500)
FAST = Size(steps=200, particles=20)


def optimizer(size: Size) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(2e-3, size.steps)
    return optax.adamw(schedule, weight_decay=0.3)


def start(size: Size, seed: int, **options: Any) -> VAE:
    return VAE(
        pixels=64,
        levels=17,
        shape=(8, 8),
        hidden=size.hidden,
        **{"dimensions": size.dimensions} | options,
        key=jax.random.key(seed),
    )


def by_ppgen(
    bound: Callable[..., Any], vae: VAE, data: Images, size: Size, key: Any, draws: int = 1
) -> VAE:
    """What `ppgen fit vae` does."""
    return fit(
        batch_objective(bound),
        vae,
        optimizer(size),
        key=key,
        steps=size.steps,
        data=data.train,
        batch_size=BATCH,
        draws=draws,
        maximize=True,
    ).params


def by_numpyro(loss: Any, vae: VAE, data: Images, size: Size, key: Any) -> VAE:
    """The same Gaussian model and guide, written for NumPyro, over a batch."""
    arrays, static = eqx.partition(vae, eqx.is_inexact_array)

    def networks() -> VAE:
        return eqx.combine(numpyro.param("vae", arrays), static)

    def model(x: Any) -> None:
        vae = networks()
        with numpyro.plate("images", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([vae.latent.code]).to_event(1))
            outputs = jax.vmap(vae.decoder)(z)
            numpyro.sample("x", jax.vmap(vae.likelihood)(outputs), obs=x)

    def guide(x: Any) -> None:
        vae = networks()
        h = jax.vmap(vae.encoder)(2 * x / (vae.likelihood.values - 1) - 1)
        mean, log_variance = jnp.split(h, 2, -1)
        with numpyro.plate("images", len(x)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1))

    svi = SVI(model, guide, optax_to_numpyro(optimizer(size)), loss)
    order_key, init_key = jax.random.split(key)
    train = jnp.asarray(data.train)
    epoch = len(train) // BATCH
    epochs = jax.random.split(order_key, math.ceil(size.steps / epoch))
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(train))[: epoch * BATCH])(epochs)
    batches = orders.reshape(-1, BATCH)[: size.steps]

    @jax.jit
    def run(state: Any) -> Any:
        return jax.lax.scan(lambda s, rows: svi.update(s, train[rows]), state, batches)[0]

    state = run(svi.init(init_key, train[:BATCH]))
    return eqx.combine(svi.get_params(state)["vae"], static)


def scores(vae: VAE, images: np.ndarray, particles: int) -> np.ndarray:
    """The bound of every image, in nats: the same draws for every VAE."""
    bound = image_objective(iwelbo(vae_model, vae_guide, particles=particles))
    return per_datum(bound, vae, images, key=jax.random.key(2**31)).astype(float)


def astray(vae: VAE, images: np.ndarray, particles: int) -> np.ndarray:
    """The bound, with a guide that looks at the image before."""

    def guide(vae: VAE, pair: Any) -> Any:
        return vae_guide(vae, pair[1])

    def model(vae: VAE, pair: Any) -> Any:
        return vae_model(vae, pair[0])

    pairs = np.stack([images, np.roll(images, 1, 0)], 1)
    bound = iwelbo(model, guide, particles=particles)
    return per_datum(bound, vae, pairs, key=jax.random.key(2**31)).astype(float)


LATENTS: dict[str, dict[str, Any]] = {
    "von Mises-Fisher": {"latent": "vmf"},
    "Gaussian": {},
    "Gaussian, convolutions": {"network": "conv"},
    "Gaussian, flow posterior": {"latent": "flow"},
    "two layers": {"latent": "hierarchical"},
    "flips": {"latent": "binary", "dimensions": 32},
    "classes": {"latent": "categorical"},
}


def kinds(size: Size, seed: int, data: Images, key: Any, count: int) -> dict[str, np.ndarray]:
    """Each kind of latent representation, fitted by the ELBO with the estimator it is given."""
    found = {}
    for name, options in list(LATENTS.items())[:count]:
        vae = start(size, seed, **options)
        guide = ppgen.with_estimators(vae_guide, "auto")
        fitted = by_ppgen(elbo(vae_model, guide), vae, data, size, key, draws=PARTICLES)
        found[name] = scores(fitted, data.held_out, size.particles)
    return found


def objectives(size: Size, seed: int, data: Images, key: Any) -> dict[str, VAE]:
    """One VAE by each objective."""
    vae, keys = start(size, seed), jax.random.split(key)
    ours = functools.partial(by_ppgen, vae=vae, data=data, size=size)
    theirs = functools.partial(by_numpyro, vae=vae, data=data, size=size, key=keys[0])
    plain, weighted = elbo(vae_model, vae_guide), {"particles": PARTICLES}
    again = {} if size is FAST else {OTHER: ours(plain, key=keys[1], draws=PARTICLES)}
    return {
        "elbo": ours(plain, key=keys[0], draws=PARTICLES),
        **again,
        "iwelbo": ours(iwelbo(vae_model, vae_guide, **weighted), key=keys[0]),
        "dreg": ours(dreg(vae_model, vae_guide, **weighted), key=keys[0]),
        "Trace_ELBO": theirs(Trace_ELBO(num_particles=PARTICLES)),
        "RenyiELBO(0)": theirs(RenyiELBO(alpha=0, num_particles=PARTICLES)),
    }


def marks(fast: bool, seed: int) -> list[Mark]:
    """Fits and scores.

    Args:
        fast: Few steps, one kind of latent representation, under a minute.
        seed: Of the weights and of everything random in the fits.

    Returns:
        The marks.
    """
    size, data = FAST if fast else FULL, load_digits()
    keys = jax.random.split(jax.random.key(seed))
    fits = objectives(size, seed, data, keys[0])
    held_out = data.held_out
    bounds = {name: scores(vae, held_out, size.particles) for name, vae in fits.items()}
    levels = (data.train, held_out)
    histograms = pixel_marginal_log_likelihood(*levels, values=data.levels)
    control = astray(fits["dreg"], held_out, size.particles)

    def difference(one: str, other: str) -> tuple[float, float]:
        gap = bounds[one] - bounds[other]
        return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))

    gain, error = difference("dreg", "Trace_ELBO")
    rival, rival_error = difference("dreg", "RenyiELBO(0)")
    same, same_error = difference("elbo", "Trace_ELBO")
    weighted, weighted_error = difference("iwelbo", "RenyiELBO(0)")
    rows = [
        above("dreg − NumPyro Trace_ELBO, nats per image, > 2 standard errors", gain, 2 * error),
        report("… its standard error", error),
        above("dreg − NumPyro RenyiELBO(0), > 2 standard errors", rival, 2 * rival_error),
        report("… its standard error", rival_error),
        below("same objective: distance of elbo and NumPyro Trace_ELBO", abs(same), TIE),
        report("… its standard error", same_error),
        below("same objective: distance of iwelbo and NumPyro RenyiELBO(0)", abs(weighted), TIE),
        report("… its standard error", weighted_error),
        report("per-pixel histograms, nats per image", float(histograms.mean())),
    ]
    rows += [report(f"bound: {name}", float(b.mean())) for name, b in bounds.items()]
    if not fast:
        some, count = slice(0, 50), 10 * size.particles
        more = scores(fits["dreg"], held_out[some], count) - bounds["dreg"][some]
        rows += [
            report("floor: elbo − elbo with other draws", difference("elbo", OTHER)[0]),
            report(f"floor: dreg, {count} particles − {size.particles}", float(more.mean())),
        ]
    rows.append(
        below(
            "control: dreg, a guide that looks at another image, below histograms",
            float(control.mean()),
            float(histograms.mean()),
        )
    )
    # A quarter of the steps, which is enough to be told from histograms.
    short = size._replace(steps=max(size.steps // 4, FAST.steps))
    for name, bound in kinds(short, seed, data, keys[1], 1 if fast else len(LATENTS)).items():
        gap = bound - histograms
        error = float(gap.std(ddof=1) / math.sqrt(len(gap)))
        mark = f"elbo, {name}, {short.steps} steps − histograms, > 5 standard errors"
        rows.append(above(mark, gap.mean(), 5 * error))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    options = parser.parse_args()
    print(*table([marks(options.fast, seed) for seed in options.seeds]), sep="\n")


if __name__ == "__main__":
    main()
