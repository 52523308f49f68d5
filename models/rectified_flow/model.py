"""Rectified flow: the network, its path, its objective and its sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ppgen.inference import Chain, Fields, euler_maruyama, regress
from ppgen.models.parts.networks.time_features import sinusoidal_features

FREQUENCIES = 8


class Velocity(eqx.Module):
    """A velocity of a point and a time: a perceptron, and a multiple of the point. Final."""

    body: eqx.nn.MLP
    gate: eqx.nn.Linear

    def __init__(self, size: int, hidden: int, *, depth: int = 3, key: Key[Array, ""]) -> None:
        """Fresh weights, of points of so many numbers."""
        inputs, keys = size + 2 * FREQUENCIES, jax.random.split(key)
        self.body = eqx.nn.MLP(inputs, size, hidden, depth, jax.nn.silu, key=keys[0])
        self.gate = eqx.nn.Linear(2 * FREQUENCIES, 1, key=keys[1])

    def __call__(self, x: Float[Array, " size"], t: Any) -> Float[Array, " size"]:
        """The velocity at `x`, at the time t from 0 (noise) to 1 (data)."""
        times = sinusoidal_features(jnp.asarray(t, x.dtype), FREQUENCIES).astype(x.dtype)
        return self.gate(times) * x + self.body(jnp.concatenate([x, times]))


class RectifiedFlow(eqx.Module):
    """A flow for every round: the first one, those that are reflowed, the distilled one. Final."""

    flows: tuple[Velocity, ...]

    def __init__(self, size: int, hidden: int, rounds: int, *, key: Key[Array, ""]) -> None:
        """Fresh weights: every round but the first begins with those of the round before."""
        flow = Velocity(size, hidden, key=key)
        self.flows = (flow,) * rounds


def straight_path(x1: Float[Array, " size"], x0: Any = None, time: Any = None) -> Array:
    """The bridge: straight from noise, or from the other end of a pair, to a datum.

    Args:
        x1: where it ends.
        x0: where it begins; noise by default.
        time: its only time, to distil: 0. By default times are uniform.
    """
    t = numpyro.sample("t", dist.Uniform() if time is None else dist.Delta(time))
    x1 = jnp.asarray(numpyro.sample("x1", dist.Delta(x1, event_dim=1)))
    normal = dist.Normal(jnp.zeros_like(x1), 1.0).to_event(1)
    x0 = numpyro.sample("x0", normal if x0 is None else dist.Delta(x0, event_dim=1))
    return t * x1 + (1 - t) * x0  # pyright: ignore


def flow_objective(*, distil: bool = False) -> Callable[..., Float[Array, ""]]:
    """The regression of a `Velocity` on the path to a datum, or of a pair.

    Args:
        distil: whether it is of the first point of the path alone: the whole path in one step.

    Returns:
        An objective `(velocity, x1, x0)`, *unbiased*; without `x0`, of noise.
    """

    def bridge(x1: Array, x0: Any = None) -> Array:
        return straight_path(x1, x0, 0.0 if distil else None)

    return regress(lambda velocity, x, t: velocity(x, t), bridge)


def flow_chain(
    velocity: Velocity, size: int, steps: int, stepper: Callable = euler_maruyama
) -> Chain:
    """The sampler of a flow from noise, by Euler's method or another, as a program."""
    prior = dist.Normal(jnp.zeros(size), 1.0).to_event(1)
    fields = stepper(lambda x, t: Fields(velocity(x, t)))
    return Chain(prior, fields, jnp.linspace(0.0, 1.0, steps + 1))
