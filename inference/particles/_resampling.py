"""Resampling schemes: distributions of the ancestors, given the weights."""

# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution, constraints

import ppgen

# How many ancestor vectors `Enumerate` and exact oracles may list.
_LISTED = 4096

_below = jnp.vectorize(
    lambda sorted_values, x: jnp.searchsorted(sorted_values, x, side="right"),
    signature="(k),(n)->(n)",
)


def _by_inversion(key: Array, weights: Array, shape: tuple[int, ...]) -> Array:
    """Independent indices, with probabilities in proportion to `weights`."""
    weights = jax.lax.stop_gradient(weights)
    # A parallel sum may go down by a rounding error.
    ends = jax.lax.cummax(jnp.cumsum(weights, axis=-1), axis=weights.ndim - 1)
    total = ends[..., -1:]
    u = jax.random.uniform(key, shape, weights.dtype) * total
    # Below the end, so that what has no weight is never found.
    return _below(ends, jnp.minimum(u, jnp.nextafter(total, jnp.zeros_like(total))))


def _taken(log_probs: Array, value: Any) -> Array:
    value = jnp.asarray(value)
    log_probs = jnp.broadcast_to(log_probs, (*value.shape[:-1], log_probs.shape[-1]))
    return jnp.take_along_axis(log_probs, value, axis=-1)


class _Ancestors(Distribution):
    """Vectors of K ancestors that are drawn together."""

    def __init__(self, log_weights: Any) -> None:
        self.log_weights = jnp.asarray(log_weights)
        shape = self.log_weights.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer_interval(0, self.event_shape[0] - 1), 1)

    @property
    def has_enumerate_support(self) -> bool:
        return self.event_shape[0] ** self.event_shape[0] <= _LISTED

    def enumerate_support(self, expand: bool = True) -> Int[Array, "..."]:
        k = self.event_shape[0]
        if not self.has_enumerate_support:
            raise ValueError(f"{k}^{k} ancestor vectors are too many to list")
        listed = np.array(list(itertools.product(range(k), repeat=k)))
        values = jnp.asarray(listed).reshape(-1, *(1,) * len(self.batch_shape), k)
        return jnp.broadcast_to(values, (k**k, *self.batch_shape, k)) if expand else values


class MultinomialResampling(_Ancestors):
    r"""Independent ancestors: :math:`a_i \sim \mathrm{Categorical}(w)`, i = 1, ..., K.

    *Unbiased*: particle k has :math:`K w_k` children on average. The largest variance of the three,
    and the only one that is smooth in the weights everywhere. It takes O(K log K) time, where K
    draws from a NumPyro `Categorical` take K² numbers.

    Args:
        log_weights: of shape `(*batch, K)`, in nats; they need not be normalised.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppgen.inference import MultinomialResampling
        >>> law = MultinomialResampling(jnp.log(jnp.array([0.5, 0.25, 0.25])))
        >>> round(float(jnp.exp(law.log_prob(jnp.array([0, 2, 0])))), 4)
        0.0625
    """

    pytree_data_fields = ("log_weights",)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Ancestors, of shape `(*sample_shape, *batch, K)`."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        return _by_inversion(key, jax.nn.softmax(self.log_weights), shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Float[Array, "..."]:
        """Log probabilities in nats, one for each ancestor vector."""
        return jnp.sum(_taken(jax.nn.log_softmax(self.log_weights), value), axis=-1)


