"""Sums over choices that a cost does not see any more, shared by all costs that follow on them.

In a chain every cost is influenced by all choices before it. Summed for each cost anew, they would
be as many products as there are pairs of choices. So a choice is summed over once, together with
what was left of those before it: the forward messages of a hidden Markov model, for any program
that makes its choices one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from ppgen._analysis.influence import bits
from ppgen._evaluation.values import Value, lift


class ForwardMessages:
    """Products of the weights of choices, summed over all points but those of some choices."""

    def __init__(self, weight_of: Callable[[int], Value]) -> None:
        """Prepare them.

        Args:
            weight_of: the weight of a choice, with its own point axis and no other but those of
                earlier choices; a number at each point.
        """
        self.weight_of = weight_of
        self._found: dict[tuple[int, int], Value] = {}
        self._axes: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def message(self, choices: int, kept: int) -> Value | None:
        """The product over a set of choices, with the point axes of a subset of them.

        Args:
            choices: bit set of choices.
            kept: bit set of those whose points are kept.

        Returns:
            The message, or `None` where one on the way to it would be larger than it, or than any
            weight: then another order is better, or choices outside of the set are involved.
        """
        # From the last choice to the first, up to what is there already: kept of the earlier ones
        # is what the later ones depend on.
        steps: list[tuple[int, int]] = []
        rest = choices
        wanted = kept
        limit = self._size(kept)
        while rest and (rest, wanted) not in self._found:
            last = rest.bit_length() - 1
            own = self._axes_of(last)
            limit = max(limit, self._size(own))
            if own & ~rest:
                return None
            steps.append((rest, wanted))
            rest &= ~(1 << last)
            wanted = (wanted | own) & rest
            if self._size(wanted | own) > limit:
                return None
        message = self._found.get((rest, wanted))
        for done, wanted in reversed(steps):
            message = self._times(message, self.weight_of(done.bit_length() - 1), wanted)
            self._found[done, wanted] = message
        return message

    def _times(self, message: Value | None, weight: Value, kept: int) -> Value:
        product = weight
        if message is not None:
            (product,) = lift(lambda a, b: [a * b], [message, weight])
        gone = tuple(k for k, a in enumerate(product.axes) if not kept >> a & 1)
        left = tuple(a for a in product.axes if kept >> a & 1)
        return Value(jnp.sum(product.array, axis=gone), left) if gone else product

    def _axes_of(self, choice: int) -> int:
        if choice not in self._axes:
            weight, mask = self.weight_of(choice), 0
            for axis, size in zip(weight.axes, weight.array.shape, strict=False):
                mask |= 1 << axis
                self._sizes[axis] = size
            self._axes[choice] = mask
        return self._axes[choice]

    def _size(self, axes: int) -> int:
        return math.prod(self._sizes.get(a, 1) for a in bits(axes))
