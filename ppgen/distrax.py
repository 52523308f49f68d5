"""Distrax distributions in NumPyro programs."""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution, constraints

from ppgen.errors import EstimatorError


def from_distrax(distribution: Any) -> Distribution:
    """Convert a Distrax distribution to a NumPyro distribution.

    Families that NumPyro also has become NumPyro's, so that all estimators for them apply. All
    others are wrapped in `Distrax`, and keep Distrax's densities and samples.

    Args:
        distribution: a `distrax.Distribution`.

    Example:
        >>> import distrax
        >>> from_distrax(distrax.MultivariateNormalDiag(jnp.zeros(3), jnp.ones(3))).event_shape
        (3,)

    Raises:
        EstimatorError: if it is no Distrax distribution over single arrays.
    """
    # Distrax takes seconds to import; whoever has one of its distributions has imported it.
    import distrax

    if not isinstance(distribution, distrax.Distribution) or isinstance(
        distribution, distrax.Joint
    ):
        raise EstimatorError(
            f"expected a distrax.Distribution over arrays, got {type(distribution).__name__}",
            instead="from_distrax(distrax.Normal(0.0, 1.0)), and one sample site for each part "
            "of a joint distribution",
        )
    native = _native(distribution)
    return Distrax(distribution) if native is None else native


def _native(d: Any) -> Distribution | None:
    """The same distribution in NumPyro, where it has that family. Subclasses may differ: exact."""
    import distrax

    kind = type(d)
    if kind is distrax.Bernoulli:
        return (
            dist.Bernoulli(probs=d.probs) if d._logits is None else dist.Bernoulli(logits=d.logits)
        )
    if kind is distrax.Categorical:
        return (
            dist.Categorical(probs=d.probs)
            if d._logits is None
            else dist.Categorical(logits=d.logits)
        )
    if kind in (distrax.Normal, distrax.LogStddevNormal):
        return dist.Normal(d.loc, d.scale)
    if kind is distrax.MultivariateNormalDiag:
        scale = d.scale_diag
        return dist.Normal(jnp.broadcast_to(d.loc, jnp.shape(scale)), scale).to_event(1)
    if kind is distrax.Independent:
        return from_distrax(d.distribution).to_event(d.reinterpreted_batch_ndims)
    if kind is distrax.MixtureSameFamily:
        mixing = from_distrax(d.mixture_distribution)
        components = from_distrax(d.components_distribution)
        if isinstance(_element(components.support), constraints.ParameterFreeConstraint):
            return dist.MixtureSameFamily(mixing, components)
    return None


def _element(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


@final
class Distrax(Distribution):
    """A Distrax distribution as a NumPyro one.

    Attributes:
        distribution: the Distrax distribution, whose arrays are this one's leaves.
    """

    pytree_data_fields = ("distribution",)

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution
        super().__init__(
            tuple(distribution.batch_shape),
            tuple(distribution.event_shape),
            # The support is not always known, and Distrax has no argument constraints.
            validate_args=False,
        )

    @property
    def has_rsample(self) -> bool:
        """Whether differentiating a sample by its parameters is right."""
        return _is_pathwise(self.distribution)

    @property
    def support(self) -> constraints.Constraint:
        """The support if it is known (Distrax does not tell), else only whether it is discrete."""
        d = self.distribution
        known = _SUPPORTS.get(type(d).__name__)
        if type(d).__module__.startswith("distrax.") and known is not None:
            return known
        discrete = not jnp.issubdtype(d.dtype, jnp.inexact)
        return constraints.dependent(is_discrete=discrete, event_dim=self.event_dim)

    @property
    def mean(self) -> Array:
        """The mean of Distrax."""
        return self.distribution.mean()

    @property
    def variance(self) -> Array:
        """The variance of Distrax."""
        return self.distribution.variance()

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw with Distrax."""
        return self.distribution.sample(seed=key, sample_shape=sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """The density of Distrax."""
        return self.distribution.log_prob(value)

    def cdf(self, value: Any) -> Array:
        """The distribution function of Distrax."""
        return self.distribution.cdf(value)

    def entropy(self) -> Array:
        """The entropy of Distrax, in nats."""
        return self.distribution.entropy()


_SUPPORTS = {
    "Beta": constraints.unit_interval,
    "Dirichlet": constraints.simplex,
    "Gamma": constraints.positive,
    "Gumbel": constraints.real,
    "Laplace": constraints.real,
    "Logistic": constraints.real,
    "MultivariateNormalDiagPlusLowRank": constraints.real_vector,
    "MultivariateNormalFromBijector": constraints.real_vector,
    "MultivariateNormalFullCovariance": constraints.real_vector,
    "MultivariateNormalTri": constraints.real_vector,
    "VonMises": constraints.circular,
}
# Sampled by a differentiable function of all their parameters. Not `VonMises`: its samples are
# wrapped to the circle, where a cost need not be continuous. Nor what is not listed: a choice
# (mixtures), a rounding (`Quantized`), a biased gradient (`straight_through_wrapper`), a user's.
_PATHWISE = (
    "Beta",
    "Deterministic",
    "Dirichlet",
    "Gamma",
    "Gumbel",
    "Laplace",
    "LogStddevNormal",
    "Logistic",
    "MultivariateNormalDiag",
    "MultivariateNormalDiagPlusLowRank",
    "MultivariateNormalFromBijector",
    "MultivariateNormalFullCovariance",
    "MultivariateNormalTri",
    "Normal",
    "Uniform",
)
# No less differentiable than what they are around.
_WRAPPERS = ("Clipped", "Independent", "Transformed")


def _is_pathwise(d: Any) -> bool:
    if not type(d).__module__.startswith("distrax."):
        return False
    if type(d).__name__ in _WRAPPERS:
        inner = d._distribution if type(d).__name__ == "Clipped" else d.distribution
        return _is_pathwise(inner) and jnp.issubdtype(d.dtype, jnp.inexact)
    return type(d).__name__ in _PATHWISE
