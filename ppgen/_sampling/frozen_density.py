"""The score of a distribution, and checks that it gives the whole derivative of an expectation.

If a bound of the support moves, the derivative of an expectation has a boundary term (Leibniz),
which the derivative of the log density misses: `moving_ends` handles that. If a log density has a
kink that moves, its second derivative has an atom there, which samples miss.
"""

from __future__ import annotations

from typing import Any

from jax import Array
from numpyro.distributions import Distribution, MixtureGeneral, MixtureSameFamily

from ppgen._derivatives import without_derivative, without_second_derivative
from ppgen._distributions.edges import edges_move_with, is_real_array
from ppgen._distributions.families import family
from ppgen._distributions.pathwise import has_pathwise_derivative
from ppgen._distributions.rebuild import flatten, rebuilt
from ppgen._distributions.wrappers import unwrapped
from ppgen.densities import log_prob


def log_density_for_score(d: Distribution, value: Array) -> Array:
    """The log density (in nats) of a frozen value, `(*batch)`, to be differentiated.

    Raises:
        DerivativeError: when it is differentiated with respect to a bound of the support, or twice
            with respect to the location of a kink.
    """
    return log_prob(rebuilt(_with_fixed_support(d), _with_fixed_kink), value)


def _with_fixed_support(d: Distribution) -> Distribution:
    """`d`, whose parameters that bound its support must not be differentiated."""
    moving = edges_move_with(d)
    if not moving:
        return d
    leaves, structure = flatten(d)
    name = type(d).__name__

    def fixed(x: Any) -> Any:
        return without_derivative(
            x,
            f"the score of {name} was differentiated with respect to a bound of its support: it "
            "misses the "
            "boundary term",
            _instead(d),
        )

    return structure.build([fixed(x) if i in moving else x for i, x in enumerate(leaves)])


def _instead(d: Distribution) -> str:
    fixed = "jax.lax.stop_gradient of the bounds, where they are not to be differentiated"
    if has_pathwise_derivative(d):
        return f"Reparameterize() at this site, or {fixed}"
    if isinstance(unwrapped(d), MixtureGeneral | MixtureSameFamily):
        return (
            "the component as a choice of its own: z = ppgen.draw(dist.Categorical(probs)), and "
            f"then jnp.where(z == 0, ppgen.draw(first), ppgen.draw(second)); or {fixed}"
        )
    return fixed


def _with_fixed_kink(x: Any) -> Any:
    """A family with a kink at its location, which must not be differentiated twice."""
    if not (family(x).kinked and is_real_array(x.loc)):
        return x
    copy = object.__new__(type(x))
    vars(copy).update(vars(x))
    copy.loc = without_second_derivative(
        x.loc,
        f"the score of {type(x).__name__} was differentiated twice with respect to its location: "
        "its log density has a kink there, whose second derivative no sample meets",
        "Reparameterize() at this site, or first derivatives",
    )
    return copy
