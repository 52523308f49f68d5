"""Equations at which the derivative of an expectation would miss a jump.

A jump counts where what reaches it is *random* (it depends on a choice with a density) and *moving*
(a derivative flows into it: from an argument, or through a reparameterised choice). Whatever gives
integers or booleans of such values is a jump, and so is every operation that is not listed as
continuous. Integers and booleans stay suspect until they select between two values of which one
depends on what they jump with: `where(x > 0, f(x), g(x))` is taken to be continuous.

A frozen *discrete* choice does not count as random here: where an integer is compared with
something that moves, the expectation jumps at single values of the argument only, as `floor(theta)`
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ppgen import _jax
from ppgen._analysis import ranges
from ppgen._analysis.influence import NONE, Influence, join
from ppgen._analysis.parameters import rule_name

_JUMPS = {
    "floor": "floor",
    "ceil": "ceil",
    "round": "round",
    "sign": "sign",
    "argmax": "argmax",
    "argmin": "argmin",
    "rem": "a remainder",
    "atan2": "the branch cut of an angle",
}

WITHOUT_DERIVATIVE = {
    "io_callback": "a callback to the host",
    "pure_callback": "a callback to the host",
    "undifferentiable": "a black box",
}
"""Primitives that have no derivative, rather than one that misses their jumps."""

CONTINUOUS = frozenset(
    """
    abs acos acosh add add_any asin asinh atan atanh bessel_i0e bessel_i1e cbrt clamp complex conj
    convert_element_type copy cos cosh digamma div erf erf_inv erfc exp exp2 expm1 igamma
    igammac imag integer_pow lgamma log log1p log2 logistic max min mul neg one_minus_square
    polygamma pow real reduce_precision regularized_incomplete_beta rsqrt select_n sin sinh sqrt
    square stop_gradient sub tan tanh zeta
    reduce_sum reduce_max reduce_min reduce_prod cumsum cumprod cummax cummin cumlogsumexp
    slice dynamic_slice dynamic_update_slice broadcast_in_dim reshape transpose squeeze pad
    concatenate stack unstack tile split sort top_k rev dot_general conv_general_dilated gather
    scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max
    reduce_window_sum reduce_window_max reduce_window_min
    cholesky triangular_solve eigh svd householder_product fft custom_linear_solve
    """.split()
)
"""Operations of JAX that are continuous in their floating-point operands, but for kinks and poles.

