"""Checkpoints: the arrays of a pytree in a folder, through orbax.

Only arrays are stored, never code: the caller rebuilds the structure, and loading fills it. So a
checkpoint from a stranger can hold wrong numbers, but it cannot run anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ppgen.errors import PpgenError


class CheckpointError(PpgenError):
    """A checkpoint that is missing, damaged, or of another model.

    Example:
        >>> import jax.numpy as jnp, tempfile
        >>> from ppgen.inference import load_checkpoint, save_checkpoint
        >>> folder = tempfile.TemporaryDirectory()
        >>> save_checkpoint(f"{folder.name}/first", {"weights": jnp.zeros(3)})
        >>> load_checkpoint(f"{folder.name}/first", {"weights": jnp.zeros(4)})
        Traceback (most recent call last):
            ...
        ppgen.inference.CheckpointError: the checkpoint at ... is of another model: ...
          See: ppgen.inference.CheckpointError

        Read it into parameters of the same names, shapes and types:

        >>> load_checkpoint(f"{folder.name}/first", {"weights": jnp.ones(3)})
        {'weights': Array([0., 0., 0.], dtype=float32)}
        >>> folder.cleanup()
    """

    # The public module, for messages and pickling.
    __module__ = "ppgen.inference"


def save_checkpoint(path: str | Path, tree: PyTree) -> None:
    """Writes the arrays of a pytree. The folder appears at once and complete, or not at all.

    Args:
        path: A folder that does not exist.
        tree: Any pytree. Leaves that are not arrays, such as activation functions, are not stored.

    Raises:
        CheckpointError: If `path` exists.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists; a checkpoint never overwrites anything")
    arrays, _ = eqx.partition(tree, eqx.is_array)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, by_name(arrays))


def load_checkpoint(path: str | Path, like: PyTree) -> PyTree:
    """Reads a pytree that `save_checkpoint` wrote.

    Args:
        path: The folder.
        like: A pytree of the same structure, for example one with fresh parameters; its arrays may
            be `jax.ShapeDtypeStruct`s (`eqx.filter_eval_shape` makes them without computing).

    Returns:
        `like` with the stored arrays.

    Raises:
        CheckpointError: If there is no such checkpoint, it cannot be read, or its arrays differ in
            name, shape or type from those of `like`.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}")
    arrays, rest = eqx.partition(like, _is_abstract_array)
    expected = by_name(arrays)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.restore(path)
    # Orbax raises many types for a damaged folder, some of them from its own dependencies.
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint at {path} cannot be read: {first_line(error)}"
        ) from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"the checkpoint at {path} holds no arrays by name")
    for name in sorted(expected.keys() ^ stored.keys()):
        raise CheckpointError(
            f"the checkpoint at {path} is of another model: {name} is only in "
            f"{'the model' if name in expected else 'the checkpoint'}"
        )
    for name, want in expected.items():
        have = stored[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise CheckpointError(
                f"the checkpoint at {path} is of another model: {name} is "
                f"{have.dtype}{list(have.shape)}, the model has {want.dtype}{list(want.shape)}"
            )
    leaves = [jax.numpy.asarray(stored[name]) for name in expected]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), rest)


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a pytree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_abstract_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def first_line(error: Exception, most: int = 200) -> str:
    """The first line of a message, which for orbax can be pages long."""
    return str(error).strip().split("\n")[0][:most] or type(error).__name__
