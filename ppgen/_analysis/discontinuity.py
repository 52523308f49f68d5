"""Equations at which the derivative of an expectation would miss a jump.

A jump counts where what reaches it is *random* (it depends on a choice with a density) and *moving*
(a derivative flows into it: from an argument, or through a reparameterised choice). Whatever gives
integers or booleans of such values is a jump, and so is every operation that is not listed as
continuous. Integers and booleans stay suspect until they select between two values of which one
depends on what they jump with: `where(x > 0, f(x), g(x))` is taken to be continuous.

A frozen *discrete* choice is no such randomness: where an integer is compared with something that
moves, the expectation jumps at single values of the argument only, as `floor(theta)` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ppgen import _jax
from ppgen._analysis import ranges
from ppgen._analysis.influence import NONE, Influence, join

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
    convert_element_type copy copy_p cos cosh digamma div erf erf_inv erfc exp exp2 expm1 igamma
    igammac imag integer_pow lgamma log log1p logistic max min mul neg polygamma pow real
    reduce_precision regularized_incomplete_beta rsqrt select_n sin sinh sqrt square stop_gradient
    sub tan tanh zeta
    reduce_sum reduce_max reduce_min reduce_prod cumsum cumprod cummax cummin cumlogsumexp
    slice dynamic_slice dynamic_update_slice broadcast_in_dim reshape transpose squeeze pad
    concatenate stack unstack tile split sort top_k rev dot_general conv_general_dilated gather
    scatter scatter-add scatter_add scatter_mul scatter_min scatter_max
    reduce_window_sum reduce_window_max reduce_window_min
    cholesky triangular_solve lu qr eigh svd householder_product fft custom_linear_solve
    """.split()
)
"""Operations of JAX that are continuous in their floating-point operands, but for kinks and poles.

Singular vectors, and the factors of a matrix, are where those are well defined.
"""

OURS = frozenset(
    "marker assume_continuous transformed weighed expected shielded counting implicit "
    "optimization_barrier "
    "sharding_constraint device_put magic_box deviation freeze_once sealed sealed_one once "
    "forward_only random_gamma_grad igamma_grad_a fresh_key random_choice "
    "psum psum_invariant pmax pmin pvary pcast all_gather all_gather_invariant all_to_all "
    "ppermute reduce_scatter".split()
)
"""Identities, derivatives of samplers, and what moves or adds values between devices."""

_ATOMLESS = frozenset(
    "marker add sub mul neg exp logistic tanh integer_pow reshape broadcast_in_dim squeeze "
    "transpose slice gather dynamic_slice convert_element_type copy concatenate stack unstack "
    "split rev stop_gradient reduce_sum cumsum dot_general".split()
)
"""What gives no value a probability that had none."""

_INDICES = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}


def discontinuity(
    eqn: _jax.Eqn, ins: Sequence[Influence], *, jumps: bool = True
) -> tuple[str, int] | None:
    """What a random and moving value meets in an equation, in words, and its `suspicion`.

    Args:
        eqn: the equation.
        ins: the influences on its operands.
        jumps: whether its own jumps count; otherwise only what was suspect before.
    """
    return _by_suspects(eqn, ins) or (_by_itself(eqn, ins) if jumps else None)


def _by_suspects(eqn: _jax.Eqn, ins: Sequence[Influence]) -> tuple[str, int] | None:
    """A suspect integer or boolean that becomes a number, an index or a decision."""
    suspect = 0
    for i in ins:
        suspect |= i.suspect
    if not suspect:
        return None
    name = eqn.primitive.name
    if name == "select_n":
        if not is_inexact(eqn.outvars[0]):
            return None
        # where(x > 0, f(x), g(x)) may well be continuous; where(x > 0, a, b) cannot be.
        along = 0
        for i in ins[1:]:
            along |= i.suspicion() | i.suspect
        if left := (ins[0].suspect & ~along) >> 1:
            what = "an indicator (a where() between values that do not depend on it)"
            return what, left << 1 | ins[0].suspect & 1
        return None
    if name == "cond":
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


