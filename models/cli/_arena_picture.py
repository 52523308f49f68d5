"""The picture of a leaderboard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppgen._reports.table import shortened
from ppgen.models.cli._arena import Board

_MOST_NUMBERS = 25  # in a row of the matrix; beyond, colours have to do


def draw_board(path: Path, board: Board, *, level: float) -> None:
    """Writes rewards with their intervals and ranks, beside the probabilities of wins.

    Args:
        path: The file.
        board: What to draw.
        level: The coverage of the intervals, for the title.
    """
    number = len(board.names)
    names = [shortened(name, 28) for name in board.names]
    places = np.arange(number)
    side = max(3.0, 0.34 * number + 1.4)
    figure = Figure(figsize=(side + 7.0, side), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5.0, side))
    estimate, low, high = board.rewards.T
    left.errorbar(
        estimate, places, xerr=[estimate - low, high - estimate], fmt="o", color="tab:blue"
    )
    left.axvline(0.0, color="black", linewidth=0.6)
    left.set_yticks(places, names, parse_math=False)
    left.set_ylim(number - 0.5, -0.5)
    left.set_xlabel("reward less the mean (nats)")
    left.set_title(f"{100 * level:g} % intervals; ranks, for all at once", fontsize="medium")
    left.grid(alpha=0.25, axis="x")
    margin = left.secondary_yaxis("right")
    margin.set_yticks(
        places, [f"{b}–{w}" if b < w else str(b) for b, w in board.ranks], fontsize="small"
    )
    margin.tick_params(length=0)

    # Half of the ties along, so that one half is the colour of equals.
    score = np.where(np.eye(number, dtype=bool), np.nan, board.wins + board.ties / 2)
    right.imshow(score, cmap="RdBu", vmin=0.0, vmax=1.0)
    right.set_xticks(places, [str(i + 1) for i in places])
    right.set_yticks(places, [str(i + 1) for i in places])
    right.set_xlabel("against")
    right.set_title("probability (%) that the row wins; blue: is better", fontsize="medium")
    for i, j in np.ndindex(score.shape):
        if i != j and number <= _MOST_NUMBERS:
            right.text(
                *(j, i, f"{100 * board.wins[i, j]:.0f}"),
                ha="center",
                va="center",
                color="white" if abs(score[i, j] - 0.5) > 0.35 else "black",
                fontsize=min(9.0, 160.0 / number),
            )
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)