class SystematicResampling(_Ancestors):
    r"""All ancestors from one uniform number u in [0, 1).

    Particle k has a child for each of the points (i + u) / K, i = 0, ..., K − 1, between
    :math:`w_1 + \dots + w_{k-1}` and :math:`w_1 + \dots + w_k`. *Unbiased*: it has :math:`K w_k`
    children on average, and always differs from it by less than one. Ancestors come in order.

    The log density is *exact*: the logarithm of the length of the interval of u that gives these
    ancestors. It is continuous in the weights, with kinks where :math:`K (w_1 + \dots + w_k)` is a
    whole number for some k < K (as where all weights are equal): expectations have one-sided
    derivatives there, and no others.

    Args:
        log_weights: of shape `(*batch, K)`, in nats; they need not be normalised.

    References:
        Kitagawa, *Monte Carlo Filter and Smoother for Non-Gaussian Nonlinear State Space Models*,
        1996. Douc, Cappé, Moulines, *Comparison of Resampling Schemes for Particle Filtering*,
        2005.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppgen.inference import SystematicResampling
        >>> law = SystematicResampling(jnp.log(jnp.array([0.5, 0.25, 0.25])))
        >>> law.sample(jax.random.key(0)).tolist()
        [0, 1, 2]
        >>> [round(float(jnp.exp(law.log_prob(jnp.array(a)))), 2) for a in ([0, 1, 2], [0, 0, 2])]
        [0.5, 0.25]
    """

    pytree_data_fields = ("log_weights", "cumulated")

    def __init__(self, log_weights: Float[Array, "*batch k"]) -> None:
        super().__init__(log_weights)
        # Once, and not in both `sample` and `log_prob`: compiled apart, they would round it
        # differently, and what is drawn would be impossible.
        weights = jax.nn.softmax(self.log_weights)
        self.cumulated = self.event_shape[0] * jnp.cumsum(weights, axis=-1)

    def _children(self) -> tuple[Int[Array, "*batch k"], Float[Array, "*batch k"]]:
        """For the cumulated `K w`: the whole part, and the rest, with its derivative.

        Particles 1 to k have as many children as the whole part, and one more if u is below the
        rest. Comparing u to these differences, not `(i + u) / K` to cumulated weights, leaves
        nothing to rounding between `sample` and `log_prob`.
        """
        k = self.event_shape[0]
        smooth = self.cumulated
        # A parallel sum may go down by a rounding error, or miss K at its end.
        ordered = jax.lax.cummax(jax.lax.stop_gradient(smooth), axis=smooth.ndim - 1)
        ordered = jnp.minimum(ordered, k).at[..., -1].set(k)
        whole = jnp.floor(ordered)
        rest = (ordered - whole) + (smooth - jax.lax.stop_gradient(smooth))
        return whole.astype(int), rest

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Ancestors, of shape `(*sample_shape, *batch, K)`."""
        whole, rest = self._children()
        u = jax.random.uniform(key, (*sample_shape, *self.batch_shape, 1), rest.dtype)
        return _below(whole + (u < rest), jnp.arange(self.event_shape[0]))

    def log_prob(self, value: Any, intermediates: Any = None) -> Float[Array, "..."]:
        """Log probabilities in nats, one for each ancestor vector."""
        value = jnp.asarray(value)
        whole, rest = self._children()
        extra = _below(value, jnp.arange(self.event_shape[0])) - whole
        upper = jnp.min(jnp.where(extra == 1, rest, 1.0), axis=-1)
        lower = jnp.max(jnp.where(extra == 0, rest, 0.0), axis=-1)
        possible = jnp.all((extra == 0) | (extra == 1), axis=-1) & (upper > lower)
        possible &= jnp.all(value[..., 1:] >= value[..., :-1], axis=-1)
        return jnp.where(possible, jnp.log(jnp.where(possible, upper - lower, 1.0)), -jnp.inf)


class ResidualResampling(_Ancestors):
    r"""Deterministic copies by the integer part of K w, and independent draws for the rest.

    Particle k has :math:`\lfloor K w_k \rfloor` children; the others are drawn from what is left of
    the weights. *Unbiased*: it has :math:`K w_k` children on average. Its law *jumps* where
    :math:`K w_k` passes a whole number. Hence a gradient through weights that depend on a
    reparameterised value is refused; for weights that are functions of parameters and of discrete
    choices alone it is right wherever it exists. The copies come first, in order.

    Args:
        log_weights: of shape `(*batch, K)`, in nats; they need not be normalised.

    References:
        Liu, Chen, *Sequential Monte Carlo Methods for Dynamic Systems*, JASA 1998.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppgen.inference import ResidualResampling
        >>> law = ResidualResampling(jnp.log(jnp.array([0.5, 0.25, 0.25])))  # K w: 1.5, 0.75, 0.75
        >>> round(float(jnp.exp(law.log_prob(jnp.array([0, 0, 2])))), 4)  # 1/4 times 3/8
        0.0938
    """

    pytree_data_fields = ("log_weights", "copies")

    def __init__(self, log_weights: Float[Array, "*batch k"]) -> None:
        super().__init__(log_weights)
        # Here and not in `log_prob`, so that it is seen in the program which draws: it jumps.
        self.copies = jnp.floor(self._expected())

    def _expected(self) -> Float[Array, "*batch k"]:
        return self.event_shape[0] * jax.nn.softmax(self.log_weights)

    def _copied(self) -> tuple[Int[Array, "*batch k"], Any]:
        """The deterministic ancestors, and which of the K places they fill."""
        ends = jnp.cumsum(self.copies, axis=-1).astype(int)
        places = jnp.arange(self.event_shape[0])
        return _below(ends, places), places < ends[..., -1:]

    def _log_rest(self) -> Float[Array, "*batch k"]:
        rest = self._expected() - self.copies
        left = rest > 0
        logs = jnp.where(left, jnp.log(jnp.where(left, rest, 1.0)), -jnp.inf)
        # The rest is zero where all are copied; then nothing is drawn from it.
        return jnp.where(jnp.any(left, axis=-1, keepdims=True), logs, 0.0)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Ancestors, of shape `(*sample_shape, *batch, K)`."""
        ancestors, sure = self._copied()
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        drawn = _by_inversion(key, jnp.exp(self._log_rest()), shape)
        return jnp.where(sure, ancestors, drawn)

    def log_prob(self, value: Any, intermediates: Any = None) -> Float[Array, "..."]:
        """Log probabilities in nats, one for each ancestor vector."""
        value = jnp.asarray(value)
        ancestors, sure = self._copied()
        drawn = _taken(jax.nn.log_softmax(self._log_rest()), value)
        copied = jnp.where(value == ancestors, 0.0, -jnp.inf)
        return jnp.sum(jnp.where(sure, copied, drawn), axis=-1)


