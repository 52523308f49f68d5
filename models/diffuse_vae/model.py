"""The generative and the variational program of DiffuseVAE, for one image.

Model: z ~ prior, x̂ = Dec(z), x_T ~ N(shift, I), then moves x_s ~ p(x_s | x_t, x̂), and in the end x.
Guide: z ~ q(z | x), x_T ~ q(x_T | x, x̂), and then backwards, x_s ~ q(x_s | x_t, x, x̂).

In form 1, shift = 0 and the network reads x̂. In form 2 the chain is centred on shift = x̂: y_t =
x_t − x̂ is a chain of form 1. So there is one chain, and a shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen.inference import Chain, Decoder, ScheduleError, classifier_free
from ppgen.models.diffuse_vae.autoencoder import Autoencoder, autoencoder_guide, decoded
from ppgen.models.diffuse_vae.chain import Move, Sampler

Denoiser = Callable[[Array, Array, Array, Array], Array]


class DiffuseVAE(eqx.Module):
    """The networks of a DiffuseVAE.

    Attributes:
        vae: The first stage.
        net: Maps a noisy image, its time in (0, 1], an image x̂ and a vector of features to the
            noise in it. The features are a one-hot label of length `classes`, and a 1.
            Without a condition, x̂ and features are zeros.
        classes: Number of classes of images, 0 if there are no labels.
        form: 1 for a chain that ends in noise around zero, 2 for noise around x̂.
    """

    vae: Autoencoder
    net: Denoiser
    classes: int = eqx.field(static=True, default=0)
    form: Literal[1, 2] = eqx.field(static=True, default=1)

    def shift(self, x_hat: Float[Array, " pixels"]) -> Float[Array, " pixels"]:
        """The centre of the chain: zero, or x̂."""
        return jnp.zeros_like(x_hat) if self.form == 1 else x_hat

    def noise(
        self,
        x_t: Float[Array, " pixels"],
        time: Float[Array, ""],
        x_hat: Float[Array, " pixels"],
        label: Int[Array, ""] | None,
        keep: Any = 1.0,
    ) -> Float[Array, " pixels"]:
        """ε_φ: the prediction of the noise in `x_t`, with the condition if `keep` is 1, not 0."""
        labels = jnp.zeros(0) if label is None else jax.nn.one_hot(label, self.classes)
        missing = jnp.zeros(self.classes - len(labels))
        features = jnp.concatenate([labels, missing, jnp.ones(1)])
        return self.net(x_t, time, keep * x_hat, keep * features)


class Reverse(NamedTuple):
    """The reverse chain of y_t = x_t − shift, for one x̂ and label.

    Attributes:
        shift: the centre of the chain.
        decoder: the predictions of the network at y_t, guided and clipped.
        chain: the chain from noise to the first level.
    """

    shift: Float[Array, " pixels"]
    decoder: Decoder
    chain: Chain

    def law(
        self, x_t: Float[Array, " pixels"], t: Float[Array, ""], s: Float[Array, ""]
    ) -> tuple[Float[Array, " pixels"], Any]:
        """Mean and scale of the kernel p(x_s | x_t, x̂), for s > 0, with log ᾱ for times."""
        step = self.chain.stepper(x_t - self.shift, t, s)
        return self.shift + step.mean, step.std

    def clean(self, x_t: Float[Array, " pixels"], t: Float[Array, ""]) -> Float[Array, " pixels"]:
        """The predicted image: the mean of x given x_1."""
        return self.decoder(x_t - self.shift, t).x1


def reverse_chain(
    model: DiffuseVAE,
    sampler: Sampler,
    x_hat: Float[Array, " pixels"],
    label: Int[Array, ""] | None = None,
) -> Reverse:
    """The chain of a model."""
    shift = model.shift(x_hat)

    def noise(keep: float) -> Callable[[Array, Array], Array]:
        return lambda y, t: model.noise(shift + y, sampler.clock(t), x_hat, label, keep)

    field = classifier_free(noise(1.0), noise(0.0), sampler.guidance)
    decoder = sampler.decoder(field, x_hat)
    return Reverse(shift, decoder, sampler.chain(decoder, x_hat))


def diffuse_vae_model(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"] | None = None,
    *,
    label: Int[Array, ""] | None = None,
    prior: dist.Distribution | None = None,
) -> Float[Array, " pixels"]:
    """The generative program.

    Its sites are `z`, `x_T`, `x_t` (in a scan: one row for each level from the noisiest to the
    first; none if the sampler is deterministic) and `x`.

    Args:
        model: The parameters.
        sampler: The levels to visit, and the steps between them.
        x: An observed image, on the scale of the data, or None to draw one.
        label: The class, if the model has classes; None for an unknown one.
        prior: A prior in place of N(0, I), such as that of `fit_mixture_prior`.

    Returns:
        The mean of x given the rest: the image without the noise of the last move.

    Examples:
        >>> import jax, ppgen
        >>> from ppgen.models.diffuse_vae import Autoencoder, Sampler
        >>> from ppgen.models.diffuse_vae import linear_schedule, quadratic_times
        >>> from ppgen.models.parts.networks import DenoisingMLP
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> model = DiffuseVAE(Autoencoder(pixels=4, key=keys[0]), DenoisingMLP(4, key=keys[1]))
        >>> sampler = Sampler(linear_schedule(1000), quadratic_times(1000, 10))
        >>> trace = ppgen.seed(ppgen.simulate(diffuse_vae_model))(keys[2], model, sampler)
        >>> {name: choice.shape for name, choice in trace.choices.items()}
        {'x': (4,), 'x_T': (4,), 'x_t': (9, 4), 'z': (8,)}
    """
    x_hat = decoded(model.vae, prior)
    reverse = reverse_chain(model, sampler, x_hat, label)
    x_t: Any = numpyro.sample("x_T", dist.Normal(reverse.shift, 1.0).to_event(1))

    def step(x_t: Array, ts: tuple[Array, Array]) -> tuple[Any, None]:
        mean, scale = reverse.law(x_t, *ts)
        if sampler.deterministic:
            return mean, None
        return numpyro.sample("x_t", dist.Normal(mean, scale).to_event(1)), None

    x_t, _ = scan(step, x_t, reverse.chain.intervals())
    mean = reverse.clean(x_t, sampler.times[-1])
    numpyro.sample("x", dist.Normal(mean, sampler.last_scale).to_event(1), obs=x)
    return mean


def diffuse_vae_guide(
    model: DiffuseVAE,
    sampler: Sampler,
    x: Float[Array, " pixels"],
    *,
    label: Int[Array, ""] | None = None,
    prior: dist.Distribution | None = None,
) -> None:
    """The variational program: q(z | x), and the forward chain from x, run backwards.

    With it, `ppgen.inference.elbo(diffuse_vae_model, diffuse_vae_guide)` is *a bound* on log p(x)
    that evaluates the network at every level; `variational_bound` is cheaper.

    Args:
        model: The parameters.
        sampler: As for `diffuse_vae_model`.
        x: An image.
        label: Not used; model and guide take the same arguments.
        prior: Not used.
    """
    x_hat = model.vae.decoder(numpyro.sample("z", model.vae.posterior(x)))  # pyright: ignore
    shift = model.shift(x_hat)
    mean, scale = sampler.move(-1).noised(x)
    x_t: Any = numpyro.sample("x_T", dist.Normal(shift + mean, scale).to_event(1))

    def step(x_t: Array, move: Move) -> tuple[Any, None]:
        mean, scale = move.posterior(x_t - shift, x, eta=sampler.eta)
        return numpyro.sample("x_t", dist.Normal(shift + mean, scale).to_event(1)), None

    if not sampler.deterministic:
        scan(step, x_t, _downwards(sampler))


def abduct(
    model: DiffuseVAE,
    sampler: Sampler,
    choices: Mapping[str, Array],
    x: Float[Array, " pixels"],
    *,
    label: Int[Array, ""] | None = None,
) -> dict[str, Array]:
    """The standard normal noise that a chain must have drawn, given every one of its states.

    Every kernel is x_s = mean(x_t) + scale · noise, so the noise is known where the states are. For
    the states that `diffuse_vae_guide` draws for an image this encodes it (DPM-Encoder), and
    `replay` under another model, or label, translates it (CycleDiffusion).

    Args:
        model: The parameters.
        sampler: As for `diffuse_vae_model`, not deterministic.
        choices: States by site: `z`, `x_T` and `x_t`.
        x: The image that the chain ended in.
        label: The class.

    Returns:
        `z`, and the noise of the sites `x_T`, `x_t` and `x`.

    Raises:
        ScheduleError: The sampler is deterministic: its moves have no noise.

    References:
        Wu, De la Torre. A latent space of stochastic diffusion models for zero-shot image editing
        and guidance. ICCV 2023.
    """
    _stochastic(sampler, "has no noise to abduct")
    reverse = reverse_chain(model, sampler, model.vae.decoder(choices["z"]), label)
    states = jnp.concatenate([choices["x_T"][None], choices["x_t"]])
    found = reverse.chain.abduct(states - reverse.shift)
    last = reverse.clean(states[-1], sampler.times[-1])
    return {
        "z": choices["z"],
        "x_T": found["x0"],
        "x_t": found["noise"],
        "x": (x - last) / sampler.last_scale,
    }


def replay(
    model: DiffuseVAE,
    sampler: Sampler,
    noise: Mapping[str, Array],
    *,
    label: Int[Array, ""] | None = None,
) -> Float[Array, " pixels"]:
    """The image that a chain with a given noise ends in: the inverse of `abduct`.

    Args:
        model: The parameters.
        sampler: As for `abduct`.
        noise: The result of `abduct`.
        label: The class.

    Returns:
        The image x.

    Raises:
        ScheduleError: The sampler is deterministic.
    """
    _stochastic(sampler, "has no noise to replay")
    reverse = reverse_chain(model, sampler, model.vae.decoder(noise["z"]), label)
    found = ppgen.assess(reverse.chain)({"x0": noise["x_T"], "noise": noise["x_t"]})
    last = reverse.clean(reverse.shift + found.value, sampler.times[-1])
    return last + sampler.last_scale * noise["x"]


def refine(
    model: DiffuseVAE, sampler: Sampler, x: Float[Array, " pixels"], *, chains: int = 2
) -> tuple[Float[Array, " pixels"], Float[Array, "{chains} pixels"]]:
    """The decoded image of a draw of q(z | x), and images of chains conditioned on it. It draws.

    Args:
        model: The parameters.
        sampler: As for `diffuse_vae_model`.
        x: An image.
        chains: How many.

    Returns:
        x̂, and the images that the chains end in.
    """
    found: Any = ppgen.simulate(autoencoder_guide)(model.vae, x).choices
    chain: Any = numpyro.handlers.condition(diffuse_vae_model, found)
    images = jax.vmap(lambda _: chain(model, sampler))(jnp.arange(chains))
    return model.vae.decoder(found["z"]), images  # pyright: ignore[reportArgumentType]


def draw_images(
    key: Array,
    model: DiffuseVAE,
    sampler: Sampler,
    count: int,
    *,
    labels: Int[Array, " {count}"] | None = None,
    prior: dist.Distribution | None = None,
) -> Float[Array, "{count} pixels"]:
    """Independent images, without the noise of the last move.

    Args:
        key: Draws them.
        model: The parameters.
        sampler: As for `diffuse_vae_model`.
        count: How many.
        labels: A class for each of them.
        prior: As for `diffuse_vae_model`.

    Returns:
        The results of `count` runs of `diffuse_vae_model`, clipped as its predictions are.
    """
    keys = jax.random.split(key, count)
    return _draw_images(keys, model, sampler, labels, prior)


@eqx.filter_jit
def _draw_images(keys: Array, model: Any, sampler: Any, labels: Any, prior: Any) -> Array:
    def one(key: Array, label: Array | None) -> Array:
        program = ppgen.seed(diffuse_vae_model)
        return program(key, model, sampler, label=label, prior=prior)

    return jax.vmap(one, in_axes=(0, None if labels is None else 0))(keys, labels)


def _downwards(sampler: Sampler) -> Move:
    """The moves but the last, from the noisiest."""
    return Move(*(leaf[:0:-1] for leaf in sampler.moves))


def _stochastic(sampler: Sampler, what: str) -> None:
    if sampler.deterministic:
        raise ScheduleError(f"a deterministic chain {what}: make the Sampler with eta > 0")
