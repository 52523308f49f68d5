"""Surrogates: each term of a cost is weighted by the choices that influence it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._analysis.analyse import Analysis
from ppgen._analysis.cost_terms import Terms
from ppgen._analysis.influence import Influence, bits
from ppgen._derivatives import magic_box, weighed
from ppgen._evaluation.contraction import contract, place
from ppgen._evaluation.deferred_sums import add_up
from ppgen._evaluation.evaluate import Run
from ppgen._evaluation.forward_messages import ForwardMessages
from ppgen._evaluation.make_choice import Made
from ppgen._evaluation.values import Slot, Value, lift, spread, union


def joint_axes(analysis: Analysis, terms: Terms) -> dict[int, set[int]]:
    """For each choice, the batch axes along which some term mixes its elements."""
    found: dict[int, set[int]] = {i: set() for i in range(len(analysis.choices))}
    influences = [analysis.of(v) for v in terms.leaves]
    # A control term has the influences of the distribution of its choice.
    influences += [analysis.upstream[i] for i in analysis.first.values() if _alone(analysis, i)]
    for influence in influences:
        for i in bits(influence.mixed):
            if i in found:
                found[i].update(range(len(analysis.choices[i].shape)))
        for i, places in influence.aligned.items():
            found[i].update(a for a, p in enumerate(places) if p is None or p[1] != "=")
    return found


def surrogates(
    jaxpr: Any,
    analysis: Analysis,
    terms: Terms,
    run: Run,
    draws: tuple[str, int] | None,
) -> list[Any]:
    """The outputs of a lowered program as surrogates; the first one takes the control terms in.

    Args:
        jaxpr: the lowered program.
        analysis: its analysis.
        terms: its additive terms.
        run: the pass that evaluated it.
        draws: name and size of the mapped axis of independent draws, for leave-one-out baselines.
    """
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    weigher = _Weigher(analysis, run, draws)
    outs = add_up(jaxpr, terms, run, analysis.of, weigher.term)
    cost, *aux = map(jnp.asarray, outs)
    for i, made in run.made.items():
        if made.control is not None:
            cost = cost + weigher.control(i, made.control).astype(cost.dtype)
    return [cost, *aux]


def _alone(analysis: Analysis, i: int) -> bool:
    """Whether a choice is an equation of its own, with elementwise control terms."""
    choice = analysis.choices[i]
    return not choice.looped and not choice.together and choice.controlled


_ROWS = 1 << 30
"""A point axis after those of all choices: the numbers of a choice's perturbations."""


