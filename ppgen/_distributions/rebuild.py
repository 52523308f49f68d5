"""Splitting NumPyro distributions into arrays and structure, and rebuilding them."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.core import Tracer
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property

# Rebuilt attribute by attribute. NumPyro's own pytrees lose what a class did not declare (all of a
# user's distribution, the networks of a flow, the drift of an SDE).
_OBJECTS = (Distribution, Transform, Constraint)
_CALLABLES = (functools.partial, types.FunctionType, types.MethodType)


def rebuilt(
    x: Any,
    replace: Callable[[Any], Any],
    *,
    container: Callable[[Any, list], Any] = jax.tree.unflatten,
) -> Any:
    """Copy `x` with `replace` applied to it or, where that changes nothing, to its parts.

    Goes through distributions, transforms, constraints, pytrees, and the closures of functions.
    Parts without a replacement are shared with `x`, not copied. `container` makes a pytree of a
    treedef and the replaced leaves.
    """
    return _rebuilt(x, replace, container, {})


def _rebuilt(x: Any, replace: Callable, container: Callable, copies: dict[int, Any]) -> Any:
    new = replace(x)
    if new is not x:
        return new
    # A recursive function holds itself in its closure, so its copy must hold the copy.
    if id(x) in copies:
        return copies[id(x)]
    if isinstance(x, types.FunctionType):
        copy = _copied(x)
        inside = functools.partial(
            _rebuilt, replace=replace, container=container, copies={**copies, id(x): copy}
        )
        return _rebuilt_function(x, copy, inside)
    inside = functools.partial(_rebuilt, replace=replace, container=container, copies=copies)
    if _is_object(x):
        return _rebuilt_object(x, inside)
    if isinstance(x, _CALLABLES):
        return _rebuilt_callable(x, inside)
    leaves, treedef = jax.tree.flatten(x, is_leaf=_has_own_way)
    if len(leaves) == 1 and leaves[0] is x:
        return x
    changed = [inside(leaf) for leaf in leaves]
    if all(a is b for a, b in zip(leaves, changed, strict=True)):
        return x
    return container(treedef, changed)


def _has_own_way(x: Any) -> bool:
    return _is_object(x) or isinstance(x, _CALLABLES)


def _is_object(x: Any) -> bool:
    return _is_object_class(type(x))


@functools.cache
def _is_object_class(cls: type) -> bool:
    # Distrax is not imported for the test, which takes seconds.
    return issubclass(cls, _OBJECTS) or any(
        c.__module__ == "distrax._src.utils.jittable" for c in cls.__mro__
    )


def _rebuilt_object(x: Any, inside: Callable[[Any], Any]) -> Any:
    static, cached = _static_fields(type(x)), _cached_fields(type(x))
    old = {
        name: value
        for name, value in vars(x).items()
        # A transform refers weakly to its inverse and makes another when asked.
        if name not in cached and not isinstance(value, weakref.ref)
    }
    new = {
        name: value if name in static and _is_constant(value) else inside(value)
        for name, value in old.items()
    }
    if all(new[name] is value for name, value in old.items()):
        return x
    copy = object.__new__(type(x))
    vars(copy).update(new)
    return copy


def changed(x: Any, **attributes: Any) -> Any:
    """A copy of a distribution or a transform with other attributes."""
    old, cached = vars(x), _cached_fields(type(x))
    if all(old.get(name) is value for name, value in attributes.items()):
        return x
    copy = object.__new__(type(x))
    kept = {name: value for name, value in old.items() if name not in cached}
    vars(copy).update(kept | attributes)
    return copy


def _is_constant(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, Tracer)


@functools.cache
def _static_fields(cls: type) -> frozenset[str]:
    """Fields that a distribution declares as static (total counts, numbers of steps)."""
    if not issubclass(cls, Distribution):
        return frozenset()
    return frozenset(cls.gather_pytree_aux_fields()) - frozenset(cls.gather_pytree_data_fields())


@functools.cache
def _cached_fields(cls: type) -> frozenset[str]:
    """Fields computed from others on first use: a copy with other parameters must not keep them."""
    parameters = getattr(cls, "arg_constraints", {})
    return frozenset(
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, lazy_property | functools.cached_property) and name not in parameters
    )


def _rebuilt_callable(f: Any, inside: Callable[[Any], Any]) -> Any:
    if isinstance(f, types.MethodType):
        owner = inside(f.__self__)
        return f if owner is f.__self__ else types.MethodType(f.__func__, owner)
    old = (f.func, *f.args, *f.keywords.values())
    new = [inside(value) for value in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return f
    n = 1 + len(f.args)
    return type(f)(*new[:n], **dict(zip(f.keywords, new[n:], strict=True)))


def _copied(f: types.FunctionType) -> types.FunctionType:
    """A copy with an empty closure."""
    cells = tuple(types.CellType() for _ in f.__closure__ or ())
    copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, cells)
    copy.__kwdefaults__ = f.__kwdefaults__
    return copy


def _rebuilt_function(f: Any, copy: Any, inside: Callable[[Any], Any]) -> Any:
    """Fill `copy`, and return it if it differs from `f`."""
    changed = False

    def new(value: Any) -> Any:
        nonlocal changed
        after = inside(value)
        changed = changed or not (after is value or (value is f and after is copy))
        return after

    for cell, empty in zip(f.__closure__ or (), copy.__closure__ or (), strict=True):
        try:
            contents = cell.cell_contents
        except ValueError:
            continue  # a variable that is not assigned yet
        empty.cell_contents = new(contents)
    if f.__defaults__:
        copy.__defaults__ = tuple(new(value) for value in f.__defaults__)
    if f.__kwdefaults__:
        copy.__kwdefaults__ = {name: new(value) for name, value in f.__kwdefaults__.items()}
    return copy if changed else f


@final
class _Slot:
    """A placeholder for the `index`-th leaf in a structure."""

    def __init__(self, index: int) -> None:
        self.index = index


@final
class _Tree:
    """A placeholder for a pytree, because some pytrees drop leaves that are not arrays."""

    def __init__(self, treedef: Any, leaves: list) -> None:
        self.treedef = treedef
        self.leaves = leaves


@final
class Structure:
    """A distribution without its arrays.

    It is compared and hashed by identity, so it can be a parameter of a JAX primitive.
    """

    def __init__(self, skeleton: Any) -> None:
        """`skeleton` is a distribution with slots in place of its arrays."""
        self._skeleton = skeleton

    def build(self, leaves: Sequence[Any]) -> Distribution:
        """The distribution with these arrays; inverse of `flatten`."""

        def fill(x: Any) -> Any:
            if isinstance(x, _Slot):
                return _as_array(leaves[x.index])
            if isinstance(x, _Tree):
                return jax.tree.unflatten(x.treedef, [rebuilt(y, fill) for y in x.leaves])
            return x

        return rebuilt(self._skeleton, fill)

    @functools.cached_property
    def key(self) -> Any:
        """What two structures share only if they build the same of the same leaves.

        `None` where that is not known: a user's class may look at anything.
        """
        try:
            return _key(self._skeleton)
        except _UnknownError:
            return None

    def __repr__(self) -> str:
        return f"Structure({type(self._skeleton).__name__})"


@final
class _UnknownError(Exception):
    """It is not known what else would build the same."""


def _key(x: Any) -> Any:
    if isinstance(x, _Slot):
        return _Slot, x.index
    if x is None or isinstance(x, bool | int | float | str):
        return type(x), repr(x)  # minus zero is not zero, and a number that is none is itself
    if type(x) is tuple:
        return (tuple, *map(_key, x))
    if not isinstance(x, _OBJECTS) or not type(x).__module__.startswith("numpyro."):
        raise _UnknownError
    cached = _cached_fields(type(x))
    fields = {n: v for n, v in vars(x).items() if n not in cached}
    return type(x), tuple((n, _key(v)) for n, v in sorted(fields.items()))


def _as_array(leaf: Any) -> Any:
    """A leaf that is a literal of a jaxpr, as an array, which has a shape."""
    return leaf if hasattr(leaf, "shape") else jnp.asarray(leaf, getattr(leaf, "dtype", None))


def flatten(dist: Distribution | Transform) -> tuple[list[jax.Array], Structure]:
    """Split `dist` in its arrays and the rest, such that `structure.build(leaves)` is `dist`.

    It works for transforms too.

    Only JAX arrays and tracers are leaves, each once. Python scalars and NumPy arrays stay in the
    structure, so that what must be static (a total count) is.
    """
    leaves: list[jax.Array] = []
    slots: dict[int, _Slot] = {}

    def collect(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        if id(x) not in slots:
            slots[id(x)] = _Slot(len(leaves))
            leaves.append(x)
        return slots[id(x)]

    return leaves, Structure(rebuilt(dist, collect, container=_Tree))
