"""Graphs that are given as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ppgen.inference.gflownets._dags import AbstractListedDag
from ppgen.inference.gflownets._errors import DagError


class TableDag(AbstractListedDag):
    """A graph of numbered states, given by where each action of each state leads. Final.

    State 0 is the source. States without children are terminal. A state is an integer.

    Attributes:
        children: the state that each action of each state leads to; -1 if it is not allowed.
        edges: the backward action that undoes it.
        degrees: the number of edges that lead to each state.
        longest: the length of the longest walk.

    Example:
        >>> from ppgen.inference import TableDag
        >>> diamond = TableDag([[1, 2], [3, -1], [3, -1], [-1, -1]])
        >>> diamond.longest, diamond.backward_actions
        (2, 2)
    """

    children: Int[Array, "states actions"]
    edges: Int[Array, "states actions"]
    degrees: Int[Array, " states"]
    _longest: int = eqx.field(static=True)
    _backward: int = eqx.field(static=True)

    def __init__(self, children: Sequence[Sequence[int]] | Any) -> None:
        """Number the edges, and measure the longest walk.

        Args:
            children: as the attribute.

        Raises:
            DagError: there is a cycle, a state that the source does not lead to, or no such state.
        """
        table = np.asarray(children, int)
        states = len(table)
        if table.ndim != 2 or not table.size or table.max(initial=-1) >= states:
            raise DagError(
                f"a table of shape {table.shape} with entries up to {table.max(initial=-1)} has "
                "no row for each state that it leads to",
                instead="a row for each state, with -1 for actions that are not allowed",
            )
        edges, degrees = np.zeros_like(table), np.zeros(states, int)
        depth = np.full(states, -1)
        depth[0] = 0
        for _ in range(states):
            before = depth.copy()
            for s, a in zip(*np.nonzero(table >= 0), strict=True):
                if depth[s] >= 0:
                    depth[table[s, a]] = max(depth[table[s, a]], depth[s] + 1)
            if (depth == before).all():
                break
        else:
            raise DagError("the table has a cycle", instead="a graph without one")
        if (depth < 0).any():
            raise DagError(
                f"state {int(np.argmax(depth < 0))} cannot be reached from state 0",
                instead="a table of the states that can be reached",
            )
        for s, a in zip(*np.nonzero(table >= 0), strict=True):
            edges[s, a] = degrees[table[s, a]]
            degrees[table[s, a]] += 1
        self.children, self.edges = jnp.asarray(table), jnp.asarray(edges)
        self.degrees = jnp.asarray(degrees)
        self._longest, self._backward = int(depth.max()), max(int(degrees.max()), 1)

    @property
    def actions(self) -> int:
        """Columns of the table."""
        return self.children.shape[1]

    @property
    def backward_actions(self) -> int:
        """The largest number of edges that lead to a state, at least 1."""
        return self._backward

    @property
    def longest(self) -> int:
        """The length of the longest walk."""
        return self._longest

    def source(self) -> Int[Array, ""]:
        """State 0."""
        return jnp.zeros((), self.children.dtype)

    def is_terminal(self, state: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether a state has no children."""
        return ~jnp.any(self.allowed(state))

    def allowed(self, state: Int[Array, ""]) -> Bool[Array, " actions"]:
        """Where the table has a child."""
        return self.children[state] >= 0

    def step(self, state: Int[Array, ""], action: Int[Array, ""]) -> Int[Array, ""]:
        """The child."""
        return self.children[state, action]

    def parents(self, state: Int[Array, ""]) -> Bool[Array, " backward_actions"]:
        """One for each edge that leads to a state."""
        return jnp.arange(self.backward_actions) < self.degrees[state]

    def undo(self, state: Int[Array, ""], action: Int[Array, ""]) -> Int[Array, ""]:
        """The number of an edge among those that lead to its child."""
        return self.edges[state, action]

    def states(self) -> Int[Array, " states"]:
        """All numbers."""
        return jnp.arange(len(self.children))

    def index(self, state: Int[Array, ""]) -> Int[Array, ""]:
        """The number itself."""
        return state