class _Weigher:
    def __init__(self, analysis: Analysis, run: Run, draws: tuple[str, int] | None) -> None:
        self.analysis, self.run, self.draws = analysis, run, draws
        self.scored = _mask(i for i, m in run.made.items() if m.score is not None)
        self._sums: dict[int, Value] = {}
        self._slot_numbers: dict[tuple[int, ...], tuple[Array, Array]] = {}
        self._messages = ForwardMessages(lambda i: self.scalar[i])
        self.scalar: dict[int, Any] = {
            i: m.weight for i, m in run.made.items() if _alone_at_each_point(m)
        }

    def term(self, value: Value, influence: Influence, *, real: bool) -> Any:
        """One term, weighted: the sum over its points, with unbiased derivatives.

        Args:
            value: the term.
            influence: what influences it.
            real: whether it is part of a cost. Otherwise integers stay integers.
        """
        if not jnp.issubdtype(value.array.dtype, jnp.inexact):
            if not value.leading and not real:
                return value.array
            value = Value(value.array.astype(float), value.axes, value.slots)
        return self.over_points(self.with_scores(value, influence), influence)

    def with_scores(self, value: Value, influence: Influence) -> Value:
        """Multiply a term by the magic box of the scores that belong to it."""
        shape = value.array.shape[value.leading :]
        scores = []
        if mixed := influence.mixed & self.scored:
            scores.append(self.total_score(mixed))
        for i, places in influence.aligned.items():
            score = self.run.made[i].score
            if score is not None:
                scores += lift(lambda s, p=places: [place(s, p, shape)], [score])
        if not scores:
            return value
        draws = self.draws
        scored = {i for i in influence.choices() if self.scored >> i & 1}
        choices = [self.analysis.choices[i] for i in scored]
        # One baseline serves all scores of the term, and has to be independent of each of them.
        leave_one_out = draws is not None and (
            any(c.leave_one_out for c in choices) and not any(c.coupled for c in choices)
        )

        def box(cost, scores):
            return magic_box(functools.reduce(operator.add, scores)).astype(cost.dtype)

        if draws is None or not leave_one_out:
            (found,) = lift(lambda cost, *s: [weighed(cost, box(cost, s))], [value, *scores])
            return found
        if self.weights_depend_on(scored, influence):
            # Where what is scored decides with what weights points are summed over, a baseline for
            # each of them would be weighted with what it is to be independent of.
            others = Value(self.others(self.over_points(value, influence), *draws))
        else:
            (others,) = lift(lambda cost: [self.others(cost, *draws)], [value])

        def weigh(cost, baseline, *scores):
            return [weighed(cost - baseline, box(cost, scores)) + baseline]

        return lift(weigh, [value, others, *scores])[0]

    def weights_depend_on(self, scored: set[int], influence: Influence) -> bool:
        """Whether some of the choices `scored` influence the weights that a term is summed with."""
        made, upstream = self.run.made, self.analysis.upstream
        weighted = [i for i in influence.choices() & made.keys() if made[i].weight is not None]
        return any(scored & upstream[i].choices() for i in weighted if i in upstream)

    def others(self, cost: Any, axis: str, size: int) -> Array:
        """The mean over the other draws, which is independent of this one."""
        cost = jax.lax.stop_gradient(cost)
        return (jax.lax.psum(cost, axis) - cost) / (size - 1)

    def total_score(self, mask: int) -> Value:
        """The sum of the log densities of several choices; sums over subsets are shared."""
        missing = []
        while mask and mask not in self._sums:
            missing.append(mask)
            mask &= ~(1 << (mask.bit_length() - 1))
        total: Any = self._sums.get(mask)
        for mask in reversed(missing):
            score: Any = self.run.made[mask.bit_length() - 1].score
            own = lift(lambda s: [jnp.sum(s)], [score])[0]
            total = own if total is None else lift(lambda a, b: [a + b], [total, own])[0]
            self._sums[mask] = total
        return total

    def control(self, i: int, value: Value) -> Array:
        """A control term: zero in value and in mean, under any weights that sum to one."""
        if _alone(self.analysis, i):
            return jnp.sum(self.over_points(value, self.analysis.upstream[i]))
        array = value.array[0] if value.slots else value.array
        return jnp.sum(jnp.mean(array, axis=tuple(range(len(value.axes)))))

    def over_points(self, value: Value, influence: Influence) -> Any:
        """Sum a term over the points of the choices that influence it, by their weights."""
        choices = sorted(influence.choices() & self.run.made.keys())
        weighted = [i for i in choices if self.run.made[i].weight is not None]
        shape = value.array.shape[value.leading :]
        if (message := self.message(value, weighted)) is not None:
            return contract([value, message], shape)
        factors = [value]
        taken: list[Any] = []
        for i in weighted:
            weight: Any = self.run.made[i].weight
            # Choices of one scan share their joint weights.
            if not any(weight is other for other in taken):
                taken.append(weight)
                factors.append(self.placed(weight, i, influence, shape))
        _, slots = union(factors)
        if slots:
            factors = [Value(spread(f, slots), f.axes, slots if f.slots else ()) for f in factors]
            factors.append(self.slot_weights(slots, influence, shape, value.array.dtype))
        if len(factors) == 1:
            return value.array
        return contract(factors, shape)

    def message(self, value: Value, weighted: Sequence[int]) -> Value | None:
        """The weights of the points of a term, where they are numbers: computed for all terms."""
        if len(weighted) < 3 or value.slots or not all(i in self.scalar for i in weighted):
            return None
        choices = _mask(weighted)
        return self._messages.message(choices, _mask(value.axes) & choices)

    def placed(self, weight: Value, i: int, influence: Influence, shape: Sequence[int]) -> Value:
        """Weights with their batch axes where the term has them."""
        places = influence.aligned.get(i, (None,) * len(self.analysis.choices[i].shape))
        return lift(lambda w: [place(w, places, shape)], [weight])[0]

    def slot_numbers(self, choices: tuple[int, ...]) -> tuple[Array, Array]:
        """The weight of the sample and those of all perturbations of some choices.

        In a chain each cost has one choice more than the one before, so what was joined is kept.
        """
        known = len(choices)
        while known and choices[:known] not in self._slot_numbers:
            known -= 1
        for n in range(known, len(choices)):
            made: Any = self.run.made[choices[n]]
            own, others = made.base.array, made.slots.array
            if n:
                before, joined = self._slot_numbers[choices[:n]]
                own, others = before * own, jnp.concatenate([joined, others])
            self._slot_numbers[choices[: n + 1]] = own, others
        return self._slot_numbers[choices]

    def slot_weights(self, slots: tuple[Slot, ...], influence, shape, dtype) -> Value:
        """The weights of slots: the sample's own, then those of the perturbations."""
        choices = tuple(dict.fromkeys(i for i, _ in slots))
        if all(_one_number_a_slot(self.run.made[i]) for i in choices):
            own, others = self.slot_numbers(choices)
            array = jnp.concatenate([own[None], others])
            return Value(array.astype(jnp.result_type(array, dtype)), (), slots)
        base = Value(jnp.ones((), dtype))
        rows = []
        for i in choices:
            made: Any = self.run.made[i]
            own = self.placed(made.base, i, influence, shape)
            (base,) = lift(lambda a, b: [a * b], [base, own])
            each = Value(made.slots.array, (*made.slots.axes, _ROWS))
            rows.append(self.placed(each, i, influence, shape))
        parts = [Value(base.array[(slice(None),) * len(base.axes) + (None,)], (*base.axes, _ROWS))]
        axes, _ = union(parts + rows)
        # All with the same axes, and as long as each other but for the rows.
        sizes = {a: p.array.shape[p.axes.index(a)] for p in parts + rows for a in p.axes}
        everywhere = [Value(jnp.zeros(sizes[a]), (a,)) for a in axes if a != _ROWS]
        full = [lift(lambda x, *_: [x], [p, *everywhere])[0].array for p in parts + rows]
        n = len(axes)
        common = jnp.broadcast_shapes(*(f.shape[n:] for f in full))
        array = jnp.concatenate(
            [jnp.broadcast_to(f, (*f.shape[:n], *common)) for f in full], axis=n - 1
        )
        return Value(jnp.moveaxis(array, n - 1, 0), axes[:-1], slots)


def _one_number_a_slot(made: Any) -> bool:
    parts = made.base, made.slots
    plain = not any(p.axes or p.slots for p in parts)
    return plain and made.base.array.ndim == 0 and made.slots.array.ndim == 1


def _alone_at_each_point(made: Made) -> bool:
    weight = made.weight
    return weight is not None and not weight.slots and weight.array.ndim == len(weight.axes)


def _mask(elements: Any) -> int:
    mask = 0
    for e in elements:
        mask |= 1 << e
    return mask
