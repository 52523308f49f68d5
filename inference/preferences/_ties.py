"""Davidson's model of votes between two items that may be a tie."""

from __future__ import annotations

import math

import numpy as np

from ppgen.inference.preferences._determined import VotesError
from ppgen.inference.preferences._newton import Derivatives, Maximum, flat, maximum

# What each outcome of a vote between a and b adds to its logit: (r_a − r_b, log ν).
_DESIGN = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 1.0]])
# These two, from (r_a, r_b, log ν).
_PARTS = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])


def davidson(votes: np.ndarray, ties: np.ndarray, basis: np.ndarray) -> Maximum:
    """The maximum of the likelihood over rewards and log ν, which comes last.

    Args:
        votes: Pairs of items, the winner first.
        ties: Pairs of items.
        basis: Orthonormal columns that span the rewards.

    Returns:
        The maximum. It depends on the votes by their counts only, and so not on their order.

    Raises:
        VotesError: The likelihood is flat.
    """
    items, columns = basis.shape
    if not columns:
        raise flat()
    pairs, counts = _counted(votes, ties, items)
    whole = np.zeros((items + 1, columns + 1))
    whole[:-1, :-1], whole[-1, -1] = basis, 1.0
    # As if all items were equal.
    start = np.append(np.zeros(columns), math.log(2 * len(ties) / len(votes)))
    return maximum(lambda point: _derivatives(pairs, counts, point), whole, start, last_steps=1)


def two_of_each(votes: np.ndarray, what: str = "vote") -> np.ndarray:
    """The two items of each row; −1 behind them is left out.

    Raises:
        VotesError: A row has more items.
    """
    more = np.any(votes[:, 2:] >= 0, axis=1)
    if np.any(more):
        row = int(np.argmax(more))
        raise VotesError(
            f"{what} {row} is between more than two items, {votes[row].tolist()}: the model of "
            "ties is one of pairs",
            instead="pairs of items, or `ties=None`",
        )
    return votes[:, :2]


def _counted(votes: np.ndarray, ties: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of items, and how often the first won, the second won, and neither did."""
    both = np.concatenate([votes, ties])
    outcome = np.where(votes[:, 0] < votes[:, 1], 0, 1)
    outcome = np.concatenate([outcome, np.full(len(ties), 2)])
    codes, place = np.unique(both.min(1) * items + both.max(1), return_inverse=True)
    counts = np.zeros((len(codes), 3))
    np.add.at(counts, (place.reshape(-1), outcome), 1.0)
    return np.stack(np.divmod(codes, items), axis=1), counts


def _derivatives(pairs: np.ndarray, counts: np.ndarray, point: np.ndarray) -> Derivatives:
    places = np.column_stack([pairs, np.full(len(pairs), len(point) - 1)])
    logits = point[places] @ (_DESIGN @ _PARTS).T
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    p = np.exp(logs)
    # For each pair and outcome: the score of one vote, in both rewards and log ν.
    away = (_DESIGN - (p @ _DESIGN)[:, None, :]) @ _PARTS
    slope, (information, spread) = np.zeros(len(point)), np.zeros((2, len(point), len(point)))
    np.add.at(slope, places, np.einsum("no,noi->ni", counts, away))
    at = (places[:, :, None], places[:, None, :])
    expected = counts.sum(1, keepdims=True) * p
    np.add.at(information, at, np.einsum("no,noi,noj->nij", expected, away, away))
    np.add.at(spread, at, np.einsum("no,noi,noj->nij", counts, away, away))
    return Derivatives(float(np.sum(counts * logs)), slope, information, spread)
