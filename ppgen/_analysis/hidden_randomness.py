"""Randomness outside of choices: values that a program computes from a PRNG key itself.

Such a value is random like a choice, but no estimator handles it.
Its derivative flows along the path of the computation, so `mu + sigma * jax.random.normal(key)` is
right. Where such randomness and a moving operand meet a *jump*, it is not: `bernoulli(key, p)`
compares a uniform variable with `p`, and no derivative passes. Two more things are of this kind:
sites that `ppgen.seed` draws with a key inside of an objective, frozen; and the value of a nested
`expectation`, a *surrogate*, whose derivative is right in the mean of what is linear in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ppgen import _jax
from ppgen._analysis.discontinuity import (
    argsort,
    at_zero,
    is_inexact,
    jump,
    keeps_nan,
    rounds,
    signed,
)
from ppgen._analysis.parameters import rule_name
from ppgen._analysis.ranges import tests_for_nan
from ppgen._interpret import Environment, needed
from ppgen._lowering.lower import CUSTOM
from ppgen._staging.primitives import (
    CALLS,
    DENSITY_SCOPE,
    OWN_SAMPLER_SCOPE,
    SAMPLER_SCOPE,
    SITE_SCOPE,
    equations_of,
)
from ppgen._user_lines import where
from ppgen.errors import DerivativeError, DiscontinuityError


class Fact(NamedTuple):
    """The facts about a value.

    Attributes:
        random: bit set of the keys that it was computed from.
        moving: whether a derivative flows into it.
        jumped: of an integer or boolean: the keys in whose randomness it jumps where something
            moves.
        linear: the keys of the nested expectations in it, which it must be linear in.
        nan_of: of a boolean that says whether a value is not a number: what is known of the value.
    """

    random: int = 0
    moving: bool = False
    jumped: int = 0
    linear: int = 0
    nan_of: Fact | None = None


NOTHING = Fact()

_SAMPLERS = frozenset({"random_gamma"})
"""Samplers of JAX that move with their parameters: their derivative is not that of their path."""

_LINEAR = frozenset(
    "neg add add_any sub reduce_sum cumsum reduce_window_sum reshape broadcast_in_dim squeeze "
    "transpose concatenate slice split rev copy psum psum_invariant pvary "
    "convert_element_type reduce_precision real imag marker optimization_barrier stack".split()
)
"""Primitives that are linear in all of their operands together."""

_LINEAR_IN_FIRST = frozenset({"div", "gather", "dynamic_slice", "counting"})
"""Primitives that are linear in the first operand."""

_BILINEAR = frozenset(
    {"mul", "weighed", "expected", "shielded", "dot_general", "conv_general_dilated"}
)
"""Primitives that are linear in each of two operands."""

_INDEXED = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2, "scatter": 1}
_KEYS = frozenset({"random_seed", "random_wrap"})


def check_hidden_randomness(jaxpr: Any) -> None:
    """Refuse a lowered program whose derivative would miss a contribution of hidden randomness.

    Args:
        jaxpr: closed, without inputs; its first output is the cost.

    Raises:
        DiscontinuityError: randomness that no choice stands for, and what moves, meet a jump.
        DerivativeError: sites that `seed` draws inside of the program, or a nested expectation that
            is used other than linearly.
    """
    opened, consts = _jax.open_jaxpr(jaxpr)
    if not _has_keys(jaxpr):
        return
    walk = _Walk()
    facts = []
    for v, value in zip(opened.constvars, consts, strict=True):
        moving = isinstance(value, jax.core.Tracer) and is_inexact(v)
        facts.append(Fact(random=walk.key(v)) if _is_key(v) else Fact(moving=moving))
    walk.equations(opened, (), facts, opened.outvars[:1], checked=True)


def _has_keys(jaxpr: Any) -> bool:
    """Whether a program has keys other than those of its choices."""
    return (
        any(map(_is_key, _jax.open_jaxpr(jaxpr)[0].constvars))
        or not _jax.primitives_in(jaxpr).isdisjoint(_KEYS)
        or any(map(_makes_key, equations_of(jaxpr, {"fresh_key"})))
    )


def _makes_key(eqn: _jax.Eqn) -> bool:
    # Choices have keys of their own, and analyses of their own.
    return eqn.primitive.name == "fresh_key" and not _jax.in_scope(eqn, SAMPLER_SCOPE)


def join(*facts: Fact) -> Fact:
    """The facts about a value that may be any of these, or depends on all of them."""
    out = NOTHING
    for f in facts:
        out = Fact(
            out.random | f.random,
            out.moving or f.moving,
            out.jumped | f.jumped,
            out.linear | f.linear,
        )
    return out


class _Walk:
    def __init__(self) -> None:
        self.keys: dict[Any, int] = {}
        self.nested: dict[str, int] = {}
        self.line = ""  # of the call of one of JAX's own functions that is being walked through
        # Of samplers of users' classes: their keys, and the site of the one that is walked through.
        self.own, self.site = 0, ""
        # In a function with a derivative of its own (see `discontinuity`), loops jump only with
        # what had jumped before.
        self.derived, self.entered = False, -1
        self.known = ""  # the last line that was known: of what JAX keeps, it is not always

    def key(self, origin: Any) -> int:
        """The bit of a key, by what makes it; a loop body is walked more than once."""
        return self.keys.setdefault(origin, 1 << len(self.keys))

    def equations(
        self, jaxpr: Any, ins: Sequence[Fact], consts: Sequence[Fact], wanted: Any, *, checked: bool
    ) -> list[Fact]:
        env = Environment(lambda _: NOTHING)
        env.enter(jaxpr, ins, consts)
        # Unused values do not matter, and auxiliary results have no derivative.
        used = needed(jaxpr, wanted).equations
        eqns = [eqn for eqn in jaxpr.eqns if id(eqn) in used]
        env.run(eqns, lambda eqn, ins: self.equation(eqn, ins, checked))
        return env.read(wanted)

    def inner(self, jaxpr: Any, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        jaxpr, _ = _jax.open_jaxpr(jaxpr)
        consts = [NOTHING] * len(jaxpr.constvars)
        return self.equations(jaxpr, ins, consts, jaxpr.outvars, checked=checked)

    def equation(self, eqn: _jax.Eqn, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        """The facts about the results of an equation."""
        before = self.site
        if _jax.in_scope(eqn, OWN_SAMPLER_SCOPE):
            sites = [s for s in _jax.scopes(eqn) if s.startswith(SITE_SCOPE)]
            self.site = sites[-1].removeprefix(SITE_SCOPE) if sites else before
        outs = self.facts(eqn, ins, checked)
        self.site = before
        return outs

    def facts(self, eqn: _jax.Eqn, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        name = eqn.primitive.name
        if name == "fresh_key":
            made = self.key(id(eqn)) if _makes_key(eqn) else 0
            self.own |= made if self.site else 0
            return [Fact(random=made)]
        if name in _KEYS:
            return [Fact(random=join(*ins).random or self.key(id(eqn)))]
        if name == "stop_gradient":
            return [Fact(f.random, False, f.jumped) for f in ins]
        if name == "marker":
            return [self.marked(eqn, ins[0])]
        every = join(*ins)
        if checked and every.random and every.moving:
            # Samplers and densities are checked where they are declared to be differentiable.
            checked = not _jax.in_scope(eqn, DENSITY_SCOPE, SAMPLER_SCOPE)
            self.known = where(eqn) or self.known
        if name in CALLS:
            outer = self.line
            self.line = outer or (where(eqn) if _jax.calls_jax(eqn) else "")
            outs = self.inner(_jax.subjaxprs(eqn)[0], ins, checked)
            self.line = outer
            return outs
        if name == "scan":
            return self.scan(eqn, ins, checked)
        if name == "while":
            return self.while_loop(eqn, ins, checked)
        if name == "cond":
            self.refuse_jump(eqn, ins[0].jumped, "the predicate of a cond")
            self.refuse_nonlinear(eqn, ins[0].linear)
            branches = [self.inner(b, ins[1:], checked) for b in eqn.params["branches"]]
            outs = [join(ins[0], *each) for each in zip(*branches, strict=True)]
            self.refuse_nonlinear(eqn, ins[0].random & join(*outs).linear)
            return outs
        jaxprs = _jax.subjaxprs(eqn)
        if jaxprs and len(_jax.open_jaxpr(jaxprs[0])[0].invars) == len(ins):
            before = self.derived, self.entered
            if name in CUSTOM and not _jax.derived_by_jax(eqn):
                self.derived, self.entered = True, every.jumped
            outs = self.inner(jaxprs[0], ins, checked)
            self.derived, self.entered = before
            return outs
        return self.primitive(eqn, ins, checked)

    def primitive(self, eqn: _jax.Eqn, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        """An equation without others inside."""
        name, every = rule_name(eqn), join(*ins)
        if every.linear:
            self.check_linear(eqn, ins)
        if every.jumped:
            self.check_jumped(eqn, ins)
        if name == "random_choice":
            return [Fact(every.random, every.moving and eqn.params["spec"].template.differentiable)]
        jumps = 0
        if checked and every.random and every.moving:
            jumps = every.random if any(map(is_inexact, eqn.invars)) else 0
        if jumps and name not in _SAMPLERS and (what := jump(eqn, self.derived)) is not None:
            self.refuse_jump(eqn, jumps, what)
        edges = join(*(ins[k] for k in at_zero(eqn)))
        if jumps and edges.moving:
            self.refuse_jump(eqn, edges.random, f"{name}, which jumps at zero")
        if jumps and name == "sort":
            self.check_sort(eqn, ins)
        out = Fact(every.random, every.moving, 0, every.linear)
        if keeps_nan(eqn, ins):
            out = out._replace(moving=ins[1].moving)
        discrete = Fact(every.random, False, every.jumped | jumps)
        if tests_for_nan(eqn):
            discrete = discrete._replace(nan_of=ins[0])
        vectors = out._replace(jumped=every.jumped | jumps)
        found = [out if is_inexact(v) else discrete for v in eqn.outvars]
        return [vectors if k in signed(eqn) else each for k, each in enumerate(found)]

    def marked(self, eqn: _jax.Eqn, fact: Fact) -> Fact:
        """A value that was named when the program was staged."""
        kind, name = eqn.params["kind"], eqn.params["name"]
        if kind == "pathwise":
            self.site = name if fact.jumped & self.own else ""
            self.refuse_jump(eqn, fact.jumped & self.own, "a comparison, or another whole number,")
            # From here on it is the value of a choice, whose jumps are looked for elsewhere.
            return fact._replace(random=fact.random & ~self.own)
        if kind == "frozen" and fact.moving:
            raise DerivativeError(
                "ppgen.seed draws this site inside of an objective, frozen: the derivative with "
                "respect to its parameters would silently be missed",
                site=name,
                where=eqn.params["where"],
                instead="the program itself in the objective, without ppgen.seed; or "
                "jax.lax.stop_gradient around the parameters, if they are to have no derivative "
                "there",
            )
        if kind == "key of an expectation":
            self.nested[name] = fact.random
        if kind == "surrogate" and fact.moving:
            return fact._replace(linear=fact.linear | self.nested.get(name, 0))
        return fact

    def scan(self, eqn: _jax.Eqn, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        num_consts, num_carry = _jax.scan_counts(eqn)
        consts, carry = ins[:num_consts], list(ins[num_consts : num_consts + num_carry])
        while True:
            outs = self.inner(
                eqn.params["jaxpr"], [*consts, *carry, *ins[num_consts + num_carry :]], checked
            )
            new = [join(c, o) for c, o in zip(carry, outs, strict=False)]
            if new == carry:
                return [*carry, *outs[num_carry:]]
            carry = new

    def while_loop(self, eqn: _jax.Eqn, ins: Sequence[Fact], checked: bool) -> list[Fact]:
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = list(ins[n + m :])
        while True:
            outs = self.inner(eqn.params["body_jaxpr"], [*ins[n : n + m], *carry], checked)
            new = [join(c, o) for c, o in zip(carry, outs, strict=True)]
            if new == carry:
                break
            carry = new
        (going,) = self.inner(eqn.params["cond_jaxpr"], [*ins[:n], *carry], checked)
        self.refuse_jump(eqn, going.jumped & self.entered, "the predicate of a while_loop")
        self.refuse_nonlinear(eqn, going.linear)
        return carry

    def check_sort(self, eqn: _jax.Eqn, ins: Sequence[Fact]) -> None:
        """Operands permuted by a discontinuous key are discontinuous."""
        for before, after in argsort(eqn):
            keys = join(*(ins[k] for k in before))
            if keys.random and keys.moving and is_inexact(eqn.outvars[after]):
                self.refuse_jump(eqn, keys.random, "argsort")

    def check_jumped(self, eqn: _jax.Eqn, ins: Sequence[Fact]) -> None:
        """An integer that jumped may choose between values that follow it, and nothing else."""
        name = rule_name(eqn)
        if name == "select_n":
            along = join(*(f for f in ins[1:] if f.moving)).random
            missed = ins[0].jumped & ~along
            what = "a where() between values that do not depend on it"
            self.refuse_jump(eqn, missed and ins[0].jumped, what)
            self.refuse_jump(eqn, join(*ins[1:]).jumped if is_inexact(eqn.outvars[0]) else 0, what)
            return
        if name in _INDEXED or name.startswith("scatter"):
            indices = ins[_INDEXED.get(name, 1) :]
            self.refuse_jump(eqn, join(*indices).jumped, "an index")
        if any(map(is_inexact, eqn.outvars)):
            self.refuse_jump(eqn, join(*ins).jumped, "an indicator (turned into a number)")

    def check_linear(self, eqn: _jax.Eqn, ins: Sequence[Fact]) -> None:
        """The value of a nested expectation may be summed, scaled and moved about."""
        name, linear = rule_name(eqn), join(*ins).linear
        if name in _LINEAR and any(map(is_inexact, eqn.outvars)) and not rounds(eqn):
            return
        if name == "pad":
            return
        rest = join(*ins[1:])
        if name in _LINEAR_IN_FIRST and not rest.linear and not rest.random & linear:
            return
        if name == "select_n" and not ins[0].random & linear:
            return
        if name in _BILINEAR:
            a, b = ins
            if not (a.linear & b.random or b.linear & a.random):
                return
        self.refuse_nonlinear(eqn, linear)

    def refuse_jump(self, eqn: _jax.Eqn, jumped: int, what: str) -> None:
        """Raise if hidden randomness and a moving operand meet a discontinuity."""
        if not jumped:
            return
        line = self.line or where(eqn) or self.known
        if self.site:
            raise DiscontinuityError(
                f"the sampler of {self.site!r} is declared to have a derivative in its parameters, "
                f"but reaches {what} at {line}: that derivative would silently miss what the jump "
                "contributes",
                site=self.site,
                where=line,
                instead="ScoreFunction() at the site, which is the default for a class without "
                "reparametrized_params; or Reparameterize(assume_smooth=True) there, if the jumps "
                "do not matter",
            )
        raise DiscontinuityError(
            "random numbers that the program draws from a key itself meet a jump together with "
            f"something that has a derivative, and reach {what} at {line}: that derivative would "
            "silently miss what the jump contributes",
            where=line,
            instead="ppgen.draw(dist.Bernoulli(p)) (or Categorical, Poisson, ...) for "
            "jax.random.bernoulli(key, p), so that an estimator knows of it; or "
            "jax.lax.stop_gradient(p), if p is to have no derivative there",
        )

    def refuse_nonlinear(self, eqn: _jax.Eqn, linear: int) -> None:
        """Raise if a nested expectation is used other than linearly."""
        if not linear:
            return
        line = self.line or where(eqn) or self.known
        raise DerivativeError(
            f"the value of a nested ppgen.expectation is used other than linearly, by "
            f"{eqn.primitive.name} at {line}: its derivative is right in the mean only, that of a "
            "function of it is not",
            where=line,
            instead="the product of two runs with a numpyro.prng_key() each, for a square; the "
            "choices of the nested expectation in the outer objective, for a function of them",
        )


def _is_key(v: Any) -> bool:
    return _jax.is_subdtype(v.aval.dtype, jax.dtypes.prng_key)
