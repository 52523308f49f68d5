"""Ising models and molecules against brute force, and random orders."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from ppgen.models.parts.data import (
    DataError,
    Ising,
    Molecules,
    all_strings,
    molecule_string,
    sample_ising,
)
from ppgen.models.parts.distributions import UniformPermutation


def brute_force(ising):
    """All configurations of a torus and their log probabilities, by its adjacency matrix."""
    at = np.arange(ising.sites).reshape(ising.rows, ising.columns)
    coupling = np.zeros((ising.sites, ising.sites))
    for axis in (0, 1):
        neighbours = np.roll(at, 1, axis)
        np.add.at(coupling, (at.ravel(), neighbours.ravel()), ising.coupling)
        np.add.at(coupling, (neighbours.ravel(), at.ravel()), ising.coupling)
    x = all_strings(ising.sites, 2)
    spins = 2.0 * x - 1
    weights = ((spins @ coupling) * spins).sum(1) + ising.field * spins.sum(1)
    return x, weights, logsumexp(weights)


def test_a_torus_is_summed_exactly():
    ising = Ising(3, 4, coupling=0.17, field=-0.3)
    x, weights, log_z = brute_force(ising)
    np.testing.assert_allclose(jax.vmap(ising.log_weight)(x), weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ising.log_normalizer(), log_z, rtol=1e-12)
    p = np.exp(weights - log_z)
    np.testing.assert_allclose(ising.entropy(), -(p * np.log(p)).sum(), rtol=1e-10)
    random = np.random.RandomState(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        known, seen = random.uniform(size=12) < share, random.randint(0, 2, 12)
        expected = np.log(p[((x == seen) | ~known).all(1)].sum())
        np.testing.assert_allclose(ising.log_marginal(seen, known), expected, atol=1e-10)


def test_the_published_tori():
    assert abs(Ising(4).log_normalizer() - 12.598503) < 1e-6
    assert abs(Ising(4).entropy() - 8.681267) < 1e-6
    assert abs(Ising(10).log_normalizer() - 78.68806) < 1e-5
    assert abs(Ising(10).entropy() / (100 * np.log(2)) - 0.78332) < 1e-5


def test_gibbs_draws_have_the_exact_marginals():
    def misfit(ising, drawn):
        """The share of "up", and of equal neighbours, in standard errors from the exact one."""
        draws = np.asarray(sample_ising(drawn, 4000, sweeps=20, key=jax.random.key(0)))
        x, weights, log_z = brute_force(ising)
        p = np.exp(weights - log_z)
        errors = []
        for values in (
            lambda x: x[:, 5],
            lambda x: x[:, 0] == x[:, 3],
            lambda x: x[:, 5] == x[:, 9],
        ):
            exact = p @ values(x)
            errors.append((values(draws).mean() - exact) / np.sqrt(exact * (1 - exact) / 4000))
        return np.abs(errors).max()

    assert misfit(Ising(4), Ising(4)) < 4.5
    assert misfit(Ising(4), Ising(4, coupling=0.07)) > 6
    assert misfit(Ising(4), Ising(4, field=0.1)) > 6
    large = np.asarray(sample_ising(Ising(30), 20, sweeps=60, key=jax.random.key(1)))
    assert large.shape == (20, 900) and set(np.unique(large)) == {0, 1}
    # Far from criticality, a site of 30x30 is as one of 10x10: four standard errors, correlated.
    up = np.exp(Ising(10).log_marginal(np.ones(100, int), np.arange(100) == 0))
    assert abs(large.mean() - up) < 4 * large.mean(1).std() / np.sqrt(20)


def test_tori_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="2x4 has sites next to themselves"):
        Ising(2, 4)
    with pytest.raises(DataError, match="30 columns are too many"):
        Ising(30).log_normalizer()
    with pytest.raises(DataError, match="no checkerboard"):
        sample_ising(Ising(5), 1, key=jax.random.key(0))


def is_molecule(text):
    """By hand, from the string."""
    valence = {"C": 4, "N": 3, "O": 2, "F": 1}
    atoms = []
    bond = 1
    for character in text:
        if character in "=#":
            bond = "-=#".index(character) + 1
            continue
        atoms.append([valence[character], bond])
        bond = 1
    if not atoms or atoms[0][1] > 1:
        return False
    used = [0] * len(atoms)
    for i in range(1, len(atoms)):
        used[i] += atoms[i][1]
        used[i - 1] += atoms[i][1]
    return all(u <= v for u, (v, _) in zip(used, atoms, strict=True))


def test_molecules_are_valid_just_if_their_valences_are():
    molecules = Molecules(length=4)
    x = all_strings(4, molecules.values)
    valid = np.asarray(jax.jit(jax.vmap(molecules.is_valid))(x))
    padded = (np.diff((x > 0).astype(int), axis=1) <= 0).all(1)
    expected = [ok and is_molecule(molecule_string(row)) for ok, row in zip(padded, x, strict=True)]
    assert valid.tolist() == expected and 500 < valid.sum() < 2000


@pytest.mark.parametrize(
    "tokens, text, reward",
    [
        ([2, 1, 7, 0, 0], "NC=O", 2.0 + 0.5),
        ([1, 9, 0, 0, 0], "C#N", 1.0 + 1.0),
        ([3, 2, 0, 0, 0], "ON", 2.0 - 2.0),
        ([1, 1, 1, 1, 3], "CCCCO", 1.0 - 1.0),
        ([4, 1, 0, 0, 0], "FC", 0.0),
        ([0, 0, 0, 0, 0], "", -6.0),
        ([4, 4, 4, 0, 0], "FFF", -6.0),
        ([7, 1, 0, 0, 0], "=OC", -6.0),
    ],
)
def test_rewards_of_molecules(tokens, text, reward):
    assert molecule_string(np.array(tokens)) == text
    assert float(Molecules().log_weight(jnp.array(tokens))) == reward


def test_permutations_are_uniform_and_normalised():
    d = UniformPermutation(3)
    orders = np.asarray(d.enumerate_support())
    assert sorted(map(tuple, orders)) == sorted(itertools.permutations(range(3)))
    np.testing.assert_allclose(np.exp(d.log_prob(orders)).sum(), 1.0, rtol=1e-6)
    assert np.isneginf(d.log_prob(np.array([0, 0, 1])))
    draws = np.asarray(d.sample(jax.random.key(0), (6000,)))
    counts = np.array([(draws == order).all(1).sum() for order in orders])
    assert counts.sum() == 6000
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()
    with pytest.raises(NotImplementedError, match="9! orders"):
        UniformPermutation(9).enumerate_support()
