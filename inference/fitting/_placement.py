"""The placement of a fit's arrays: on one device, or over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

Shardings = PyTree | Callable[[str, jax.ShapeDtypeStruct], PartitionSpec]
"""`PartitionSpec`s of the parameters, or a function of a parameter's path and shape."""


class Placement:
    """One device, or a mesh: the rows of a batch lie along its first axis, draws along its second.

    The program is the same: one over the whole batch, which XLA divides. So the numbers, random
    ones included, are those of one device up to the order of sums.

    Args:
        mesh: the devices, or None for the default one.
        shardings: of the parameters: a pytree of `PartitionSpec`s, each of which stands for all
            below it, or a function; all of them on each device if None.
    """

    def __init__(self, mesh: Mesh | None, shardings: Shardings | None) -> None:
        if shardings is not None and mesh is None:
            raise ValueError("shardings need a mesh")
        # Whatever the axes were made for: it is XLA that divides the program.
        self.mesh = mesh and Mesh(
            mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim
        )
        self._shardings = shardings

    def platform(self) -> str:
        """What XLA compiles for, as "cpu" or "gpu"."""
        devices = jax.devices() if self.mesh is None else list(self.mesh.devices.flat)
        return devices[0].platform

    def everywhere(self) -> NamedSharding | None:
        """The sharding of what is on each device."""
        return None if self.mesh is None else self._sharding(PartitionSpec())

    def of_draws(self, batched: bool) -> NamedSharding | None:
        """Along which axis of the mesh draws lie: the first one, unless that has a batch."""
        names = () if self.mesh is None else self.mesh.axis_names[int(batched) :]
        return self._sharding(PartitionSpec(names[0])) if names else None

    def put(self, tree: PyTree, shardings: PyTree | None) -> PyTree:
        """Place the user's arrays."""
        if shardings is None:
            return tree
        return jax.tree.map(lambda x, s: self._put(x, s.spec), tree, shardings)

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicate over all devices. Every process has all of it."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.asarray, tree)
        return jax.tree.map(lambda x: self._put(x, PartitionSpec()), tree)

    def send_block(self, block: PyTree) -> PyTree:
        """Send batches stacked along axis 0, with rows along axis 1; each process sends its own."""
        if self.mesh is None:
            return jax.device_put(block)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names[0]))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), block)

    def split_rows(self, rows: Array) -> Array:
        """In the compiled loop: divide a batch over the devices, by its first axis."""
        if self.mesh is None:
            return rows
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))
        return jax.lax.with_sharding_constraint(rows, sharding)

    def of_state(self, like: PyTree, params: Callable[[PyTree], PyTree]) -> PyTree | None:
        """The shardings of a pytree that holds the parameters and what goes with them.

        An array whose path ends in that of a parameter and that has its shape (an optimiser's
        moments, for example) is sharded as the parameter is; all others are replicated.

        Args:
            like: the pytree, of abstract arrays.
            params: the parameters in it.
        """
        if self.mesh is None:
            return None
        by_path = {
            path: (leaf.shape, spec)
            for (path, leaf), spec in zip(
                jax.tree_util.tree_leaves_with_path(params(like)),
                self._specs(params(like)),
                strict=True,
            )
        }

        def sharding(path: tuple, leaf: Any) -> NamedSharding:
            for start in range(len(path) + 1):
                shape, spec = by_path.get(path[start:], (None, None))
                if spec is not None and shape == leaf.shape:
                    return self._sharding(spec)
            return self._sharding(PartitionSpec())

        return jax.tree_util.tree_map_with_path(sharding, like)

    def _specs(self, params: PyTree) -> list[PartitionSpec]:
        if self._shardings is None:
            return [PartitionSpec()] * len(jax.tree.leaves(params))
        if callable(self._shardings):
            leaves = jax.tree_util.tree_leaves_with_path(params)
            function: Any = self._shardings
            return [function(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
        specs = jax.tree.broadcast(
            self._shardings, params, is_leaf=lambda x: isinstance(x, PartitionSpec)
        )
        leaves: list[Any] = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
        return leaves

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)

    def _put(self, x: Any, spec: PartitionSpec) -> Array:
        sharding = self._sharding(spec)
        if isinstance(x, jax.Array) and x.sharding.device_set == sharding.device_set:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = self._put(jax.random.key_data(x), spec)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
