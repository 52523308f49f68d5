"""Training of random grid neural processes, their scores, pictures and command."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from random_grids import PROBLEMS, Constant, Louder, Polynomials, Slope, small

import ppgen
from ppgen.inference import elbo
from ppgen.models.cli import main
from ppgen.models.parts.networks import DeepONet
from ppgen.models.parts.runs import Run
from ppgen.models.random_grid import (
    RGNP,
    Cavity,
    Poisson,
    References,
    draw_references,
    draw_solutions,
    fit_random_grid,
    observe,
    outputs,
    random_grid_optimizer,
    rgnp_guide,
    rgnp_model,
    score,
    solve_references,
)
from ppgen.models.random_grid.recipe import RandomGridRecipe

# --- training and figures -------------------------------------------------------------------------


def test_scores_are_right_for_laws_that_are_known():
    problem = Slope()
    theta = [jnp.array(v) for v in (0.0, 0.0, 0.0, 0.0)]
    rgnp = RGNP(
        problem, points=3, rank=1, width=2, forward=Polynomials(*theta), key=jax.random.key(0)
    )
    rgnp = eqx.tree_at(
        lambda r: r.backward, rgnp, Constant(jnp.array(0.0), jnp.log(jnp.array(0.5)))
    )
    references = draw_references(problem, 40, key=jax.random.key(1))
    scores = score(rgnp, references, key=jax.random.key(2))
    # A mean of zero and a scale of 0.05 against u = z x; the prior mean of z.
    np.testing.assert_allclose(scores.nse_u, 1.0, rtol=1e-6)
    np.testing.assert_allclose(scores.nse_z, 1.0, rtol=1e-6)
    prior = problem.parameters()
    errors = (references.z - prior.mean) ** 2 / prior.variance
    np.testing.assert_allclose(scores.error_z, errors, rtol=1e-5)
    np.testing.assert_allclose(
        scores.coverage_u, (np.abs(references.u) <= 0.1).mean((1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(scores.coverage_z, (np.abs(references.z) <= 0.5773).mean(1))
    again = draw_references(problem, 40, key=jax.random.key(1))
    assert all(np.array_equal(a, b) for a, b in zip(references, again, strict=True))
    seen = observe(references, 7, noise=0.1, key=jax.random.key(3))
    assert seen.points.shape == seen.values.shape == (40, 7, 1)
    noise = seen.values[:, :, 0] - references.z * seen.points[:, :, 0]
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * noise.size)


@pytest.mark.long
def test_training_solves_a_problem_it_was_never_shown_and_draws_it(tmp_path):
    problem = Slope(pinned=True)
    rgnp = small(problem, points=6, rank=1, width=16)
    references = draw_references(problem, 20, key=jax.random.key(1))
    before = score(rgnp, references, key=jax.random.key(2))
    steps = []
    fitted = fit_random_grid(
        rgnp, key=jax.random.key(3), steps=300, batch=8, learning_rate=1e-2,
        callback=lambda progress: steps.append(progress.step),
    )  # fmt: skip
    after = score(fitted.params, references, key=jax.random.key(2))
    assert steps[-1] == 300 and fitted.history[-50:].mean() > fitted.history[:50].mean()
    assert np.median(after.nse_u) < 0.01 and np.median(before.nse_u) > 0.5
    assert np.median(after.nse_z) < 0.1 and np.median(before.nse_z) > 0.5
    draw_solutions(tmp_path / "a.png", fitted.params, references, key=jax.random.key(4), most=3)
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.05


@pytest.mark.long
def test_without_conditions_white_noise_is_free_and_hides_the_parameters():
    """What `AbstractProblem.envelope` warns of, in closed form and in training."""

    def bound(problem, log_scale):
        theta = [jnp.array(v) for v in (0.4, 0.0, 0.0, 0.0)]
        rgnp = RGNP(
            problem, points=2, rank=1, width=2, channels=1, nodes=5,
            forward=Louder(Polynomials(*theta), log_scale), key=jax.random.key(0),
        )  # fmt: skip
        rgnp = eqx.tree_at(lambda r: r.backward, rgnp, Constant(jnp.zeros(()), jnp.zeros(())))
        return ppgen.expectation(elbo(rgnp_model, rgnp_guide))(jax.random.key(1), rgnp)

    # A nat of log scale at both of two points is worth two nats, whatever the scale is: the
    # residual of u′ does not see it. With a condition it is paid for.
    for log_scale in (0.0, 5.0):
        gain = bound(Slope(), log_scale + 1.0) - bound(Slope(), log_scale)
        np.testing.assert_allclose(gain, 2.0, atol=1e-3)
    assert bound(Slope(pinned=True), 3.0) < bound(Slope(pinned=True), 0.0)

    rgnp = small(Slope(), points=6, rank=1, width=16)
    fitted = fit_random_grid(rgnp, key=jax.random.key(3), steps=300, batch=8, learning_rate=1e-2)
    references = draw_references(Slope(), 20, key=jax.random.key(1))
    law = solve_references(fitted.params, references, key=jax.random.key(2)).u
    # |u| is at most 1.
    assert law.scale.mean() > 2.0
    scores = score(fitted.params, references, key=jax.random.key(2))
    assert np.median(scores.nse_z) > 0.5


def test_pictures_cut_through_the_middle_of_a_box(tmp_path):
    points = np.stack(np.meshgrid(*[np.linspace(0, 1, 5)] * 2), -1).reshape(-1, 2)
    points = points.astype(np.float32)
    problem = Cavity()
    references = References(
        np.full((2, 2), 0.9, np.float32), np.full((2, 1), 0.7, np.float32), points,
        np.zeros((2, 25, 3), np.float32),
    )  # fmt: skip
    draw_solutions(tmp_path / "a.png", small(problem), references, key=jax.random.key(0))
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.05


def test_the_rate_rises_before_it_falls():
    optimizer, x = random_grid_optimizer(0.1, 100), jnp.array(0.0)
    state, moves = optimizer.init(x), []
    for _ in range(100):
        # Adam moves by the rate where the gradient is always the same.
        move, state = optimizer.update(jnp.array(1.0), state)
        moves.append(-float(move))
    assert moves[0] == 0 and np.argmax(moves) == 5
    np.testing.assert_allclose(moves[5], 0.1, rtol=1e-4)
    assert (np.diff(moves[5:]) < 0).all() and moves[-1] < 1e-3
    for steps in (1, 2, 3):
        random_grid_optimizer(0.1, steps).init(x)


def test_observations_train_too_and_a_deeponet_can_take_the_place_of_the_network():
    problem = Poisson()
    deep = DeepONet(context=6, query=1, outputs=outputs(problem, 2), width=8, key=jax.random.key(0))
    rgnp = small(problem, forward=deep)
    seen = observe(
        draw_references(problem, 4, key=jax.random.key(1)), 3, noise=0.05, key=jax.random.key(2)
    )
    fitted = fit_random_grid(
        rgnp, key=jax.random.key(3), steps=60, batch=4, observations=seen, noise=0.05
    )
    assert isinstance(fitted.params.forward, DeepONet)
    assert fitted.history[-10:].mean() > fitted.history[:10].mean()


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.long
def test_the_command_beats_the_mean_of_other_solutions(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["--points", "8", "--width", "32", "--channels", "8", "--steps", "400", "--held-out"]
    small += ["64", "--learning-rate", "5e-3", "--observed", "32", "--batch-size", "16"]
    folder = tmp_path / "run"
    assert main(["fit", "random_grid", *small, "--out", str(folder)]) == 0
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    unit = "of the solution"
    trivial, ours = (figures[k][unit] for k in ("mean of other solutions", "gicnet, random grids"))
    error = np.hypot(trivial["standard_error"], ours["standard_error"])
    assert trivial["mean"] - ours["mean"] > 3 * error
    assert matplotlib.image.imread(folder / "solutions.png").std() > 0.02
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--split", "train", "--particles", "1"]) == 0
    assert "trained on: 32 problems, 1 grids of 8 points" in capsys.readouterr().out


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("equation, network", [("burgers", "gicnet"), ("cavity", "deeponet")])
def test_every_equation_has_a_recipe_and_a_picture(equation, network, tmp_path):
    recipe = RandomGridRecipe(equation=equation, network=network, grid="kept", points=3, width=8)
    recipe.check()
    rgnp = recipe.model({}, {"": jax.random.key(0)})
    assert rgnp.points == 3 and rgnp.grid is not None
    assert type(rgnp.forward).__name__.lower() == network
    run = Run(recipe, recipe.training, {}, rgnp, recipe.load)
    run.draw_samples(tmp_path / "a.png", jax.random.key(1), 2)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[0] > 100


def test_there_must_be_rows_to_stop_early_by(tmp_path, capsys):
    tiny = [f"--{k.replace('_', '-')}={v}" for k, v in RandomGridRecipe.tiny.items()]
    out = tmp_path / "run"
    assert main(["fit", "random_grid", *tiny, "--early-stopping", "2", "--out", str(out)]) == 2
    assert "this model has a stream or none" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_each_reference_is_a_row_of_data_and_scores_the_same(problem):
    references = draw_references(problem, 3, key=jax.random.key(1))
    each = references.each()
    assert [len(x) for x in each] == [3, 3, 3, 3]
    np.testing.assert_array_equal(each.points[2], references.points)
    rgnp = small(problem)
    shared, apart = (score(rgnp, x, key=jax.random.key(2)) for x in (references, each))
    jax.tree.map(np.testing.assert_array_equal, shared, apart)
