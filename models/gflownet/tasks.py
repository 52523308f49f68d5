"""What is to be made, and how much it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppgen.inference import Hypergrid, Strings, Subsets


class Task(eqx.Module):
    """A graph and an energy on it; there are no rows of data. Final.

    Attributes:
        dag: the graph: one that has `features`, for networks.
        energy: of any state, in nats; that of a terminal state is -log of its reward.
        image: a state as a picture.
    """

    dag: Any
    energy: Callable[[Any], Float[Array, ""]] = eqx.field(static=True)
    image: Callable[[Any], Float[Array, "h w"]] = eqx.field(static=True)
    train: None = None
    held_out: None = None

    def facts(self) -> dict[str, Any]:
        """Numbers from which the network is made: see `Dataset`."""
        features = self.dag.features(self.dag.source())
        return {"features": len(features), "actions": self.dag.actions}


def grid_task(side: int, dimensions: int, floor: float = 0.01) -> Task:
    r"""The hypergrid of the literature: a mode near each corner, and little between them.

    The reward is `floor`, plus .5 where all coordinates are more than .25 from the middle, plus 2
    where they are between .3 and .4 from it, as shares of the side.

    Args:
        side: values of a coordinate.
        dimensions: coordinates.
        floor: the least reward.

    References:
        Bengio, Jain, Korablyov, Precup, Bengio. Flow network based generative models for
        non-iterative diverse candidate generation. NeurIPS 2021.
    """
    dag = Hypergrid(side, dimensions)

    def energy(state: Any) -> Float[Array, ""]:
        off = jnp.abs(state.position / max(side - 1, 1) - 0.5)
        outer, ring = jnp.all(off > 0.25), jnp.all((off > 0.3) & (off < 0.4))
        return -jnp.log(floor + 0.5 * outer + 2.0 * ring)

    return Task(dag, energy, lambda s: dag.features(s).reshape(dimensions, side))


def subset_task(size: int, items: int) -> Task:
    """Subsets whose energy is the sum over their items, of fixed normal draws: N(0, 1)."""
    dag, each = Subsets(size, items), np.random.RandomState(0).normal(size=items)
    return Task(dag, lambda s: jnp.sum(s * jnp.asarray(each, float)), lambda s: 1.0 * s[None])


def bits_task(length: int, modes: int = 4) -> Task:
    """Sequences of bits, wanted if they are near to one of some fixed modes.

    The energy is half the number of bits that differ from the nearest mode; of the beginning of a
    sequence, of the bits that there are.

    Args:
        length: bits.
        modes: random sequences.
    """
    dag = Strings(length, 2)
    best = np.random.RandomState(0).randint(0, 2, (modes, length))

    def energy(state: Any) -> Float[Array, ""]:
        differ = (state.tokens != best) & (state.tokens >= 0)
        return 0.5 * jnp.min(jnp.sum(differ, -1)).astype(float)

    return Task(dag, energy, lambda s: jnp.maximum(s.tokens, 0).astype(float)[None])
