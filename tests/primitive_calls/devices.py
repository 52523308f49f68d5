"""Calls of ppgen's own primitives, and of those between devices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppgen._sampling import implicit
from ppgen._staging import primitives
from primitive_calls.operands import Maker, _all, a_shape, reals


def _companion(rng):
    x, other = reals(rng, a_shape(rng)), reals(rng, (2,))
    within = (-np.inf, np.inf)
    return lambda x, y: primitives.transformed_p.bind(x, y, within=within), [x, other]


def _implicit(rng):
    x = reals(rng, a_shape(rng))
    functions = (lambda x, p: x * p, lambda x, p: x + p)
    return lambda x, p: implicit._implicit_p.bind(x, p, functions=functions), [x, x + 1]


def _sharded(rng):
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return lambda x: lax.with_sharding_constraint(x, sharding), [reals(rng, (3, 2))]


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()[:1]), ("i",))


def _between_devices(fn: Callable, *, same: bool = False, checked: bool = True) -> Maker:
    """On one device: that values are moved and added up, and nothing else, shows there too."""

    def maker(rng):
        where = PartitionSpec("i")
        over = jax.shard_map(
            fn,
            mesh=_mesh(),
            in_specs=PartitionSpec() if fn is _vary else where,
            out_specs=PartitionSpec() if same else where,
            check_vma=checked,
        )
        return over, [reals(rng, (2, 3))]

    return maker


def _vary(x):
    return lax.pcast(x, "i", to="varying") if hasattr(lax, "pcast") else lax.pvary(x, "i")


_COLLECTIVES: dict[str, Maker] = {
    "psum": _between_devices(lambda x: lax.psum(x, "i"), checked=False),
    "psum_invariant": _between_devices(lambda x: lax.psum(x, "i"), same=True),
    "pmax": _between_devices(lambda x: lax.pmax(x, "i"), same=True),
    "pmin": _between_devices(lambda x: lax.pmin(x, "i"), same=True),
    "pvary": _between_devices(_vary),
    "all_gather": _between_devices(lambda x: lax.all_gather(x, "i")),
    "all_gather_invariant": _between_devices(
        lambda x: _all()["all_gather_invariant"].bind(
            x, all_gather_dimension=0, axis_name=("i",), axis_size=1, tiled=True
        ),
        same=True,
    ),
    "all_to_all": _between_devices(lambda x: lax.all_to_all(x, "i", 1, 1, tiled=True)),
    "ppermute": _between_devices(lambda x: lax.ppermute(x, "i", [(0, 0)])),
    "reduce_scatter": _between_devices(lambda x: lax.psum_scatter(x, "i", tiled=True)),
}
