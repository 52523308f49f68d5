"""Rewards from votes: the models of Bradley and Terry, Luce, and Plackett."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ppgen.errors import PpgenError

_TOLERANCE, _FLAT = 1e-12, 1e-9


class VotesError(PpgenError, ValueError):
    """Votes that do not determine the rewards. The message says which do not.

    Example:
        The likelihood has no maximum if an item always wins.

        >>> import jax.numpy as jnp
        >>> from ppgen.inference import fit_rewards
        >>> votes = jnp.array([[2, 0], [2, 1], [0, 1], [1, 0]])  # in each row, the winner first
        >>> fit_rewards(votes)
        Traceback (most recent call last):
            ...
        ppgen.inference.VotesError: the votes do not determine the rewards: ...
          Write instead: more votes, without these items, or features that items have in common
          See: ppgen.inference.VotesError

        Add a vote:

        >>> best = fit_rewards(jnp.concatenate([votes, jnp.array([[0, 2]])])).rewards.argmax()
        >>> int(best)
        2
    """

    # Where its users see it: what messages and pickles say.
    __module__ = "ppgen.inference"


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
    """

    rewards: Float[np.ndarray, " items"]
    covariance: Float[np.ndarray, "items items"]
    robust: Float[np.ndarray, "items items"]
    log_likelihood: float

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
    ranked: bool = False,
    features: Float[Array | np.ndarray, "items features"] | None = None,
) -> FittedRewards:
    """Rewards of items by maximum likelihood from votes, with confidence intervals.

    The model is that of `ppgen.curate`: of the items of a vote, one is chosen with probability
    softmax(r). In large samples the intervals are *exact* for independent votes; in small ones
    *heuristic*. The maximum is found by Newton's method in double precision.

    Args:
        votes: Item numbers, integers of any type: one row for each vote, with the chosen item
            first; shorter rows are filled with −1 at the end. For pairs it is the model of Bradley
            and Terry.
        ranked: Whether each row is in order, best first (Plackett and Luce).
        features: Features of each item, for rewards that are linear in them. By default every item
            has its own reward, and the items are those up to the largest number in `votes`.

    Returns:
        The rewards, which sum to zero, and the covariances of their errors.

    Raises:
        VotesError: The votes do not determine the rewards: some items never win against the others
            (their differences are infinite), or were never compared; or a row is invalid.

    References:
        Ford. Solution of a ranking problem from binary comparisons. American Mathematical Monthly
        64, 1957. Hunter. MM algorithms for generalized Bradley-Terry models. Annals of Statistics
        32, 2004. White. Maximum likelihood estimation of misspecified models. Econometrica 50,
        1982.

    Examples:
        An item that is chosen 3 times of 4 is better by log 3:

        >>> import numpy as np
        >>> from ppgen.inference import fit_rewards
        >>> fitted = fit_rewards(np.array([[0, 1]] * 30 + [[1, 0]] * 10))
        >>> print("{:.3f} ({:.3f}, {:.3f})".format(*fitted.difference(0, 1)))
        1.099 (0.383, 1.814)
    """
    votes = _whole_numbers(votes)
    _check(votes)
    items = int(votes.max()) + 1 if features is None else len(features)
    if votes.max() >= items:
        raise VotesError(f"item {votes.max()} has no features", instead="a row for every item")
    stages = range(votes.shape[1] - 1) if ranked else range(1)
    if features is None:
        _check_determined(votes, stages, items)
    basis = _basis(np.eye(items) if features is None else np.asarray(features, np.float64))

    weights = np.zeros(basis.shape[1])
    value, slope, information, spread = _derivatives(votes, stages, basis @ weights)
    scale = np.trace(basis.T @ information @ basis)
    done = False
    while not done:
        curvature = basis.T @ information @ basis
        # If the likelihood has no maximum, it becomes flat on the way.
        if not len(weights) or np.linalg.eigvalsh(curvature)[0] <= _FLAT * scale:
            raise VotesError(
                "the votes do not determine the rewards: some combination of features never "
                "differs between items that were compared, or decides all votes",
                instead="fewer features, or more votes",
            )
        step = np.linalg.solve(curvature, basis.T @ slope)
        gain, size = float(step @ (basis.T @ slope)), 1.0
        done = gain < _TOLERANCE * (1 + abs(value))
        new = _derivatives(votes, stages, basis @ (weights + step))
        # Concave, so that half steps always end in an ascent; the last one is below rounding.
        while not done and new[0] < value + 1e-4 * size * gain:
            size /= 2
            new = _derivatives(votes, stages, basis @ (weights + size * step))
        weights, (value, slope, information, spread) = weights + size * step, new
    inverse = basis @ np.linalg.inv(basis.T @ information @ basis) @ basis.T
    return FittedRewards(basis @ weights, inverse, inverse @ spread @ inverse, value)


