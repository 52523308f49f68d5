"""From estimates that are consistent to one that is unbiased."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from ppgen._programs.halves import Member, halved
from ppgen._staging.draw import draw
from ppgen.claims import claims
from ppgen.estimators import ScoreFunction

Family = Callable[[int], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Debiased:
    """What `debias` makes: an objective.

    Attributes:
        family: from a number of particles to an objective.
        base: the particles of level zero.
        levels: how often they are doubled.
        rate: how fast levels become rare.
        form: "single" or "roulette".
    """

    family: Family
    base: int
    levels: int
    rate: float
    form: str

    @property
    def probabilities(self) -> np.ndarray:
        """The probability of each level, from the first to the last."""
        p = 2.0 ** (-self.rate * np.arange(1, 1 + self.levels))
        return p / p.sum()

    @property
    def mean_particles(self) -> float:
        """How many particles a run draws on average."""
        sizes = self.base * 2.0 ** np.arange(1, 1 + self.levels)
        return self.base + float(np.sum(sizes * self._reached))

    @property
    def max_particles(self) -> int:
        """The particles of the last level, for which the estimate is unbiased."""
        return self.base * 2**self.levels

    @property
    def _reached(self) -> np.ndarray:
        """How probable it is that the difference of a level is computed."""
        p = self.probabilities
        return p if self.form == "single" else np.cumsum(p[::-1])[::-1]

    def difference(self, level: int) -> Callable[..., Array]:
        """The objective of one level: what twice the particles change, on the same draws.

        Args:
            level: 0 for the estimate of `base` particles itself.
        """

        def objective(*args: Any, **kwargs: Any) -> Array:
            if level == 0:
                return self._member(0, args, kwargs).value()
            members = (self._member(k, args, kwargs) for k in (level, level - 1))
            return jnp.subtract(*halved(*members))

        return objective

    def _member(self, level: int, args: Any, kwargs: Any) -> Member:
        n = self.base * 2**level
        return Member(lambda: self.family(n)(*args, **kwargs), n)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """One draw of the unbiased estimate."""
        members = [self._member(k, args, kwargs) for k in range(1 + self.levels)]
        level = draw(
            dist.Categorical(jnp.asarray(self.probabilities)), name="level", grad=ScoreFunction()
        )
        total = members[0].value()
        reached = self._reached.tolist()

        def change(k: int) -> Array:
            difference = jnp.subtract(*halved(members[k], members[k - 1])) / reached[k - 1]
            return difference.astype(total.dtype)

        changes = []
        for k in range(1, 1 + self.levels):
            now = level == k - 1 if self.form == "single" else level >= k - 1
            changes.append(
                jax.lax.cond(now, partial(change, k), partial(jnp.zeros, (), total.dtype))
            )
        return total + sum(changes)


@claims(
    "unbiased",
    "what the family estimates with the particles of the last level",
    gradient="unbiased",
    but="if the objectives of the family have unbiased gradients",
)
def debias(
    family: Family,
    *,
    base: int = 1,
    levels: int = 10,
    rate: float = 1.5,
    form: Literal["single", "roulette"] = "single",
) -> Debiased:
    r"""Make an unbiased estimate of consistent ones, by a random number of particles.

    With F_n the estimate of n particles and :math:`n_k = 2^k \cdot base`,

    .. math:: F_{n_0} + \frac{\Delta_K}{P(K)}, \qquad
              \Delta_k = F_{n_k} - \tfrac12 \big(F'_{n_{k-1}} + F''_{n_{k-1}}\big), \qquad
              P(K = k) \propto 2^{-rate \cdot k}, \quad 1 \le K \le levels,

    where F' and F'' are the estimates of either half of the particles of F: for smooth functions of
    means, such as the logarithm of a mean weight, the variance of the differences falls as
    :math:`4^{-k}`, and with a rate between 1 and 2 the estimate has a finite variance and a finite
    expected cost, however many levels there are.

    Its value and its gradients are *unbiased* for the estimate of `base * 2**levels` particles,
    whose bias the cap leaves: that of IWELBO falls as 1/n. The gradients of the family are taken as
    they are: where those are consistent only, as of `forward_kl`, the result has the gradient of
    the limit.

    Under `vmap` all levels are computed for every lane. So give the objective of a minibatch to it,
    rather than map its result over data: one level then serves the minibatch.

    Args:
        family: from n to an objective that estimates with n particles, which are independent draws
            of one law; apart from their number, what is drawn does not depend on n. Enumerated
            choices are summed over jointly, so other estimators suit it better.
        base: the particles of level zero, which is always computed.
        levels: how often they are doubled.
        rate: how fast levels become rare. 1.5 balances variance and cost of smooth functions.
        form: "single" computes one difference; "roulette" all up to a random level, each with
            draws of its own, divided by the probability of reaching it.

    Returns:
        An objective of the arguments of the family's. `difference(k)` is the objective of one
        level.

    Raises:
        ValueError: an argument makes no sense, or makes the variance or the expected cost grow
            without bound with the levels.
        EstimatorError: when it is called: particles of the family depend on each other.

    References:
        Rhee, Glynn. Unbiased estimation with square root convergence for SDE models. Operations
        Research 2015. Blanchet, Glynn. Unbiased Monte Carlo for optimization and functions of
        expectations via multi-level randomization. WSC 2015. Luo et al. SUMO: unbiased estimation
        of log marginal probability for latent variable models. ICLR 2020. Shi, Cornish. On
        multilevel Monte Carlo unbiased gradient estimation for deep latent variable models.
        AISTATS 2021.

    Example:
        The logarithm of a mean, of which the logarithm of an average is a lower bound:

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def family(n):
        ...     def log_mean(theta):
        ...         one = lambda _: ppgen.draw(dist.Gamma(3.0, 3.0 / theta), name="x")
        ...         return jnp.log(jnp.mean(jax.vmap(one)(jnp.arange(n))))
        ...     return log_mean
        >>> def mean(f):  # of 100,000 runs
        ...     return float(ppgen.expectation(f, draws=100_000)(jax.random.key(0), 2.0))
        >>> round(mean(family(1)) - math.log(2.0), 2)  # E log x - log E x
        -0.18
        >>> abs(mean(ppgen.debias(family, levels=6)) - math.log(2.0)) < 0.01
        True
    """
    if base < 1 or levels < 1:
        raise ValueError(f"base and levels must be at least 1, not {base} and {levels}")
    if not (math.isfinite(rate) and 1.0 < rate < 2.0):
        grows = "expected cost" if rate <= 1.0 else "variance"
        raise ValueError(
            f"rate must lie between 1 and 2, not {rate}: else the {grows} grows without bound "
            "with the number of levels"
        )
    if form not in ("single", "roulette"):
        raise ValueError(f'form must be "single" or "roulette", not {form!r}')
    return Debiased(family, base, levels, rate, form)
