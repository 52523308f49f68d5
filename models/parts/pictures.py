"""Pictures of a run, written as PNG without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "Greys"
"""Colour map of images: ink is dark on white paper."""


def _grid(images: Float[np.ndarray, "n height width"], columns: int) -> Float[np.ndarray, "h w"]:
    """Puts images side by side, one blank pixel between them."""
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _show(axes: Axes, sheet: Float[np.ndarray, "h w"], top: int) -> None:
    axes.imshow(sheet, cmap=INK, vmin=0, vmax=top, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _padded() -> ConstrainedLayoutEngine:
    """A layout that leaves some paper at the edges, in inches."""
    return ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def draw_samples(
    path: str | Path, images: Float[np.ndarray, "n height width"], *, top: int, title: str
) -> None:
    """Writes a sheet of images, as square as it can be.

    Args:
        path: The PNG file.
        images: Images of ink from 0 to `top`.
        top: The value drawn as black.
        title: What the images are.
    """
    columns = int(np.ceil(np.sqrt(len(images))))
    sheet = _grid(images, columns)
    size = 6.0
    figure = Figure(figsize=(size, size * sheet.shape[0] / sheet.shape[1] + 0.5), layout=_padded())
    axes = figure.add_subplot()
    _show(axes, sheet, top)
    axes.set_title(title)
    _save(figure, path)


def draw_reconstructions(
    path: str | Path,
    pairs: Sequence[tuple[str, Float[np.ndarray, "n height width"]]],
    *,
    top: int,
    title: str,
) -> None:
    """Writes labelled rows of images, one below the other, that correspond column by column.

    Args:
        path: The PNG file.
        pairs: A label and a row of images, for each row.
        top: The value drawn as black.
        title: What the images are.
    """
    columns = len(pairs[0][1])
    figure = Figure(figsize=(0.62 * columns + 1.4, 0.78 * len(pairs) + 0.5), layout=_padded())
    rows = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
    for axes, (label, images) in zip(rows, pairs, strict=True):
        _show(axes, _grid(images, columns), top)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    _save(figure, path)


def draw_images(
    path: str | Path, images: Any, title: str, *, shape: Sequence[int], top: int, bottom: int = 0
) -> None:
    """Writes images of any layout: by label as rows, one below the other; others as a sheet.

    Args:
        path: The PNG file.
        images: Arrays with a leading axis.
        title: What they are.
        shape: Height and width of an image.
        top: The value drawn as black; what is beyond it is clipped.
        bottom: The value drawn as white; so is what is below it.
    """

    def as_images(x: Any) -> Float[np.ndarray, "n height width"]:
        return (np.asarray(x, np.float32).clip(bottom, top) - bottom).reshape(-1, *shape)

    if isinstance(images, Mapping):
        rows = [(label, as_images(x)) for label, x in images.items()]
        draw_reconstructions(path, rows, top=top - bottom, title=title)
    else:
        draw_samples(path, as_images(images), top=top - bottom, title=title)


def draw_history(
    path: str | Path,
    values: Float[np.ndarray, " steps"],
    references: Sequence[tuple[str, float]] = (),
    *,
    label: str,
    unit: str = "nats per image",
    window: int = 25,
) -> None:
    """Writes the curve of an objective: every step, a running mean, and reference levels.

    Args:
        path: The PNG file.
        values: The objective at each step.
        references: Labelled levels, drawn as horizontal lines.
        label: Name of the objective.
        unit: Its unit.
        window: Steps in the running mean.
    """
    figure = Figure(figsize=(7, 4.2), layout=_padded())
    axes = figure.add_subplot()
    steps = np.arange(1, len(values) + 1)
    axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    window = min(window, len(values))
    smooth = np.convolve(values, np.ones(window) / window, "valid")
    axes.plot(steps[window - 1 :], smooth, color="tab:blue", label=f"mean of {window} steps")
    colours = ["tab:orange", "tab:green", "tab:grey", "tab:red"]
    for i, (name, level) in enumerate(references):
        colour = colours[i % len(colours)]
        axes.axhline(
            level, color=colour, linestyle="--", linewidth=1.2, label=f"{name}: {level:.1f}"
        )
    # The first steps are far below everything else and would flatten the rest of the curve.
    finite = values[np.isfinite(values)]
    ends = np.quantile(finite, [0.03, 1.0]) if len(finite) else []
    shown = [x for x in [*ends, *(level for _, level in references)] if np.isfinite(x)]
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) + 1e-3
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_xlim(0, len(values))
    axes.set_xlabel("step")
    axes.set_ylabel(f"{label} ({unit})")
    axes.legend(loc="center right", framealpha=1.0, edgecolor="none")
    axes.grid(alpha=0.25)
    _save(figure, path)


def draw_bands(
    path: str | Path,
    x: Float[np.ndarray, " n"],
    panels: Sequence[
        tuple[str, Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
    ],
    *,
    title: str,
    columns: int = 4,
) -> None:
    """Writes curves of a reference and of a random function, with a band of two deviations.

    Args:
        path: The PNG file.
        x: Where the curves are given.
        panels: A label, the reference, the mean and the standard deviation, for each panel.
        title: What the curves are.
        columns: Panels in a row.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.2 * rows + 0.8), layout=_padded())
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes, (label, reference, mean, deviation) in zip(grid.ravel(), panels, strict=False):
        axes.fill_between(
            x,
            mean - 2 * deviation,
            mean + 2 * deviation,
            color="tab:blue",
            alpha=0.25,
            linewidth=0,
            label="± 2 standard deviations",
        )
        axes.plot(x, mean, color="tab:blue", label="mean")
        axes.plot(x, reference, color="black", linestyle="--", linewidth=1.0, label="reference")
        axes.set_title(label, fontsize="small")
        axes.grid(alpha=0.25)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def draw_agreement(
    path: str | Path,
    truth: Float[np.ndarray, " n"],
    found: Float[np.ndarray, " n"],
    *,
    labels: tuple[str, str],
    title: str,
) -> None:
    """Writes a point for each pair of numbers, which are on the diagonal if they agree.

    Args:
        path: The PNG file.
        truth: What they should be.
        found: What they are.
        labels: Of both.
        title: What the numbers are.
    """
    figure = Figure(figsize=(5, 5), layout=_padded())
    axes = figure.add_subplot()
    ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
    axes.plot(ends, ends, color="black", linestyle="--", linewidth=1.0)
    axes.scatter(truth, found, s=12, color="tab:blue", alpha=0.6, linewidths=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title)
    axes.grid(alpha=0.25)
    _save(figure, path)


