"""Strings, token by token."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ppgen.inference.gflownets._dags import AbstractListedDag
from ppgen.inference.gflownets._errors import DagError


class Text(NamedTuple):
    """A string, or the beginning of one.

    Attributes:
        tokens: the tokens, and -1 where there is none yet.
        size: how many there are.
        ended: whether it is complete.
    """

    tokens: Int[Array, " length"]
    size: Int[Array, ""]
    ended: Bool[Array, ""]


class Strings(AbstractListedDag):
    """Strings of a fixed length, or of any up to it, from left to right: a tree. Final.

    Action v < `values` appends token v. With `ends`, one more action ends a string early, which
    may be empty. A state is a `Text`. Sequences of bits are strings of two values, or of 2^k values
    for blocks of k bits.

    Attributes:
        length: the most tokens.
        values: different tokens.
        ends: whether a string may end early.

    Example:
        >>> import jax, ppgen
        >>> from ppgen.inference import Policy, Strings, walk
        >>> dag = Strings(3, 2)
        >>> len(dag.states().size)  # 1 + 2 + 4 beginnings, 8 strings
        15
        >>> int(ppgen.seed(walk(dag, Policy()))(jax.random.key(0)).end.size)
        3
    """

    length: int = eqx.field(static=True)
    values: int = eqx.field(static=True)
    ends: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        """Refuse strings that there are not."""
        if self.length < 0 or self.values < 1:
            raise DagError(
                f"there are no strings of length {self.length} of {self.values} tokens",
                instead="a length of at least 0, of at least one token",
            )

    @property
    def actions(self) -> int:
        """One for each token, and the end if strings may end early."""
        return self.values + self.ends

    @property
    def backward_actions(self) -> int:
        """One: the last action is known."""
        return 1

    @property
    def longest(self) -> int:
        """The most tokens."""
        return self.length

    def source(self) -> Text:
        """The empty string, complete if it is the only one."""
        tokens = jnp.full(self.length, -1)
        return Text(tokens, jnp.zeros((), int), jnp.asarray(self.length == 0))

    def is_terminal(self, state: Text) -> Bool[Array, ""]:
        """Whether it is complete."""
        return state.ended

    def allowed(self, state: Text) -> Bool[Array, " actions"]:
        """Everything, unless it is complete."""
        return jnp.broadcast_to(~state.ended, (self.actions,))

    def step(self, state: Text, action: Int[Array, ""]) -> Text:
        """With one token more, or complete."""
        more = action < self.values
        here = (jnp.arange(self.length) == state.size) & more
        tokens = jnp.where(here, action, state.tokens).astype(state.tokens.dtype)
        size = state.size + more
        return Text(tokens, size, state.ended | ~more | (size >= self.length))

    def parents(self, state: Text) -> Bool[Array, " backward_actions"]:
        """One, except for the empty string that may go on."""
        return ((state.size > 0) | (state.ended & (self.length > 0)))[None]

    def undo(self, state: Text, action: Int[Array, ""]) -> Int[Array, ""]:
        """The only one."""
        return jnp.zeros((), int)

    def states(self) -> Text:
        """Beginnings, shorter ones first; then complete strings."""
        if self.length == 0:
            return jax.tree.map(lambda x: x[None], self.source())
        whole = [
            self._of_size(k, True) for k in range(0 if self.ends else self.length, self.length + 1)
        ]
        parts = [self._of_size(k, False) for k in range(self.length)]
        return jax.tree.map(lambda *xs: jnp.concatenate([*xs]), *parts, *whole)

    def index(self, state: Text) -> Int[Array, ""]:
        """The place of a string."""
        # Before the strings of each size, there are all shorter ones.
        before = np.cumsum([0] + [self.values**k for k in range(self.length)])
        number, _ = jax.lax.scan(
            lambda n, x: (jnp.where(x >= 0, n * self.values + x, n).astype(int), None),
            jnp.zeros((), int),
            state.tokens,
        )
        if self.length == 0:
            return number
        open_ones = int(before[-1])
        shift = jnp.asarray(before)[state.size]
        return number + jnp.where(state.ended, open_ones + (shift if self.ends else 0), shift)

    def features(self, state: Text) -> Float[Array, " features"]:
        """A string for networks: one number in `values` for each token, and its size as a share."""
        size = state.size / max(self.length, 1)
        return jnp.append(jax.nn.one_hot(state.tokens, self.values).ravel(), size)

    def _of_size(self, size: int, ended: bool) -> Text:
        number = np.arange(self.values**size)
        powers = [self.values**i for i in reversed(range(size))]
        digits = [number // p % self.values for p in powers]
        blank = [np.full(len(number), -1)] * (self.length - size)
        tokens = np.stack([*digits, *blank], -1)
        return Text(jnp.asarray(tokens), jnp.full(len(number), size), jnp.full(len(number), ended))
