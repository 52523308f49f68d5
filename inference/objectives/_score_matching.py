"""Score matching without noise: the score of a density from draws of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims


@claims("unbiased", "the squared distance of scores, up to a constant", gradient="unbiased")
def implicit_score_matching(
    score: Callable[[Any, Array], Array], program: Program
) -> Callable[..., Float[Array, ""]]:
    r"""The implicit form of the squared distance between a model's score and that of the data.

    .. math:: E_{p(x)}\big[\tfrac12 \|s_\theta(x)\|^2 + \nabla \cdot s_\theta(x)\big]
              = \tfrac12 E\|s_\theta - \nabla \log p\|^2 - \tfrac12 E\|\nabla \log p\|^2,

    where p vanishes at infinity. *Unbiased*, value and gradients. The divergence is the
    exact trace, at the cost of as many directions as x has elements; `sliced_score_matching`
    estimates it. With noise added to the data, `regress(..., predict="score")` needs no divergence.

    Args:
        score: `(params, x) -> array` of the shape of x.
        program: draws and returns one x.

    Returns:
        `(params, *args) -> scalar`, one draw of the loss; `args` go to the program.

    References:
        Hyvärinen. Estimation of non-normalized statistical models by score matching. JMLR 2005.

    Examples:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import implicit_score_matching
        >>> program = lambda: numpyro.sample("x", dist.Normal(2.0, 1.0))
        >>> loss = implicit_score_matching(lambda loc, x: loc - x, program)
        >>> g = jax.grad(ppgen.expectation(loss, draws=10_000), argnums=1)
        >>> print(f"{g(jax.random.key(0), 3.0):.1f}")  # 3 - 2
        1.0
    """

    def objective(params: Any, *args: Any) -> Float[Array, ""]:
        x = program(*args)
        directions = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        return _loss(score, params, x, directions, 1)

    return objective


@claims("unbiased", "the squared distance of scores, up to a constant", gradient="unbiased")
def sliced_score_matching(
    score: Callable[[Any, Array], Array], program: Program, *, slices: int = 1
) -> Callable[..., Float[Array, ""]]:
    r"""`implicit_score_matching` with the divergence in random directions.

    .. math:: E\big[\tfrac12 \|s_\theta(x)\|^2 + v^\top \nabla s_\theta(x)\, v\big], \qquad
              v \sim N(0, I).

    *Unbiased* for the same loss, value and gradients, with more variance, at the cost of `slices`
    directions.

    Args:
        score: as for `implicit_score_matching`.
        program: as for `implicit_score_matching`.
        slices: how many directions; the choice is named `"slices"` in reports.

    Returns:
        As for `implicit_score_matching`.

    References:
        Song, Garg, Shi, Ermon. Sliced score matching. UAI 2019 (with the norm in closed form).
    """

    def objective(params: Any, *args: Any) -> Float[Array, ""]:
        x = program(*args)
        law = dist.Normal(jnp.zeros((slices, *x.shape), x.dtype), 1.0)
        return _loss(score, params, x, ppgen.draw(law, name="slices"), slices)

    return objective


def _loss(score: Callable, params: Any, x: Array, directions: Array, count: int) -> Array:
    value, push = jax.linearize(lambda x: score(params, x), x)
    divergence = jnp.sum(jax.vmap(push)(directions) * directions) / count
    return 0.5 * jnp.sum(value**2) + divergence
