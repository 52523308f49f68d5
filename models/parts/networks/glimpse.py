"""The spatial transformer for a box without rotation: read a part of an image, or paint one.

A place is `(zoom, across, down)`: a point p of the canvas, in [−1, 1]², is the point
`zoom · p + (across, down)` of the glimpse, in [−1, 1]² too. So the box is `1 / zoom` times the size
of the canvas, around `−(across, down) / zoom`. Rows and columns transform independently, so that a
bilinear interpolation is two products with matrices of hat functions, which run and differentiate
as matrix products do, without gathers.

References:
    Jaderberg, Simonyan, Zisserman, Kavukcuoglu. Spatial transformer networks. NeurIPS 2015.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen import assume_continuous


def attend(
    image: Float[Array, "canvas canvas"], place: Float[Array, "3"], side: int
) -> Float[Array, "{side} {side}"]:
    """The content of a box of the image, as a glimpse of `side` pixels square.

    Args:
        image: The canvas. Beyond its edges it is zero.
        place: `(zoom, across, down)`, the zoom positive.
        side: Pixels of the glimpse.

    Returns:
        The bilinear interpolation of the image at the pixels of the glimpse.
    """
    # A box of no zoom has no glimpse. A network that proposes boxes stays far from it.
    zoom, shift = assume_continuous(place[0]), place[1:]
    grid = _centres(side)
    across, down = (_hats((grid - d) / zoom, image.shape[0]) for d in (shift[0], shift[1]))
    return down @ image @ across.T


def paint(
    glimpse: Float[Array, "side side"], place: Float[Array, "3"], canvas: int
) -> Float[Array, "{canvas} {canvas}"]:
    """The inverse: a glimpse in its box, on an empty canvas.

    Args:
        glimpse: What to paint. Beyond its edges it is zero.
        place: As for `attend`.
        canvas: Pixels of the canvas, in height and width.

    Returns:
        The bilinear interpolation of the glimpse at the pixels of the canvas.
    """
    zoom, shift = place[0], place[1:]
    grid = _centres(canvas)
    across, down = (_hats(zoom * grid + d, glimpse.shape[0]) for d in (shift[0], shift[1]))
    return down @ glimpse @ across.T


def _centres(pixels: int) -> Float[Array, " {pixels}"]:
    """Of the pixels of a line that covers [−1, 1]."""
    return (2 * jnp.arange(pixels) + 1) / pixels - 1


def _hats(points: Float[Array, " points"], pixels: int) -> Float[Array, "points {pixels}"]:
    """The weight of each pixel of a line that covers [−1, 1] at some points: a row sums to 1."""
    at = (points + 1) * pixels / 2 - 0.5
    return jnp.maximum(0.0, 1.0 - jnp.abs(at[:, None] - jnp.arange(pixels)))
