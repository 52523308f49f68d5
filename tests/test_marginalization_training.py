"""Marginalization models: training, figures and the command."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marginalizations import X, consistent_model, importance_of, log_p_phi, log_weight, random_model

import ppgen
from ppgen.inference import elbo, fit
from ppgen.models.cli import main
from ppgen.models.marginalization import (
    MaM,
    any_order,
    log_marginal,
    target,
)
from ppgen.models.marginalization.recipe import MarginalizationRecipe
from ppgen.models.marginalization.scores import (
    ancestral,
    independent_sites,
    log_conditionals,
    log_marginals,
    marginal_divergence,
    random_part,
    step_errors,
    subsets,
)
from ppgen.models.marginalization.training import (
    Chained,
    fit_energy,
    fit_likelihood,
    persistent_chains,
)
from ppgen.models.parts.data import Ising, Molecules, all_strings
from ppgen.models.parts.networks import DualMLP
from ppgen.models.parts.runs import each_of, fit_recipe

# --- training -------------------------------------------------------------------------------------

ISING = Ising(3)
STATES = all_strings(9, 2)
LOG_TARGET = jax.vmap(ISING.log_weight)(STATES) - ISING.log_normalizer()


def fresh(width=16):
    return MaM(DualMLP(9, 2, width, 1, key=jax.random.key(0)), 9, 2)


OF_ALL = eqx.filter_jit(jax.vmap(log_marginal, (None, 0)))
ELBO = eqx.filter_jit(
    ppgen.expectation(elbo(lambda mam: target(mam, ISING.log_weight), any_order), draws=2000)
)


def divergences(mam):
    """KL(p_θ ‖ f / Z), p_θ normalised, and that of p_φ with its order, from draws."""
    log_p = OF_ALL(mam, STATES)
    log_p = log_p - jax.nn.logsumexp(log_p)
    of_phi = ISING.log_normalizer() - ELBO(jax.random.key(9), mam)
    return float(jnp.exp(log_p) @ (log_p - LOG_TARGET)), float(of_phi)


@pytest.fixture(scope="module")
def start():
    return divergences(fresh())


@pytest.mark.long
@pytest.mark.parametrize(
    "objective, erased", [("published", 2), ("importance", None), ("corrected", 2)]
)
def test_training_by_an_energy_reaches_the_target(objective, erased, start):
    mam = fit_energy(
        fresh(),
        ISING.log_weight,
        optax.adam(optax.cosine_decay_schedule(5e-3, 300)),
        key=jax.random.key(1),
        steps=300,
        objective=objective,
        draws=64,
        erased=erased,
    )
    assert min(start) > 0.5
    of_theta, of_phi = divergences(mam)
    assert of_theta < 0.03 and of_phi < 0.1


@pytest.mark.long
def test_training_by_the_elbo_improves_the_conditionals(start):
    optimizer = optax.adam(5e-3)
    mam = fit_energy(
        fresh(),
        ISING.log_weight,
        optimizer,
        key=jax.random.key(1),
        steps=150,
        objective="elbo",
        draws=32,
    )
    of_theta, of_phi = divergences(mam)
    assert of_phi < 0.5 * start[1]


def test_objectives_that_cannot_be_are_refused():
    common = {"key": jax.random.key(0), "steps": 1}
    with pytest.raises(ValueError, match="not from chains"):
        fit_energy(fresh(), log_weight, optax.sgd(0.1), objective="importance", erased=2, **common)
    with pytest.raises(ValueError, match="too few"):
        ppgen.expectation(importance_of(1))(jax.random.key(0), random_model())


def test_chains_move_with_the_model_and_stay_configurations():
    mam, x = random_model(6), jnp.zeros((2000, 2))
    moving = persistent_chains(optax.sgd(0.0), mam, erased=1, key=jax.random.key(0))
    fitted = fit(
        lambda p: jnp.sum(p.mam.network.log_p**2),
        Chained(mam, x),
        moving,
        key=jax.random.key(1),
        steps=6,
    )
    chains = np.asarray(fitted.params.chains)
    assert set(np.unique(chains)) == {0.0, 1.0}
    # A site of a random order is drawn anew six times: the chain of its four states, by hand.
    step = np.zeros((4, 4))
    for state, x in enumerate(X):
        for site in (0, 1):
            log_p = np.asarray(mam(jnp.array(x), jnp.arange(2) != site)[1][site])
            for value in (0, 1):
                other = x.copy()
                other[site] = value
                step[state, other @ [2, 1]] += np.exp(log_p[value]) / 2
    expected = 2000 * np.linalg.matrix_power(step, 6)[0]
    counts = np.bincount((chains @ [2, 1]).astype(int), minlength=4)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.long
def test_maximum_likelihood_in_two_stages():
    data = STATES[
        np.random.RandomState(0).choice(512, 4000, p=np.exp(LOG_TARGET) / np.exp(LOG_TARGET).sum())
    ]
    seen = []
    mam = fit_likelihood(
        fresh(),
        data,
        (optax.adam(optax.cosine_decay_schedule(5e-3, 300)),) * 2,
        key=jax.random.key(1),
        steps=(300, 300),
        batch_sizes=(64, 64),
        draws=1000,
        callback=lambda progress: seen.append(progress.step),
    )
    assert seen == [100, 200, 300] * 2
    of_theta, of_phi = divergences(mam)
    assert of_theta < 0.1 and of_phi < 0.1
    # The second stage makes p_θ what p_φ is.
    assert abs(float(jax.nn.logsumexp(OF_ALL(mam, STATES)))) < 0.1


def test_each_stage_has_an_optimizer_of_its_own():
    # At the uniform distribution both heads agree, so that there is nothing to move.
    start = jax.tree.map(lambda w: w + 0.1, fresh())

    def networks(*optimizers):
        options = {"key": jax.random.key(1), "steps": (2, 2), "batch_sizes": (64, 32)}
        network = fit_likelihood(start, STATES, optimizers, **options).network
        return network.marginals, network.conditionals

    moving, still = optax.sgd(0.01), optax.sgd(0.0)
    untrained = start.network
    marginals, conditionals = networks(moving, still)
    assert eqx.tree_equal(marginals, conditionals) and not eqx.tree_equal(marginals, untrained)
    marginals, conditionals = networks(still, moving)
    assert eqx.tree_equal(conditionals, untrained) and not eqx.tree_equal(marginals, untrained)


# --- figures --------------------------------------------------------------------------------------


def test_figures_are_those_of_enumeration():
    mam = random_model(7)
    every = log_p_phi(mam)
    known = np.array([[True, False], [False, True], [True, True], [True, False]])
    by_one_pass = [
        log_marginal(mam, jnp.array(x), jnp.array(k)) for x, k in zip(X, known, strict=True)
    ]
    np.testing.assert_allclose(log_marginals(mam, X, known), by_one_pass, rtol=1e-6)

    # Of one site, its conditional given nothing; of both, that of one of the two orders.
    found = np.asarray(log_conditionals(mam, X, known, key=jax.random.key(0)))
    first = jax.nn.log_softmax(mam(jnp.zeros(2, int), jnp.zeros(2, bool))[1])
    for i, site in ((0, 0), (1, 1), (3, 0)):
        np.testing.assert_allclose(found[i], first[site, X[i, site]], rtol=1e-5)
    both = [log_p for (_, x), log_p in every.items() if x == tuple(X[2])]
    assert np.abs(found[2] - both).min() < 1e-5

    x, log_q = map(np.asarray, ancestral(mam, 4000, key=jax.random.key(1)))
    for row, log_p in zip(x[:20], log_q[:20], strict=True):
        orders = [value for (_, y), value in every.items() if y == tuple(row)]
        assert np.abs(log_p - orders).min() < 1e-5
    mass = np.exp(np.asarray(log_marginals(mam, x)) - log_q)
    exact_mass = np.exp(np.asarray(log_marginals(mam, X))).sum()
    assert abs(mass.mean() - exact_mass) < 5 * mass.std() / np.sqrt(len(mass))

    p = np.random.RandomState(0).dirichlet(np.ones(4))
    true = consistent_model(p)
    divergence, log_mass = marginal_divergence(true, X, np.log(p))
    assert abs(divergence) < 1e-5 and abs(log_mass) < 1e-5
    q = np.random.RandomState(1).dirichlet(np.ones(4))
    louder = eqx.tree_at(lambda m: m.network.log_p, true, replace_fn=lambda t: t.at[1:].add(0.3))
    divergence, log_mass = marginal_divergence(louder, X, np.log(q))
    np.testing.assert_allclose(divergence, p @ np.log(p / q), rtol=1e-5)
    np.testing.assert_allclose(log_mass, 0.3, rtol=1e-4)
    assert np.abs(step_errors(true, X, key=jax.random.key(2))).max() < 1e-5
    # Steps from the empty set are off by .3, the others are right.
    errors = np.asarray(step_errors(louder, np.tile(X, (50, 1)), key=jax.random.key(2)))
    values, counts = np.unique(np.abs(errors).round(4), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 0.3], atol=1e-4)
    assert 60 < counts[1] < 140


def test_random_parts_are_of_all_sizes_and_sites():
    known = subsets(8000, 4, key=jax.random.key(0))
    sizes = np.bincount(known.sum(1), minlength=5)
    assert sizes[0] == 0 and (np.abs(sizes[1:] - 2000) < 5 * np.sqrt(2000)).all()
    assert (np.abs(known.sum(0) - 8000 * 5 / 8) < 5 * np.sqrt(2000)).all()


@pytest.mark.parametrize("given", [True, False])
def test_a_random_part_is_scored_by_both_heads(given):
    mam = random_model(3)
    every, rows = log_p_phi(mam), np.tile(X, (50, 1)) if given else 200
    parts = each_of(lambda *x: random_part(mam, *x), rows, key=jax.random.key(0))
    if given:
        np.testing.assert_array_equal(parts.x, rows)
    marginals = log_marginals(mam, parts.x, parts.known)
    np.testing.assert_allclose(parts.by_marginals, marginals, rtol=1e-5)
    first = jax.nn.log_softmax(mam(jnp.zeros(2, int), jnp.zeros(2, bool))[1])
    seen = set()
    for x, known, found in zip(parts.x, parts.known, parts.by_conditionals, strict=True):
        orders = [value for (_, y), value in every.items() if y == tuple(x)]
        site = int(np.argmax(known))
        expected = orders if known.all() else [first[site, x[site]]]
        distance = np.abs(found - np.array(expected))
        assert distance.min() < 1e-5
        seen.add((known.tobytes(), int(distance.argmin())))
    # Each of the sites alone, and both in either order.
    assert len(seen) == 4


def test_what_is_known_of_molecules_is_summed_over_all_of_them():
    task = Molecules(3)
    strings = all_strings(3, task.values)
    p = np.exp(np.asarray(jax.vmap(task.log_weight)(strings), np.float64))
    np.testing.assert_allclose(task.log_normalizer(), np.log(p.sum()), rtol=1e-6)
    x, known = np.array([2, 1, 4]), np.array([True, False, True])
    agree = (strings[:, 0] == 2) & (strings[:, 2] == 4)
    expected = np.log(p[agree].sum() / p.sum())
    np.testing.assert_allclose(task.log_marginal(x, known), expected, rtol=1e-6)
    alone = np.log(p[strings[:, 1] == 1].sum() / p.sum())
    np.testing.assert_allclose(independent_sites(task)[1, 1], alone, rtol=1e-6)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "options, floor, model",
    [
        (["--task", "digits"], "per-pixel histograms", "conditionals, any-order bound"),
        (["--task", "molecules"], "independent sites", "conditionals, with their order"),
    ],
)
def test_the_command_beats_what_is_trivial_within_seconds(
    tmp_path, monkeypatch, options, floor, model
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["--hidden", "32", "--steps", "300", "--learning-rate", "5e-3", "--joined", "500"]
    folder = tmp_path / "run"
    assert main(["fit", "marginalization", *options, *small, "--out", str(folder)]) == 0
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    unit = "nats per image" if "digits" in options else "nats of divergence"
    (trivial, ours) = (figures[label][unit] for label in (floor, model))
    error = np.hypot(trivial["standard_error"], ours["standard_error"])
    gain = ours["mean"] - trivial["mean"]
    assert (gain if "digits" in options else -gain) > 5 * error
    assert {"samples.png", "marginals.png"} <= {path.name for path in folder.glob("*.png")}
    stages = ["conditionals", "marginals"] if "digits" in options else ["."]
    assert all((folder / stage / "metrics.jsonl").is_file() for stage in stages)


def test_an_energy_has_the_same_figures_for_either_split_and_a_network_of_a_torus():
    options = {"side": 3, "network": "torus", "hidden": 4, "draws": 8, "erased": None}
    recipe = MarginalizationRecipe(task="ising", **options)
    run = fit_recipe(recipe, steps=2)
    figures = [run.figures(particles=20, split=split) for split in ("held-out", "train")]
    assert figures[0].record() == figures[1].record()
    assert {x.title.split(";")[0] for x in figures} == {"held out: all but the energy"}
    assert run.sample(jax.random.key(0), 5).shape == (5, 9)
    # What does not depend on the size of a torus is a model of a larger one.
    assert log_marginals(MaM(run.model.network, 16, 2), all_strings(16, 2)[:3]).shape == (3,)


@pytest.mark.parametrize(
    "options",
    [
        ["--side", "13"],
        ["--erased", "17"],
        ["--draws", "1"],
        ["--early-stopping", "2"],
        ["--objective", "corrected", "--erased", "None"],
        ["--network", "torus", "--task", "molecules"],
    ],
)
def test_options_that_make_no_sense_are_refused(options, tmp_path, capsys):
    arguments = ["fit", "marginalization", "--task", "ising", *options]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert options[0] in capsys.readouterr().err