def _basis(features: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the rewards which sum to zero and are linear in features."""
    centred, scale = features - features.mean(0), np.abs(features).max(0)
    sizes = np.linalg.norm(centred, axis=0)
    varies = sizes > 1e-12 * scale
    left, sizes, _ = np.linalg.svd(centred[:, varies] / sizes[varies], full_matrices=False)
    return left[:, sizes > 1e-9]


def _derivatives(
    votes: np.ndarray, stages: range, rewards: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Log likelihood, its gradient, the information and the sum of squared scores."""
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
    return value, slope, information, spread


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


def _check(votes: np.ndarray) -> None:
    if votes.ndim != 2 or votes.shape[1] < 2 or not len(votes):
        raise VotesError(
            f"expected votes of shape (votes, choices) of two choices or more, got {votes.shape}"
        )
    there = votes >= 0
    ended = np.any(~there[:, :-1] & there[:, 1:], axis=1)
    in_order = np.sort(np.where(there, votes, -1 - np.arange(votes.shape[1])), axis=1)
    twice = np.any(in_order[:, 1:] == in_order[:, :-1], axis=1)
    for bad, what in (
        (there.sum(1) < 2, "chooses from fewer than two items"),
        (ended, "has an item after a -1"),
        (twice, "has an item twice"),
    ):
        if np.any(bad):
            row = int(np.argmax(bad))
            raise VotesError(f"vote {row} {what}: {votes[row].tolist()}")


def _check_determined(votes: np.ndarray, stages: range, items: int) -> None:
    """Refuse votes after which some differences of rewards are infinite or unknown.

    The maximum exists, and is unique, where one can go from any item to any other by steps from one
    that won to one that it won against.
    """
    beats = []
    for stage in stages:
        for k in range(stage + 1, votes.shape[1]):
            there = votes[:, k] >= 0
            beats.append(np.unique(votes[there, stage] * items + votes[there, k]))
    rows, columns = np.divmod(np.unique(np.concatenate(beats)), items)
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(items, items))
    count, label = connected_components(graph, connection="strong")
    if count == 1:
        return
    # A component that never loses to the others, or never wins against them.
    smallest = min(range(count), key=lambda c: int(np.sum(label == c)))
    inside = np.flatnonzero(label == smallest)
    won = np.any((label[rows] == smallest) & (label[columns] != smallest))
    lost = np.any((label[rows] != smallest) & (label[columns] == smallest))
    how = {
        (False, False): "were never compared with the others",
        (True, False): "never lost to any of the others",
        (False, True): "never won against any of the others",
    }.get((bool(won), bool(lost)), "are between groups of which one always wins")
    shown = ", ".join(map(str, inside[:10])) + (", ..." if len(inside) > 10 else "")
    raise VotesError(
        f"the votes do not determine the rewards: items {shown} {how}, so that the likelihood has "
        "no maximum",
        instead="more votes, without these items, or features that items have in common",
    )
