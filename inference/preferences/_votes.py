"""Rewards from votes: the models of Bradley and Terry, Luce, and Plackett."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ppgen.inference.preferences._determined import VotesError, refuse_undetermined, undetermined
from ppgen.inference.preferences._newton import Derivatives, maximum
from ppgen.inference.preferences._ties import davidson, two_of_each


class Interval(NamedTuple):
    """An estimate and a confidence interval, in nats."""

    estimate: float
    low: float
    high: float


class FittedRewards(NamedTuple):
    """Rewards of items, estimated from votes.

    Votes only determine differences of rewards: these sum to zero, and so do the rows of both
    covariances.

    Attributes:
        rewards: The reward of each item, in nats.
        covariance: The covariance of their errors, by the observed information: valid if the model
            is right.
        robust: The sandwich estimate of that covariance: valid for independent votes even if the
            model is wrong (White, 1982), and noisier if it is right.
        log_likelihood: The log likelihood at the maximum, in nats.
        nu: Davidson's ν: how many ties there are, in units of the geometric mean of the two numbers
            of wins. Zero without ties.
        log_nu_error: The standard error of log ν, by the information; NaN without ties.
    """

    rewards: Float[np.ndarray, " items"]
    covariance: Float[np.ndarray, "items items"]
    robust: Float[np.ndarray, "items items"]
    log_likelihood: float
    nu: float = 0.0
    log_nu_error: float = math.nan

    def difference(
        self, one: int, other: int, *, level: float = 0.95, robust: bool = False
    ) -> Interval:
        """The difference of two rewards: the log odds of a vote between the two items.

        Args:
            one: An item.
            other: Another one.
            level: The coverage probability of the interval, in large samples.
            robust: Whether to use the sandwich.

        Returns:
            The difference of their rewards, with Wald's interval.
        """
        for item in (one, other):
            if not 0 <= item < len(self.rewards):
                raise VotesError(f"there is no item {item} among {len(self.rewards)}")
        contrast = np.zeros(len(self.rewards))
        contrast[one] += 1.0
        contrast[other] -= 1.0
        return self.interval(contrast, level=level, robust=robust)

    def interval(
        self, weights: Float[np.ndarray, " items"], *, level: float = 0.95, robust: bool = False
    ) -> Interval:
        """The interval for a contrast of the rewards: a sum with weights that sum to zero.

        Raises:
            VotesError: The weights do not sum to zero, so votes do not determine the sum.
        """
        weights = np.asarray(weights, float)
        if abs(weights.sum()) > 1e-9 * max(1.0, np.abs(weights).sum()):
            raise VotesError(
                "rewards are known up to a constant that is common to all of them, so a sum has no "
                f"value whose weights sum to {weights.sum():g}",
                instead="weights that sum to zero: of one item less the mean of all, for example",
            )
        covariance = self.robust if robust else self.covariance
        estimate = float(weights @ self.rewards)
        error = float(np.sqrt(max(weights @ covariance @ weights, 0.0)))
        reach = statistics.NormalDist().inv_cdf(0.5 + level / 2) * error
        return Interval(estimate, estimate - reach, estimate + reach)

    def probabilities(
        self,
    ) -> tuple[Float[np.ndarray, "items items"], Float[np.ndarray, "items items"]]:
        """What a vote between any two items comes to.

        Returns:
            The probability that the item of the row wins against that of the column, and that
            they tie. An item against itself is like one against its equal.
        """
        half = (self.rewards[:, None] - self.rewards) / 2
        tie = np.full_like(half, math.log(self.nu) if self.nu > 0 else -math.inf)
        logits = np.stack([half, -half, tie])
        logs = logits - np.logaddexp.reduce(logits, axis=0)
        return np.exp(logs[0]), np.exp(logs[2])

    def ranks(
        self, *, level: float = 0.95, robust: bool = False
    ) -> Int[np.ndarray, "items best_and_worst"]:
        """The best and the worst rank that each item may have, from 1 for the best item.

        An item ranks below those that are better by more than the error of the difference. The
        errors are for all pairs at once (by Bonferroni's inequality), so that the ranks of *all*
        items are within these limits with a probability of `level` at least, in large samples.

        Args:
            level: That probability.
            robust: Whether to use the sandwich.

        Returns:
            Two ranks of each item.

        References:
            Mogstad, Romano, Shaikh, Wilhelm. Inference for ranks with applications to mobility
            across neighbourhoods and academic achievement across countries. Review of Economic
            Studies 91, 2024.
        """
        covariance = self.robust if robust else self.covariance
        items = len(self.rewards)
        variances = np.diag(covariance)
        errors = np.sqrt((variances[:, None] + variances - 2 * covariance).clip(0))
        each = (1 - level) / max(items * (items - 1) / 2, 1)
        # From below, where a small probability keeps its digits.
        reach = -statistics.NormalDist().inv_cdf(each / 2) * errors
        below = self.rewards[:, None] - self.rewards < -reach
        np.fill_diagonal(below, False)
        return np.stack([1 + below.sum(1), items - below.sum(0)], axis=1)


def vote_log_likelihood(
    rewards: Float[Array, "*votes choices"], *, ranked: bool = False
) -> Float[Array, " *votes"]:
    r"""The log probability of a vote, given the rewards in the order of the voter.

    .. math:: r_1 - \log \sum_{k=1}^K e^{r_k}, \qquad \text{ranked:} \quad
              \sum_{j=1}^K \Big(r_j - \log \sum_{k=j}^K e^{r_k}\Big).

    *Exact*, differentiable, and concave in the rewards: with rewards from a network it is an
    objective for `fit`. For K = 2 both are log σ(r₁ − r₂).

    Args:
        rewards: The rewards of the candidates of each vote, the chosen one first; −∞ for an absent
            candidate.
        ranked: Whether the voter put all of them in order, best first.

    Returns:
        One number for each vote, in nats: −∞ if an absent candidate was chosen, or ranked before a
        present one.

    References:
        Bradley, Terry. Rank analysis of incomplete block designs. Biometrika 39, 1952. Luce.
        Individual choice behavior. 1959. Plackett. The analysis of permutations. Applied
        Statistics 24, 1975.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ppgen.inference import vote_log_likelihood
        >>> print(f"{vote_log_likelihood(jnp.array([1.0, 0.0])):.4f}")  # log σ(1)
        -0.3133
    """
    rewards = jnp.asarray(rewards)
    there = rewards > -jnp.inf
    # Infinities have no derivatives.
    rewards = jnp.where(there, rewards, jnp.finfo(rewards.dtype).min / 2)
    terms = rewards - jax.lax.cumlogsumexp(rewards, axis=rewards.ndim - 1, reverse=True)
    if not ranked:
        return jnp.where(there[..., 0], terms[..., 0], -jnp.inf)
    possible = jnp.all(there[..., :-1] | ~there[..., 1:], axis=-1)
    return jnp.where(possible, jnp.sum(jnp.where(there, terms, 0.0), axis=-1), -jnp.inf)


def fit_rewards(
    votes: Shaped[Array | np.ndarray, "votes choices"] | Sequence[Sequence[int]],
    *,
    ties: Shaped[Array | np.ndarray, "ties pair"] | Sequence[Sequence[int]] | None = None,
    ranked: bool = False,
    features: Float[Array | np.ndarray, "items features"] | None = None,
) -> FittedRewards:
    r"""Rewards of items by maximum likelihood from votes, with confidence intervals.

    The model is that of `ppgen.curate`: of the items of a vote, one is chosen with probability
    softmax(r). In large samples the intervals are *exact* for independent votes; in small ones
    *heuristic*. The maximum is found by Newton's method in double precision.

    Voters may also call two items equal. The model is then Davidson's,

    .. math:: P(i \succ j) = \frac{p_i}{p_i + p_j + \nu \sqrt{p_i p_j}}, \qquad
              P(i \sim j) = \frac{\nu \sqrt{p_i p_j}}{p_i + p_j + \nu \sqrt{p_i p_j}},
              \qquad p = e^r,

    with ν by maximum likelihood along with the rewards. At the maximum the wins and half of the
    ties of each item, and the number of ties, equal their expectations. To count a tie as a half of
    a vote for each, or as a vote for each, is another thing: it shrinks all differences.

    Args:
        votes: Item numbers, integers of any type: one row for each vote, with the chosen item
            first; shorter rows are filled with −1 at the end. For pairs it is the model of Bradley
            and Terry.
        ties: Pairs of items that were called equal, a row for each such vote; `votes` has those
            that were decided, and must be pairs too.
        ranked: Whether each row is in order, best first (Plackett and Luce).
        features: Features of each item, for rewards that are linear in them. By default every item
            has its own reward, and the items are those up to the largest number in `votes`.

    Returns:
        The rewards, which sum to zero, and the covariances of their errors.

    Raises:
        VotesError: The votes do not determine the rewards: some items never win against the others
            (their differences are infinite), or were never compared, or ν is infinite; or a row is
            invalid.

    References:
        Ford. Solution of a ranking problem from binary comparisons. American Mathematical Monthly
        64, 1957. Davidson. On extending the Bradley-Terry model to accommodate ties in paired
        comparison experiments. Journal of the American Statistical Association 65, 1970. Hunter. MM
        algorithms for generalized Bradley-Terry models. Annals of Statistics 32, 2004. White.
        Maximum likelihood estimation of misspecified models. Econometrica 50, 1982.

    Examples:
        An item that is chosen 3 times of 4 is better by log 3:

        >>> import numpy as np
        >>> from ppgen.inference import fit_rewards
        >>> fitted = fit_rewards(np.array([[0, 1]] * 30 + [[1, 0]] * 10))
        >>> print("{:.3f} ({:.3f}, {:.3f})".format(*fitted.difference(0, 1)))
        1.099 (0.383, 1.814)

        With ties, ν is the ratio of ties to the geometric mean of wins:

        >>> fitted = fit_rewards([[0, 1]] * 20 + [[1, 0]] * 5, ties=[[0, 1]] * 10)
        >>> print(f"{fitted.rewards[0] - fitted.rewards[1]:.3f} {fitted.nu:.3f}")  # log 4, 1
        1.386 1.000
    """
    votes, equal = _whole_numbers(votes), _whole_numbers(() if ties is None else ties)
    if equal.size:
        _check(equal, "tie")
        equal = two_of_each(equal, "tie")
    else:
        equal = np.zeros((0, 2), np.int64)
    # Votes that are all ties are another error.
    if votes.size or not len(equal):
        _check(votes, "vote")
        votes = two_of_each(votes) if len(equal) else votes
    else:
        refuse_undetermined(undetermined(equal[:0], equal, 0))
    last = int(max(votes.max(), equal.max(initial=-1)))
    items = last + 1 if features is None else len(features)
    if last >= items:
        raise VotesError(f"item {last} has no features", instead="a row for every item")
    if features is None:
        refuse_undetermined(undetermined(votes, equal, items, ranked=ranked))
    basis = _basis(np.eye(items) if features is None else np.asarray(features, np.float64))
    if len(equal):
        point, covariance, robust, value = davidson(votes, equal, basis)
        of_nu = float(np.sqrt(covariance[-1, -1]))
        return FittedRewards(
            *(point[:-1], covariance[:-1, :-1], robust[:-1, :-1], value),
            *(float(np.exp(point[-1])), of_nu),
        )
    stages = range(votes.shape[1] - 1) if ranked else range(1)
    return FittedRewards(
        *maximum(
            lambda rewards: _derivatives(votes, stages, rewards), basis, np.zeros(basis.shape[1])
        )
    )


def _basis(features: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the rewards which sum to zero and are linear in features."""
    centred, scale = features - features.mean(0), np.abs(features).max(0)
    sizes = np.linalg.norm(centred, axis=0)
    varies = sizes > 1e-12 * scale
    left, sizes, _ = np.linalg.svd(centred[:, varies] / sizes[varies], full_matrices=False)
    return left[:, sizes > 1e-9]


def _derivatives(votes: np.ndarray, stages: range, rewards: np.ndarray) -> Derivatives:
    items, there = len(rewards), votes >= 0
    value, information = 0.0, np.zeros((items, items))
    scores = np.zeros(votes.shape)
    pairs = (votes[:, :, None], votes[:, None, :])
    for stage in stages:
        # The candidates at this stage; a row that has ended has none.
        open_ = there & (np.arange(votes.shape[1]) >= stage) & there[:, [stage]]
        logits = np.where(open_, rewards[votes], -np.inf)
        top = np.where(open_[:, stage], logits.max(1), 0.0)
        mass = np.exp(logits - top[:, None])
        total = np.where(open_[:, stage], mass.sum(1), 1.0)
        p = mass / total[:, None]
        value += float(np.sum((rewards[votes[:, stage]] - top - np.log(total))[open_[:, stage]]))
        scores -= p
        scores[:, stage] += open_[:, stage]
        np.add.at(information, (votes, votes), p)
        np.add.at(information, pairs, -p[:, :, None] * p[:, None, :])
    slope, spread = np.zeros(items), np.zeros((items, items))
    np.add.at(slope, votes, scores)
    np.add.at(spread, pairs, scores[:, :, None] * scores[:, None, :])
    return Derivatives(value, slope, information, spread)


def _whole_numbers(votes: Any) -> np.ndarray:
    """Votes of any type as integers that hold their products."""
    votes = np.asarray(votes)
    if votes.dtype.kind not in "iuf" or not np.all(np.isfinite(votes) & (votes == np.round(votes))):
        raise VotesError(
            f"votes are numbers of items, and these are not whole numbers, but {votes.dtype}"
        )
    if votes.size and not -1 <= votes.min() <= votes.max() < 2**31:
        raise VotesError(
            "items are numbered from 0 on, with -1 where there is none; there is "
            f"{votes.min() if votes.min() < -1 else votes.max()}"
        )
    return votes.astype(np.int64)


def _check(votes: np.ndarray, what: str) -> None:
    if votes.ndim != 2 or votes.shape[1] < 2 or not len(votes):
        raise VotesError(
            f"expected {what}s of shape ({what}s, choices) of two choices or more, got "
            f"{votes.shape}"
        )
    there = votes >= 0
    ended = np.any(~there[:, :-1] & there[:, 1:], axis=1)
    in_order = np.sort(np.where(there, votes, -1 - np.arange(votes.shape[1])), axis=1)
    twice = np.any(in_order[:, 1:] == in_order[:, :-1], axis=1)
    for bad, how in (
        (there.sum(1) < 2, "chooses from fewer than two items"),
        (ended, "has an item after a -1"),
        (twice, "has an item twice"),
    ):
        if np.any(bad):
            row = int(np.argmax(bad))
            raise VotesError(f"{what} {row} {how}: {votes[row].tolist()}")
