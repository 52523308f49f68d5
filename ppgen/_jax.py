"""Everything that depends on how JAX represents programs, in one place.

Two representations are in use: before jax 0.12 a closed jaxpr wraps an open one and a scan counts
its constants and carries; from 0.12 on they are one class and a scan holds argument trees.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
from equinox.internal import unvmap_any
from jax._src import core as core_src
from jax._src import source_info_util, xla_bridge
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from ppgen._settings import current, settings

_JAX = os.path.dirname(jax.__file__)
_FUNCTIONS = tuple(
    os.path.join(_JAX, "_src", part) for part in ("numpy", "scipy", "nn", "third_party")
)
_PPGEN = os.path.dirname(__file__)

Jaxpr = Any
Eqn = core.JaxprEqn
Var = core.Var
Literal = core.Literal
Primitive = core.Primitive


def open_jaxpr(jaxpr: Jaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    """The equations of a jaxpr, closed or open, and its constants."""
    consts = getattr(jaxpr, "consts", ())
    return getattr(jaxpr, "jaxpr", jaxpr), consts


def subjaxprs(eqn: Eqn) -> list[Jaxpr]:
    """The jaxprs that an equation calls, closed over their constants where it holds them."""
    found: list[Jaxpr] = []
    for value in eqn.params.values():  # asked for every equation, several times
        kind = type(value)
        if kind in _PLAIN:
            continue
        if isinstance(value, _JAXPRS):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [item for item in value if isinstance(item, _JAXPRS)]
    return found


_PLAIN = frozenset({bool, int, float, str, type(None)})


def primitives_in(jaxpr: Jaxpr) -> frozenset[str]:
    """The names of the primitives of a jaxpr, and of the jaxprs that it calls.

    They are kept as long as the jaxpr is, which never changes: all calls of one of JAX's own
    functions share one jaxpr.
    """
    opened, _ = open_jaxpr(jaxpr)
    found = _PRIMITIVES.get(opened)
    if found is None:
        own = {eqn.primitive.name for eqn in opened.eqns}
        inner = [primitives_in(inner) for eqn in opened.eqns for inner in subjaxprs(eqn)]
        found = _PRIMITIVES[opened] = frozenset(own.union(*inner))
    return found


_PRIMITIVES: weakref.WeakKeyDictionary[Jaxpr, frozenset[str]] = weakref.WeakKeyDictionary()


@functools.cache
def is_subdtype(dtype: Any, kind: Any) -> bool:
    """Whether a type is one of a kind, as `jax.numpy.issubdtype`, which is asked very often."""
    return bool(jax.numpy.issubdtype(dtype, kind))


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, closed or open."""
    return isinstance(value, _JAXPRS)


_JAXPRS = (core.ClosedJaxpr, core.Jaxpr)


def with_equations(jaxpr: Jaxpr, eqns: Sequence[Eqn]) -> Jaxpr:
    """A jaxpr, closed or open, with other equations between the same inputs and results."""
    opened, _ = open_jaxpr(jaxpr)
    new = opened.replace(eqns=list(eqns))
    return new if opened is jaxpr else jaxpr.replace(jaxpr=new)


def map_jaxpr(run: Callable[[Jaxpr, Sequence[Any]], Sequence[Any]], jaxpr: Jaxpr) -> Jaxpr:
    """The jaxpr of `run(jaxpr, inputs)`, closed if the given one is.

    An open jaxpr is returned unchanged if it, or the new one, needs constants.
    """
    opened, _ = open_jaxpr(jaxpr)
    closed = isinstance(jaxpr, core.ClosedJaxpr)
    if opened.constvars and not closed:
        return jaxpr
    avals = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False))
        for a in (v.aval for v in opened.invars)
    ]
    new = jax.make_jaxpr(lambda *values: run(jaxpr, values))(*avals)
    opened, consts = open_jaxpr(new)
    return new if closed else jaxpr if consts else opened


def bind(
    eqn: Eqn, values: Sequence[Any], params: dict[str, Any] | None = None, *, own_line: bool = True
) -> list[Any]:
    """Evaluate one equation on `values`; new equations keep its source line, or the context's."""
    given = eqn.params if params is None else params
    bound: dict[str, Any] = eqn.primitive.get_bind_params(given)
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    traceback = eqn.source_info.traceback if own_line else source_info_util.current().traceback
    with source_info_util.user_context(traceback, name_stack=names), eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **bound)
    return list(out) if eqn.primitive.multiple_results else [out]


