"""How good a marginalization model is: its marginals, its conditionals, and whether they agree."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

import ppgen
from ppgen.models.marginalization.model import MaM, any_order, inconsistency, log_marginal
from ppgen.models.parts.data import Ising, Molecules, load_digits

TOGETHER = 4096
"""Vectors whose marginals are computed at the same time."""

INK = 8
"""The grey level, of 0 to 16, from which on a binary pixel is on."""


def binary_digits() -> tuple[Int[np.ndarray, "train 64"], Int[np.ndarray, "held_out 64"]]:
    """The digits of `load_digits`, a pixel on if it is at least half as dark as possible.

    Examples:
        >>> from ppgen.models.marginalization.scores import binary_digits
        >>> [part.shape for part in binary_digits()]
        [(1500, 64), (297, 64)]
    """
    digits = load_digits()
    return (digits.train >= INK).astype(np.int32), (digits.held_out >= INK).astype(np.int32)


@eqx.filter_jit
def log_marginals(
    mam: MaM,
    x: Int[Array | np.ndarray, "draws sites"],
    known: Bool[Array | np.ndarray, "draws sites"] | None = None,
) -> Float[Array, " draws"]:
    """Log p_θ of the values of some sites of each vector: in nats, a pass for each.

    Args:
        mam: The model.
        x: Vectors.
        known: The sites; all if None.
    """
    known = jnp.ones(x.shape, bool) if known is None else jnp.asarray(known)
    pairs = jnp.asarray(x), known
    return jax.lax.map(lambda pair: log_marginal(mam, *pair), pairs, batch_size=TOGETHER)


@eqx.filter_jit
def log_conditionals(
    mam: MaM,
    x: Int[Array | np.ndarray, "draws sites"],
    known: Bool[Array | np.ndarray, "draws sites"],
    *,
    key: Key[Array, ""],
) -> Float[Array, " draws"]:
    """Log p_φ of the values of some sites, drawn first and in a random order: D passes in a row.

    What a model without marginals has for them; the exponential is *unbiased* for Σ p(σ) p_φ.

    Args:
        mam: The model.
        x: Vectors.
        known: The sites.
        key: Draws the orders.

    Returns:
        In nats.
    """

    def one(x: Array, known: Array, key: Key[Array, ""]) -> Array:
        order = jnp.argsort(jnp.where(known, 0.0, 1.0) + jax.random.uniform(key, x.shape))
        terms = ppgen.assess(any_order)({"order": order, "values": x[order]}, mam)
        inside = jnp.arange(len(x)) < known.sum()
        return jnp.sum(jnp.where(inside, terms.log_probs["values"], 0.0))

    rows = jnp.asarray(x), jnp.asarray(known), jax.random.split(key, len(x))
    return jax.lax.map(lambda row: one(*row), rows, batch_size=64)


def subsets(rows: int, sites: int, *, key: Key[Array, ""]) -> Bool[np.ndarray, "rows sites"]:
    """Random sets of sites, of a size that is uniform from one to all."""
    size_key, order_key = jax.random.split(key)
    sizes = jax.random.randint(size_key, (rows, 1), 1, sites + 1)
    ranks = jnp.argsort(jax.random.uniform(order_key, (rows, sites)), 1)
    return np.asarray(ranks < sizes)


class Draws(NamedTuple):
    """Ancestral draws of p_φ.

    Attributes:
        x: The vectors.
        log_q: Log p_φ(x | σ) of each, in its order: in nats.
    """

    x: Int[Array, "draws sites"]
    log_q: Float[Array, " draws"]


@eqx.filter_jit
def ancestral(mam: MaM, draws: int, *, key: Key[Array, ""]) -> Draws:
    """Draws from p_φ, in D passes.

    The mean of `log_q` − log f + log Z is the divergence KL(p_φ, σ ‖ f / Z, σ) of vector and order
    together: an upper bound on that of the vector. That of exp(log p_θ − `log_q`) is the mass of
    p_θ. Both are *unbiased*.
    """

    def one(key: Key[Array, ""]) -> Draws:
        drawn = ppgen.seed(ppgen.simulate(any_order))(key, mam)
        return Draws(drawn.value, jnp.sum(drawn.log_probs["values"]))

    return jax.vmap(one)(jax.random.split(key, draws))


@eqx.filter_jit
def step_errors(
    mam: MaM, x: Int[Array | np.ndarray, "draws sites"], *, key: Key[Array, ""]
) -> Float[Array, " draws"]:
    """The `inconsistency` of each vector at a random step of a random order, in nats."""
    rank_key, d_key = jax.random.split(key)
    rank = jnp.argsort(jax.random.uniform(rank_key, x.shape), 1)
    d = jax.random.randint(d_key, (len(x),), 0, mam.sites)
    return jax.vmap(inconsistency, (None, 0, 0, 0))(mam, jnp.asarray(x), rank, d)


def marginal_divergence(
    mam: MaM, x: Int[np.ndarray, "all sites"], log_p: Float[np.ndarray, " all"]
) -> tuple[float, float]:
    """The exact KL(p_θ ‖ p) of the normalised p_θ, and the log of the mass that it had, in nats.

    Args:
        mam: The model.
        x: Every vector there is.
        log_p: Log p of each.
    """
    log_q = np.asarray(log_marginals(mam, x), np.float64)
    log_mass = np.logaddexp.reduce(log_q)
    log_q -= log_mass
    return float(np.exp(log_q) @ (log_q - log_p)), float(log_mass)


def mean_field_divergence(ising: Ising) -> float:
    """KL(q ‖ p) of the best q of independent, equal sites, in nats: what a model has to beat.

    Examples:
        >>> from ppgen.models.parts.data import Ising
        >>> from ppgen.models.marginalization.scores import mean_field_divergence
        >>> mean_field_divergence(Ising(4, coupling=0.0)) < 1e-6
        True
        >>> print(f"{mean_field_divergence(Ising(4)):.3f}")
        0.366
    """
    m = np.linspace(-0.9999, 0.9999, 200_001)
    entropy = -((1 + m) / 2 * np.log((1 + m) / 2) + (1 - m) / 2 * np.log((1 - m) / 2))
    free = 4 * ising.coupling * m**2 + ising.field * m + entropy
    return ising.log_normalizer() - ising.sites * float(free.max())


def independent_sites(target: Ising | Molecules) -> Float[np.ndarray, "sites values"]:
    """The exact log probability of each value of each site: their product is what is trivial.

    Examples:
        >>> import numpy as np
        >>> from ppgen.models.parts.data import Molecules
        >>> from ppgen.models.marginalization.scores import independent_sites
        >>> print(np.exp(independent_sites(Molecules(3))).sum(1).round(6))
        [1. 1. 1.]
    """
    # All sites of a torus are alike.
    count = 1 if isinstance(target, Ising) else target.sites
    vectors = np.tile(np.arange(target.values)[:, None], target.sites)
    known = np.eye(target.sites, dtype=bool)[:count]
    table = [[target.log_marginal(x, site) for x in vectors] for site in known]
    return np.broadcast_to(np.array(table), (target.sites, target.values))
