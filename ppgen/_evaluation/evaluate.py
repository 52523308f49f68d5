"""Evaluating a lowered program: every choice is made by its estimator, in one direct pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._analysis.analyse import choices_of_equation
from ppgen._analysis.influence import Influence
from ppgen._evaluation.constant_folding import evaluate_known
from ppgen._evaluation.constants import identity, literal
from ppgen._evaluation.control_flow import cond_region, remat_region, scan_region, while_region
from ppgen._evaluation.enumerated_scan import markov_scan
from ppgen._evaluation.make_choice import POINT_LIMIT, Made, make
from ppgen._evaluation.perturbed_scan import perturbed_scan
from ppgen._evaluation.values import Value, at_first_point, lift
from ppgen._interpret import Environment
from ppgen._lowering.lower import REMATS, _refuse, inlined
from ppgen._lowering.scan_structure import own_choices, sums_over_points
from ppgen._staging.primitives import CALLS, ChoiceSpec, is_random, mark, over_lanes
from ppgen._tracebacks import at_site
from ppgen._user_lines import where
from ppgen.errors import DensityError, EstimatorError

Make = Callable[[Any, _jax.Eqn, Sequence[Value], Array, int, Sequence[int]], tuple[Value, Made]]


class Run:
    """One pass over a jaxpr.

    Attributes:
        env: the values of the variables.
        made: the choices that were made, by index.
    """

    def __init__(
        self,
        key: Array,
        make: Make,
        *,
        first: Mapping[int, int] | None = None,
        joint: Mapping[int, Collection[int]] | None = None,
        live: frozenset[int] | None = None,
        influence: Callable[[Any], Influence] | None = None,
    ) -> None:
        """Prepare a pass.

        Args:
            key: randomness of the whole pass.
            make: how a choice is made.
            first: for each equation that makes choices, the index of its first one; by default
                they are numbered as they come.
            joint: for each choice, the batch axes that cannot be treated as independent; by
                default all of them.
            live: ids of the top-level equations to evaluate; by default all of them.
            influence: what is known to influence a variable.
        """
        self.key, self.make = key, make
        self.first, self.joint, self.live, self.influence = first, joint, live, influence
        self.env: Environment[Value] = Environment(_of_literal)
        self.made: dict[int, Made] = {}
        self.specs: dict[int, ChoiceSpec] = {}
        self._keys = self._choices = 0
        self._shared: dict[Any, tuple[Sequence[Value], Sequence[Value]]] = {}

    def inside(
        self,
        key: Array,
        joint: Mapping[int, Collection[int]] | None = None,
        *,
        first: Mapping[int, int] | None = None,
        live: frozenset[int] | None = None,
    ) -> Run:
        """A pass over a jaxpr that this one calls."""
        return Run(key, self.make, joint=joint, first=first, live=live)

    def next_key(self) -> Array:
        """A key for the next random equation."""
        self._keys += 1
        return jax.random.fold_in(self.key, self._keys)

    def __call__(self, jaxpr: Any, args: Sequence[Value]) -> list[Value]:
        """Evaluate a jaxpr on `args`."""
        return self._evaluate(jaxpr, args, self.live)

    def inline(self, fn: Callable[..., Sequence[Array]], values: Sequence[Value]) -> list[Value]:
        """Evaluate a function of arrays as if its equations were part of the program.

        So it shares common subexpressions and known values with the program.
        """
        jaxpr = jax.make_jaxpr(inlined(fn))(*(at_first_point(v) for v in values))
        return self._evaluate(jaxpr, values, None)

    def _evaluate(
        self, jaxpr: Any, args: Sequence[Value], live: frozenset[int] | None
    ) -> list[Value]:
        jaxpr, consts = _jax.open_jaxpr(jaxpr)
        self.env.enter(jaxpr, args, map(Value, consts))
        eqns = jaxpr.eqns if live is None else (e for e in jaxpr.eqns if id(e) in live)
        self.env.run(eqns, self._equation)
        return self.env.read(jaxpr.outvars) if live is None else []

    def _equation(self, eqn: _jax.Eqn, values: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name == "marker":
            return [values[0]._replace(array=checked(eqn, values[0].array))]
        _check_joint_points(eqn, values, self.specs)
        if not is_random(eqn):
            return self._deterministic(eqn, values)
        with _jax.at_line_of(eqn):
            if name == "fresh_key":
                return [Value(_fresh_key(self.next_key(), eqn))]
            if name in CALLS:
                inner = self.inside(self.next_key())
                return inner(_jax.subjaxprs(eqn)[0], values)
            made = choices_of_equation(eqn)
            index = self._choices if self.first is None else self.first.get(id(eqn), 0)
            self._choices += len(made)
            if name == "random_choice":
                axes = range(len(made[0].shape))
                joint = axes if self.joint is None else self.joint.get(index, ())
                self.specs[index] = made[0].specs[0]
                spec = self.specs[index]
                with at_site(spec.name, spec.where):
                    value, result = self.make(
                        self, eqn, values, self.next_key(), index, tuple(joint)
                    )
                self.made[index] = result
                return [value]
            rule = _REGIONS.get(name)
            if rule is None:
                _refuse(eqn, [])
            outs, results = rule(self, eqn, values, self.next_key(), index)
            self.made.update({index + i: result for i, result in enumerate(results)})
            return outs

    def _deterministic(self, eqn: _jax.Eqn, values: list[Value]) -> Sequence[Value]:
        """Evaluate an equation without choices, or reuse the result of an equal one.

        XLA would merge equal equations too, but not their derivatives, which get different
        cotangents: the cotangents of a shared value are summed and passed back once.
        """
        key = _identity(eqn, values)
        if key in self._shared:
            return self._shared[key][1]
        outs = evaluate_known(eqn, values)
        if outs is None:
            outs = lift(lambda *arrays: _jax.bind(eqn, arrays), values)
        if key is not None:
            self._shared[key] = (values, outs)  # the operands too, lest their ids be taken again
        return outs


def _of_literal(v: _jax.Literal) -> Value:
    return Value(v.val, known=literal(v))


def _identity(eqn: _jax.Eqn, values: Sequence[Value]) -> Any:
    """A key that equations share if and only if they give the same; `None` if not known."""
    operands = tuple(
        (id(v.array), v.axes, v.slots) if v.known is None else (identity(v.known), v.axes)
        for v in values
    )
    key = (eqn.primitive, tuple(sorted(eqn.params.items())), operands)
    try:
        hash(key)
    except TypeError:
        return None
    return None if eqn.effects else key


def _check_joint_points(
    eqn: _jax.Eqn, values: Sequence[Value], specs: Mapping[int, ChoiceSpec]
) -> None:
    """Refuse a function of too many joint values before it is compiled."""
    sizes = {a: v.array.shape[k + bool(v.slots)] for v in values for k, a in enumerate(v.axes)}
    if math.prod(sizes.values()) <= POINT_LIMIT:
        return
    found = [specs[a] for a in sizes if a in specs]
    names = list(dict.fromkeys(repr(s.name) for s in found))
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    values_of = " x ".join(map(str, dict.fromkeys(sizes.values())))
    computed = f" computed at {line}" if (line := where(eqn)) else ""
    raise EstimatorError(
        f"a value{computed} depends jointly on {len(sizes)} enumerated choices "
        f"({shown}) of {values_of} values each: more than {POINT_LIMIT:,} joint values",
        site=found[-1].name if found else None,
        where=found[-1].where if found else None,
        instead="a cost that is a sum of terms with few of them each, or ScoreFunction() at some",
    )


def _scan_region(run: Run, eqn: _jax.Eqn, values: Sequence[Value], key: Array, index: int):
    if run.make is make and sums_over_points(eqn):
        return markov_scan(run, eqn, values, key, index)
    if run.make is make and any(s.template.weighted for s in own_choices(eqn.params["jaxpr"])):
        return perturbed_scan(run, eqn, values, key, index)
    return scan_region(run, eqn, values, key, index)


_REGIONS = {
    "scan": _scan_region,
    "cond": cond_region,
    "while": while_region,
    **dict.fromkeys(REMATS, remat_region),
}


def checked(eqn: _jax.Eqn, array: Any) -> Any:
    """Drop a marker; where the values are known already, refuse a density that is not a number."""
    if eqn.params["kind"] == "log_prob" and not isinstance(array, jax.core.Tracer):
        if np.any(np.isnan(np.asarray(array))):
            raise DensityError(
                "the log density is not a number",
                site=eqn.params["name"],
                where=eqn.params["where"],
                instead="parameters within the distribution's constraints, and a value within its "
                "support",
            )
    return array


def _fresh_key(key: Array, eqn: _jax.Eqn) -> Array:
    lanes = eqn.params["lanes"]
    if key.dtype != eqn.params["dtype"]:
        with jax.ensure_compile_time_eval():
            like = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        key = jax.random.wrap_key_data(jax.random.bits(key, like.shape, like.dtype))
    return jax.random.split(key, lanes) if lanes else key


def plain(run: Run, eqn, operands: Sequence[Value], key: Array, index: int, joint: Sequence[int]):
    """Make a choice by sampling it, for running a program without differentiating it."""
    spec: ChoiceSpec = eqn.params["spec"]
    arrays = [v.array for v in operands]
    if any(isinstance(x, jax.core.Tracer) for x in arrays):
        # Inside of an objective a derivative would be missed: its analysis looks for that.
        arrays = [mark(x, "frozen", spec.name, spec.where) for x in arrays]
    sample = over_lanes(
        lambda key, ops: spec.dist.build(ops[: spec.num_dist]).sample(key),
        eqn.params["lanes"],
        eqn.params["mapped"],
        key,
        arrays,
    )
    return Value(jax.lax.stop_gradient(sample).astype(spec.dtype)), Made()
