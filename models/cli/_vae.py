"""The work behind `ppgen fit vae` and `ppgen sample`: everything here needs JAX."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from tqdm import tqdm

import ppgen
from ppgen.inference import (
    Estimate,
    Progress,
    bits_per_dimension,
    elbo,
    fit,
    iwelbo,
    load_checkpoint,
    mean_over_data,
    per_datum,
    save_checkpoint,
)
from ppgen.models.baselines import pixel_marginal_log_likelihood
from ppgen.models.cli._errors import CommandError
from ppgen.models.cli._run_folder import CHECKPOINT, METRICS
from ppgen.models.datasets import Images, load_digits, load_images
from ppgen.models.pictures import draw_history, draw_reconstructions, draw_samples
from ppgen.models.vae import (
    VAE,
    batch_objective,
    image_objective,
    observed,
    reconstruct,
    vae_guide,
    vae_model,
)

if TYPE_CHECKING:
    from ppgen.models.cli._fit_vae import FitVAE

ELBO_DRAWS = 50
EVALUATION_PARTICLES = 500


class Run(NamedTuple):
    """A trained model and what its images look like."""

    vae: VAE
    shape: tuple[int, int]


def load_data(path: Path | None) -> Images:
    """The images to train on and to hold out."""
    return load_digits() if path is None else load_images(path)


def train_and_report(options: FitVAE, images: Images, folder: Path) -> None:
    """Trains a VAE and writes and prints everything there is to know about it."""
    keys = dict(
        zip(
            ("init", "fit", "elbo", "iwelbo", "pictures"),
            jax.random.split(jax.random.key(options.seed), 5),
            strict=True,
        )
    )
    vae = VAE(
        pixels=images.pixels,
        levels=images.levels,
        likelihood=options.likelihood,
        latent=options.latent,
        hidden=options.hidden,
        key=keys["init"],
    )
    weighted = options.objective == "iwelbo"
    bound = elbo(vae_model, vae_guide)
    if weighted:
        bound = iwelbo(vae_model, vae_guide, particles=options.particles)
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    print(f"training on {len(images.train)} images, writing to {folder}")
    with (folder / METRICS).open("w") as metrics, tqdm(total=options.steps, unit="step") as bar:
        fitted = fit(
            batch_objective(bound),
            vae,
            optax.adamw(schedule, weight_decay=options.weight_decay),
            key=keys["fit"],
            steps=options.steps,
            data=images.train,
            batch_size=options.batch_size,
            draws=1 if weighted else options.particles,
            maximize=True,
            callback=_reporter(options.objective, bar, metrics),
            chunk=50,
        )
    run = Run(fitted.params, images.shape)
    save_checkpoint(folder / CHECKPOINT, run.vae)

    figures = _evaluate(run.vae, images, keys["elbo"], keys["iwelbo"])
    _print_figures(figures, run.vae, images)
    with (folder / METRICS).open("a") as metrics:
        held_out = {name: figure._asdict() for name, figure in figures.items()}
        _write_line(metrics, {"step": len(fitted.history), "held_out": held_out})
    name = "IWELBO" if weighted else "ELBO"
    references = [(f"held-out {label}", figure.mean) for label, figure in figures.items()]
    draw_history(folder / "loss.png", fitted.history, references, label=f"training {name}")
    write_samples(folder / "samples.png", run, 100, options.seed)
    _write_reconstructions(folder / "reconstructions.png", run, images, keys["pictures"])
    print(f"wrote {CHECKPOINT}, {METRICS} and three pictures to {folder}")


def load_run(folder: Path, config: dict[str, Any]) -> Run:
    """Rebuilds the model of a run from its configuration and fills in its checkpoint."""
    try:
        if config["model"] != "vae":
            raise CommandError(f"{folder} is a run of {config['model']!r}, which cannot be sampled")
        settings, shape = config["settings"], tuple(config["shape"])
        like = eqx.filter_eval_shape(
            lambda key: VAE(
                pixels=math.prod(shape),
                levels=config["levels"],
                likelihood=settings["likelihood"],
                latent=settings["latent"],
                hidden=settings["hidden"],
                key=key,
            ),
            jax.random.key(0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the config.json of {folder} is damaged: {error!r}") from error
    if not (folder / CHECKPOINT).is_dir():
        raise CommandError(f"{folder} has no checkpoint: its run did not finish training")
    return Run(load_checkpoint(folder / CHECKPOINT, like), shape)


def write_samples(path: Path, run: Run, count: int, seed: int) -> None:
    """Draws latent vectors from the prior and writes the mean images."""
    draw = eqx.filter_jit(jax.vmap(ppgen.seed(vae_model), in_axes=(0, None)))
    means = draw(jax.random.split(jax.random.key(seed), count), run.vae)
    draw_samples(
        path,
        np.asarray(means).reshape(count, *run.shape),
        top=run.vae.likelihood.values - 1,
        title="Samples: mean of x given z, z drawn from the prior",
    )


def _reporter(name: str, bar: tqdm, metrics: IO[str]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        value = float(progress.values.mean())
        bar.set_description(f"{name} {value:.2f} nats", refresh=False)
        bar.update(len(progress.values))
        _write_line(
            metrics, {"step": progress.step, name: value, "seconds": round(progress.seconds, 3)}
        )

    return report


def _write_line(metrics: IO[str], record: dict[str, Any]) -> None:
    metrics.write(json.dumps(record) + "\n")
    metrics.flush()


def _evaluate(vae: VAE, images: Images, elbo_key: Any, weighted_key: Any) -> dict[str, Estimate]:
    """Held-out figures, in nats for each image."""
    discretize = vae.likelihood.discretize
    train, held_out = (
        np.asarray(discretize(jax.numpy.asarray(part))) for part in (images.train, images.held_out)
    )
    baseline = pixel_marginal_log_likelihood(train, held_out, values=vae.likelihood.values)
    plain = image_objective(elbo(vae_model, vae_guide))
    weighted = image_objective(iwelbo(vae_model, vae_guide, particles=EVALUATION_PARTICLES))
    data = images.held_out
    return {
        "baseline": mean_over_data(baseline),
        "ELBO": mean_over_data(per_datum(plain, vae, data, key=elbo_key, draws=ELBO_DRAWS)),
        f"IWELBO-{EVALUATION_PARTICLES}": mean_over_data(
            per_datum(weighted, vae, data, key=weighted_key)
        ),
    }


def _print_figures(figures: dict[str, Estimate], vae: VAE, images: Images) -> None:
    values = vae.likelihood.values
    print(f"held out: {len(images.held_out)} images, {images.pixels} pixels of {values} values")
    print(f"{'':<22}{'nats per image':>18}{'bits per dimension':>22}")
    for name, figure in figures.items():
        bits = bits_per_dimension(figure, images.pixels)
        label = "per-pixel histograms" if name == "baseline" else name
        print(f"{label:<22}{figure!s:>18}{f'{bits.mean:.3f} ± {bits.standard_error:.3f}':>22}")


def _write_reconstructions(path: Path, run: Run, images: Images, key: Any) -> None:
    """Draws held-out images above their reconstructions."""
    count = min(12, len(images.held_out))
    data = jax.numpy.asarray(images.held_out[:count])
    keys = jax.random.split(key, count)

    def rebuild(vae: VAE, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return vae.likelihood.discretize(image), reconstruct(vae, observed(vae, image))

    shown = eqx.filter_jit(jax.vmap(ppgen.seed(rebuild), in_axes=(0, None, 0)))(keys, run.vae, data)
    original, rebuilt = (np.asarray(part).reshape(count, *run.shape) for part in shown)
    draw_reconstructions(
        path,
        [("held out", original), ("rebuilt", rebuilt)],
        top=run.vae.likelihood.values - 1,
        title="Held-out images and the mean of x given a draw of z from the guide",
    )
