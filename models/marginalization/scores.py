"""Scores of a marginalization model: its marginals, its conditionals, and their agreement."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Int, Key

import ppgen
from ppgen.inference import per_datum
from ppgen.models.marginalization.model import (
    MaM,
    any_order,
    any_order_bound,
    inconsistency,
    log_marginal,
)
from ppgen.models.parts.data import Ising, Molecules
from ppgen.models.parts.distributions import UniformPermutation
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood

TOGETHER = 4096
"""Number of vectors whose marginals are computed at the same time."""

MARGINALS = 100
"""Number of parts of vectors whose probabilities are compared."""


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

    It is the estimate of a model without marginals; its exponential is *unbiased* for Σ p(σ) p_φ.

    Args:
        mam: The model.
        x: Vectors.
        known: The sites.
        key: Draws the orders.

    Returns:
        In nats.
    """

    def one(x: Array, known: Array, key: Key[Array, ""]) -> Array:
        return _in_order(mam, x, known, jax.random.uniform(key, x.shape))

    rows = jnp.asarray(x), jnp.asarray(known), jax.random.split(key, len(x))
    return jax.lax.map(lambda row: one(*row), rows, batch_size=64)


def _in_order(mam: MaM, x: Array, known: Array, place: Array) -> Array:
    """Log p_φ of the sites that are known, in the order of their places, which are from 0 to 1."""
    order = jnp.argsort(jnp.where(known, 0.0, 1.0) + place)
    terms = ppgen.assess(any_order)({"order": order, "values": x[order]}, mam)
    inside = jnp.arange(len(x)) < known.sum()
    return jnp.sum(jnp.where(inside, terms.log_probs["values"], 0.0))


class Part(NamedTuple):
    """A random part of a vector, and its log probabilities under a model, in nats.

    Attributes:
        x: The vector.
        known: The sites.
        by_marginals: Log p_θ of their values.
        by_conditionals: Log p_φ of them, in a random order.
    """

    x: Int[Array, " sites"]
    known: Bool[Array, " sites"]
    by_marginals: Float[Array, ""]
    by_conditionals: Float[Array, ""]


def random_part(mam: MaM, x: Int[Array, " sites"] | None = None) -> Part:
    """A program: a part of a vector, of a size that is uniform from one to all.

    Args:
        mam: The model.
        x: The vector; one that p_φ draws if None.
    """
    x = any_order(mam) if x is None else x
    size: Any = ppgen.draw(dist.DiscreteUniform(1, mam.sites), name="size")
    places: Any = [ppgen.draw(UniformPermutation(mam.sites), name=name) for name in ("a", "b")]
    known = places[0] < size
    in_order = _in_order(mam, x, known, places[1] / mam.sites)
    return Part(x, known, log_marginal(mam, x, known), in_order)


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
        x: All possible vectors.
        log_p: Log p of each.
    """
    log_q = np.asarray(log_marginals(mam, x), np.float64)
    log_mass = np.logaddexp.reduce(log_q)
    log_q -= log_mass
    return float(np.exp(log_q) @ (log_q - log_p)), float(log_mass)


def mean_field_divergence(ising: Ising) -> float:
    """KL(q ‖ p) of the best q of independent, equal sites, in nats: a trivial baseline.

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
    """The exact log probability of each value of each site; their product is a trivial baseline.

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


def energy_scores(
    mam: MaM, target: Ising | Molecules, draws: int, *, key: Key[Array, ""]
) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
    """Divergences from a target and errors of marginals, of a model and of independent sites.

    Args:
        mam: The model.
        target: The target of its training.
        draws: The number of draws of the model, and of independent sites. Up to `MARGINALS` of
            them are used to compare marginals.
        key: Everything random follows from it.

    Returns:
        By label and unit: of divergences the terms, whose mean is one; of errors the size.
    """
    keys = jax.random.split(key, 4)

    def gaps(log_q: Array | np.ndarray, x: Array) -> np.ndarray:
        return np.asarray(log_q - jax.vmap(target.log_weight)(x)) + target.log_normalizer()

    alone = independent_sites(target)
    naive = jax.random.categorical(keys[0], alone, shape=(draws, target.sites))
    naive_log_q = np.take_along_axis(alone[None], np.asarray(naive)[:, :, None], 2).sum((1, 2))
    x, log_q = ancestral(mam, draws, key=keys[1])
    some = np.asarray(x[:MARGINALS])
    known = subsets(len(some), target.sites, key=keys[2])
    exact = np.array(list(map(target.log_marginal, some, known)))
    each = np.take_along_axis(alone[None], some[:, :, None], 2)[:, :, 0]
    steps = np.asarray(step_errors(mam, x, key=keys[3]))
    of_parts = np.asarray(log_marginals(mam, some, known)) - exact
    divergence, error = "nats of divergence", "nats of error"
    return {
        "independent sites": {
            divergence: gaps(naive_log_q, naive),
            error: np.abs((each * known).sum(1) - exact),
        },
        "conditionals, with their order": {divergence: gaps(log_q, x)},
        f"marginals of {len(some)} random parts": {error: np.abs(of_parts)},
        "inconsistency of a step": {error: np.abs(steps)},
    }


def image_scores(
    mam: MaM,
    train: Int[np.ndarray, "train sites"],
    images: Int[np.ndarray, "n sites"],
    draws: int,
    *,
    key: Key[Array, ""],
) -> dict[str, dict[str, Float[np.ndarray, " n"]]]:
    """Log likelihoods of images, and their disagreement; those of independent pixels come first.

    Args:
        mam: The model.
        train: Images that it was fitted to.
        images: Images to score.
        draws: The number of draws of the bound to average for each image.
        key: Everything random follows from it.

    Returns:
        By label and unit, one for each image.
    """
    keys = jax.random.split(key)
    bound = per_datum(any_order_bound, mam, images, key=keys[0], draws=draws)
    whole = np.asarray(log_marginals(mam, images))
    steps = np.abs(np.asarray(step_errors(mam, images, key=keys[1])))
    histograms = pixel_marginal_log_likelihood(train, images, values=mam.values)
    nats, error = "nats per image", "nats of error"
    return {
        "per-pixel histograms": {nats: histograms},
        "conditionals, any-order bound": {nats: bound},
        "marginals (not normalised)": {nats: whole},
        "marginals against conditionals": {error: np.abs(whole - bound)},
        "inconsistency of a step": {error: steps},
    }
