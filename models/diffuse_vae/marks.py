"""DiffuseVAE on 8x8 digits: is a chain better for knowing what a VAE decodes?

Run by `python benchmarks/models.py --only diffuse_vae`.

The distance is Fréchet's in pixels on [-1, 1], between what is drawn and the training images. It
sees two moments: a Gaussian attains it. The accuracy of telling drawn images from data by the
nearest neighbour sees more; .5 is best, less is copying.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import ppgen
from ppgen.models.diffuse_vae import (
    Autoencoder,
    DiffuseVAE,
    Sampler,
    autoencoder_model,
    denoising_loss,
    diffuse_vae_model,
    draw_images,
    fit_autoencoder,
    fit_denoiser,
    fit_mixture_prior,
    linear_schedule,
    quadratic_times,
    uniform_times,
)
from ppgen.models.parts.data import load_digits
from ppgen.models.parts.marks import Mark, above, below, report
from ppgen.models.parts.metrics.baselines import gaussian_denoising_error
from ppgen.models.parts.metrics.distances import frechet_distance, neighbour_accuracy
from ppgen.models.parts.networks import DenoisingMLP

LEVELS = 1000
SCHEDULE = linear_schedule(LEVELS)
PIXEL = 0.42
"""Standard deviation of a pixel in the VAE: at the published √½, half of z goes unused."""
LATENT = 8
DEPTH = 3
COMPONENTS = 50
RATE = 8e-3

UNCONDITIONAL, UNGATED = "unconditional", "unconditional, no gate"
FORM_1, SHUFFLED = "form 1", "control: x̂ of another image"


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
        log = SCHEDULE[jnp.rint(time * LEVELS).astype(int)]
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


class Trained(NamedTuple):
    """What is compared, all of one autoencoder."""

    vae: Autoencoder
    prior: dist.Distribution
    chains: dict[str, DiffuseVAE]


def digits() -> tuple[np.ndarray, np.ndarray]:
    images = load_digits()
    train, held_out = (np.float32(part / 8 - 1) for part in (images.train, images.held_out))
    return np.asarray(train), np.asarray(held_out)


def train(size: Size, seed: int, x: np.ndarray, names: list[str]) -> Trained:
    """The VAE and its chains, from the same weights."""
    keys = jax.random.split(jax.random.key(seed), 8)

    def adam(rate: float, steps: int) -> optax.GradientTransformation:
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, 200, steps))

    vae = fit_autoencoder(
        Autoencoder(pixels=64, latent=LATENT, hidden=256, depth=DEPTH, scale=PIXEL, key=keys[0]),
        x,
        adam(1e-3, size.vae_steps),
        key=keys[1],
        steps=size.vae_steps,
    ).params
    net = DenoisingMLP(64, hidden=256, key=keys[2])
    shuffled = Shuffled(vae, jnp.asarray(x))
    starts = {
        UNCONDITIONAL: (keys[3], vae, net, 1.0),
        UNGATED: (keys[3], vae, Ungated(net), 1.0),
        FORM_1: (keys[4], vae, net, 0.0),
        SHUFFLED: (keys[5], shuffled, net, 0.0),
    }
    chains = {}
    for name in names:
        key, first, start, dropout = starts[name]
        fitted = fit_denoiser(
            eqx.tree_at(lambda m: m.vae, DiffuseVAE(vae, start), first),
            SCHEDULE,
            x,
            adam(RATE, size.steps),
            key=key,
            steps=size.steps,
            batch_size=size.batch,
            dropout=dropout,
            ema=0.999,
        )
        chains[name] = DiffuseVAE(vae, fitted.ema.net)
    return Trained(vae, fit_mixture_prior(vae, x, key=keys[6], components=COMPONENTS), chains)


def aggregate_posterior(vae: Autoencoder, x: np.ndarray) -> dist.Distribution:
    """The mean of q(z | x) over images itself: what a mixture prior gets close to by copying."""
    mean, scale = jax.vmap(vae.encoder)(jnp.asarray(x))
    return dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.full(len(x), 1 / len(x))), dist.Normal(mean, scale).to_event(1)
    )


def latent_log_density(key: Any, vae: Autoencoder, x: np.ndarray, prior: Any) -> Any:
    """Of latent draws of images, under a prior."""
    mean, scale = jax.vmap(vae.encoder)(jnp.asarray(x))
    return prior.log_prob(dist.Normal(mean, scale).sample(key, (20,))).mean()


def nearest(images: np.ndarray, x: np.ndarray) -> float:
    """The mean of the squared distance to the nearest of x: small for copies."""
    squares = (images**2).sum(1)[:, None] + (x**2).sum(1) - 2 * images @ x.T
    return float(squares.min(1).mean())


def baselines(x: np.ndarray, seed: int, count: int) -> dict[str, Callable[[], Any]]:
    """The floor, and two models that need no training."""
    random = np.random.RandomState(seed)
    covariance = np.cov(x, rowvar=False)
    return {
        "floor: training images drawn again": lambda: x[random.randint(0, len(x), count)],
        "Gaussian fitted to the data": lambda: random.multivariate_normal(
            x.mean(0), covariance, count
        ),
        "independent pixels": lambda: np.stack([random.choice(c, count) for c in x.T], 1),
    }


@eqx.filter_jit
def noise_errors(key: Any, model: DiffuseVAE, x: Any, dropout: float) -> Any:
    """A draw of the denoising loss of each x."""
    loss = ppgen.seed(lambda x: denoising_loss(model, Sampler(SCHEDULE), x, dropout=dropout))
    return jax.vmap(loss)(jax.random.split(key, len(x)), x)


@eqx.filter_jit
def decode(key: Any, vae: Autoencoder, prior: Any, count: int) -> Any:
    draw = ppgen.seed(lambda: autoencoder_model(vae, prior=prior))
    return jax.vmap(draw)(jax.random.split(key, count))


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
    size = FAST if fast else FULL
    x, held_out = digits()
    bare = [UNCONDITIONAL] if fast else [UNCONDITIONAL, UNGATED]
    vae, prior, chains = train(size, seed, x, [*bare, FORM_1, SHUFFLED])
    keys = jax.random.split(jax.random.key(seed + 1000), 5)
    found: dict[str, float] = {}
    told: dict[str, float] = {}
    close = {"held-out images": nearest(held_out, x)}

    def measure(name: str, images: Any) -> None:
        images = np.asarray(images, np.float32)
        found[name] = frechet_distance(images, x)
        told[name] = neighbour_accuracy(images[: len(x)], x)
        close[name] = nearest(images, x)

    def draw(name: str, model: DiffuseVAE, times: Any, prior: Any = None) -> None:
        guidance = -1.0 if name.startswith(UNCONDITIONAL) else 0.0
        sampler = Sampler(SCHEDULE, times, eta=0.0, guidance=guidance)
        measure(name, draw_images(keys[0], model, sampler, size.draws, prior=prior))

    for name, images in baselines(x, seed, size.draws).items():
        measure(name, images())
    measure("VAE", decode(keys[1], vae, None, size.draws))
    measure("VAE + GMM", decode(keys[1], vae, prior, size.draws))
    ten = quadratic_times(LEVELS, 10)
    strides = {"quadratic 10": ten}
    if not fast:
        strides |= {
            "quadratic 5": quadratic_times(LEVELS, 5),
            "uniform 50": uniform_times(LEVELS, 50),
        }
        draw(
            "floor: exact chain of the training images, quadratic 10",
            DiffuseVAE(vae, Exact(jnp.asarray(x))),
            ten,
        )
    for stride, times in strides.items():
        for name in bare:
            draw(f"{name}, {stride}", chains[name], times)
        draw(f"{FORM_1}, {stride}", chains[FORM_1], times)
        draw(f"{FORM_1} + GMM, {stride}", chains[FORM_1], times, prior)
        draw(f"{SHUFFLED} + GMM, {stride}", chains[SHUFFLED], times, prior)

    aggregate = f"{FORM_1} + aggregate posterior, quadratic 10"
    draw(aggregate, chains[FORM_1], ten, aggregate_posterior(vae, x))

    def least(stride: str) -> float:
        """Of the unconditional chains the better one."""
        return min(found[f"{name}, {stride}"] for name in bare)

    one = chains[FORM_1]
    two = DiffuseVAE(one.vae, Unshifted(one.net), form=2)
    sampler = Sampler(SCHEDULE, ten, eta=0.0)
    pair = [draw_images(keys[2], model, sampler, size.draws, prior=prior) for model in (one, two)]
    ours, of_shuffled = (
        found[f"{FORM_1} + GMM, quadratic 10"],
        found[f"{SHUFFLED} + GMM, quadratic 10"],
    )
    like = {
        name: float(likeness(keys[3], chains[name], sampler, prior, 1000))
        for name in (FORM_1, SHUFFLED)
    }
    latent = {
        name: latent_log_density(keys[4], vae, held_out, p)
        for name, p in {"N(0, I)": vae.prior, "GMM": prior}.items()
    }
    near = (*bare, FORM_1, f"{FORM_1} + GMM")
    many = jnp.asarray(np.tile(held_out, (10 if fast else 100, 1)))
    errors = {
        name: float(noise_errors(keys[4], chains[name], many, float(name in bare)).mean())
        for name in chains
    }
    rows = [
        below(
            "10 levels: form 1 + GMM / the better unconditional chain",
            ours / least("quadratic 10"),
            0.8 if fast else 0.5,
        ),
        below("10 levels: form 1 + GMM / (VAE + GMM)", ours / found["VAE + GMM"], 1.0),
    ]
    if not fast:
        few = found[f"{FORM_1}, quadratic 5"]
        rows += [
            below(
                "5 levels: form 1 / the better unconditional chain",
                few / least("quadratic 5"),
                0.75,
            ),
            report(
                "the same, of the same network",
                few / found[f"{UNCONDITIONAL}, quadratic 5"],
            ),
            report(
                "10 levels: form 1 + GMM / unconditional, of the same network",
                ours / found[f"{UNCONDITIONAL}, quadratic 10"],
            ),
            report(
                "50 levels: form 1 without GMM / the better unconditional chain",
                found[f"{FORM_1}, uniform 50"] / least("uniform 50"),
            ),
        ]
    rows += [
        below("form 2 - form 1, largest pixel (float32)", jnp.abs(pair[0] - pair[1]).max(), 1e-5),
        below(
            "control: form 1 + GMM / the same with x̂ of another image",
            ours / of_shuffled,
            0.8 if fast else 0.75,
        ),
        below("distance² of a draw to its x̂ / to another's: form 1", like[FORM_1], 0.5),
        above("the same: control", like[SHUFFLED], 0.9),
        *(report(f"squared error of the noise, held out: {k}", v) for k, v in errors.items()),
        report(
            "squared error of the noise, held out: Gaussian, exact",
            gaussian_denoising_error(x, held_out, SCHEDULE[1:]).mean(),
        ),
        *(report(f"log density of held-out latents: {k}", v) for k, v in latent.items()),
        *(report(f"Fréchet distance: {k}", v) for k, v in found.items()),
        *(report(f"neighbour accuracy: {k}", v) for k, v in told.items()),
        *(
            report(f"distance² to the nearest training image: {k}", close[k])
            for k in ("held-out images", *(f"{k}, quadratic 10" for k in near), aggregate)
        ),
    ]
    return rows
