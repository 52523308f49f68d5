"""Keys that users pass: the first argument of everything that draws."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from ppgen import _jax
from ppgen._user_lines import user_line
from ppgen.errors import RandomKeyError


def first_key(key: Any, *others: Any, name: str = "g") -> Array:
    """The key that a function was given first, typed.

    Args:
        key: what it was given, of a new or an old style.
        *others: its other arguments, among which a key may have been put.
        name: what a user calls the function.

    Raises:
        RandomKeyError: it is no key, or several.
    """
    if not _is_key(key):
        # One of an old style is as many words as its generator has, and no other array is.
        if getattr(key, "dtype", None) != jnp.uint32:
            _refuse(key, others, name)
        try:
            key = _jax.typed_key(key)
        except TypeError:
            _refuse(key, others, name)
    if jnp.ndim(key):
        raise RandomKeyError(
            f"{name} takes one key, and was given {jnp.size(key)} of them",
            where=user_line(),
            instead=f"jax.vmap({name}, in_axes=(0, None))(keys, argument), for one result each",
        )
    return key


def _refuse(key: Any, others: tuple[Any, ...], name: str) -> NoReturn:
    shape = jnp.shape(key) if hasattr(key, "shape") else ""
    what = f"{type(key).__name__}{shape}" if hasattr(key, "shape") else repr(key)
    place = "a key" if "key=..." in name else "a key first"
    misplaced = any(map(_is_key, jax.tree.leaves(others)))
    more = ", and the key was given after it" if misplaced else ""
    raise RandomKeyError(
        f"{name} takes {place}: what was given there is {what[:60]}{more}",
        where=user_line(),
        instead=_advice(name, "key" if misplaced else "jax.random.key(0)"),
    )


def _advice(name: str, key: str) -> str:
    """The call with a key: by its keyword, where it has one."""
    return name.replace("key=...", f"key={key}") if "key=..." in name else f"{name}({key}, ...)"


def _is_key(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
