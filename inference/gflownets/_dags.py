"""Directed acyclic graphs in which objects are made step by step, from one source."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Int

State = Any
"""A pytree of arrays of fixed shapes."""


class AbstractDag(eqx.Module):
    """A finite directed acyclic graph with one source, whose terminal states are objects.

    An object is made by a walk from the source: in each state one of `actions` actions is taken,
    until a state is terminal. Methods are of *one* state, and run under `jax.vmap` and in
    `jax.lax.scan`. What `step` and `undo` give for an action that is not allowed does not matter,
    nor does what a terminal state allows. Different actions of a state may lead to the same state;
    every edge of the graph has its own backward action.
    """

    @property
    @abc.abstractmethod
    def actions(self) -> int:
        """The number of actions, whether or not a state allows them."""

    @property
    @abc.abstractmethod
    def backward_actions(self) -> int:
        """The number of backward actions, whether or not a state has them."""

    @property
    @abc.abstractmethod
    def longest(self) -> int:
        """An upper bound of the lengths of walks."""

    @abc.abstractmethod
    def source(self) -> State:
        """The state where every walk begins."""

    @abc.abstractmethod
    def is_terminal(self, state: State) -> Bool[Array, ""]:
        """Whether a state is an object, in which a walk ends. No action leads out of it."""

    @abc.abstractmethod
    def allowed(self, state: State) -> Bool[Array, " actions"]:
        """The actions that a state allows: at least one, unless it is terminal."""

    @abc.abstractmethod
    def step(self, state: State, action: Int[Array, ""]) -> State:
        """The state that an action leads to."""

    @abc.abstractmethod
    def parents(self, state: State) -> Bool[Array, " backward_actions"]:
        """The backward actions of a state, one for each edge that leads to it."""

    @abc.abstractmethod
    def undo(self, state: State, action: Int[Array, ""]) -> Int[Array, ""]:
        """The backward action that leads from `step(state, action)` back to `state`."""


class AbstractListedDag(AbstractDag):
    """A graph whose states can be listed, for exact laws: see `terminal_law`."""

    @abc.abstractmethod
    def states(self) -> State:
        """All states that can be reached from the source, each once: with a leading axis."""

    @abc.abstractmethod
    def index(self, state: State) -> Int[Array, ""]:
        """The place of a state among `states()`."""
