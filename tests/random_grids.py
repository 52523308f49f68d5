"""Small random grid neural processes, for tests."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ppgen.models.random_grid import (
    RGNP,
    AbstractProblem,
    Burgers,
    Cavity,
    Poisson,
)

PROBLEMS = [Poisson(), Burgers(), Cavity()]


def small(problem, **options):
    options = {"points": 5, "rank": 2, "width": 8, "channels": 4, "nodes": 5} | options
    return RGNP(problem, **options, key=jax.random.key(0))


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)


class Slope(AbstractProblem):
    """u′ = z on [−1, 1]: without a condition, all of the bound has a closed form."""

    pinned: bool = eqx.field(static=True, default=False)
    """Whether u(−1) = 0."""

    low: ClassVar[tuple[float, ...]] = (-1.0,)
    high: ClassVar[tuple[float, ...]] = (1.0,)
    fields: ClassVar[int] = 1
    inputs: ClassVar[int] = 1

    def parameters(self):
        return dist.Uniform(-1.0, 1.0).expand([1]).to_event(1)

    def conditions(self):
        return dist.Uniform(0.0, 1.0).expand([1]).to_event(1)

    def input(self, x, z, w):
        return z

    def envelope(self, x, w):
        return jnp.zeros(1), 1 + x if self.pinned else jnp.ones(1)

    def residual(self, u, x, z, w):
        return jax.jvp(u, (x,), (jnp.ones(1),))[1] - z

    def solve(self, z, w, *, refine=1):
        points = np.linspace(-1, 1, 5)[:, None]
        return points, (points + self.pinned) * z


class Polynomials(eqx.Module):
    """Mean a x + b x², log scale s x, factor c x: no network."""

    a: jax.Array
    b: jax.Array
    s: jax.Array
    c: jax.Array

    def encode(self, points, values, context):
        return jnp.zeros(0)

    def decode(self, code, query):
        x = query[0]
        return jnp.stack([self.a * x + self.b * x**2, self.s * x, self.c * x])


class Louder(eqx.Module):
    """Another network, with more noise."""

    network: Polynomials
    log_scale: float

    def encode(self, points, values, context):
        return self.network.encode(points, values, context)

    def decode(self, code, query):
        return self.network.decode(code, query).at[1].add(self.log_scale)


class Constant(eqx.Module):
    mean: jax.Array
    log_scale: jax.Array

    def encode(self, points, values, context):
        return jnp.zeros(0)

    def decode(self, code, query):
        return jnp.stack([self.mean, self.log_scale])
