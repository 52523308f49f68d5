"""DiffuseVAE on 8x8 digits: is a chain better for knowing what a VAE decodes?

Run by `python benchmarks/models.py --only diffuse_vae`.

The distance is Fréchet's in pixels on [-1, 1], between what is drawn and the training images. It
sees two moments: a Gaussian attains it. The accuracy of telling drawn images from data by the
nearest neighbour sees more; .5 is best, less is copying.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppgen
from ppgen.models.diffuse_vae import (
    Autoencoder,
    DiffuseVAE,
    Sampler,
    aggregate_posterior,
    decoded_draws,
    diffuse_vae_model,
    draw_images,
    linear_schedule,
    noise_errors,
)
from ppgen.models.diffuse_vae.recipe import DiffuseVAERecipe
from ppgen.models.parts.data import centred
from ppgen.models.parts.marks import Mark, above, below, report
from ppgen.models.parts.metrics import (
    frechet_distance,
    gaussian_denoising_error,
    nearest_distances,
    neighbour_accuracy,
    trivial_draws,
)
from ppgen.models.parts.networks import DenoisingMLP
from ppgen.models.parts.runs import Run, fit_recipe

LEVELS = 1000
PIXEL = 0.42
"""Standard deviation of a pixel in the VAE: at the published √½, half of z goes unused."""
LATENT = 8
DEPTH = 3
COMPONENTS = 50
RATE = 8e-3
RECIPE = DiffuseVAERecipe(
    latent=LATENT, encoder_depth=DEPTH, pixel_scale=PIXEL, components=COMPONENTS, warmup=200
)

UNCONDITIONAL, UNGATED = "unconditional", "unconditional, no gate"
FORM_1, SHUFFLED = "form 1", "control: x̂ of another image"
TEN, FIVE, FIFTY = "quadratic 10", "quadratic 5", "uniform 50"


class Size(NamedTuple):
    """How much is trained and drawn."""

    steps: int
    vae_steps: int
    batch: int
    draws: int


FULL = Size(steps=8000, vae_steps=6000, batch=256, draws=4000)
FAST = Size(steps=3000, vae_steps=1500, batch=128, draws=1500)

ABOUT = (
    f"MLPs of width 256, {FULL.steps:,} steps of Adam each, batches of {FULL.batch}, learning rate "
    f"{RATE} along a cosine to 0, moving average .999; a VAE of {LATENT} latent dimensions, "
    f"{DEPTH} hidden layers and pixels of standard deviation {PIXEL}, {FULL.vae_steps:,} steps; a "
    f"mixture prior of {COMPONENTS} Gaussians, fitted to ten latent draws of each image; "
    f"{FULL.draws:,} images drawn by DDIM (η = 0), clipped. With `--fast`, "
    f'{FAST.steps:,} steps, batches of {FAST.batch} and {FAST.draws:,} images. "The better '
    'unconditional chain" is the better one of two networks: with the noisy image copied to the '
    "output through a gate, as all the others have it, and without. Settings were chosen on seed "
    "0, with distances in view: of the rates .001, .002, .004 and .008 the one at which the better "
    "unconditional chain is best at 10 levels; the depth, steps and standard deviation of the VAE "
    "by form 1 at 5 and 10 levels (depths 2 and 3; 4,000, 6,000 and 12,000 steps; .35, .42 and .5)."
    " The number of Gaussians and the regularisation of the mixture were chosen by the likelihood "
    "of latent draws of held-out images."
)


class Ungated(eqx.Module):
    """The same perceptron without the copy of the noisy image in its output."""

    net: DenoisingMLP

    def __call__(self, x, time, image, features):  # noqa: D102
        def gate(net):
            return net.gate.weight, net.gate.bias

        return eqx.tree_at(gate, self.net, replace_fn=jnp.zeros_like)(x, time, image, features)


class Unshifted(eqx.Module):
    """The network of form 1 as one of form 2, which reads y_t + x̂."""

    net: Any

    def __call__(self, x, time, image, features):  # noqa: D102
        return self.net(x - image, time, image, features)


class Exact(eqx.Module):
    """The noise that is expected where the data are these images, and nothing else."""

    images: Any

    def __call__(self, x, time, image, features):  # noqa: D102
        log = linear_schedule(LEVELS)[jnp.rint(time * LEVELS).astype(int)]
        kept, spread = jnp.exp(log / 2), jnp.sqrt(-jnp.expm1(log))
        weights = jax.nn.softmax(-0.5 * jnp.sum(((x - kept * self.images) / spread) ** 2, 1))
        return (x - kept * (weights @ self.images)) / spread


class Shuffled(eqx.Module):
    """An autoencoder that encodes another image than the one it is given."""

    vae: Autoencoder
    images: Any

    @property
    def decoder(self) -> Any:  # noqa: D102
        return self.vae.decoder

    def posterior(self, x: Any) -> Any:  # noqa: D102
        # The other image is drawn by the objective, so it is another one in every step.
        i = ppgen.draw(dist.DiscreteUniform(0, len(self.images) - 1), name="other")
        return self.vae.posterior(jax.lax.stop_gradient(self.images)[i])


def train(size: Size, seed: int, names: list[str]) -> tuple[Run, dict[str, DiffuseVAE]]:
    """The first stage, and chains of it that start from the same weights."""
    options = {"steps": size.vae_steps, "learning_rate": 1e-3, "ema": None}
    first = fit_recipe(RECIPE, stages=("autoencoder",), seed=seed, **options)
    vae, net = first.model.vae, first.model.net
    another: Any = Shuffled(vae, jnp.asarray(centred(first.data.train, first.data.levels)))
    starts = {
        UNCONDITIONAL: (first.model, 1.0),
        UNGATED: (DiffuseVAE(vae, Ungated(net)), 1.0),
        FORM_1: (first.model, 0.0),
        SHUFFLED: (eqx.tree_at(lambda m: m.vae, first.model, another), 0.0),
    }
    options = {"steps": size.steps, "learning_rate": RATE, "batch_size": size.batch}
    chains = {}
    for name in names:
        model, dropout = starts[name]
        run = fit_recipe(
            dataclasses.replace(RECIPE, dropout=dropout),
            data=first.data,
            model=model,
            stages=("denoiser",),
            seed=seed,
            **options,
        )
        chains[name] = DiffuseVAE(vae, run.model.net)
    return first, chains


def chain(stride: str, guidance: float = 0.0) -> Sampler:
    """A sampler by its name."""
    kind, moves = stride.split()
    return dataclasses.replace(RECIPE, stride=kind, moves=int(moves), guidance=guidance).sampler()


def latent_log_density(key: Any, vae: Autoencoder, x: np.ndarray, prior: Any) -> Any:
    """Of latent draws of images, under a prior."""
    mean, scale = jax.vmap(vae.encoder)(jnp.asarray(x))
    return prior.log_prob(dist.Normal(mean, scale).sample(key, (20,))).mean()


@eqx.filter_jit
def likeness(key: Any, model: DiffuseVAE, sampler: Sampler, prior: Any, count: int) -> Any:
    """Of draws, how far they are from their own x̂, relative to x̂ of other draws, squared."""

    def one() -> Any:
        trace = ppgen.simulate(diffuse_vae_model)(model, sampler, prior=prior)
        return trace.value, model.vae.decoder(trace["z"])

    x, x_hat = jax.vmap(ppgen.seed(one))(jax.random.split(key, count))
    return jnp.sum((x - x_hat) ** 2) / jnp.sum((x - jnp.roll(x_hat, 1, 0)) ** 2)


def marks(fast: bool, seed: int) -> list[Mark]:
    """Trains, draws and compares.

    Args:
        fast: Fewer steps and draws, no chains of five and fifty levels and none without the gate,
            and easier marks.
        seed: Of everything random.

    Returns:
        The marks.
    """
    size, bare = (FAST, [UNCONDITIONAL]) if fast else (FULL, [UNCONDITIONAL, UNGATED])
    run, chains = train(size, seed, [*bare, FORM_1, SHUFFLED])
    x, held_out = (centred(part, run.data.levels) for part in (run.data.train, run.data.held_out))
    keys, vae = jax.random.split(jax.random.key(seed + 1000), 7), run.model.vae
    prior, number = RECIPE.prior(run, keys[5]), size.draws
    random = np.random.RandomState(seed)
    trivial = trivial_draws(keys[6], x, size.draws)
    sets: dict[str, Any] = {
        "floor: training images drawn again": x[random.randint(0, len(x), size.draws)],
        "Gaussian fitted to the data": trivial["Gaussian"],
        "independent pixels": trivial["independent pixels"],
        "VAE": decoded_draws(keys[1], vae, number=number),
        "VAE + GMM": decoded_draws(keys[1], vae, number=number, prior=prior),
    }

    def draw(name: str, model: DiffuseVAE, stride: str, prior: Any = None) -> None:
        sampler = chain(stride, -1.0 if name in bare else 0.0)
        sets[f"{name}, {stride}"] = draw_images(keys[0], model, sampler, size.draws, prior=prior)

    if not fast:
        exact = DiffuseVAE(vae, Exact(jnp.asarray(x)))
        draw("floor: exact chain of the training images", exact, TEN)
    for stride in (TEN,) if fast else (TEN, FIVE, FIFTY):
        for name in (*bare, FORM_1):
            draw(name, chains[name], stride)
        for name in (FORM_1, SHUFFLED):
            draw(f"{name} + GMM", chains[name], stride, prior)
    draw(f"{FORM_1} + aggregate posterior", chains[FORM_1], TEN, aggregate_posterior(vae, x))
    sets = {name: np.asarray(images, np.float32) for name, images in sets.items()}
    found = {name: frechet_distance(images, x) for name, images in sets.items()}
    told = {name: neighbour_accuracy(images[: len(x)], x) for name, images in sets.items()}

    def least(stride: str) -> float:
        """Of the unconditional chains the better one."""
        return min(found[f"{name}, {stride}"] for name in bare)

    one: Any = chains[FORM_1]
    two = DiffuseVAE(one.vae, Unshifted(one.net), form=2)
    pair = [draw_images(keys[2], m, chain(TEN), size.draws, prior=prior) for m in (one, two)]
    ours, control = (found[f"{name} + GMM, {TEN}"] for name in (FORM_1, SHUFFLED))
    like = [likeness(keys[3], chains[k], chain(TEN), prior, 1000) for k in (FORM_1, SHUFFLED)]
    levels, draws = RECIPE.sampler(every_level=True), 10 if fast else 100
    rows = [
        below(
            "10 levels: form 1 + GMM / the better unconditional chain",
            ours / least(TEN),
            0.8 if fast else 0.5,
        ),
        below("10 levels: form 1 + GMM / (VAE + GMM)", ours / found["VAE + GMM"], 1.0),
    ]
    if not fast:
        few, many = found[f"{FORM_1}, {FIVE}"], found[f"{FORM_1}, {FIFTY}"]
        few_bare, bare_ten = (found[f"{UNCONDITIONAL}, {stride}"] for stride in (FIVE, TEN))
        name = "10 levels: form 1 + GMM / unconditional, of the same network"
        rows += [
            below("5 levels: form 1 / the better unconditional chain", few / least(FIVE), 0.75),
            report("the same, of the same network", few / few_bare),
            report(name, ours / bare_ten),
            report(
                "50 levels: form 1 without GMM / the better unconditional chain",
                many / least(FIFTY),
            ),
        ]
    name = "control: form 1 + GMM / the same with x̂ of another image"
    rows += [
        below("form 2 - form 1, largest pixel (float32)", jnp.abs(pair[0] - pair[1]).max(), 1e-5),
        below(name, ours / control, 0.8 if fast else 0.75),
        below("distance² of a draw to its x̂ / to another's: form 1", like[0], 0.5),
        above("the same: control", like[1], 0.9),
    ]
    for name, model in chains.items():
        dropout = float(name in bare)
        errors = noise_errors(model, levels, held_out, key=keys[4], draws=draws, dropout=dropout)
        rows.append(report(f"squared error of the noise, held out: {name}", errors.mean()))
    errors = gaussian_denoising_error(x, held_out, levels.moves.before)
    rows.append(report("squared error of the noise, held out: Gaussian, exact", errors.mean()))
    for name, p in {"N(0, I)": vae.prior, "GMM": prior}.items():
        density = latent_log_density(keys[4], vae, held_out, p)
        rows.append(report(f"log density of held-out latents: {name}", density))
    near = [f"{name}, {TEN}" for name in (*bare, FORM_1, f"{FORM_1} + GMM")]
    near.append(f"{FORM_1} + aggregate posterior, {TEN}")
    near = {"held-out images": held_out} | {name: sets[name] for name in near}
    title = "distance² to the nearest training image"
    return [
        *rows,
        *(report(f"Fréchet distance: {k}", v) for k, v in found.items()),
        *(report(f"neighbour accuracy: {k}", v) for k, v in told.items()),
        *(report(f"{title}: {k}", nearest_distances(v, x).mean()) for k, v in near.items()),
    ]
