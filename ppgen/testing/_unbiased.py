"""A statistical test that an estimator of an expectation and of its derivatives is unbiased."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen._expectation import expectation as _expectation
from ppgen.errors import PpgenError
from ppgen.testing._oracle import exact as _exact

# How many estimates are made at a time.
_BATCH = 4096
# A bias of the size `detect` is then found with this probability.
_POWER = 0.95
# A standard error to which one estimate contributes more than this is not reliable.
_DOMINANT = 0.3


class UnderpoweredError(PpgenError):
    """The test could not have failed: the estimates are too noisy to show a relevant bias.

    Example:
        >>> import jax, numpyro.distributions as dist, ppgen
        >>> from ppgen.testing import assert_unbiased
        >>> def cost(p):
        ...     flip = ppgen.draw(dist.Bernoulli(p), name="flip", grad=ppgen.ScoreFunction())
        ...     return 30.0 + flip
        >>> _ = assert_unbiased(cost, 0.3, order=1, samples=2000)
        Traceback (most recent call last):
            ...
        ppgen.testing._unbiased.UnderpoweredError: 2,000 estimates cannot show a bias of ...
          Write instead: samples=..., a lower order, or detect=...
          See: ppgen.testing.UnderpoweredError

        More samples, or less variance:

        >>> cost = ppgen.with_estimators(cost, {"flip": ppgen.Enumerate()})
        >>> _ = assert_unbiased(cost, 0.3, order=1, samples=2000)
    """


class Entry(NamedTuple):
    """One number that was tested: the value, or an entry of the gradient or Hessian.

    Attributes:
        name: which one, as `d/dargs[0]['loc']`.
        order: 0 for the value, 1 for the gradient, 2 for the Hessian.
        estimate: mean of the estimates.
        error: its standard error.
        exact: the exact value.
        tolerance: the part of the difference that rounding may explain.
        dominance: the largest share of a single estimate in their variance.
    """

    name: str
    order: int
    estimate: float
    error: float
    exact: float
    tolerance: float
    dominance: float

    @property
    def z(self) -> float:
        """The difference in standard errors; zero if it is within rounding."""
        gap = self.estimate - self.exact
        if abs(gap) <= self.tolerance:
            return 0.0
        return gap / self.error if self.error > 0 else math.copysign(math.inf, gap)

    def __str__(self) -> str:
        return (
            f"{self.name}: estimate {self.estimate:.6g}, standard error {self.error:.2g}, "
            f"exact {self.exact:.6g}, z = {self.z:+.1f}"
        )


def assert_unbiased(
    f: Callable[..., Any],
    *args: Any,
    key: Array | None = None,
    order: int = 2,
    argnums: int | Sequence[int] = 0,
    exact: Callable[..., Array] | None = None,
    samples: int = 20_000,
    error_probability: float = 1e-6,
    detect: float = 0.2,
    expectation: Callable[..., Callable[..., Any]] = _expectation,
    **expectation_kwargs: Any,
) -> tuple[Entry, ...]:
    """Assert that `expectation(f)` and its derivatives are unbiased at `args`.

    Draws `samples` independent estimates of the value, the gradient and the Hessian, and compares
    the mean of each entry to its exact value by its standard error. An unbiased estimator fails
    with a probability of at most `error_probability`, over all entries together (Bonferroni), as
    far as the means are normally distributed; entries without variance must agree up to rounding.

    A test that cannot fail has no value. So it is an error, too, if the estimates are too noisy to
    show a bias of `detect` times the largest exact entry of the same order (with probability 0.95),
    or if a single one of them makes up most of the standard error.

    *Without* `exact=`, the estimator is compared with a sum over all choices of the same staged
    program, which JAX differentiates. That sum shares nothing with estimators and analysis, but it
    shares the program's own derivatives, and so cannot detect errors in them: a `stop_gradient` of
    an argument, a wrong `custom_jvp` in `f` or in a density. Nor can it detect errors in values
    that staging takes for constants, such as arrays that `f` closes over and draws of `jax.random`
    with a key that `f` makes. Where a formula is known, give it as `exact=`; where none is,
    `ppgen.audit` compares with slopes of values.

    Args:
        f: an objective, as for `ppgen.expectation`.
        *args: its arguments.
        key: randomness of the estimates; by default `jax.random.key(0)`.
        order: test derivatives up to this order: 0, 1 or 2.
        argnums: the `args` to differentiate with respect to; by default all floating-point numbers.
        exact: the exact expectation as a function of `args`; by default `ppgen.testing.exact(f)`.
        samples: how many estimates to draw.
        error_probability: the probability with which an unbiased estimator fails.
        detect: the relative bias that the test must be able to see; `math.inf` for any.
        expectation: what turns `f` and `expectation_kwargs` into `g(key, *args)`.
        **expectation_kwargs: passed on to `expectation`, as `draws=4`.

    Returns:
        The comparisons, entry by entry.

    Raises:
        AssertionError: an entry is biased. The message has its estimate, standard error and exact
            value.
        UnderpoweredError: the test would not have noticed a bias.

    Example:
        >>> import jax.numpy as jnp, ppgen, numpyro.distributions as dist
        >>> from ppgen.testing import assert_unbiased
        >>> def f(theta):
        ...     return ppgen.draw(dist.Normal(theta, 1.0), grad=ppgen.ScoreFunction()) ** 2
        >>> value, slope, curvature = assert_unbiased(f, jnp.array(1.0), samples=100_000)
        >>> round(slope.exact, 3)
        2.0
    """
    if not 0 <= order <= 2:
        raise ValueError(f"order must be 0, 1 or 2, got {order}")
    names, theta, rebuild = _select(args, (argnums,) if isinstance(argnums, int) else argnums)
    has_aux = bool(expectation_kwargs.get("has_aux", False))
    g = expectation(f, **expectation_kwargs)
    key = jax.random.key(0) if key is None else key

    def estimate(key: Array, theta: Array) -> Array:
        def value(theta: Array) -> Array:
            out = g(key, *rebuild(theta))
            return out[0] if has_aux else out

        return _derivatives(value, theta, order)

    def draw(keys: Array, theta: Array) -> Array:
        return jax.lax.map(lambda keys: jax.vmap(estimate, (0, None))(keys, theta), keys)

    # Full batches, because another size would be compiled again.
    batches = -(-samples // _BATCH)
    keys = jax.random.split(key, (batches, -(-samples // batches)))
    estimates = np.asarray(jax.jit(draw)(keys, theta))
    estimates = estimates.reshape(-1, estimates.shape[-1])[:samples]
    truth = _truth(f, exact, has_aux, rebuild, theta, order)
    entries = _entries(_labels(names, order), estimates, truth)
    threshold = -NormalDist().inv_cdf(error_probability / (2 * len(entries)))
    _check_bias(entries, threshold, samples, error_probability)
    _check_power(entries, threshold, samples, detect)
    return entries


def _select(args: tuple, argnums: Sequence[int]) -> tuple[list[str], Array, Callable]:
    """Names and values of the numbers to differentiate in, and the arguments as their function."""
    chosen = {i % len(args): args[i] for i in argnums}
    leaves, treedef = jax.tree_util.tree_flatten_with_path(chosen)
    moving = {i: jnp.asarray(x) for i, (_, x) in enumerate(leaves) if eqx.is_inexact_array_like(x)}
    if not moving:
        raise ValueError(f"no floating-point number to differentiate in argnums={tuple(argnums)}")
    names = []
    for i, x in moving.items():
        name = "args" + jax.tree_util.keystr(leaves[i][0])
        names += [name + (str(list(at)) if at else "") for at in np.ndindex(x.shape)]

    def rebuild(theta: Array) -> list[Any]:
        full, start = [x for _, x in leaves], 0
        for i, x in moving.items():
            full[i] = theta[start : start + x.size].reshape(x.shape)
            start += x.size
        new = jax.tree_util.tree_unflatten(treedef, full)
        return [new.get(i, arg) for i, arg in enumerate(args)]

    return names, jnp.concatenate([x.ravel() for x in moving.values()]), rebuild


def _derivatives(value: Callable[[Array], Array], theta: Array, order: int) -> Array:
    """The value and its derivatives up to `order`, in one vector."""
    if order == 0:
        return value(theta)[None]

    def first(theta: Array) -> tuple[Array, Array]:
        out, gradient = jax.value_and_grad(value)(theta)
        return gradient, jnp.concatenate([out[None], gradient])

    if order == 1:
        return first(theta)[1]
    hessian, lower = jax.jacfwd(first, has_aux=True)(theta)
    return jnp.concatenate([lower, hessian.ravel()])


def _labels(names: list[str], order: int) -> list[tuple[str, int]]:
    labels = [("value", 0)]
    if order >= 1:
        labels += [(f"d/d{a}", 1) for a in names]
    if order == 2:
        labels += [(f"d2/d{a} d{b}", 2) for a in names for b in names]
    return labels


def _truth(
    f: Callable, exact: Callable | None, has_aux: bool, rebuild: Callable, theta: Array, order: int
) -> np.ndarray:
    if exact is None:
        exact = _exact((lambda *args: f(*args)[0]) if has_aux else f)
    with jax.enable_x64(True):

        def value(theta: Array) -> Array:
            return jnp.asarray(exact(*rebuild(theta)), jnp.float64)

        return np.asarray(
            eqx.filter_jit(lambda t: _derivatives(value, t, order))(theta.astype(jnp.float64))
        )


def _entries(
    labels: list[tuple[str, int]], estimates: np.ndarray, truth: np.ndarray
) -> tuple[Entry, ...]:
    samples, eps = len(estimates), float(np.finfo(estimates.dtype).eps)
    x = estimates.astype(np.float64)
    mean = x.mean(axis=0)
    squares = (x - mean) ** 2
    total = squares.sum(axis=0)
    error = np.sqrt(total / (samples - 1) / samples)
    # Estimates that differ by rounding only have no variance to speak of.
    size = np.sqrt((x**2).mean(axis=0))
    error = np.where(error < 4 * eps * size / math.sqrt(samples), 0.0, error)
    largest = {
        k: max(abs(t) for t, (_, o) in zip(truth, labels, strict=True) if o == k) for _, k in labels
    }
    return tuple(
        Entry(
            name,
            order,
            float(mean[i]),
            float(error[i]),
            float(truth[i]),
            tolerance=256 * eps * max(float(size[i]), largest[order]) + 1e-6 * largest[order],
            dominance=float(squares[:, i].max() / total[i]) if total[i] > 0 else 0.0,
        )
        for i, (name, order) in enumerate(labels)
    )


def _check_bias(
    entries: tuple[Entry, ...], threshold: float, samples: int, error_probability: float
) -> None:
    failing = [
        e
        for e in entries
        # Not `>`: a NaN must fail.
        if not abs(e.estimate - e.exact) <= threshold * e.error + e.tolerance
    ]
    if failing:
        lines = "\n".join(f"  {e}" for e in failing)
        raise AssertionError(
            f"biased: {len(failing)} of {len(entries)} entries differ from their exact value by "
            f"more than {threshold:.1f} standard errors ({samples:,} estimates; error probability "
            f"{error_probability:g} in all)\n{lines}"
        )


def _check_power(entries: tuple[Entry, ...], threshold: float, samples: int, detect: float) -> None:
    reach = threshold + NormalDist().inv_cdf(_POWER)
    for e in entries:
        scale = max(abs(o.exact) for o in entries if o.order == e.order)
        # If all entries of an order vanish, there is no scale.
        if scale > e.tolerance and reach * e.error > detect * scale:
            needed = samples * (reach * e.error / (detect * scale)) ** 2
            raise UnderpoweredError(
                f"{samples:,} estimates cannot show a bias of {detect:.0%}: {e}",
                instead=f"samples={math.ceil(1.1 * needed):,}, a lower order, or "
                f"detect={reach * e.error / scale:.2g} if a bias up to there may go unnoticed",
            )
        if e.error > 0 and e.dominance > _DOMINANT and detect < math.inf:
            raise UnderpoweredError(
                f"one of the {samples:,} estimates makes {e.dominance:.0%} of the variance, so "
                f"that their standard error cannot be trusted: {e}",
                instead="more samples, an estimator with lighter tails, or detect=math.inf",
            )
