"""Programs over continuous latents as log densities on R^n, for samplers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions import biject_to, constraints

import ppgen
from ppgen.annotations import Program
from ppgen.errors import DensityError, SiteError


class Unconstrained:
    """The latents of a program as one vector u, through a bijection for each site.

    Attributes:
        size: the length n of the vector.
        sites: names of the latent sites.
    """

    def __init__(self, program: Program, *args: Any) -> None:
        """Find the sites of `program(*args)` and their supports.

        Raises:
            SiteError: a discrete site, no site, or a support that is not known in advance.
        """
        supports: dict[str, Any] = {}

        def watched() -> None:
            with _Supports(supports):
                program(*args)

        trace = jax.eval_shape(ppgen.seed(ppgen.simulate(watched)), _A_KEY)
        if not trace.choices:
            raise SiteError("the program has no latent site", instead="a program that draws")
        self._bijections = {
            name: biject_to(_constraint(name, facts, supports.get(name)))
            for name, facts in trace.sites
        }
        origin = {
            name: jnp.zeros(bijection.inverse_shape(trace.choices[name].shape))
            for name, bijection in self._bijections.items()
        }
        flat, self._unravel = ravel_pytree(origin)
        self.size = flat.size
        self.sites = tuple(self._bijections)

    def constrain(self, u: Float[Array, " n"]) -> dict[str, Array]:
        """The values of the sites."""
        return {name: self._bijections[name](x) for name, x in self._unravel(u).items()}

    def unconstrain(self, choices: Mapping[str, Array]) -> Float[Array, " n"]:
        """The vector of the given values: inverse of `constrain`."""
        inner = {name: b.inv(choices[name]) for name, b in self._bijections.items()}
        return ravel_pytree(inner)[0]

    def log_density(self, program: Program, *args: Any) -> Callable[[Float[Array, " n"]], Array]:
        """The log density in nats of a program with these sites, as a function of u.

        It is with respect to Lebesgue measure on R^n: the Jacobians of the bijections are included.

        Raises:
            DensityError: the density is itself an estimate.
        """
        score = ppgen.log_density(program)

        def value(u: Float[Array, " n"]) -> Array:
            parts = self._unravel(u)
            choices = {name: self._bijections[name](x) for name, x in parts.items()}
            stretch = [
                jnp.sum(b.log_abs_det_jacobian(parts[name], choices[name]))
                for name, b in self._bijections.items()
            ]
            return score(choices, *args) + sum(stretch)

        with contextlib.redirect_stdout(io.StringIO()):  # the report is printed, too
            report = ppgen.check(value)(jnp.zeros(self.size))
        if report.choices:
            drawn = ", ".join(repr(c.name) for c in report.choices)
            raise DensityError(
                "the density of this program is itself an estimate, which draws "
                f"{drawn}: a Markov chain that evaluates it anew has another stationary "
                "distribution",
                where=report.choices[0].where,
                instead="the program without `marginal` and `normalize`: let the chain run over "
                "the sites that they integrate out",
            )
        return value


_A_KEY = jax.eval_shape(lambda: jax.random.key(0))


class _Supports(numpyro.primitives.Messenger):
    """Note the supports of latent sites."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(None)
        self.found = found

    def process_message(self, msg: dict) -> None:
        latent = msg["type"] == "sample" and not msg["is_observed"]
        if latent and isinstance(msg["fn"], dist.Distribution):
            self.found[msg["name"]] = msg["fn"].support


def _constraint(name: str, facts: Any, seen: Any) -> Any:
    """The support as a NumPyro constraint."""
    support = facts.support
    if support.kind == "integer" or (seen is not None and seen.is_discrete):
        raise SiteError(
            f"a discrete site ({support}) has no unconstrained space",
            site=name,
            where=facts.where,
            instead="the sum over its values as a factor, or importance sampling or SMC",
        )
    if not facts.has_density:
        raise SiteError(
            "the indices of a subsampled plate are not latents to infer",
            site=name,
            where=facts.where,
            instead="the whole plate",
        )
    if seen is not None and not any(isinstance(x, Tracer) for x in jax.tree.leaves(vars(seen))):
        return seen
    bounds = (support.lower, support.upper)
    known = support.kind == "real" and all(
        (b is not None) == has for b, has in zip(bounds, support.bounded, strict=True)
    )
    if not known:
        raise SiteError(
            f"the bounds of the support ({support}) are not known before the program is run",
            site=name,
            where=facts.where,
            instead="numbers for bounds, as low + (high - low) * numpyro.sample(name, Uniform(0, "
            "1))",
        )
    lower, upper = bounds
    if lower is None and upper is None:
        return constraints.real
    if lower is None:
        return constraints.less_than(upper)  # pyright: ignore[reportArgumentType]
    return constraints.greater_than(lower) if upper is None else constraints.interval(lower, upper)
