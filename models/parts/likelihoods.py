"""Likelihoods of one image of grey levels, given a few numbers for each pixel.

An image is a vector of `pixels` whole numbers 0, ..., `levels - 1`, stored as floats. Log densities
of different quantities must not be compared, so this is what each of them scores:

| name | scores | its log density |
| --- | --- | --- |
| `categorical` | the grey levels | log P(grey levels) |
| `logistic` | the grey levels | log P(grey levels) |
| `gaussian` | the grey levels plus uniform noise in [0, 1) | its mean over the noise bounds log P(grey levels) from below |
| `bernoulli` | whether a pixel reaches half of the range | log P(binary image), not comparable with the others |
"""  # noqa: E501

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Num

from ppgen.models.parts.distributions import DiscretizedLogistic


class AbstractLikelihood(eqx.Module):
    """A distribution over images for every output of a decoder.

    To add one, define `channels` (numbers for each pixel from the decoder), `values` (the number of
    values of a scored pixel) and `continuous` (whether the density is over continuous values, in
    which case the model adds uniform noise); map images to scored values in `discretize`, and the
    decoder's outputs to a distribution in `__call__`; and add the class to `LIKELIHOODS`.
    """

    channels: eqx.AbstractVar[int]
    values: eqx.AbstractVar[int]
    continuous: eqx.AbstractClassVar[bool]

    @abstractmethod
    def discretize(self, image: Float[Array, "..."]) -> Num[Array, "..."]:
        """Whole numbers 0, ..., `values - 1` in place of the grey levels."""

    @abstractmethod
    def __call__(self, outputs: Float[Array, "pixels channels"]) -> dist.Distribution:
        """The distribution over the pixels of one image, of event shape `(pixels,)`."""

    @abstractmethod
    def mean(self, outputs: Float[Array, "pixels channels"]) -> Float[Array, " pixels"]:
        """Expected pixels, on the scale of `discretize`, for pictures."""


class Categorical(AbstractLikelihood):
    """Independent pixels with a free probability for every grey level."""

    channels: int = eqx.field(static=True)
    values: int = eqx.field(static=True)
    continuous: ClassVar[bool] = False

    def __init__(self, levels: int) -> None:
        self.channels = self.values = levels

    def discretize(self, image: Float[Array, "..."]) -> Int[Array, "..."]:
        """The image itself, as the integers that NumPyro's categorical needs."""
        return image.astype(int)

    def __call__(self, outputs: Float[Array, "pixels channels"]) -> dist.Distribution:
        """Categorical distributions with `outputs` for logits."""
        return dist.CategoricalLogits(outputs).to_event(1)

    def mean(self, outputs: Float[Array, "pixels channels"]) -> Float[Array, " pixels"]:
        """Mean grey level."""
        return jax.nn.softmax(outputs) @ jnp.arange(float(self.values))


class Logistic(AbstractLikelihood):
    """Independent discretised logistic pixels: two numbers each, for levels that have an order."""

    channels: int = eqx.field(static=True)
    values: int = eqx.field(static=True)
    continuous: ClassVar[bool] = False

    def __init__(self, levels: int) -> None:
        self.channels, self.values = 2, levels

    def discretize(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
        """The image itself."""
        return image

    def __call__(self, outputs: Float[Array, "pixels channels"]) -> dist.Distribution:
        """Discretised logistics; outputs of zero put them mid-range, a quarter of it wide."""
        return self._pixels(outputs).to_event(1)

    def mean(self, outputs: Float[Array, "pixels channels"]) -> Float[Array, " pixels"]:
        """Mean grey level."""
        return self._pixels(outputs).mean

    def _pixels(self, outputs: Float[Array, "pixels channels"]) -> DiscretizedLogistic:
        loc = (self.values - 1) * (0.5 + outputs[:, 0])
        scale = self.values / 4 * jnp.exp(outputs[:, 1])
        return DiscretizedLogistic(loc, scale, levels=self.values)


class Gaussian(AbstractLikelihood):
    """Independent Gaussian pixels over grey levels with uniform noise added (dequantisation).

    E_u[log p(x + u)] <= log ∫ p(x + u) du = log P(x) by Jensen, u uniform on [0, 1): a log density
    of this likelihood, averaged over the noise, bounds a log probability of levels from below.

    References:
        Theis, van den Oord, Bethge. A note on the evaluation of generative models. ICLR 2016.
    """

    channels: int = eqx.field(static=True)
    values: int = eqx.field(static=True)
    continuous: ClassVar[bool] = True

    def __init__(self, levels: int) -> None:
        self.channels, self.values = 2, levels

    def discretize(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
        """The image itself."""
        return image

    def __call__(self, outputs: Float[Array, "pixels channels"]) -> dist.Distribution:
        """Gaussians; outputs of zero put them mid-range, a quarter of it wide."""
        scale = self.values / 4 * jnp.exp(outputs[:, 1])
        return dist.Normal(self.values * (0.5 + outputs[:, 0]), scale).to_event(1)

    def mean(self, outputs: Float[Array, "pixels channels"]) -> Float[Array, " pixels"]:
        """Mean grey level: the mean of the Gaussian less that of the noise."""
        return self.values * (0.5 + outputs[:, 0]) - 0.5


class Bernoulli(AbstractLikelihood):
    """Independent binary pixels: 1 where the grey level is at least half of the highest."""

    channels: int = eqx.field(static=True)
    values: int = eqx.field(static=True)
    continuous: ClassVar[bool] = False
    levels: int = eqx.field(static=True)

    def __init__(self, levels: int) -> None:
        self.channels, self.values, self.levels = 1, 2, levels

    def discretize(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
        """The thresholded image. Not redrawn, so that held-out figures are of one data set."""
        return jnp.where(image >= 0.5 * (self.levels - 1), 1.0, 0.0)

    def __call__(self, outputs: Float[Array, "pixels channels"]) -> dist.Distribution:
        """Bernoulli distributions with `outputs` for logits."""
        return dist.Bernoulli(logits=outputs[:, 0]).to_event(1)

    def mean(self, outputs: Float[Array, "pixels channels"]) -> Float[Array, " pixels"]:
        """Probability of a 1."""
        return jax.nn.sigmoid(outputs[:, 0])


LIKELIHOODS: dict[str, Callable[[int], AbstractLikelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "gaussian": Gaussian,
    "logistic": Logistic,
}
"""Every likelihood by name: a function of the number of grey levels."""
