"""Control flow, handlers and programs around a choice, for random programs."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.contrib.control_flow import cond as numpyro_cond
from numpyro.contrib.control_flow import scan as numpyro_scan

import ppgen


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a choice is made.

    Attributes:
        once: makes it, from a number.
        site: makes it as a site of this name, from one or several numbers.
        raw: the same, with values of the type that the distribution gives.
        x: the number that it is to be made from.
        name: its name.
        log_density: of a program without arguments, at values of its sites.
    """

    once: Callable[[Array], Array]
    site: Callable[[str, Array], Array]
    raw: Callable[[str, Array], Array]
    x: Array
    name: str
    log_density: Callable[[Callable, dict[str, Array]], Array]


_PAIR = jnp.array([1.0, -0.5])


def _nested_scan(p: Place) -> Array:
    def outer(c: Array, a: Array) -> tuple[Array, Array]:
        def inner(d: Array, b: Array) -> tuple[Array, Array]:
            return jnp.tanh(p.once(d) + b), d * b

        c, seen = jax.lax.scan(inner, c, a[None])
        return c, jnp.sum(seen)

    last, seen = jax.lax.scan(outer, p.x, _PAIR)
    return last + jnp.sum(seen)


def _reverse_scan(p: Place) -> Array:
    last, seen = jax.lax.scan(
        lambda c, a: (jnp.sin(p.once(c) * a), c - a), p.x, _PAIR, reverse=True
    )
    return last * seen[0] + seen[1] ** 2


def _numpyro_scan(p: Place) -> Array:
    def step(c: Array, a: Array) -> tuple[Array, Array]:
        z = p.site(p.name, c)
        return jnp.tanh(z - a), z * a

    last, seen = numpyro_scan(step, p.x, _PAIR)
    return last + jnp.sum(seen)


def _numpyro_cond(p: Place) -> Array:
    return numpyro_cond(
        jnp.array(True),
        lambda x: p.site(p.name, x),
        lambda x: p.site(p.name, -x),
        p.x,
    )


def _nested_cond(p: Place) -> Array:
    # Of an argument, not of a choice: both branches are programs.
    return jax.lax.cond(
        jnp.array(True),
        lambda x: jax.lax.cond(jnp.array(False), jnp.sin, p.once, x),
        jnp.cos,
        p.x,
    )


def _nested_plates(p: Place) -> Array:
    outer, inner = (f"{p.name}_{which}" for which in ("outer", "inner"))
    with numpyro.plate(outer, 1, dim=-2), numpyro.plate(inner, 2, dim=-1):
        z = jax.vmap(jax.vmap(p.once))(p.x * _PAIR[None])
    return jnp.sum(jnp.sin(jnp.sum(z, axis=0)) * jnp.array([0.5, 1.0]))


def _vmap_of_scan(p: Place) -> Array:
    def chain(x: Array) -> Array:
        return jax.lax.scan(lambda c, _: (p.once(c), c), x, None, length=1)[0]

    return jnp.prod(1.0 + jnp.tanh(jax.vmap(chain)(p.x * _PAIR)))


def _scan_of_vmap(p: Place) -> Array:
    def step(c: Array, a: Array) -> tuple[Array, Array]:
        z = jax.vmap(p.once)(c * _PAIR)
        return jnp.sum(z) * a, z

    last, seen = jax.lax.scan(step, p.x, jnp.array([0.7]))
    return last + jnp.sum(seen**2 * _PAIR)


def _while(p: Place) -> Array:
    def going(state: tuple) -> Array:
        return (state[0] < 2) & (state[1] < 1.2)

    def step(state: tuple) -> tuple:
        k, c = state
        return k + 1, 0.5 * c + p.once(0.3 * c)

    return jax.lax.while_loop(going, step, (0, p.x))[1]


def _open_while(p: Place) -> Array:
    """One without a bound that is known: its counter is not an integer."""

    def step(state: tuple) -> tuple:
        k, c = state
        return k + 1.0, 0.5 * c + p.once(0.3 * c)

    return jax.lax.while_loop(lambda s: (s[0] < 2.0) & (s[1] < 1.2), step, (0.0, p.x))[1]


def _while_counted(p: Place) -> Array:
    def step(state: tuple) -> tuple:
        k, c = state
        return k + 1, jnp.sin(c + p.once(c))

    return jax.lax.while_loop(lambda state: state[0] < 2, step, (0, p.x))[1]


def _branch_in_scan(p: Place) -> Array:
    def step(c: Array, a: Array) -> tuple[Array, Array]:
        z = jax.lax.cond(a > 0, p.once, lambda c: 0.5 * c, c)
        return jnp.tanh(c + z), z

    last, seen = jax.lax.scan(step, p.x, _PAIR)
    return last + jnp.sum(seen)