def at_line_of(eqn: Eqn) -> Any:
    """A context in which new equations carry the user's line of `eqn`."""
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return source_info_util.user_context(eqn.source_info.traceback, name_stack=names)


def calls_jax(eqn: Eqn) -> bool:
    """Whether a call is one of JAX's own functions, such as `jnp.where`, or one of ppgen's.

    JAX caches its traces, so the source lines inside are those of the first call.
    """
    return any(
        str(open_jaxpr(inner)[0].debug_info.func_filename).startswith((_JAX, _PPGEN))
        for inner in subjaxprs(eqn)
    )


def called(eqn: Eqn) -> str:
    """The name of the function of JAX that an equation calls, or nothing."""
    if not calls_jax(eqn):
        return ""
    return str(open_jaxpr(subjaxprs(eqn)[0])[0].debug_info.func_name)


def derived_by_jax(eqn: Eqn) -> bool:
    """Whether a call with a derivative of its own is one within `jax.numpy`, `jax.scipy`, `jax.nn`.

    It is not where a user gives a function of JAX another derivative.
    """
    traceback = eqn.source_info.traceback
    files = [] if traceback is None else [f.file_name for f in traceback.frames]
    calls = [k for k, file in enumerate(files) if file.endswith("custom_derivatives.py")]
    machinery = ("custom_derivatives.py", "core.py", "traceback_util.py")
    around = files[calls[0] :] if calls else []
    caller = next((file for file in around if not file.endswith(machinery)), "")
    return calls_jax(eqn) and caller.startswith(_FUNCTIONS)


def user_source(eqn: Eqn, skip: Callable[[str], bool]) -> tuple[str, str]:
    """The innermost file and line behind an equation whose file is not `skip`ped, and its source.

    Both are empty where the source is unknown. An expression over several lines has its first line.
    """
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if skip(frame.file_name):
            continue
        line = linecache.getline(frame.file_name, frame.start_line).encode()
        one = frame.end_line == frame.start_line and frame.end_column > frame.start_column
        part = line[frame.start_column : frame.end_column] if one else line
        source = part.decode(errors="replace").strip()
        return f"{frame.file_name}:{frame.start_line}", source
    return "", ""


def in_scope(eqn: Eqn, *names: str) -> bool:
    """Whether the equation was staged under `jax.named_scope` with one of these names."""
    return any(getattr(scope, "name", None) in names for scope in eqn.source_info.name_stack.stack)


def scopes(eqn: Eqn) -> list[str]:
    """The names of the `jax.named_scope`s under which the equation was staged, outermost first."""
    stack = eqn.source_info.name_stack.stack
    return [scope.name for scope in stack if isinstance(scope, source_info_util.Scope)]


def as_function(jaxpr: Jaxpr) -> Callable[..., list[Any]]:
    """The function of a closed jaxpr."""
    return core.jaxpr_as_fun(jaxpr)


def staged_in(eqn: Eqn, *functions: tuple[str, str]) -> bool:
    """Whether the equation was staged within all of these functions, each a file's end and name."""
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    return all(
        any(f.file_name.endswith(file) and f.function_name.endswith(name) for f in frames)
        for file, name in functions
    )


def scan_counts(eqn: Eqn) -> tuple[int, int]:
    """The numbers of constants and of carried values of a `scan` equation."""
    if "num_carry" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def user_line(skip: Callable[[str], bool]) -> str:
    """`file:line` of the innermost Python frame whose file is not `skip`ped."""
    frame = sys._getframe(1)
    while frame is not None and skip(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"


def in_any_lane(flag: jax.Array) -> jax.Array:
    """Whether a flag is set in any lane of the `vmap`s around it: one flag, which is not mapped."""
    return unvmap_any(flag)


def is_tracing() -> bool:
    """Whether this runs in a function that JAX traces."""
    return not core_src.trace_state_clean()


def in_loop(boundary: Callable[[Any], bool]) -> bool:
    """Whether a loop body is being traced, within the innermost `jit` or `boundary` frame."""
    frame = sys._getframe(1)
    while frame is not None and not boundary(frame.f_code):
        file = frame.f_code.co_filename
        if file.endswith("control_flow/loops.py") and frame.f_code.co_name in _LOOPS:
            return True
        if file.endswith("_src/pjit.py"):
            return False
        frame = frame.f_back
    return False


_LOOPS = frozenset({"scan", "while_loop"})


def varying_like(key: jax.Array) -> contextlib.AbstractContextManager[None]:
    """A context in which random values vary over the `shard_map` axes over which `key` varies."""
    return settings(varying_like=jax.typeof(key))


def random_value(shape: tuple[int, ...], dtype: Any) -> Any:
    """The abstract value of something random."""
    like = current().varying_like
    if like is None or not _varies(like):
        return jax.core.ShapedArray(shape, dtype)
    sharding = like.sharding.update(spec=jax.sharding.PartitionSpec(*(None for _ in shape)))
    return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)


