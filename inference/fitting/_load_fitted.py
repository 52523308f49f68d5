"""Reading the last checkpoint of a fit, without resuming it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ppgen.inference.fitting._checkpoint_store import Checkpoints, Store
from ppgen.inference.fitting._fit import Fitted
from ppgen.inference.fitting._optimization import Trained, averaged
from ppgen.inference.fitting._saved_trees import CheckpointError, by_name


def load_fitted(folder: str | Path, params: PyTree, *, ema: float | None = None) -> Fitted:
    """The last checkpoint of a `fit` that is not damaged, finished or not.

    Nothing is written, so that the fit may be running meanwhile. Its data and its optimizer are
    not needed.

    Args:
        folder: The folder of its `Checkpoints`.
        params: A pytree of the structure of the parameters, such as freshly initialised ones.
            Leaves that `fit` does not optimise are taken from it.
        ema: The argument that `fit` was given.

    Returns:
        What `fit` would have returned, had it ended there; without `state`.

    Raises:
        CheckpointError: If there is none, all are damaged, or they are of other parameters.

    Examples:
        >>> import jax, optax, tempfile
        >>> from ppgen.inference import Checkpoints, fit, load_fitted
        >>> folder = tempfile.mkdtemp()
        >>> fitted = fit(
        ...     lambda x: (x - 3) ** 2,
        ...     0.0,
        ...     optax.adam(0.1),
        ...     key=jax.random.key(0),
        ...     steps=100,
        ...     checkpoints=Checkpoints(folder),
        ... )
        >>> print(load_fitted(folder, 0.0).params == fitted.params)
        True
    """
    if not Path(folder).is_dir():
        raise CheckpointError(f"there is no folder of checkpoints {folder}")
    params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, params)
    varying, rest = eqx.partition(params, eqx.is_inexact_array)
    average: Any = ()
    if ema is not None:
        wide = jax.tree.map(lambda x: x.astype(jnp.result_type(float)), varying)
        average = optax.EmaState(count=jnp.int32(0), ema=wide)
    # The part of what `Recovery` saves that is needed here.
    trained = Trained(params=varying, optimizer=(), state=(), average=average)
    carry = jax.eval_shape(lambda: {"skipped": jnp.int32(0), "trained": trained})
    names = by_name({"carry": carry})
    with Store(Checkpoints(folder), maximize=False, read_only=True) as store:
        found = store.latest(names, optional=lambda name: name not in names)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {folder}")
    _, arrays, notes = found
    carry = jax.tree.unflatten(jax.tree.structure(carry), [arrays[name] for name in names])
    trained = carry["trained"]
    best = trained.params
    if "validation" in notes:  # early stopping returns the best parameters
        found = [arrays[f"best/0/{name}"] for name in by_name(best)]
        best = jax.tree.unflatten(jax.tree.structure(best), found)
    return Fitted(
        eqx.combine(best, rest),
        np.asarray(arrays["history"]),
        ema=None if ema is None else eqx.combine(averaged(trained, ema), rest),
        skipped=int(carry["skipped"]),
        stopped=notes["stopped"] or "steps",
    )
