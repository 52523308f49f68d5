"""Every row of every table about primitives has generated calls; what JAX adds has no row."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from primitive_calls import MAKERS, SINCE, Call, exists
from rules import TABLES, calls, continuous, linear_claims, rows

import ppgen
from ppgen import _jax
from ppgen._analysis import parameters, propagation
from ppgen._analysis.discontinuity import WITHOUT_DERIVATIVE
from ppgen._analysis.influence import Influence
from ppgen._evaluation import constant_folding
from ppgen._evaluation.values import Value
from ppgen._lowering.lower import REMATS
from ppgen._staging.primitives import CALLS

CHOICES = {"fresh_key", "random_choice", "random_gamma", "random_bits", "random_split"}
"""Draws: no functions. Their distributions are tested where their estimators are."""


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_generated_calls(table):
    missing = rows(table) - MAKERS.keys() - CHOICES
    assert not missing, f"rows of {table} without a generator in primitive_calls"


def test_every_row_is_a_primitive():
    every = set().union(*(rows(t) for t in TABLES)) | parameters.PARAMETERS.keys()
    since = {n for n, v in SINCE.items() if jax.__version_info__ < v}
    assert {n for n in every if not exists(n)} == since & every
    assert {n for n in MAKERS if not exists(n)} == since


def test_no_table_is_missing_here():
    """Sets and dicts of strings that name primitives, wherever they are in the source."""
    known = {name for table in TABLES for name in rows(table)} | CALLS | REMATS
    found = {}
    for path in sorted(Path(ppgen.__file__).parent.rglob("_*/*.py")):
        text = path.read_text()
        for name in re.findall(r'name (?:==|in) \(?"([\w-]+)"', text):
            if exists(name) and name not in known:
                found[name] = path.name
    # These have jaxprs, which are walked through, or are ppgen's own and not in any table.
    assert found.keys() <= {
        "scan",
        "cond",
        "while",
        "shard_map",
        "sample_site",
        "estimated_program",
    }


def test_the_parameters_of_every_call_are_known():
    unknown = {
        (name, p)
        for name in MAKERS
        for call in calls(name)
        for p in call.eqn.params.keys() - parameters.PARAMETERS.get(name, frozenset())
        if name in set().union(*(rows(t) for t in TABLES))
    }
    assert not unknown


HOW = set(
    "accuracy sharding out_sharding precision algorithm implementation copy_semantics devices srcs "
    "layout context_mesh unconstrained_dims weak_type index_dtype input_dtype axis_name axes tiled "
    "axis_index_groups axis_size unique_indices indices_are_sorted is_stable sort_eigenvalues "
    "update_jaxpr update_consts jaxprs const_lengths".split()
)
"""Where and how precisely something is computed, and promises about operands."""
ALWAYS = {
    "mul": {"out_dtype"},
    "conv_general_dilated": {"preferred_element_type"},
    "eigh": {"subset_by_index"},
    "svd": {"subset_by_index"},
    "all_gather": {"all_gather_dimension"},
    "all_gather_invariant": {"all_gather_dimension"},
    "all_to_all": {"split_axis", "concat_axis"},
    "ppermute": {"perm"},
    "reduce_scatter": {"scatter_dimension"},
    "triangular_solve": {"left_side"},
}
"""Parameters to which JAX's functions give one value, or of which one device has one."""


def test_parameters_are_drawn_with_several_values():
    single = []
    for name in set().union(*(rows(t) for t in TABLES)) & MAKERS.keys():
        values = defaultdict(set)
        made = calls(name, 20)
        if not made or _is_ours(made[0]):
            continue
        for call in made:
            for p, value in call.eqn.params.items():
                values[p].add(repr(value))
        rest = HOW | ALWAYS.get(name, set())
        single += [(name, p) for p, v in values.items() if len(v) == 1 and p not in rest]
    assert not single


def _is_ours(call: Call) -> bool:
    name = call.eqn.primitive.name
    ours = "marker transformed implicit undifferentiable once forward_only".split()
    return name in ours or name in WITHOUT_DERIVATIVE


WALKED = {
    "scan": "jaxpr length num_carry num_consts ft_in ft_out reverse unroll linear _split_transpose",
    "while": "body_jaxpr body_nconsts cond_jaxpr cond_nconsts",
    "cond": "branches branches_platforms",
    "shard_map": "check_vma in_specs jaxpr mesh newly_manual_axes out_specs manual_axes",
    "remat2": "differentiated jaxpr policy prevent_cse",
    "custom_jvp_call": "call_jaxpr jvp_jaxpr_fun num_consts symbolic_zeros",
    "custom_vjp_call": "bwd call_jaxpr fwd_jaxpr_thunk num_consts out_trees symbolic_zeros",
}
"""The parameters of what is walked through, which no table has."""


def test_the_parameters_of_what_is_walked_through_are_known():
    @jax.custom_jvp
    def jvp(x):
        return x

    @jax.custom_vjp
    def vjp(x):
        return x

    jvp.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    vjp.defvjp(lambda x: (x, None), lambda _, ct: (ct,))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("i",))
    everywhere = jax.sharding.PartitionSpec()

    def f(x):
        x = jax.lax.scan(lambda c, _: (c + x, c), x, None, length=2)[0]
        x = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1]), (0, x))[1]
        x = jax.lax.cond(x > 0, lambda: x, lambda: -x)
        x = jax.checkpoint(jnp.sin)(vjp(jvp(x)))
        return jax.shard_map(jnp.sin, mesh=mesh, in_specs=everywhere, out_specs=everywhere)(x)

    found = {e.primitive.name: set(e.params) for e in jax.make_jaxpr(f)(1.0).eqns}
    assert WALKED.keys() <= found.keys()
    assert {n: found[n] - set(known.split()) for n, known in WALKED.items()} == dict.fromkeys(
        WALKED, set()
    )


# --- what JAX adds --------------------------------------------------------------------------------


def with_parameter(call: Call) -> Call:
    """The same call, of a version of JAX in which the primitive has a parameter more."""
    eqn = call.eqn.replace(params={**call.eqn.params, "sideways": True})
    return Call(eqn, call.operands, call.run)


def renamed(call: Call) -> Call:
    """The same call of a primitive that no table has."""
    old = call.eqn.primitive
    primitive = _jax.Primitive("new_" + old.name)
    primitive.multiple_results = old.multiple_results
    return Call(call.eqn.replace(primitive=primitive), call.operands, call.run)


@pytest.mark.parametrize("changed", [with_parameter, renamed])
def test_what_jax_adds_falls_to_the_sound_defaults(changed):
    for name in MAKERS:
        for call in map(changed, calls(name, 1)):
            assert_defaults(call)


def assert_defaults(call: Call) -> None:
    eqn = call.eqn
    aligned = [
        Influence(aligned={0: tuple((k, "=") for k in range(x.ndim))}) if x.ndim else Influence(1)
        for x in call.operands
    ]
    if call.operands:
        for out in propagation.propagate(eqn, aligned):
            assert out.mixed == 1 and not out.aligned, eqn.primitive
    real = call.real()
    if real and any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars):
        if eqn.primitive.name != "custom_linear_solve":  # walked through
            assert not any(
                continuous(eqn, [k == r for k in range(len(call.operands))]) for r in real
            )
    assert not linear_claims(eqn), eqn.primitive
    values = [Value(jnp.asarray(x), (), (), np.asarray(x)) for x in call.operands]
    assert constant_folding.evaluate_known(eqn, values) is None