def _varies(aval: Any) -> bool:
    return bool(aval.mat.varying if hasattr(aval, "mat") else aval.vma)


def define_primitive(
    name: str,
    *,
    abstract: Callable,
    batch: Callable,
    impl: Callable,
    differentiate: Callable | None = None,
    multiple_results: bool = False,
) -> Primitive:
    """A primitive that always takes part in `vmap`, mapped operands or not.

    Args:
        name: how jaxprs print it.
        abstract: its shape rule.
        batch: `(axis_size, values, dims, **params) -> (value, dim)`, called by every `vmap`
            around it, so that each lane can have randomness of its own.
        impl: what happens when it is evaluated outside of staging.
        differentiate: its JVP rule, called where an operand has a tangent.
        multiple_results: whether it has a list of results; `dim` is then that of each of them.
    """
    primitive = core.Primitive(name)
    primitive.multiple_results = multiple_results
    primitive.def_abstract_eval(abstract)
    primitive.def_impl(impl)
    mlir.register_lowering(primitive, lambda *_, **params: impl(**params))
    batching.fancy_primitive_batchers[primitive] = lambda axis, values, dims, **params: batch(
        axis.size, values, dims, **params
    )
    if differentiate is not None:
        ad.primitive_jvps[primitive] = differentiate
    return primitive


def define_marker(
    name: str, transpose: Callable | None = None, jvp: Callable | None = None
) -> Primitive:
    """An identity primitive that differentiates, batches and compiles to nothing.

    Args:
        name: how jaxprs print it.
        jvp: its JVP rule, `(primals, tangents, **params) -> (primal, tangent)`, instead.
        transpose: its transpose rule, `(cotangent, x, **params) -> [cotangent]`; by default the
            identity.
    """
    primitive = core.Primitive(name)
    primitive.def_abstract_eval(lambda x, **_: x)
    primitive.def_impl(lambda x, **_: x)
    if jvp is None:
        ad.deflinear2(primitive, transpose or (lambda ct, x, **_: [ct]))
    else:
        ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = lambda values, dims, **params: (
        primitive.bind(*values, **params),
        dims[0],
    )
    mlir.register_lowering(primitive, lambda ctx, x, **_: [x])
    return primitive


def default_key_type() -> str:
    """The name of the generator behind `jax.random.key`."""
    config: Any = jax.config
    return config.jax_default_prng_impl


def typed_key(key: Any) -> jax.Array:
    """A typed PRNG key from a new- or an old-style one."""
    if jax.numpy.issubdtype(jax.numpy.result_type(key), jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def define_companion(name: str) -> Primitive:
    """The identity in the first of several operands, which was computed from the others."""
    primitive = core.Primitive(name)
    primitive.def_abstract_eval(lambda x, *_, **__: x)
    primitive.def_impl(lambda x, *_, **__: x)
    ad.primitive_jvps[primitive] = lambda primals, tangents, **params: (
        primitive.bind(*primals, **params),
        tangents[0],
    )

    def batch(values, dims, **params):
        x, dim = values[0], dims[0]
        if dim is None:
            sizes = (v.shape[d] for v, d in zip(values, dims, strict=True) if d is not None)
            x, dim = jax.numpy.broadcast_to(x, (next(sizes), *x.shape)), 0
        return primitive.bind(x, *values[1:], **params), dim

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, lambda ctx, x, *_, **__: [x])
    return primitive


def define_elementwise(name: str, value: Callable, derivative: Callable) -> Primitive:
    """An elementwise primitive of one real operand with a derivative rule of its own.

    A `jax.custom_jvp` function does not do: `scan` drops its rule from the residuals of its reverse
    pass, and second derivatives are then silently wrong.

    Args:
        name: how jaxprs print it.
        value: its value.
        derivative: its JVP rule, `(primals, tangents) -> (primal, tangent)`.
    """
    primitive = core.Primitive(name)
    primitive.def_abstract_eval(lambda x: x)
    primitive.def_impl(value)
    batching.defvectorized(primitive)
    ad.primitive_jvps[primitive] = derivative
    mlir.register_lowering(primitive, mlir.lower_fun(value, multiple_results=False))
    return primitive


