"""The law of curated draws from a finite one, exactly."""

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
    r"""What `ppgen.curate` draws from a finite law, *exactly*: p(x) H^K(x), K = `choices`.

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
        ValueError: K < 1, a reward that is not finite, or probabilities that are none.

    References:
        Ferbach, Bertrand, Bose, Gidel. Self-consuming generative models with curated data provably
        optimize human preferences. NeurIPS 2024. The integral is Gumbel's race of exponential
        clocks of rates exp(r).

    Examples:
        Of two fair draws that differ, the one that is better by 1 nat is kept with probability
        σ(1) = .731:

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
    low, high = -_TAIL - math.log(choices), math.log(_TAIL) + np.ptp(r)
    times = np.exp(np.arange(low, high + _STEP, _STEP))
    total = np.zeros_like(p)
    for s in times:
        survival = np.exp(-s * rates)
        # log M(s), without cancellation at either end.
        below_one = p @ np.expm1(-s * rates)
        log_m = math.log1p(below_one) if below_one > -0.5 else math.log(p @ survival)
        total += s * rates * survival * math.exp((choices - 1) * log_m)
    curated = p * total
    return curated / curated.sum()
