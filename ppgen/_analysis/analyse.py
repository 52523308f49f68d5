"""The static analysis of a lowered program: influences of its choices, and soundness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ppgen import _jax
from ppgen._analysis.choices import Choice, choices_of_equation
from ppgen._analysis.discontinuity import (
    CONTINUOUS_RESULTS,
    FOLLOWED,
    WITHOUT_DERIVATIVE,
    discontinuity,
    is_inexact,
    known,
    ranged,
    remedy,
    settled,
)
from ppgen._analysis.hidden_randomness import check_hidden_randomness
from ppgen._analysis.influence import MOVING, NONE, Alignment, Influence, bits, join
from ppgen._analysis.propagation import mixing, propagate
from ppgen._analysis.ranges import inside, opened, widened
from ppgen._interpret import Environment, needed
from ppgen._lowering.lower import CUSTOM, REMATS
from ppgen._lowering.scan_structure import sums_over_points
from ppgen._staging.primitives import (
    CALLS,
    DENSITY_SCOPE,
    RANDOM,
    SAMPLER_SCOPE,
    ChoiceSpec,
    is_random,
    over_lanes,
)
from ppgen._user_lines import where
from ppgen.densities import log_prob
from ppgen.errors import BiasedEstimatorError, DiscontinuityError


@dataclasses.dataclass(frozen=True, eq=False)
class Continuous:
    """A choice with a density; `details` are those of a reparameterised one.

    A biased one that is differentiated in place is reparameterised too.
    """

    name: str
    where: str
    details: dict[str, Any] | None = None


class Discontinuity(NamedTuple):
    """Something discontinuous that a random and moving value reaches.

    Attributes:
        what: the operation, in words.
        where: the file and line.
        sites: the choices that reach it.
        instead: what to write instead.
    """

    what: str
    where: str
    sites: list[Continuous]
    instead: str


@dataclasses.dataclass
class Analysis:
    """Static facts about a lowered program.

    Attributes:
        choices: its random choices that are not in place; influence bit sets index them.
        continuous: its choices with a density, which the bits of `Influence.pathwise` and
            `Influence.frozen` index.
        first: for each top-level equation that makes choices, the index of its first one.
        upstream: for each choice, what influences its distribution.
        influence: for each top-level variable, what influences it.
        discontinuities: the discontinuities that were found.
    """

    choices: list[Choice] = dataclasses.field(default_factory=list)
    continuous: list[Continuous] = dataclasses.field(default_factory=list)
    first: dict[int, int] = dataclasses.field(default_factory=dict)
    upstream: dict[int, Influence] = dataclasses.field(default_factory=dict)
    influence: dict[_jax.Var, Influence] = dataclasses.field(default_factory=dict)
    discontinuities: list[Discontinuity] = dataclasses.field(default_factory=list)

    @property
    def pathwise(self) -> list[Any]:
        """The reparameterised choices."""
        return [c for c in self.continuous if c.details is not None]

    def of(self, v: Any) -> Influence:
        """The influence on a top-level variable or literal."""
        return NONE if isinstance(v, _jax.Literal) else self.influence.get(v, NONE)


# What is looked for: nothing; where suspect integers go; where they come from too, as far as it is
# known, in a function with a derivative of its own; and everywhere.
OFF, SUSPECTS, VALUES, ALL = range(4)

# What an analysis counts or reports, whatever reaches it.
_TOLD = RANDOM | {"marker", "transformed"}

# Densities in NumPyro's potential energy, which maps its argument into the supports.
_POTENTIAL = (
    ("numpyro/infer/util.py", "potential_energy"),
    ("numpyro/distributions/util.py", "wrapper"),
)
# NumPyro's check that the value of a density is a number, which is not an end of a support.
_IS_REAL = ("numpyro/distributions/constraints.py", "_Real.__call__")


def analyse(jaxpr: Any, *, allow_biased: bool = False, strict: bool = True) -> Analysis:
    """Analyse a lowered program.

    Args:
        jaxpr: closed, without inputs.
        allow_biased: accept biased estimators.
        strict: raise at the first discontinuity that a pathwise choice reaches.

    Raises:
        DiscontinuityError: a reparameterised value reaches something discontinuous.
        BiasedEstimatorError: a biased estimator without `allow_biased`.
    """
    walk = _Walk(Analysis(), allow_biased, strict)
    opened, _ = _jax.open_jaxpr(jaxpr)
    env = _environment(jaxpr, ())
    for eqn in opened.eqns:
        if made := choices_of_equation(eqn):
            walk.analysis.first[id(eqn)] = len(walk.analysis.choices)
            walk.analysis.choices += made
    cost, *_ = walk.equations(opened, env, walk.counter(0), depth=0, checked=ALL)
    if cost.suspect:
        (last,) = [eqn for eqn in opened.eqns if opened.outvars[0] in eqn.outvars]
        walk.report(last, "vectors whose signs jump", cost.suspect)
    walk.analysis.influence = env.values
    if strict:
        check_hidden_randomness(jaxpr)
    return walk.analysis


def _environment(jaxpr: Any, ins: Sequence[Influence]) -> Environment[Influence]:
    """The influences on the inputs of a jaxpr, and on its constants.

    Traced values may be differentiated, which is not known in advance.
    """
    opened, consts = _jax.open_jaxpr(jaxpr)
    held = dict(zip(opened.constvars, consts, strict=False))  # an open jaxpr holds none
    traced = [isinstance(held.get(v), jax.core.Tracer) for v in opened.constvars]
    moving = [t and is_inexact(v) for v, t in zip(opened.constvars, traced, strict=True)]
    env = Environment(lambda _: NONE)
    env.enter(opened, ins, [MOVING if m else NONE for m in moving])
    return env


class _Counter:
    """The indices of the choices of a jaxpr, in order; a loop body starts again in each pass."""

    def __init__(self, start: int) -> None:
        self.next = start

    def take(self) -> int:
        self.next += 1
        return self.next - 1


class _Walk:
    def __init__(self, analysis: Analysis, allow_biased: bool, strict: bool) -> None:
        self.analysis, self.allow_biased, self.strict = analysis, allow_biased, strict
        self.counter = _Counter
        self.marks: dict[int, int] = {}
        self.reported: set[int] = set()
        # The results of calls that nothing reaches and in which there is nothing to be told of.
        self.unreached: dict[Any, list[Influence]] = {}
        self.moved = 0  # the frozen choices that bounds of their supports may move
        self.entered = 0  # what was suspect before a function with a derivative of its own
        self.line = ""  # of the call of one of JAX's own functions that is being walked through

    def equations(self, jaxpr, env, counter, *, depth: int, checked: int) -> list[Influence]:
        # Unused values do not matter: `logsumexp` computes a sign that is not used. What goes
        # through `assume_continuous` only is its author's word; what a transform of a distribution
        # does inside is the distribution's.
        used = frozenset()
        if checked:
            stop = ("assume_continuous", "transformed")
            used = needed(jaxpr, jaxpr.outvars, stop=stop).equations

        def rule(eqn, ins):
            if eqn.primitive.name in FOLLOWED and any(i is not NONE for i in ins):
                ins = [known(v) if i is NONE else i for v, i in zip(eqn.invars, ins, strict=True)]
            level = checked if id(eqn) in used else OFF
            reached = any(i is not NONE for i in ins)
            if not reached and eqn.invars and all(known(v) is not NONE for v in eqn.invars):
                return ranged(eqn, ins, self.equation(eqn, ins, counter, depth, level))
            if level > SUSPECTS and reached and self.trusted(eqn):
                level = SUSPECTS
            outs = self.equation(eqn, ins, counter, depth, level)
            if reached:
                outs = settled(eqn, ins, outs, jumps=level > SUSPECTS)
                outs = ranged(eqn, ins, outs)
            return outs

        env.run(jaxpr.eqns, rule)
        return env.read(jaxpr.outvars)

    def inner(self, jaxpr, ins, counter, *, depth: int, checked: int) -> list[Influence]:
        env = _environment(jaxpr, ins)
        jaxpr, _ = _jax.open_jaxpr(jaxpr)
        return self.equations(jaxpr, env, counter, depth=depth, checked=checked)

    def equation(self, eqn, ins: Sequence[Influence], counter, depth: int, checked: int):
        name = eqn.primitive.name
        if name == "random_choice":
            if checked:
                self.check(eqn, ins, SUSPECTS)
            return [self.choice(eqn, ins, counter.take(), depth, checked)]
        if name == "marker" and eqn.params["kind"] == "pathwise":
            return [self.marked(eqn, ins[0])]
        if name == "assume_continuous":
            return [Influence(i.mixed, i.aligned) for i in ins]
        if name == "transformed":
            made, choice, *of = ins
            if choice.frozen and join(*of).moving:
                self.moved |= choice.frozen
            if choice.pathwise:
                # Parameters move it through the choice.
                of = join(choice, *of)
                made = made._replace(pathwise=of.pathwise, frozen=of.frozen, moving=False)
            return [made._replace(suspect=0, atoms=False, within=eqn.params["within"])]
        if checked and any(i is not NONE for i in ins):
            self.check(eqn, ins, checked)
        if name == "stop_gradient":
            return [_still(i) for i in ins]
        if name == "optimization_barrier":
            return list(ins)
        if name == "scan":
            return self.scan(eqn, ins, counter, depth, checked)
        if checked > SUSPECTS and name in FOLLOWED and _jax.called(eqn) in CONTINUOUS_RESULTS:
            return self.continuous(eqn, ins, counter, depth)
        if name in CALLS:
            return self.call(eqn, _jax.subjaxprs(eqn)[0], ins, counter, depth, checked)
        if name in CUSTOM and not is_random(eqn):
            return self.derived(eqn, ins, counter, depth, checked)
        if jaxprs := _jax.subjaxprs(eqn):
            return self.region(eqn, jaxprs, ins, counter, depth, checked)
        return propagate(eqn, ins)

    def call(self, eqn, jaxpr, ins, counter, depth: int, checked: int) -> list[Influence]:
        """A call of a jaxpr: of one of JAX's own functions, say, which all its calls share."""
        if plain := all(i is NONE for i in ins):
            if jaxpr in self.unreached:
                return list(self.unreached[jaxpr])
            plain = _jax.primitives_in(jaxpr).isdisjoint(_TOLD)
        outer = self.line
        self.line = outer or (where(eqn) if _jax.calls_jax(eqn) else "")
        outs = self.inner(jaxpr, ins, counter, depth=depth, checked=checked)
        self.line = outer
        if plain:
            self.unreached[jaxpr] = outs
        return outs

    def continuous(self, eqn, ins, counter, depth: int) -> list[Influence]:
        """A function of JAX some of whose results are continuous, whatever is inside."""
        outs = self.inner(_jax.subjaxprs(eqn)[0], ins, counter, depth=depth, checked=OFF)
        jumps, known = join(*ins).suspicion(), CONTINUOUS_RESULTS[_jax.called(eqn)]
        return [o._replace(suspect=0 if k in known else jumps) for k, o in enumerate(outs)]

    def derived(self, eqn, ins, counter, depth: int, checked: int) -> list[Influence]:
        """A function with a derivative of its own.

        How its value moves is its author's word, and so is that it does not jump where a loop takes
        another step (the solution of an equation), at poles, and with what JAX cannot
        differentiate. But no derivative sees known jumps of the value: those of `round` with the
        derivative of the identity, say.
        """
        jaxpr, before = _jax.subjaxprs(eqn)[0], self.entered
        if not _jax.derived_by_jax(eqn):
            checked, self.entered = min(checked, VALUES), join(*ins).suspect
        outs = self.inner(jaxpr, ins, counter, depth=depth, checked=checked)
        self.entered = before
        return outs

    def trusted(self, eqn) -> bool:
        """Whether an equation's own jumps do not count.

        Densities are continuous on their support, and samplers are checked where they are declared
        to have a pathwise derivative.
        """
        scopes = _jax.in_scope(eqn, DENSITY_SCOPE, SAMPLER_SCOPE)
        return scopes or _jax.staged_in(eqn, *_POTENTIAL) or _jax.staged_in(eqn, _IS_REAL)

    def choice(
        self, eqn, ins: Sequence[Influence], index: int, depth: int, checked: int
    ) -> Influence:
        spec: ChoiceSpec = eqn.params["spec"]
        lanes = eqn.params["lanes"]
        upstream = _of_distribution(eqn, ins)
        known = self.analysis.upstream.get(index, NONE)
        self.analysis.upstream[index] = join(known, upstream)
        places: list[Alignment] = [(-1 - d, "=") for d in range(depth)]
        places += [(k, "=") for k in range(len(lanes) + len(spec.batch))]
        own = Influence(0, {index: tuple(places)}) if places else Influence(1 << index)
        if spec.template.differentiable and not getattr(spec.template, "assume_smooth", False):
            details = {"batch": lanes + spec.batch, "dist": spec.family, "smooth": False}
            details |= {"estimator": type(spec.template).__name__, "exogenous": False}
            number = self.mark(id(eqn), Continuous(spec.name, spec.where, details))
            here = Influence(pathwise=1 << number)
            upstream = upstream._replace(moving=False, suspect=0)
            return join(own, upstream, here)._replace(within=opened(spec.within), atoms=False)
        # Its derivative is handled by the estimator: no path goes through the value.
        own = join(own, Influence(upstream.mixed, upstream.aligned))
        if spec.template.differentiable or spec.atomic or not is_inexact(eqn.outvars[0]):
            return own
        number = self.mark(id(eqn), Continuous(spec.name, spec.where))
        here = join(own, Influence(frozen=1 << number))
        here = here._replace(within=opened(spec.within), atoms=False)
        if spec.own_density and checked:
            # A score does not see where the density of a user's class jumps, if that moves.
            operands = [here, *ins[: spec.num_dist]]
            self.inner(_density(eqn), operands, _Counter(0), depth=0, checked=ALL)
        return here

    def mark(self, equation: int, choice: Continuous) -> int:
        """The number of a choice with a density; a loop body is walked more than once."""
        if equation not in self.marks:
            self.marks[equation] = len(self.analysis.continuous)
            self.analysis.continuous.append(choice)
        return self.marks[equation]

    def marked(self, eqn, influence: Influence) -> Influence:
        details = dict(eqn.params["details"])
        number = self.mark(id(eqn), Continuous(eqn.params["name"], eqn.params["where"], details))
        if details["biased"] and not self.allow_biased:
            raise BiasedEstimatorError(
                f"{details['estimator']} is biased: its gradient is not that of the expectation",
                site=eqn.params["name"],
                where=eqn.params["where"],
                instead="ppgen.expectation(f, allow_biased=True), or an unbiased estimator",
            )
        if details["point"]:
            return influence  # it is not random, moves with what it is at, and lies where that lies
        # What moves the value by its parameters moves it through the choice.
        within = opened(details["within"])
        influence = influence._replace(moving=False, suspect=0, within=within)
        if details["exogenous"] or details["smooth"]:
            return influence
        here = join(influence, Influence(pathwise=1 << number))
        return here._replace(within=within, atoms=False)

    def region(self, eqn, jaxprs, ins, counter, depth, checked) -> list[Influence]:
        """A branch or loop that is evaluated as a whole; its choices count as one."""
        name = eqn.primitive.name
        made = choices_of_equation(eqn)
        if name in REMATS and not made:
            return self.inner(jaxprs[0], ins, counter, depth=depth, checked=checked)
        outs = mixing(eqn, ins)
        if name == "cond" and not made:
            index, *operands = ins
            branches = [
                self.inner(b, operands, counter, depth=depth, checked=checked)
                for b in eqn.params["branches"]
            ]
            index = index.all_mixed()._replace(suspect=0)  # which is refused as it is
            outs = [join(index, *each) for each in zip(*branches, strict=True)]
        elif name in ("cond", "while", *REMATS):
            # Its choices count as one, so all of them influence every result; but a derivative
            # flows only along its own path.
            everything = join(*(i.all_mixed() for i in ins))
            found = self.followed(eqn, [i.all_mixed() for i in ins], depth, checked)
            outs = [join(Influence(everything.mixed), f) for f in found]
        else:
            count = len(self.analysis.choices)
            everything = join(*(i.all_mixed() for i in ins))
            for jaxpr in jaxprs:
                inside = [everything] * len(_jax.open_jaxpr(jaxpr)[0].invars)
                level = checked if name == "shard_map" else OFF
                got = self.inner(jaxpr, inside, _Scratch(count), depth=depth, checked=level)
                outs = [join(o, *(_known(g, count) for g in got)) for o in outs]
        if made:
            index = counter.take()
            known = self.analysis.upstream.get(index, NONE)
            self.analysis.upstream[index] = join(known, *(i.all_mixed() for i in ins))
            places = tuple((-1 - d, "=") for d in range(depth))
            own = Influence(0, {index: places}) if places else Influence(1 << index)
            outs = [join(own, o) for o in outs]
        return outs

    def followed(self, eqn, ins, depth: int, checked: int) -> list[Influence]:
        """The influence on the results of a region; alignments inside are not kept."""
        name, count = eqn.primitive.name, len(self.analysis.choices)

        def through(jaxpr, operands) -> list[Influence]:
            got = self.inner(jaxpr, operands, _Scratch(count), depth=depth, checked=checked)
            return [_known(g, count) for g in got]

        if name == "cond":
            index, *operands = ins
            branches = [through(b, operands) for b in eqn.params["branches"]]
            index = index._replace(suspect=0)
            return [join(index, *each) for each in zip(*branches, strict=True)]
        if name != "while":
            return through(_jax.subjaxprs(eqn)[0], ins)
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = list(ins[n + m :])
        while True:
            got = through(eqn.params["body_jaxpr"], [*ins[n : n + m], *carry])
            new = [_carried(c, g) for c, g in zip(carry, got, strict=True)]
            if new == carry:
                break
            carry = new
        if checked:
            (decision,) = through(eqn.params["cond_jaxpr"], [*ins[:n], *carry])
            suspect = decision.suspect & (self.entered if checked == VALUES else -1)
            if suspect:
                self.report(eqn, "the predicate of a while_loop", suspect)
        return carry

    def scan(self, eqn, ins, counter, depth: int, checked: int) -> list[Influence]:
        """Influence through a loop: a fixed point over what is carried."""
        num_consts, num_carry = _jax.scan_counts(eqn)
        time, toward = -1 - depth, ">" if eqn.params["reverse"] else "<"

        def enter(axis: int, mode: str) -> Alignment:
            return (time, mode) if axis == 0 else (axis if axis < 0 else axis - 1, mode)

        def leave(axis: int, mode: str) -> Alignment:
            return (0, mode) if axis == time else (axis if axis < 0 else axis + 1, mode)

        def carried(axis: int, mode: str) -> Alignment:
            if axis != time:
                return axis, mode
            return (time, toward) if mode in ("=", toward) else None

        def summed(axis: int, mode: str) -> Alignment:
            return axis, mode

        consts = list(ins[:num_consts])
        carry = list(ins[num_consts : num_consts + num_carry])
        xs = [i.move(enter) for i in ins[num_consts + num_carry :]]
        start = counter.next
        # Where the state before a step is summed over, what the step returns depends on the choices
        # of that step alone.
        own = range(0)
        if sums_over_points(eqn):
            own = range(start, start + len(choices_of_equation(eqn)))
        while True:
            counter.next = start
            outs = self.inner(
                eqn.params["jaxpr"], consts + carry + xs, counter, depth=depth + 1, checked=checked
            )
            moved = [o.move(carried, own, summed) for o in outs[:num_carry]]
            new = [_carried(c, o) for c, o in zip(carry, moved, strict=True)]
            if new == carry:
                break
            carry = new

        def final(axis: int, mode: str) -> Alignment:
            return None if axis == time else (axis, mode)

        out = [join(c, o).move(final) for c, o in zip(carry, outs[:num_carry], strict=True)]
        return out + [o.move(leave) for o in outs[num_carry:]]

    def check(self, eqn, ins: Sequence[Influence], checked: int) -> None:
        """Raise if a random and moving value reaches a discontinuity."""
        if reached := discontinuity(eqn, ins, jumps=checked > SUSPECTS, derived=checked == VALUES):
            self.report(eqn, *reached)
        elif eqn.primitive.name == "marker" and eqn.params["kind"] == "scored":
            support = dict(eqn.params["details"])["within"]
            if (suspicion := ins[0].suspicion()) and not inside(ins[0].within, support):
                edge = "the end of the support of {!r}, whose density jumps there"
                self.report(eqn, edge.format(eqn.params["name"]), suspicion)

    def report(self, eqn, what: str, suspicion: int) -> None:
        """Record a discontinuity, and raise if the analysis is strict."""
        if id(eqn) in self.reported:
            return
        self.reported.add(id(eqn))
        sites = [self.analysis.continuous[i] for i in bits(suspicion >> 1)]
        known = eqn.params["error"].where if eqn.primitive.name == "undifferentiable" else None
        line = known or self.line or where(eqn)
        jumps = eqn.primitive.name not in WITHOUT_DERIVATIVE
        bounds = bool(self.moved & suspicion >> 1)
        why, instead = remedy(suspicion, sites, jumps=jumps, bounds=bounds)
        self.analysis.discontinuities.append(Discontinuity(what, line, sites, instead))
        if self.strict:
            raise DiscontinuityError(
                why.format(f"{what} at {line}"),
                site=sites[0].name,
                where=sites[0].where,
                instead=instead,
            )


