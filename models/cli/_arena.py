"""A leaderboard from votes: rewards and ranks with their uncertainty, and who wins against whom."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ppgen._reports.table import shortened, table
from ppgen.inference import FittedRewards, VotesError, fit_rewards
from ppgen.inference.preferences._determined import refuse_undetermined, undetermined
from ppgen.models.cli._votes_file import Votes
from ppgen.models.parts.errors import CommandError

_COLUMNS = 16  # of the matrix on a terminal


@dataclasses.dataclass(frozen=True)
class Board:
    """Systems in the order of their rewards, the best first.

    Attributes:
        category: of the votes; empty for all votes.
        names: of the systems.
        rewards: estimates, and the ends of their intervals, in nats; the mean of all is zero.
        ranks: the best and the worst rank of each.
        counts: wins, losses and ties of each.
        wins: the probability that the system of the row wins against that of the column.
        ties: the probability that they tie.
        fitted: what they are from.
    """

    category: str
    names: list[str]
    rewards: np.ndarray
    ranks: np.ndarray
    counts: np.ndarray
    wins: np.ndarray
    ties: np.ndarray
    fitted: FittedRewards

    def lines(self, matrix: bool) -> list[str]:
        """For a terminal."""
        decided, ties = (int(self.counts[:, i].sum()) for i in (0, 2))
        nu = f", ν = {self.fitted.nu:.3g}" if ties else ""
        what = f"{self.category}: " if self.category else ""
        rows = [
            [
                str(i + 1),
                f"{best}–{worst}" if best < worst else str(best),
                *(f"{x:+.3f}" for x in reward),
                *map(str, counts),
                name,
            ]
            for i, (name, reward, (best, worst), counts) in enumerate(
                zip(self.names, self.rewards, self.ranks, self.counts, strict=True)
            )
        ]
        header = ["", "ranks", "reward", "low", "high", "wins", "losses", "ties", "system"]
        lines = [f"{what}{decided + ties // 2} votes, {ties // 2} of them ties{nu}", ""]
        lines += table(header, rows, what="systems", right=range(8), whole=True)
        return [*lines, *self._matrix()] if matrix else lines

    def _matrix(self) -> list[str]:
        shown = min(len(self.names), _COLUMNS)
        lines = ["", "percentage of votes that the row wins against the column", ""]
        width = min(max(map(len, self.names)), 24)
        lines.append(" " * (width + 4) + "".join(f"{i + 1:>4}" for i in range(shown)))
        for i, name in enumerate(self.names):
            cells = ("" if i == j else f"{100 * self.wins[i, j]:.0f}" for j in range(shown))
            line = f"{i + 1:>3} {shortened(name, width):<{width}}"
            lines.append((line + "".join(f"{cell:>4}" for cell in cells)).rstrip())
        if shown < len(self.names):
            lines.append(f"the first {shown} columns; all are in --json and --out")
        return lines

    def record(self) -> dict[str, Any]:
        """For programs."""
        names = ("wins", "losses", "ties")
        systems = [
            {"name": name, "rank": i + 1, "ranks": ranks.tolist()}
            | dict(zip(("reward", "low", "high"), rewards.tolist(), strict=True))
            | dict(zip(names, counts.tolist(), strict=True))
            for i, (name, rewards, ranks, counts) in enumerate(
                zip(self.names, self.rewards, self.ranks, self.counts, strict=True)
            )
        ]
        error = self.fitted.log_nu_error
        return {
            "category": self.category or None,
            "systems": systems,
            "win": self.wins.tolist(),
            "tie": self.ties.tolist(),
            "nu": self.fitted.nu,
            "log_nu_error": error if math.isfinite(error) else None,
            "log_likelihood": self.fitted.log_likelihood,
        }


def leaderboard(votes: Votes, *, category: str = "", level: float, robust: bool = False) -> Board:
    """Fits rewards to votes.

    Args:
        votes: all votes, or those of a category.
        category: its name.
        level: the coverage of the intervals, and of all ranks at once.
        robust: whether errors are by the sandwich.

    Raises:
        CommandError: the votes do not determine the rewards; it names the systems.
    """
    try:
        number = len(votes.names)
        refuse_undetermined(undetermined(votes.won, votes.equal, number), votes.names.__getitem__)
        fitted = fit_rewards(votes.won, ties=votes.equal)
    except VotesError as error:
        raise CommandError(error.message) from error
    # Systems of one reward stay in the order of the alphabet.
    order = np.argsort(-fitted.rewards, kind="stable")
    centred = np.eye(number) - 1 / number
    intervals = [fitted.interval(row, level=level, robust=robust) for row in centred]
    columns = (votes.won[:, 0], votes.won[:, 1], votes.equal.reshape(-1))
    counts = np.stack([np.bincount(column, minlength=number) for column in columns], axis=1)
    wins, ties = fitted.probabilities()
    return Board(
        category,
        [votes.names[i] for i in order],
        np.array(intervals)[order],
        fitted.ranks(level=level, robust=robust)[order],
        counts[order],
        wins[np.ix_(order, order)],
        ties[np.ix_(order, order)],
        fitted,
    )


def arena(
    votes: Votes, path: Path, *, level: float, robust: bool, as_json: bool, out: Path | None
) -> None:
    """Prints leaderboards of all votes and of each category, and draws that of all votes.

    A category whose votes do not determine a leaderboard is said to be one.

    Raises:
        CommandError: all votes together do not.
    """
    whole = leaderboard(votes, level=level, robust=robust)
    boards: list[Board | tuple[str, str]] = [whole]
    for category in votes.categories():
        try:
            part = votes.of(category)
            boards.append(leaderboard(part, category=category, level=level, robust=robust))
        except CommandError as error:
            boards.append((category, error.message))
    if out is not None:
        from ppgen.models.cli._arena_picture import draw_board

        draw_board(out, whole, level=level)
    if as_json:
        records = [
            board.record()
            if isinstance(board, Board)
            else dict(zip(("category", "error"), board, strict=True))
            for board in boards
        ]
        content = {"votes": str(path), "level": level, "robust": robust, "leaderboards": records}
        print(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False))
        return
    for board in boards:
        if isinstance(board, Board):
            print("\n".join(board.lines(matrix=board is whole)) + "\n")
        else:
            print(f"{board[0]}: {board[1]}\n")
    print(
        "rewards in nats, of one system less the mean of all; intervals of "
        f"{100 * level:g} % each, ranks for all at once"
    )
    if out is not None:
        print(f"wrote {out}")
