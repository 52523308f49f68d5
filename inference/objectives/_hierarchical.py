"""Bounds for guides with auxiliary choices: mixtures, flows with noise, Markov chains.

Each is `elbo` or `iwelbo` of `ppgen.marginal(guide, keep, ...)`, under the name that its paper gave
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.objectives._elbo import elbo
from ppgen.inference.objectives._importance_weighted import iwelbo


@claims("lower bound", "the log evidence", gradient="unbiased")
def hvi(
    model: Program, guide: Program, keep: Sequence[str], *, proposal: Program | None = None
) -> Callable[..., Float[Array, ""]]:
    r"""The hierarchical bound, with one draw of the guide's auxiliary choices.

    For a guide q(u) q(z | u) and a reverse model r(u | z),

    .. math:: E_{q(u, z)}\Big[\log p(x, z) - \log \frac{q(u)\, q(z \mid u)}{r(u \mid z)}\Big]
              \le \mathrm{ELBO} \le \log p(x).

    *A lower bound* with *unbiased* value and gradients.

    Args:
        model: A program over the sites `keep`.
        guide: A program over these and auxiliary sites.
        keep: The sites of the guide that the model has too; the others are auxiliary.
        proposal: The reverse model `r(kept, *args)`, which draws the auxiliary sites; by default
            they are drawn as the guide draws them, with `kept` held fixed.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    References:
        Ranganath, Tran, Blei. Hierarchical variational models. ICML 2016.
    """
    return elbo(model, ppgen.marginal(guide, keep, proposal=proposal))


@claims("lower bound", "the log evidence", gradient="unbiased")
def iwhvi(
    model: Program,
    guide: Program,
    keep: Sequence[str],
    *,
    inner: int,
    proposal: Program | None = None,
) -> Callable[..., Float[Array, ""]]:
    r"""The importance-weighted hierarchical bound, of M = `inner` draws of the auxiliary sites.

    .. math:: E\Big[\log p(x, z) - \log \frac1M \sum_{m=1}^M \frac{q(u_m, z)}{r(u_m \mid z)}\Big],
              \qquad u_1 \sim q(u \mid z), \; u_2, \dots, u_M \sim r,

    *a lower bound* that grows with M to the ELBO of the guide's marginal. *Unbiased* value and
    gradients.

    Args:
        model: As for `hvi`.
        guide: As for `hvi`.
        keep: As for `hvi`.
        inner: M, the one that the guide drew included.
        proposal: As for `hvi`.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    References:
        Sobolev, Vetrov. Importance weighted hierarchical variational inference. NeurIPS 2019.
    """
    return elbo(model, ppgen.marginal(guide, keep, proposal=proposal, particles=inner))


@claims("lower bound", "the log evidence", gradient="unbiased")
def diwhvi(
    model: Program,
    guide: Program,
    keep: Sequence[str],
    *,
    particles: int,
    inner: int,
    proposal: Program | None = None,
) -> Callable[..., Float[Array, ""]]:
    r"""The doubly importance-weighted hierarchical bound: `iwelbo` of a guide as for `iwhvi`.

    .. math:: E\Big[\log \frac1K \sum_{k=1}^K p(x, z_k) \Big/ \frac1M \sum_{m=1}^M
              \frac{q(u_{km}, z_k)}{r(u_{km} \mid z_k)}\Big] \le \log p(x),

    *a lower bound* that grows with K and M. *Unbiased* value and gradients.

    Args:
        model: As for `hvi`.
        guide: As for `hvi`.
        keep: As for `hvi`.
        particles: K.
        inner: M.
        proposal: As for `hvi`.

    Returns:
        A function of the common arguments: one draw of the bound, in nats.

    References:
        Sobolev, Vetrov. Importance weighted hierarchical variational inference. NeurIPS 2019.
    """
    marginal = ppgen.marginal(guide, keep, proposal=proposal, particles=inner)
    return iwelbo(model, marginal, particles=particles)