def _carried(before: Influence, after: Influence) -> Influence:
    """The influence on the carry of a loop, after one more pass."""
    both = join(before, after)
    if before is NONE or both.within == before.within:
        return both
    return both._replace(within=widened(before.within, both.within))


def _still(influence: Influence) -> Influence:
    """The influence on a value without its derivative."""
    frozen = influence.frozen | influence.pathwise
    if not (frozen or influence.moving):
        return influence
    return influence._replace(pathwise=0, frozen=frozen, moving=False, driven=False)


class _Scratch(_Counter):
    """Indices beyond all choices, for those inside a region, which count as one outside."""


def _known(influence: Influence, count: int) -> Influence:
    mask = (1 << count) - 1
    mixed = influence.all_mixed()
    return mixed._replace(mixed=mixed.mixed & mask, aligned={})


def _of_distribution(eqn: _jax.Eqn, ins: Sequence[Influence]) -> Influence:
    """Influences on a choice through its parameters, aligned with its batch axes.

    Which axes of a parameter are batch axes depends on the distribution, so it is read off the
    computation of its density: element i of that depends on the parameters of element i.
    """
    spec: ChoiceSpec = eqn.params["spec"]
    lanes, n = eqn.params["lanes"], spec.num_dist
    rest = [i.all_mixed() for i in ins[n:]]
    if len(rest) == 1 and getattr(spec.template, "baseline", None) is not None:
        # A baseline has an element for each of the batch.
        elementwise = eqn.invars[n].aval.shape == lanes + spec.batch
        rest = [ins[n]] if elementwise else rest
    if not any(i.aligned for i in ins[:n]):
        return join(*ins[:n], *rest)
    walk = _Walk(Analysis(), True, False)
    (out,) = walk.inner(_density(eqn), [NONE, *ins[:n]], _Counter(0), depth=0, checked=OFF)
    return join(out, *rest)


def _density(eqn: _jax.Eqn) -> Any:
    """The log density of a choice, as a jaxpr of its value and its parameters."""
    spec: ChoiceSpec = eqn.params["spec"]
    lanes, mapped, n = eqn.params["lanes"], eqn.params["mapped"], spec.num_dist
    shape = jax.ShapeDtypeStruct(lanes + spec.shape, spec.dtype)
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars[:n]]

    def density(value, *operands):
        return over_lanes(
            lambda _, ops, x: log_prob(spec.dist.build(ops), x),
            lanes,
            mapped[:n],
            None,
            list(operands),
            value,
        )

    return jax.make_jaxpr(density)(shape, *avals)