def define_product(
    name: str,
    value: Callable,
    *,
    derivatives: tuple[Callable, Callable] | None = None,
    tangents: tuple[Callable, Callable] | None = None,
) -> Callable:
    """A product of two real arrays whose derivatives are products of its kind.

    Unlike for `mul`, the treatment of a factor of zero by `value` applies to derivatives too, in
    forward and in reverse mode and to any order, because tangents and cotangents take the place of
    the operands.

    Args:
        name: how jaxprs print it.
        value: its value; linear in each operand.
        derivatives: what multiplies a cotangent with the second operand, and the first operand
            with a cotangent, instead.
        tangents: or what multiplies a tangent with the second operand, and the first operand with a
            tangent, given `(tangent, first, second)`; cotangents then follow from these.
    """
    primitive = core.Primitive(name)
    primitive.def_abstract_eval(lambda x, y: jax.lax.mul_p.abstract_eval(x, y)[0])
    primitive.def_impl(value)
    mlir.register_lowering(primitive, mlir.lower_fun(value, multiple_results=False))

    def bind(x, y):
        dtype = jax.numpy.result_type(x, y)
        x, y = jax.numpy.asarray(x, dtype), jax.numpy.asarray(y, dtype)
        if x.shape != y.shape:
            x, y = jax.numpy.broadcast_arrays(x, y)
        return primitive.bind(*core_src.auto_insert_reshard(x, y))

    def batch(values, dims):
        moved = [
            v if d is None else jax.numpy.moveaxis(v, d, 0)
            for v, d in zip(values, dims, strict=True)
        ]
        return bind(*moved), 0

    if tangents:
        ad.defjvp(primitive, *tangents)
    else:
        first, second = derivatives or (bind, bind)
        ad.defbilinear(primitive, lambda ct, x, y: first(ct, y), lambda ct, x, y: second(x, ct))
    batching.primitive_batchers[primitive] = batch
    return bind


def define_follower(name: str, derivative: Callable) -> Primitive:
    """The identity in its first operand, with a custom derivative rule for the others.

    `primitive.bind(x, *parameters, functions=fs)` is `x`. Each of `fs` maps `(x, *parameters)` to
    an array shaped as `x`; under `vmap` they are mapped too. The rule sees the primitive's *own
    output* in place of `x`, so that it is differentiated in turn, to any order.

    Args:
        name: how jaxprs print it.
        derivative: `(functions, parameters, tangents) -> tangent`, called with the functions
            restricted to the parameters that move.
    """
    primitive = core.Primitive(name)
    primitive.def_abstract_eval(lambda x, *_, **__: x)
    primitive.def_impl(lambda x, *_, **__: x)
    mlir.register_lowering(primitive, lambda ctx, x, *_, **__: [x])

    def jvp(primals, tangents, *, functions):
        x = primitive.bind(*primals, functions=functions)
        parameters = primals[1:]
        moving = [i for i, t in enumerate(tangents[1:]) if type(t) is not ad.Zero]
        moving = [i for i in moving if jax.numpy.issubdtype(parameters[i].dtype, jax.numpy.inexact)]
        if not moving:
            return x, ad.Zero.from_primal_value(x)

        def restricted(fn):
            def of_moving(*moved):
                full = dict(enumerate(parameters)) | dict(zip(moving, moved, strict=True))
                return fn(x, *full.values())

            return of_moving

        return x, derivative(
            [restricted(fn) for fn in functions],
            [parameters[i] for i in moving],
            [tangents[1 + i] for i in moving],
        )

    def batch(values, dims, *, functions):
        size = next(v.shape[d] for v, d in zip(values, dims, strict=True) if d is not None)
        x, *parameters = values
        if dims[0] is None:
            x = jax.numpy.broadcast_to(x, (size, *x.shape))
        else:
            x = jax.numpy.moveaxis(x, dims[0], 0)
        mapped = tuple(jax.vmap(fn, (0, *dims[1:]), axis_size=size) for fn in functions)
        return primitive.bind(x, *parameters, functions=mapped), 0

    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def computes_on_cpus_already() -> bool:
    """Whether JAX has been asked for its devices, which are CPUs."""
    return xla_bridge.backends_are_initialized() and jax.default_backend() == "cpu"
