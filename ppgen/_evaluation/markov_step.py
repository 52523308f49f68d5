"""A step of a scan with Markov structure, as a function of values that may have an axis of time.

What is carried from step to step is a set of points, joint values of the choices of the step, the
same ones after every step unless they are a function of the step's inputs, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._evaluation.constants import LIMIT
from ppgen._evaluation.values import Value
from ppgen._interpret import Environment, dependent, needed

OLD = -1  # the point axis of the state before a step; those of its choices count from zero
TIME = -2


class Step(NamedTuple):
    """The body of a scan.

    Attributes:
        outer: the pass that the scan is part of.
        body: its jaxpr.
        num_carry: how many values it carries.
        state: those that depend on choices.
        joint: batch axes of its choices that some cost mixes.
        consts: what it closes over.
    """

    outer: Any
    body: Any
    num_carry: int
    state: Sequence[int]
    joint: dict[int, list[int]]
    consts: list[Value]

    @property
    def jaxpr(self) -> Any:
        """The open jaxpr of the body."""
        return _jax.open_jaxpr(self.body)[0]

    @property
    def choices(self) -> list[_jax.Eqn]:
        """The equations that make choices."""
        return [e for e in self.jaxpr.eqns if e.primitive.name == "random_choice"]

    def __call__(
        self, carry: Sequence[Value], xs: Sequence[Value], wanted: Sequence[int] | None = None
    ) -> tuple[list[Value], list[Value], int]:
        """Outputs, weights of the choices, and the largest number of numbers that a step computes.

        Args:
            carry: what is carried into the step.
            xs: its inputs.
            wanted: which outputs are asked for; by default all.
        """
        jaxpr, choices = self.jaxpr, self.choices
        outs = jaxpr.outvars if wanted is None else [jaxpr.outvars[i] for i in wanted]
        made = [v for e in choices for v in e.outvars]
        live = needed(jaxpr, [*outs, *made]).equations
        first = {id(e): i for i, e in enumerate(choices)}
        # No choice here uses its key.
        run = self.outer.inside(self.outer.key, self.joint, first=first, live=live)
        run(self.body, [*self.consts, *carry, *xs])
        changing = dependent(jaxpr, [*jaxpr.invars[len(self.consts) :], *made]).variables
        sizes = (np.size(run.env[v].array) for v in changing if v in run.env.values)
        weights = [run.made[i].weight for i in range(len(choices))]
        return run.env.read(outs), weights, max(sizes)

    def states(self, weights: Sequence[Value]) -> States:
        """The points that the state takes, of the weights of a step's choices."""
        kept = []
        for i, choice in enumerate(self.choices):
            reached = dependent(self.jaxpr, choice.outvars).variables
            if any(self.jaxpr.outvars[k] in reached for k in self.state):
                kept.append(i)
        sizes = {i: w.array.shape[w.axes.index(i)] for i, w in enumerate(weights)}
        return States(tuple(kept), sizes)

    def steered(self, carry: Sequence[Value]) -> list[int]:
        """Which parts of the state differ from step to step: functions of inputs, too."""
        jaxpr, n = self.jaxpr, len(self.consts)
        inputs = [v for v, c in zip(jaxpr.invars[n:], carry, strict=False) if TIME in c.axes]
        reached = dependent(jaxpr, [*inputs, *jaxpr.invars[n + self.num_carry :]]).variables
        return [i for i in self.state if jaxpr.outvars[i] in reached]

    def carried(
        self, init: Sequence[Value], xs: Sequence[Value], length: int
    ) -> tuple[list[Value], list[Any]]:
        """What is carried into each step, and out of the last, where no choice has a part in it.

        Of the state it is what is carried into the first step.
        """
        jaxpr, consts = _jax.open_jaxpr(self.body)
        n = len(self.consts)
        moving = [
            i
            for i in range(self.num_carry)
            if i not in self.state and jaxpr.outvars[i] is not jaxpr.invars[n + i]
        ]
        if not moving:
            return list(init), [jnp.asarray(c.array) for c in init]
        live = needed(jaxpr, [jaxpr.outvars[i] for i in moving]).equations
        given = [v.array for v in self.consts]

        def step(carry, xs):
            env: Environment[Any] = Environment()
            env.enter(jaxpr, [*given, *carry, *xs], consts)
            env.run((e for e in jaxpr.eqns if id(e) in live), _jax.bind)
            new = list(carry)
            for i in moving:
                new[i] = env[jaxpr.outvars[i]]
            return new, [carry[i] for i in moving]

        start = [jnp.asarray(c.array) for c in init]
        last, before = jax.lax.scan(step, start, [x.array for x in xs], length=length)
        into = list(init)
        for i, stacked in zip(moving, before, strict=True):
            into[i] = Value(stacked, (TIME,))
        return into, list(last)


class States(NamedTuple):
    """The points of the state: joint values of those choices of a step that it is a function of.

    Attributes:
        kept: these choices.
        sizes: for each choice of a step, its number of points.
    """

    kept: tuple[int, ...]
    sizes: dict[int, int]

    @property
    def number(self) -> int:
        """How many points there are."""
        return math.prod(self.sizes[a] for a in self.kept)

    @property
    def gone(self) -> tuple[int, ...]:
        """The other choices of a step, which are forgotten."""
        return tuple(a for a in self.sizes if a not in self.kept)

    def listed(self, value: Value) -> Value:
        """A function of these choices with its points in a row: the state before the next step."""
        value = self.expanded(value, self.kept)
        timed = value.axes[:1] == (TIME,)
        own = value.array.shape[len(value.axes) :]

        def in_row(x: Any) -> Any:
            return x.reshape(*x.shape[:timed], self.number, *own)

        known = value.known
        known = in_row(known) if known is not None and known.size <= LIMIT else None
        return Value(in_row(value.array), (*value.axes[:timed], OLD), known=known)

    def expanded(self, value: Value, axes: Sequence[int]) -> Value:
        """The value with the point axes of these choices, and that of time if it has one."""
        new = (*(a for a in value.axes if a == TIME), *axes)
        if new == value.axes:
            return value

        def full(x: Any) -> Any:
            x = x[tuple(slice(None) if a in value.axes else None for a in new)]
            sizes = [n if a == TIME else self.sizes[a] for a, n in zip(new, x.shape, strict=False)]
            broadcast: Any = np.broadcast_to if isinstance(x, np.ndarray) else jnp.broadcast_to
            return broadcast(x, (*sizes, *x.shape[len(new) :]))

        known = None if value.known is None else full(value.known)
        return Value(full(jnp.asarray(value.array)), new, known=known)


def at(value: Value, step: int) -> Value:
    """The value at one step."""
    return _indexed(value, lambda x: x[step], value.axes[1:])


def during(value: Value, begin: int, end: int) -> Value:
    """The value at some steps."""
    return _indexed(value, lambda x: x[begin:end], value.axes)


def _indexed(value: Value, index: Callable[[Any], Any], axes: tuple[int, ...]) -> Value:
    if TIME not in value.axes:
        return value
    known = None if value.known is None else np.asarray(index(value.known))
    return Value(index(jnp.asarray(value.array)), axes, known=known)


def over_time(value: Value, length: int) -> Value:
    """The value with time as the first of its own axes."""
    if TIME in value.axes:
        return Value(jnp.moveaxis(value.array, 0, len(value.axes) - 1), value.axes[1:])
    n = len(value.axes)
    array = jnp.expand_dims(value.array, n)
    shape = (*array.shape[:n], length, *array.shape[n + 1 :])
    return Value(jnp.broadcast_to(array, shape), value.axes)