The sets below restrict some of them.
"""

_OF_REALS = frozenset(
    "acos acosh asin asinh atan atanh cbrt log log1p log2 pow rsqrt sqrt max min clamp reduce_max "
    "reduce_min cummax cummin cumlogsumexp sort top_k reduce_window_max reduce_window_min "
    "scatter-min scatter-max".split()
)
"""Continuous in real operands only: complex ones meet a branch cut, or are ordered by two keys."""

_POLES: dict[str, Callable[[Sequence[ranges.Range]], bool]] = {
    "div": lambda x: ranges.apart(x[1]),
    "rsqrt": lambda x: ranges.apart(x[0]),
    "pow": lambda x: ranges.apart(x[0]) or ranges.inside(x[1], (0.0, math.inf)),
    "integer_pow": lambda x: ranges.apart(x[0]),
    "tan": lambda x: ranges.inside(x[0], (-1.5707964, 1.5707964)),
    "digamma": lambda x: ranges.inside(x[0], (ranges.LEAST, math.inf)),
    "polygamma": lambda x: ranges.inside(x[1], (ranges.LEAST, math.inf)),
    "zeta": lambda x: ranges.inside(x[1], (ranges.LEAST, math.inf)),
}
"""Operations with poles, at which they jump, and whether operands in some ranges miss all poles."""

_VECTORS = {"eigh": (0,), "svd": (1, 2)}
"""Results of decompositions with discontinuous signs. They stay suspect wherever they are used."""

_AT_ZERO = {"igammac": (0,)}
"""Operands whose domain ends at zero, beyond which the value is another number."""

_DIGITS = 7
"""Bits of a mantissa from which on rounding does not count as a jump: those of a bfloat16."""

CONTINUOUS_RESULTS = {
    "_det": (0,),
    "_pinv": (0,),
    "_slogdet_lu": (1,),
    "_slogdet_qr": (1,),
    "_slogdet_small": (1,),
    "expm": (0,),
}
"""Functions of JAX that go through jumps (pivots, powers of two) to continuous results: which."""

OURS = frozenset(
    "marker assume_continuous transformed weighed expected shielded counting implicit "
    "optimization_barrier "
    "sharding_constraint device_put magic_box deviation freeze_once sealed sealed_one once "
    "forward_only igamma_grad_a fresh_key random_choice "
    "psum psum_invariant pmax pmin pvary all_gather all_gather_invariant all_to_all "
    "ppermute reduce_scatter".split()
)
"""Identities, derivatives of samplers, and what moves or adds values between devices."""

_ATOMLESS = frozenset(
    "marker add sub mul neg exp logistic tanh integer_pow reshape broadcast_in_dim squeeze "
    "transpose slice gather dynamic_slice convert_element_type copy concatenate stack unstack "
    "split rev stop_gradient reduce_sum cumsum dot_general".split()
)
"""Operations that keep a continuous distribution free of atoms."""

_INFINITE = ((math.inf, math.inf), (-math.inf, -math.inf))
_ORDER = frozenset({"lt", "le", "gt", "ge"})

_INDICES = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}


def discontinuity(
    eqn: _jax.Eqn, ins: Sequence[Influence], *, jumps: bool = True, derived: bool = False
) -> tuple[str, int] | None:
    """The discontinuity of an equation for random and moving operands, and its `suspicion`.

    Args:
        eqn: the equation.
        ins: the influences on its operands.
        jumps: whether its own jumps count; otherwise only what was suspect before.
        derived: whether it is in a function with a derivative of its own, which may stand for what
            JAX cannot differentiate: of its own jumps only known ones count, and poles do not.
    """
    return _by_suspects(eqn, ins) or (_by_itself(eqn, ins, derived) if jumps else None)


def _by_suspects(eqn: _jax.Eqn, ins: Sequence[Influence]) -> tuple[str, int] | None:
    """A suspect integer or boolean that is used as a number, an index or a predicate."""
    suspect = 0
    for i in ins:
        suspect |= i.suspect
    if not suspect:
        return None
    name = rule_name(eqn)
    vectors = join(*(i for v, i in zip(eqn.invars, ins, strict=True) if is_inexact(v))).suspect
    if vectors and not (_calls(eqn) or name in OURS):
        return "the vectors of a decomposition, whose signs jump", vectors
    if name == "select_n":
        if not is_inexact(eqn.outvars[0]):
            return None
        # where(x > 0, f(x), g(x)) may well be continuous; where(x > 0, a, b) cannot be.
        along = 0
        if any(r in _INFINITE for r in _within(eqn, ins)[1:]):
            return "a where() that is infinite on one side", ins[0].suspect
        for i in ins[1:]:
            along |= i.suspicion() | i.suspect
        if left := (ins[0].suspect & ~along) >> 1:
            what = "an indicator (a where() between values that do not depend on it)"
            return what, left << 1 | ins[0].suspect & 1
        return None
    if eqn.primitive.name == "cond":
        return ("the predicate of a cond", ins[0].suspect) if ins[0].suspect else None
    if name == "random_choice":
        return "a parameter of a random choice", suspect
    if name == "convert_element_type" and is_inexact(eqn.outvars[0]):
        return "an indicator (a comparison turned into a number)", suspect
    first = 1 if name.startswith("scatter") else _INDICES.get(name)
    if first is not None:
        last = 2 if name.startswith("scatter") else len(ins)
        if index := join(*ins[first:last]).suspect:
            return "an index", index
    if _calls(eqn) or name in OURS:
        return None
    if any(map(is_inexact, eqn.outvars)):
        return f"{name}, which makes a number of a comparison", suspect
    return None


def _by_itself(eqn: _jax.Eqn, ins: Sequence[Influence], derived: bool) -> tuple[str, int] | None:
    """A random and moving value at a discontinuous operation."""
    found = join(*ins)
    suspicion = found.suspicion()
    if not suspicion:
        return None
    name = rule_name(eqn)
    if name in WITHOUT_DERIVATIVE and not derived:
        # A derivative with respect to an argument is refused where it is taken.
        mask = found.pathwise
        return (WITHOUT_DERIVATIVE[name], mask << 1 | found.moving) if mask else None
    if name == "convert_element_type" and not is_inexact(eqn.outvars[0]):
        new = eqn.outvars[0].aval.dtype
        return (f"a cast to {new}", suspicion) if jnp.issubdtype(new, jnp.integer) else None
    if permuted := argsort(eqn):
        for before, _ in permuted:
            if keys := join(*(ins[k] for k in before)).suspicion():
                return "argsort", keys
    for k in at_zero(eqn):
        if (edge := ins[k].suspicion()) and not ranges.inside(ins[k].within, (0.0, math.inf)):
            return f"{name}, which jumps where operand {k} is zero", edge
    if poles(eqn) and not derived:
        below = join(*(ins[k] for k in poles(eqn)))
        at = below.suspicion() if below.driven else 0
        if at and not _POLES[name](_within(eqn, ins)):
            return f"{name} at a pole, where something that it divides by may be zero", at
    what = jump(eqn, derived)
    return (what, suspicion) if what is not None else None


def argsort(eqn: _jax.Eqn) -> list[tuple[list[int], int]]:
    """The positions of the keys of a `sort`, and of an operand that it permutes by them.

    Where keys are equal, the sorted keys are continuous, but operands permuted with them are not,
    nor are keys after the first one.
    """
    if rule_name(eqn) != "sort":
        return []
    count, first = eqn.params["num_keys"], eqn.invars[0]
    return [
        (list(range(min(k, count))), k) for k, v in enumerate(eqn.invars) if k and v is not first
    ]


def signed(eqn: _jax.Eqn) -> Sequence[int]:
    """The positions of the results that are vectors whose signs jump."""
    return _VECTORS.get(rule_name(eqn), ())


def at_zero(eqn: _jax.Eqn) -> Sequence[int]:
    """The positions of the operands at whose zero an equation jumps."""
    return _AT_ZERO.get(rule_name(eqn), ())


def poles(eqn: _jax.Eqn) -> Sequence[int]:
    """The positions of the operands with which an equation comes to a pole."""
    name = rule_name(eqn)
    if name not in _POLES or (name == "integer_pow" and eqn.params["y"] >= 0):
        return ()
    if name == "div":
        return (1,)
    return range(len(eqn.invars))


def keeps_nan(eqn: _jax.Eqn, ins: Sequence[Any]) -> bool:
    """Whether an equation is `where(isnan(x), x, y)`, as in `heaviside`: where it is x, it is NaN.

    Args:
        eqn: the equation.
        ins: facts about its operands, `nan_of` among them.
    """
    return rule_name(eqn) == "select_n" and len(ins) == 3 and ins[0].nan_of is ins[2]


def _within(eqn: _jax.Eqn, ins: Sequence[Influence]) -> list[ranges.Range]:
    """The ranges of the operands."""
    operands = zip(eqn.invars, ins, strict=True)
    return [i.within if i is not NONE else known(v).within for v, i in operands]


def jump(eqn: _jax.Eqn, derived: bool = False) -> str | None:
    """The discontinuity of an equation in its floating-point operands, in words.

    Where operands of a `sort` have keys that are others of them is not looked at.

    Args:
        eqn: the equation.
        derived: as for `discontinuity`.
    """
    name = rule_name(eqn)
    if name in _JUMPS:
        # A remainder jumps with its divisor too, an angle with both coordinates.
        return _JUMPS[name]
    if _calls(eqn) or name in OURS or not any(map(is_inexact, eqn.outvars)):
        return None
    if name not in CONTINUOUS and not derived:
        return f"{name}, which is not known to be continuous"
    if name in _OF_REALS and any(
        jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars
    ):
        return f"{name} of complex numbers"
    if rounds(eqn):
        return f"{name}, which rounds to few digits"
    return None


def rounds(eqn: _jax.Eqn) -> bool:
    """Whether an equation rounds to so few digits, or to whole numbers, that this counts."""
    return _digits(eqn, rule_name(eqn)) < _DIGITS


def _digits(eqn: _jax.Eqn, name: str) -> float:
    """The bits of the mantissa that an equation rounds to; infinite where it does not."""
    if name == "reduce_precision":
        return float(eqn.params["mantissa_bits"])
    if name == "convert_element_type" and is_inexact(eqn.invars[0]):
        if not is_inexact(eqn.outvars[0]):
            return 0.0
        before, after = (jnp.finfo(v.aval.dtype).nmant for v in (*eqn.invars, *eqn.outvars))
        return float(after) if after < before else math.inf
    return math.inf


def settled(
    eqn: _jax.Eqn, ins: Sequence[Influence], outs: Sequence[Influence], *, jumps: bool
) -> list[Influence]:
    """The influences on the results: integers and booleans have suspicions, and no derivatives."""
    vectors, real = signed(eqn), all(map(is_inexact, eqn.outvars))
    if real and not vectors and not any(o.suspect for o in outs):
        if rule_name(eqn) != "select_n":
            return list(outs)  # as for most
    if real and not vectors:
        own = 0
    else:
        found = join(*ins)
        own = found.suspicion() if jumps and not _follows(eqn) else 0
        if rule_name(eqn) in ("eq", "ne") and not found.atoms:
            own = 0  # a continuous value meets a number with probability zero
        if own and rule_name(eqn) in _ORDER and ranges.ordered(*_within(eqn, ins)):
            own = 0  # one of them is always the greater
    nan_of = ins[0] if ranges.tests_for_nan(eqn) else None
    if keeps_nan(eqn, ins):
        y = ins[1]
        outs = [
            y._replace(mixed=o.mixed, aligned=o.aligned, within=o.within, atoms=o.atoms)
            for o in outs
        ]
    keeps = _follows(eqn) or rule_name(eqn) in OURS
    new = []
    for k, (v, out) in enumerate(zip(eqn.outvars, outs, strict=True)):
        if is_inexact(v):
            suspect = own if k in vectors else out.suspect if keeps else 0
            new.append(out._replace(suspect=suspect) if suspect != out.suspect else out)
        elif out.pathwise or out.frozen or out.moving or out.driven or own or nan_of is not None:
            suspect = out.suspect | own
            out = out._replace(pathwise=0, frozen=0, moving=False, driven=False, suspect=suspect)
            new.append(out._replace(nan_of=nan_of))
        else:
            new.append(out)
    return new


def ranged(eqn: _jax.Eqn, ins: Sequence[Influence], outs: Sequence[Influence]) -> list[Influence]:
    """The influences on the results, with their ranges and whether they have atoms."""
    name = rule_name(eqn)
    own = name in ("random_choice", "transformed")
    own = own or (name == "marker" and eqn.params["kind"] == "pathwise")
    if own or _calls(eqn):
        return list(outs)
    found = ranges.after(eqn, _within(eqn, ins))
    atoms = name not in _ATOMLESS or rounds(eqn)
    new = []
    for v, o in zip(eqn.outvars, outs, strict=True):
        within = found if is_inexact(v) or name == "ne" else ranges.ANYWHERE
        atom = o.atoms or (atoms and bool(o.pathwise or o.frozen))
        same = atom == o.atoms and within == o.within
        new.append(o if same else o._replace(within=within, atoms=atom))
    return new


def known(v: Any) -> Influence:
    """The facts about an operand without influences: a number has itself as its range."""
    if not isinstance(v, _jax.Literal) or jnp.ndim(v.val):
        return NONE
    if not any(_jax.is_subdtype(v.aval.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        return NONE
    value = float(v.val)
    return Influence(within=ranges.NOWHERE if math.isnan(value) else (value, value))


def is_inexact(v: Any) -> bool:
    """Whether a variable holds floating-point (or complex) numbers, which have derivatives."""
    return _jax.is_subdtype(v.aval.dtype, jnp.inexact)


def _calls(eqn: _jax.Eqn) -> bool:
    """Whether an equation is looked into."""
    return eqn.primitive.name in FOLLOWED and bool(_jax.subjaxprs(eqn))


def _follows(eqn: _jax.Eqn) -> bool:
    return eqn.primitive.name == "optimization_barrier" or _calls(eqn)


CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
FOLLOWED = CUSTOM | {
    *("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"),
    *("scan", "cond", "while", "shard_map", "custom_linear_solve"),
}
"""Primitives whose jaxprs are analysed, or are taken to be right."""


def remedy(suspicion: int, sites: Sequence[Any], *, jumps: bool, bounds: bool) -> tuple[str, str]:
    """Why a jump is refused, and what to write instead, which depends on what moves it.

    Args:
        suspicion: what is random and what moves.
        sites: the choices.
        jumps: whether it is a jump, or something without a derivative.
        bounds: whether a bound of a support moves a value that is frozen but for that.
    """
    names = ", ".join(repr(s.name) for s in sites)
    if not jumps:
        return (
            f"the reparameterised value of {names} reaches {{}}: the pathwise gradient needs a "
            "derivative that is not there",
            "ScoreFunction() or MeasureValued() at the site",
        )
    here = "ppgen.assume_continuous(value) there, if the jumps do not matter"
    if suspicion & 1:
        # Freezing the choice leaves a jump that moves.
        return (
            f"the value of {names} and what is differentiated together reach {{}}: where it jumps "
            "moves with a parameter, which no derivative of it or of a score sees",
            (
                "jax.lax.stop_gradient of the bounds of its support, where they are not to be "
                "differentiated; or "
                if bounds
                else ""
            )
            + "the indicator as a probability (dist.Normal(loc, scale).cdf(theta) for x < theta); "
            "or with the parameter in the distribution and the jump at a fixed place "
            "(x - theta drawn from dist.Normal(loc - theta, scale) with ScoreFunction() or "
            "MeasureValued(), then x < 0); or a smooth function, which is another objective; or "
            + here,
        )
    site = "the site" if len(sites) == 1 else f"each of {names}"
    return (
        f"the reparameterised value of {names} reaches {{}}: the pathwise gradient would silently "
        "miss what its jumps contribute",
        f"ScoreFunction() or MeasureValued() at {site}, or Reparameterize(assume_smooth=True) or "
        + here,
    )
