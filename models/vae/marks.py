"""Variational autoencoders: held-out bounds of digits, against NumPyro's SVI.

Every fit has the same networks, initial weights, optimiser, batch size and number of steps, and
five draws of z for each image and step. They differ in the objective and its gradient estimator,
and in the library. All fits are scored by one function: the bound of 500 particles on the log
likelihood of the held-out images, with the same draws for each fit, so that differences are paired
by image.

- trivial baseline: independent pixels, each with its own histogram;
- floor: two fits of one objective that differ in their randomness only, and how far the bound of
  500 particles rises with ten times as many;
- negative control: the same figure, where the guide looks at another image.
"""

# pyright: reportArgumentType=false, reportReturnType=false
# (JAX and NumPyro annotate arrays more widely than what they are.)

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.optim import optax_to_numpyro

from ppgen.inference import iwelbo, per_datum
from ppgen.models.parts.marks import Mark, above, below, report
from ppgen.models.parts.runs import Run, fit_recipe, fresh
from ppgen.models.vae.model import VAE, vae_guide, vae_model
from ppgen.models.vae.recipe import VAERecipe

PARTICLES = 5
"""Draws of z for each image and step."""
OTHER = "elbo, other draws"
TIE = 0.5
"""Nats per image within which two fits of one objective have to be."""

ABOUT = (
    f"{PARTICLES} draws of z for each image and step, Adam with weight decay, the learning rate on "
    "a cosine, one seed for the weights of all fits. Differences are means over the 297 held-out "
    "images, of pairs; their standard errors cover the choice of images, not that of the fit, the "
    "spread of which is the floor."
)

LATENTS: dict[str, dict[str, Any]] = {
    "von Mises-Fisher": {"latent": "vmf"},
    "Gaussian": {},
    "Gaussian, convolutions": {"network": "conv"},
    "Gaussian, flow posterior": {"posterior": "flow"},
    "two layers": {"latent": "hierarchical"},
    "flips": {"latent": "binary", "dimensions": 32},
    "classes": {"latent": "categorical"},
}


def by_ppgen(seed: int, steps: int, start: VAE | None = None, **options: Any) -> Run:
    """What `ppgen fit vae` does."""
    recipe = VAERecipe(particles=PARTICLES, **options)
    return fit_recipe(recipe, model=start, seed=seed, steps=steps)


def by_numpyro(loss: Any, like: Run) -> Run:
    """The same Gaussian model, guide, weights and optimiser, for NumPyro, over a batch."""
    recipe, training = like.recipe, like.training
    arrays, static = eqx.partition(fresh(recipe, training, like.facts), eqx.is_inexact_array)

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

    optimizer = optax.adamw(training.rate(), weight_decay=recipe.weight_decay)
    svi = SVI(model, guide, optax_to_numpyro(optimizer), loss)
    order_key, init_key = jax.random.split(jax.random.key(training.seed))
    train, size = jnp.asarray(like.data.train), training.batch_size
    epoch = len(train) // size
    epochs = jax.random.split(order_key, math.ceil(training.steps / epoch))
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(train))[: epoch * size])(epochs)
    batches = orders.reshape(-1, size)[: training.steps]

    @jax.jit
    def run(state: Any) -> Any:
        return jax.lax.scan(lambda s, rows: svi.update(s, train[rows]), state, batches)[0]

    state = run(svi.init(init_key, train[:size]))
    return dataclasses.replace(like, model=eqx.combine(svi.get_params(state)["vae"], static))


def scores(run: Run, particles: int) -> dict[str, np.ndarray]:
    """Nats of every held-out image: the same draws for every run of a seed."""
    rows = run.figures(particles).rows
    return {label: np.asarray(row["nats per image"], float) for label, row in rows.items()}


def astray(run: Run, particles: int) -> np.ndarray:
    """The bound, with a guide that reads the previous image."""

    def guide(vae: VAE, pair: Any) -> Any:
        return vae_guide(vae, pair[1])

    def model(vae: VAE, pair: Any) -> Any:
        return vae_model(vae, pair[0])

    images = run.data.held_out
    pairs = np.stack([images, np.roll(images, 1, 0)], 1)
    bound = iwelbo(model, guide, particles=particles)
    return per_datum(bound, run.model, pairs, key=jax.random.key(2**31)).astype(float)


def gap(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The mean difference of pairs, and its standard error."""
    each = one - other
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def marks(fast: bool, seed: int) -> list[Mark]:
    """Fits and scores.

    Args:
        fast: Few steps, one kind of latent representation, under a minute.
        seed: Of the weights and of everything random in the fits.

    Returns:
        The marks.
    """
    steps, particles = (200, 20) if fast else (2000, 500)
    plain = by_ppgen(seed, steps)
    runs = {
        "elbo": plain,
        **({} if fast else {OTHER: other_draws(plain, seed)}),
        "iwelbo": by_ppgen(seed, steps, objective="iwelbo"),
        "dreg": by_ppgen(seed, steps, objective="dreg"),
        "Trace_ELBO": by_numpyro(Trace_ELBO(num_particles=PARTICLES), plain),
        "RenyiELBO(0)": by_numpyro(RenyiELBO(alpha=0, num_particles=PARTICLES), plain),
    }
    found = {name: scores(run, particles) for name, run in runs.items()}
    bounds = {name: each[f"IWELBO-{particles}"] for name, each in found.items()}
    histograms = found["elbo"]["per-pixel histograms"]
    gain, error = gap(bounds["dreg"], bounds["Trace_ELBO"])
    rival, rival_error = gap(bounds["dreg"], bounds["RenyiELBO(0)"])
    same, same_error = gap(bounds["elbo"], bounds["Trace_ELBO"])
    weighted, weighted_error = gap(bounds["iwelbo"], bounds["RenyiELBO(0)"])
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
        more = scores(runs["dreg"], 10 * particles)[f"IWELBO-{10 * particles}"]
        rows += [
            report("floor: elbo − elbo with other draws", gap(bounds["elbo"], bounds[OTHER])[0]),
            report(
                f"floor: dreg, {10 * particles} particles − {particles}",
                gap(more, bounds["dreg"])[0],
            ),
        ]
    rows.append(
        below(
            "control: dreg, a guide that looks at another image, below histograms",
            float(astray(runs["dreg"], particles).mean()),
            float(histograms.mean()),
        )
    )
    # A quarter of the steps, which is enough to be told from histograms.
    short = max(steps // 4, 200)
    for name, options in list(LATENTS.items())[: 1 if fast else None]:
        bound = scores(by_ppgen(seed, short, **options), particles)[f"IWELBO-{particles}"]
        over, error = gap(bound, histograms)
        mark = f"elbo, {name}, {short} steps − histograms, > 5 standard errors"
        rows.append(above(mark, over, 5 * error))
    return rows


def other_draws(run: Run, seed: int) -> Run:
    """A second fit from the same weights, scored by the same draws."""
    start = fresh(run.recipe, run.training, run.facts)
    again = by_ppgen(seed + 1000, run.training.steps, start)
    return dataclasses.replace(run, model=again.model)
