"""The exact law of curated draws from a finite law."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Array, Float

# Of the trapezoidal rule in log s, whose error falls like exp(-π²/step): below 1e-20. Left and
# right of its range the integrand is below exp(-_TAIL).
_STEP, _TAIL = 0.2, 40.0


def curated_law(
    probs: Float[Array | np.ndarray, " n"],
    rewards: Float[Array | np.ndarray, " n"],
    *,
    choices: int | float,
) -> Float[np.ndarray, " n"]:
    r"""The law of `ppgen.curate` for a finite law p, *exactly*: p(x) H^K(x), K = `choices`.

    .. math:: H^K(x) = E\Big[\frac{K e^{r(x)}}{e^{r(x)} + \sum_{k<K} e^{r(x_k)}}\Big]
              = K \int_0^\infty e^{r(x)} e^{-s e^{r(x)}} M(s)^{K-1}\, ds, \qquad
              M(s) = \sum_y p(y)\, e^{-s e^{r(y)}},

    by quadrature of the integral, to about 13 digits for any K and n. The result is normalised,
    because errors of the total grow K-fold when it is applied again. One round of retraining
    on curated and real data is `(reference + mix * curated_law(...)) / (1 + mix)`.

    Args:
        probs: p; divided by its sum.
        rewards: r in nats, finite.
        choices: K, or `math.inf` for its limit p(x) exp(r(x)), normalised.

    Returns:
        Probabilities, in double precision.

    Raises:
        ValueError: K < 1, a reward that is not finite, or invalid probabilities.

    References:
        Ferbach, Bertrand, Bose, Gidel. Self-consuming generative models with curated data provably
        optimize human preferences. NeurIPS 2024. The integral is Gumbel's race of exponential
        clocks of rates exp(r).

    Examples:
        Of two different draws, the one that is better by 1 nat is kept with probability σ(1) =
        .731:

        >>> import numpy as np
        >>> from ppgen.inference import curated_law
        >>> print(curated_law(np.array([0.5, 0.5]), np.array([0.0, 1.0]), choices=2).round(4))
        [0.3845 0.6155]
    """
    p, r = np.asarray(probs, np.float64), np.asarray(rewards, np.float64)
    if not choices >= 1:
        raise ValueError(f"choices must be at least 1, not {choices}")
    if not np.all(np.isfinite(r)):
        raise ValueError("rewards must be finite")
    if not (np.all(p >= 0) and 0 < p.sum() < math.inf):
        raise ValueError("probs must be nonnegative, finite and not all zero")
    p = p / p.sum()
    rates = np.exp(r - r.max())
    if math.isinf(choices):
        weighted = p * rates
        return weighted / weighted.sum()
    total = np.zeros_like(p)
    for log_s in _log_times(r.max() - r, choices):
        # Rewards far apart: s alone may be out of range, beyond 700 nothing survives.
        clock = np.exp(np.minimum(log_s + (r - r.max()), 700.0))
        survival = np.exp(-clock)
        # log M(s), without cancellation at either end.
        below_one, left = p @ np.expm1(-clock), p @ survival
        if left > 0:
            log_m = math.log1p(below_one) if below_one > -0.5 else math.log(left)
            total += clock * survival * math.exp((choices - 1) * log_m)
    curated = p * total
    return curated / curated.sum()


def _log_times(below: Float[np.ndarray, " n"], choices: float | int) -> Float[np.ndarray, " times"]:
    """Where the integrand counts for any of the rewards, by how far they are below the highest."""
    reach = -_TAIL - math.log(choices), math.log(_TAIL)
    starts = np.unique(below)
    gaps = np.flatnonzero(np.diff(starts) > reach[1] - reach[0])
    firsts = starts[np.concatenate([[0], gaps + 1])]
    lasts = starts[np.concatenate([gaps, [len(starts) - 1]])]
    windows = [
        np.arange(first + reach[0], last + reach[1] + _STEP, _STEP)
        for first, last in zip(firsts, lasts, strict=True)
    ]
    return np.concatenate(windows)
