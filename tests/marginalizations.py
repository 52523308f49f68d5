"""Marginalization models of two sites, for tests: tables whose law is known."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models.marginalization import (
    MaM,
    importance_weighted_kl,
)
from ppgen.models.parts.data import all_strings

SITES = 2
X = all_strings(SITES, 2)


class Table(eqx.Module):
    """A number for each partly known vector, and logits: whatever a network could say."""

    log_p: jax.Array
    logits: jax.Array

    def __call__(self, seen):
        state = jnp.sum(3 ** jnp.arange(seen.shape[0]) * (seen @ jnp.array([1.0, 2.0])))
        return self.log_p[state.astype(int)], self.logits[state.astype(int)]


def random_model(seed=0, sites=SITES, scale=0.7):
    keys = jax.random.split(jax.random.key(seed))
    log_p = scale * jax.random.normal(keys[0], (3**sites,))
    return MaM(Table(log_p, scale * jax.random.normal(keys[1], (3**sites, sites, 2))), sites, 2)


def consistent_model(p):
    """The tables that belong to the probabilities `p` of all vectors."""
    sites = p.size.bit_length() - 1
    x = all_strings(sites, 2)
    log_p, logits = np.zeros(3**sites), np.zeros((3**sites, sites, 2))

    def mass(seen):
        agree = [all(s in (None, v) for s, v in zip(seen, row, strict=True)) for row in x]
        return np.log(p[agree].sum())

    for seen in itertools.product((None, 0, 1), repeat=sites):
        state = sum(3**i * (0 if s is None else 1 + s) for i, s in enumerate(seen))
        log_p[state] = mass(seen)
        for i in range(sites):
            logits[state, i] = [mass((*seen[:i], value, *seen[i + 1 :])) for value in (0, 1)]
    return MaM(Table(jnp.asarray(log_p), jnp.asarray(logits)), sites, 2)


def log_weight(x):
    return 0.6 * x[0] - 0.8 * x[1] + 1.1 * x[0] * x[1]


def log_p_phi(mam):
    """log p_φ(x | σ) of every order and vector, multiplied out by hand."""
    out = {}
    for order in itertools.permutations(range(mam.sites)):
        for x in itertools.product((0, 1), repeat=mam.sites):
            known, total = np.zeros(mam.sites, bool), 0.0
            for site in order:
                total += mam(jnp.array(x), jnp.array(known.copy()))[1][site, x[site]]
                known[site] = True
            out[order, x] = total
    return out


def importance_of(draws):
    return lambda mam: importance_weighted_kl(mam, log_weight, draws=draws)
