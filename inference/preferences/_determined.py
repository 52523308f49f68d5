"""Whether votes determine rewards, by their graph of who won against whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ppgen.errors import PpgenError


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


def undetermined(
    votes: np.ndarray, ties: np.ndarray, items: int, *, ranked: bool = False
) -> tuple[list[int], str] | None:
    """What is wrong with votes of which the likelihood has no maximum, or more than one.

    Without ties the maximum exists, and is unique, where one can go from any item to any other by
    steps from one that won to one that it won against. With ties a step goes both ways between
    items of a tie, and there must be a walk from an item to itself with more wins than ties:
    otherwise all differences and ν grow without end together, and no vote becomes less likely.

    Args:
        votes: Rows of items, the chosen one first; −1 where there is none.
        ties: Pairs of items.
        items: How many there are.
        ranked: Whether rows are in order.

    Returns:
        Items, and what is said of them, or of all votes where it names none. None if all is well.
    """
    if not len(votes):
        return [], "all votes are ties"
    beats = []
    for stage in range(votes.shape[1] - 1) if ranked else range(1):
        for k in range(stage + 1, votes.shape[1]):
            there = votes[:, k] >= 0
            beats.append(np.unique(votes[there, stage] * items + votes[there, k]))
    won_rows, won_columns = np.divmod(np.unique(np.concatenate(beats)), items)
    equal = np.unique(np.concatenate([ties, ties[:, ::-1]]), axis=0)
    rows = np.concatenate([won_rows, equal[:, 0]])
    columns = np.concatenate([won_columns, equal[:, 1]])
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(items, items))
    count, label = connected_components(graph, connection="strong")
    if count > 1:
        return _component(rows, columns, count, label)
    lengths = np.concatenate([-np.ones(len(won_rows)), np.ones(len(equal))])
    if len(ties) and not _has_negative_cycle(rows, columns, lengths, items):
        return [], "no circle of votes has more wins than ties (A beats B, and B beats A, is one)"
    return None


def refuse_undetermined(
    found: tuple[list[int], str] | None, name: Callable[[int], str] = str
) -> None:
    """Raise an error for what `undetermined` has found.

    Args:
        found: What it returned.
        name: The name of an item.

    Raises:
        VotesError: There is something.
    """
    if found is None:
        return
    inside, how = found
    what = f"items {_listed(map(name, inside))} {how}" if inside else how
    advice = "more votes, without these items, or" if inside else "more votes, or"
    raise VotesError(
        f"the votes do not determine the rewards: {what}, so that the likelihood has no maximum",
        instead=f"{advice} features that items have in common",
    )


def _listed(names: Iterable[str]) -> str:
    first, rest = (names := list(names))[:10], names[10:]
    return ", ".join(first) + (", ..." if rest else "")


def _component(
    rows: np.ndarray, columns: np.ndarray, count: int, label: np.ndarray
) -> tuple[list[int], str]:
    """A component that never loses to the others, or never wins against them."""
    smallest = min(range(count), key=lambda c: int(np.sum(label == c)))
    inside = np.flatnonzero(label == smallest)
    won = np.any((label[rows] == smallest) & (label[columns] != smallest))
    lost = np.any((label[rows] != smallest) & (label[columns] == smallest))
    how = {
        (False, False): "were never compared with the others",
        (True, False): "never lost to any of the others",
        (False, True): "never won against any of the others",
    }.get((bool(won), bool(lost)), "are between groups of which one always wins")
    return inside.tolist(), how


def _has_negative_cycle(
    rows: np.ndarray, columns: np.ndarray, lengths: np.ndarray, items: int
) -> bool:
    """Bellman and Ford, from everywhere at once: lengths are whole, so that it is exact."""
    distance = np.zeros(items)
    for _ in range(items):
        shorter = distance.copy()
        np.minimum.at(shorter, columns, distance[rows] + lengths)
        if np.array_equal(shorter, distance):
            return False
        distance = shorter
    return True
