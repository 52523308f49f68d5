"""Hypergrids: points that are reached by steps along the axes."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ppgen.inference.gflownets._dags import AbstractListedDag
from ppgen.inference.gflownets._errors import DagError


class Point(NamedTuple):
    """A point of a `Hypergrid`.

    Attributes:
        position: its coordinates, from 0.
        ended: whether the walk ended here.
    """

    position: Int[Array, " d"]
    ended: Bool[Array, ""]


class Hypergrid(AbstractListedDag):
    """Points of a grid, reached from the corner at zero by steps of one, ended anywhere. Final.

    Action i < `dimensions` increases coordinate i by one; the last action ends the walk. States
    are `Point`s. The first half of `states()` is of points where the walk goes on, the second half
    of the same points as objects, the last coordinate fastest.

    Attributes:
        side: values of a coordinate.
        dimensions: coordinates.

    References:
        Bengio, Jain, Korablyov, Precup, Bengio. Flow network based generative models for
        non-iterative diverse candidate generation. NeurIPS 2021.

    Example:
        >>> from ppgen.inference import Hypergrid
        >>> dag = Hypergrid(8, 2)
        >>> dag.actions, dag.longest, len(dag.states().ended)
        (3, 15, 128)
    """

    side: int = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Refuse grids without points."""
        if self.side < 1 or self.dimensions < 1:
            raise DagError(
                f"a grid of side {self.side} in {self.dimensions} dimensions has no points",
                instead="at least 1 for both",
            )

    @property
    def actions(self) -> int:
        """One along each axis, and the end."""
        return self.dimensions + 1

    @property
    def backward_actions(self) -> int:
        """The same, undone."""
        return self.dimensions + 1

    @property
    def longest(self) -> int:
        """To the corner opposite to the source, and the end."""
        return self.dimensions * (self.side - 1) + 1

    def source(self) -> Point:
        """The corner at zero."""
        return Point(jnp.zeros(self.dimensions, int), jnp.zeros((), bool))

    def is_terminal(self, state: Point) -> Bool[Array, ""]:
        """Whether the walk ended."""
        return state.ended

    def allowed(self, state: Point) -> Bool[Array, " actions"]:
        """Steps within the grid, and the end."""
        return jnp.append(state.position < self.side - 1, True) & ~state.ended

    def step(self, state: Point, action: Int[Array, ""]) -> Point:
        """One step along an axis, or the end."""
        ahead = (jnp.arange(self.dimensions) == action).astype(state.position.dtype)
        return Point(state.position + ahead, state.ended | (action == self.dimensions))

    def parents(self, state: Point) -> Bool[Array, " backward_actions"]:
        """The end where the walk ended, else a step along each axis that is not at zero."""
        return jnp.append((state.position > 0) & ~state.ended, state.ended)

    def undo(self, state: Point, action: Int[Array, ""]) -> Int[Array, ""]:
        """The same action, undone."""
        return action

    def states(self) -> Point:
        """All points, and all of them again as objects."""
        flat = jnp.arange(self.side**self.dimensions)
        shape = (self.side,) * self.dimensions
        points = jnp.stack(jnp.unravel_index(flat, shape), -1).astype(int)
        ended = jnp.repeat(jnp.array([False, True]), len(flat))
        return Point(jnp.concatenate([points, points]), ended)

    def index(self, state: Point) -> Int[Array, ""]:
        """The place of a point."""
        powers = jnp.array([self.side**i for i in reversed(range(self.dimensions))])
        return jnp.sum(state.position * powers) + state.ended * self.side**self.dimensions

    def features(self, state: Point) -> Float[Array, " features"]:
        """A point for networks: one number in `side` for each coordinate."""
        return jax.nn.one_hot(state.position, self.side).ravel()