class _Where(_Ancestors):
    """`base` where `flag` is one; where it is zero, every particle is its own ancestor, surely."""

    pytree_data_fields = ("log_weights", "base", "flag")

    def __init__(self, base: Distribution, flag: Float[Array, ""], log_weights: Any) -> None:
        super().__init__(log_weights)
        self.base = base
        self.flag = flag

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        drawn = self.base.sample(key, sample_shape)
        return jnp.where(self.flag > 0, drawn, jnp.arange(self.event_shape[0]))

    def log_prob(self, value: Any, intermediates: Any = None) -> Float[Array, "..."]:
        own = jnp.all(value == jnp.arange(self.event_shape[0]), axis=-1)
        kept = jnp.where(own, 0.0, -jnp.inf)
        return jnp.where(self.flag > 0, self.base.log_prob(value), kept)


class WithoutScore(ppgen.AbstractEstimator):
    """Ignore the choice in the gradient: *biased*.

    The usual practice for ancestors in particle filters, whose score has a large variance. It is
    refused without `ppgen.expectation(..., allow_biased=True)`.

    References:
        Maddison et al., *Filtering Variational Objectives*, NeurIPS 2017.

    Example:
        >>> import jax, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import WithoutScore
        >>> def f(p):
        ...     return p * ppgen.draw(dist.Bernoulli(p), grad=WithoutScore())
        >>> g = ppgen.expectation(f, draws=10_000, allow_biased=True)
        >>> round(float(jax.grad(g, argnums=1)(jax.random.key(0), 0.5)), 1)  # and not 2 p = 1
        0.5
    """

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = True
    first_order: ClassVar[bool] = False

    def misfit(self, dist: Distribution) -> str | None:
        """It fits every distribution."""
        return None

    def __call__(self, key: Array, dist: Distribution) -> ppgen.Points:
        """One frozen sample."""
        return ppgen.Points(jax.lax.stop_gradient(jnp.asarray(dist.sample(key))))


_SCHEMES = {
    "multinomial": MultinomialResampling,
    "systematic": SystematicResampling,
    "residual": ResidualResampling,
}
_ESTIMATORS = {"score": None, "biased": WithoutScore()}


def check_scheme(scheme: str, gradient: str) -> None:
    """Refuse unknown names before anything is run.

    Raises:
        ValueError: no such scheme, or no such gradient.
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"resampling must be one of {sorted(_SCHEMES)}, not {scheme!r}")
    if gradient not in _ESTIMATORS:
        raise ValueError(f"gradient must be one of {sorted(_ESTIMATORS)}, not {gradient!r}")


def draw_ancestors(
    log_weights: Float[Array, " k"],
    scheme: str = "systematic",
    *,
    flag: Float[Array, ""] | None = None,
    gradient: str = "score",
) -> Int[Array, " k"]:
    """Draw the ancestors of K particles.

    Args:
        log_weights: in nats; they need not be normalised.
        scheme: `"multinomial"`, `"systematic"` or `"residual"`.
        flag: where it is zero, nothing is drawn: every particle is its own ancestor.
        gradient: `"score"`, *unbiased*; or `"biased"`, which ignores the ancestors.

    Returns:
        The index of the ancestor of each particle: a random choice of the name `"ancestors"`.

    Raises:
        ValueError: no such scheme, or no such gradient.
    """
    check_scheme(scheme, gradient)
    law = _SCHEMES[scheme](log_weights)
    if flag is not None:
        law = _Where(law, flag, log_weights)
    return ppgen.draw(law, name="ancestors", grad=_ESTIMATORS[gradient])