def draw_strings(path: str | Path, strings: Sequence[str], *, title: str) -> None:
    """Writes strings as a table, as square as it can be.

    Args:
        path: The PNG file.
        strings: What to write.
        title: What they are.
    """
    columns = int(np.ceil(np.sqrt(len(strings))))
    rows = -(-len(strings) // columns)
    width = 0.09 * max(map(len, strings)) + 0.2
    figure = Figure(figsize=(max(4.0, width * columns), 0.28 * rows + 1.0), layout=_padded())
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    for i, string in enumerate(strings):
        place = (i % columns + 0.5, i // columns + 0.5)
        axes.text(*place, string, ha="center", va="center", family="monospace", fontsize="small")
    axes.set_title(title)
    _save(figure, path)


def draw_curves(
    path: str | Path,
    x: Float[np.ndarray, " n"],
    curves: Float[np.ndarray, "curves n"],
    *,
    title: str,
) -> None:
    """Writes curves on top of each other.

    Args:
        path: The PNG file.
        x: Where they are given.
        curves: Their values.
        title: What they are.
    """
    figure = Figure(figsize=(6, 4), layout=_padded())
    axes = figure.add_subplot()
    axes.plot(x, curves.T, color="tab:blue", alpha=0.4, linewidth=0.8)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    _save(figure, path)


def draw_points(
    path: str | Path,
    points: Float[np.ndarray, "n d"],
    *,
    columns: tuple[int, int],
    labels: tuple[str, str],
    title: str,
) -> None:
    """Writes a point for each row.

    Args:
        path: The file.
        points: The rows.
        columns: Which of their entries to draw.
        labels: Of these.
        title: What they are.
    """
    figure = Figure(figsize=(5, 5), layout=_padded())
    axes = figure.add_subplot()
    x, y = (points[:, column] for column in columns)
    axes.scatter(x, y, s=12, color="tab:blue", alpha=0.6, linewidths=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title)
    axes.grid(alpha=0.25)
    _save(figure, path)