def _by_itself(eqn: _jax.Eqn, ins: Sequence[Influence]) -> tuple[str, int] | None:
    """A random and moving value at an operation that jumps."""
    found = join(*ins)
    suspicion = found.suspicion()
    if not suspicion:
        return None
    name = eqn.primitive.name
    if name in _JUMPS:
        # A remainder jumps with its divisor too, an angle with both coordinates.
        return _JUMPS[name], suspicion
    if name in WITHOUT_DERIVATIVE:
        # A derivative by an argument is refused where it is taken.
        mask = found.pathwise
        return (WITHOUT_DERIVATIVE[name], mask << 1 | found.moving) if mask else None
    if name == "convert_element_type" and not is_inexact(eqn.outvars[0]):
        new = eqn.outvars[0].aval.dtype
        return (f"a cast to {new}", suspicion) if jnp.issubdtype(new, jnp.integer) else None
    if name == "sort" and len(ins) > 1:
        keys = join(*ins[: eqn.params["num_keys"]]).suspicion()
        for i in ins[eqn.params["num_keys"] :]:
            if left := (keys & ~i.suspicion()) >> 1:
                return "argsort", left << 1 | keys & 1
    if name in CONTINUOUS or name in OURS or _calls(eqn):
        return None
    if any(map(is_inexact, eqn.outvars)):
        return f"{name}, which is not known to be continuous", suspicion
    return None


def settled(
    eqn: _jax.Eqn, ins: Sequence[Influence], outs: Sequence[Influence], *, jumps: bool
) -> list[Influence]:
    """The influences on the results: integers and booleans have suspicions, and no derivatives."""
    if all(map(is_inexact, eqn.outvars)):
        own = 0
    else:
        found = join(*ins)
        own = found.suspicion() if jumps and not _follows(eqn) else 0
        if eqn.primitive.name in ("eq", "ne") and not found.atoms:
            own = 0  # a continuous value meets a number with probability zero
    new = []
    for v, out in zip(eqn.outvars, outs, strict=True):
        if is_inexact(v):
            new.append(out._replace(suspect=0) if out.suspect else out)
        elif out.pathwise or out.frozen or out.moving or own:
            suspect = out.suspect | own
            new.append(out._replace(pathwise=0, frozen=0, moving=False, suspect=suspect))
        else:
            new.append(out)
    return new


def ranged(eqn: _jax.Eqn, ins: Sequence[Influence], outs: Sequence[Influence]) -> list[Influence]:
    """The influences on the results, with the ranges of those that are random and moving."""
    name = eqn.primitive.name
    own = name in ("random_choice", "transformed")
    own = own or (name == "marker" and eqn.params["kind"] == "pathwise")
    if own or _calls(eqn) or not (name == "ne" or any(o.pathwise or o.frozen for o in outs)):
        return list(outs)
    operands = zip(eqn.invars, ins, strict=True)
    within = [i.within if i is not NONE else known(v).within for v, i in operands]
    found = ranges.after(eqn, within)
    atoms = name not in _ATOMLESS
    return [o._replace(within=found, atoms=o.atoms or atoms) for o in outs]


def known(v: Any) -> Influence:
    """What is known of an operand that nothing influences: a number lies where it lies."""
    if not isinstance(v, _jax.Literal) or jnp.ndim(v.val) or not is_inexact(v):
        return NONE
    if jnp.iscomplexobj(v.val):
        return NONE
    return Influence(within=(float(v.val), float(v.val)))


def is_inexact(v: Any) -> bool:
    """Whether a variable holds floating-point (or complex) numbers, which have derivatives."""
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


def _calls(eqn: _jax.Eqn) -> bool:
    """Whether an equation is looked into."""
    return bool(_jax.subjaxprs(eqn)) and eqn.primitive.name in FOLLOWED


def _follows(eqn: _jax.Eqn) -> bool:
    name = eqn.primitive.name
    return name == "optimization_barrier" or (_calls(eqn) and name not in CUSTOM)


CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
FOLLOWED = CUSTOM | {
    *("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"),
    *("scan", "cond", "while", "shard_map", "custom_linear_solve"),
}
"""Primitives whose jaxprs are walked through, or are their author's word."""


def remedy(suspicion: int, sites: Sequence[Any], *, jumps: bool) -> tuple[str, str]:
    """Why a jump is refused, and what to write instead, which depends on what moves it."""
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
            "the indicator as a probability (dist.Normal(loc, scale).cdf(theta) for x < theta); "
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