def _subsampled(p: Place) -> Array:
    with numpyro.plate(f"{p.name}_plate", 3, subsample_size=2) as index:
        z = p.site(p.name, p.x * jnp.array([1.0, -0.5, 0.3])[index])
    return jnp.sum(z * (1.0 + index))


def _handled(handler: Callable[[Callable], Callable]) -> Callable[[Place], Array]:
    return lambda p: handler(lambda: p.site(p.name, p.x))()


def _densities(model: Callable[[str, Array], Any]) -> Callable[[Place], Array]:
    """The log ratio of the density of a model and of what was drawn from, at what was drawn."""

    def run(p: Place) -> Array:
        z = p.raw(p.name, p.x)
        value = {p.name: z}
        q = p.log_density(lambda: p.raw(p.name, p.x), value)
        return jnp.clip(p.log_density(lambda: model(p.name, p.x), value) - q, -20.0, 20.0)

    return run


def _observed(name: str, x: Array) -> None:
    z = numpyro.sample(name, dist.Normal(0.0, 1.0))
    with numpyro.plate("data", 3):
        numpyro.sample("y", dist.Normal(z * x, 1.0), obs=jnp.array([0.3, -0.2, 1.0]))


def _scaled(name: str, x: Array) -> None:
    with numpyro.handlers.scale(scale=2.5):
        z = numpyro.sample(name, dist.Normal(0.3 * x, 1.2))
    with numpyro.handlers.mask(mask=jnp.array([True, False])):
        numpyro.sample("y", dist.Normal(z, 1.0).expand([2]), obs=jnp.array([0.3, -0.2]))
    numpyro.factor("more", jnp.sin(z) * x)


def _blocked(name: str, x: Array) -> None:
    z = numpyro.sample(name, dist.Normal(x, 1.0))
    with numpyro.handlers.block():
        numpyro.sample("unseen", dist.Normal(z, 1.0), obs=0.5)
    with numpyro.handlers.scope(prefix="part"):
        numpyro.sample("y", dist.Bernoulli(logits=z), obs=1)


def _time_series(name: str, x: Array) -> None:
    z = numpyro.sample(name, dist.Normal(x, 1.0))

    def step(c: Array, y: Array) -> tuple[Array, None]:
        numpyro.sample("y", dist.Normal(c, 0.8), obs=y)
        return jnp.tanh(c + z), None

    with numpyro.handlers.scale(scale=1.5):
        numpyro_scan(step, x, jnp.array([0.2, -0.4]))


def _curated(p: Place) -> Array:
    return ppgen.curate(lambda: p.site(p.name, p.x), lambda z: jnp.sin(z), choices=2)()


def _normalized(p: Place) -> Array:
    def model() -> Array:
        z = p.site(p.name, p.x)
        numpyro.factor("energy", -0.3 * z)
        return z

    def proposal() -> None:
        p.site(p.name, p.x)

    return ppgen.normalize(model, proposal=proposal, particles=2)()


def _marginal(p: Place) -> Array:
    def model() -> Array:
        u = numpyro.sample("u", dist.Bernoulli(0.4))
        return p.site(p.name, p.x + 0.5 * u)

    return ppgen.marginal(model, [p.name], particles=1)()


FLOWS: dict[str, tuple[Callable[[Place], Array], int]] = {
    "nested scan": (_nested_scan, 2),
    "reverse scan": (_reverse_scan, 2),
    "nested cond": (_nested_cond, 1),
    "nested plates": (_nested_plates, 2),
    "vmap of scan": (_vmap_of_scan, 2),
    "scan of vmap": (_scan_of_vmap, 2),
    "while": (_while, 2),
    "counted while": (_while_counted, 2),
    "open while": (_open_while, 2),
    "branch in scan": (_branch_in_scan, 2),
    "NumPyro's scan": (_numpyro_scan, 2),
    "NumPyro's cond": (_numpyro_cond, 1),
    "subsampled plate": (_subsampled, 2),
    "scale": (_handled(lambda f: numpyro.handlers.scale(f, scale=3.0)), 1),
    "mask": (_handled(lambda f: numpyro.handlers.mask(f, mask=False)), 1),
    "block": (_handled(numpyro.handlers.block), 1),
    "scope": (_handled(lambda f: numpyro.handlers.scope(f, prefix="inner")), 1),
    "observed": (_densities(_observed), 1),
    "scaled densities": (_densities(_scaled), 1),
    "blocked densities": (_densities(_blocked), 1),
    "densities of a time series": (_densities(_time_series), 1),
    "curate": (_curated, 3),
    "normalize": (_normalized, 3),
    "marginal": (_marginal, 1),
}
"""Control flow around a choice, and how often the choice is made in it."""
