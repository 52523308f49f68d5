"""`ppgen fit random_grid`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

import numpy as np

import ppgen
from ppgen import inference
from ppgen.models import random_grid
from ppgen.models.parts.bounds import Bounds, Count, Number, Positive
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Recipe, Stage
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class RandomGridRecipe(Recipe):
    """Train a random grid neural process to solve a differential equation, forward and inversely.

    It learns from the equation; noisy observations of some solutions may help. A batch is of
    problems, each with a grid of its own.
    """

    equation: Literal["poisson", "burgers", "cavity"] = "poisson"
    """The nonlinear Poisson problem on a line; Burgers' equation in space and time; the steady flow
    of a fluid in a cavity with a lid that slides."""
    points: Count = 30
    """Points of a grid. The published sizes are 30, 225 and 512."""
    grid: Literal["random", "kept"] = "random"
    """Grids that are drawn anew for each problem, or one that is drawn once."""
    network: Literal["gicnet", "deeponet"] = "gicnet"
    """Network of the solution: on the grid, or of the parameters alone."""
    rank: Count = 4
    """Rank of the covariance of a solution, white noise apart."""
    width: Count = 96
    """Width of the dense layers."""
    channels: Count = 16
    """Channels of the convolutions."""
    nodes: Annotated[int, Bounds(2)] | None = None
    """Nodes of their regular grid, in each dimension. None means 16 on a line and 8 in the
    plane."""
    tolerance: Positive = 0.05
    """Standard deviation of the residuals of the equation."""
    observed: Number = 0
    """Number of problems whose solutions are observed in training."""
    observations: Count = 30
    """Points at which each of them is observed, off the grid."""
    noise: Positive = 0.01
    """Standard deviation of the noise of an observation."""
    held_out: Annotated[int, Bounds(2)] = 64
    """Problems that are solved by finite differences, for figures."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=32, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 4
    tiny: ClassVar = {
        "points": 4,
        "width": 8,
        "channels": 4,
        "nodes": 5,
        "rank": 1,
        "batch_size": 2,
        "held_out": 4,
    }

    def load(self):
        sizes = {"held_out": self.held_out, "observed": self.observed}
        observations = {"observations": self.observations, "noise": self.noise}
        return random_grid.load_problems(self.problem(), **sizes, **observations)

    def model(self, facts, keys):
        import jax

        problem, options = self.problem(), {}
        net_key, grid_key, weights_key = jax.random.split(keys[""], 3)
        if self.network == "deeponet":
            net = random_grid.deep_operator(problem, rank=self.rank, width=self.width, key=net_key)
            options["forward"] = net
        if self.grid == "kept":
            law = random_grid.uniform_grids(problem, self.points)
            options["grid"] = np.asarray(ppgen.seed(ppgen.draw)(grid_key, law)).tolist()
        return random_grid.RGNP(
            problem,
            points=self.points,
            rank=self.rank,
            width=self.width,
            channels=self.channels,
            nodes=self.nodes or (16 if len(problem.low) == 1 else 8),
            tolerance=self.tolerance,
            key=weights_key,
            **options,
        )

    def stage(self, name, training):
        batch = training.batch_size
        objective = random_grid.equation_objective(batch)
        if self.observed:
            objective = random_grid.observations_objective(batch, noise=self.noise)
        return Stage(
            objective,
            random_grid.random_grid_optimizer(training.learning_rate, training.steps),
            rows=lambda problems, model: problems.observations,
            each=False,
            maximize=True,
            label="bound",
            unit="nats per problem, flat prior",
            batch_size=min(batch, max(self.observed, 1)),
        )

    def figures(self, run, rows, particles, key):
        import jax

        from ppgen.models.parts.figures import Figures

        if rows is None:
            raise CommandError("no figures of training data: no solution was observed (--observed)")
        first, *keys = jax.random.split(key, particles + 1)
        others = random_grid.draw_references(self.problem(), len(rows.z), key=first)
        # Each problem is solved on several random grids, and the scores are averaged.
        each = [random_grid.score(run.model, rows, key=k) for k in keys]
        nse_u, nse_z, _, covered_u, covered_z = (np.mean(x, 0) for x in zip(*each, strict=True))
        u, z, one = "of the solution", "of the parameters", inference.Estimate(1.0, 0.0)
        reached = {u: nse_u, z: nse_z, "solution covered": covered_u}
        return Figures(
            title=f"{len(rows.z)} problems, {particles} grids of {self.points} points each; "
            "normalised squared errors, shares covered by two deviations",
            units={u: 4, z: 3, "solution covered": 3, "parameters covered": 3},
            rows={
                "zero; mean of the prior": {u: one, z: one},
                "mean of other solutions": {u: random_grid.mean_solution_error(rows, others)},
                f"{self.network}, {self.grid} grids": reached | {"parameters covered": covered_z},
            },
        )

    def sample(self, run, key):
        return random_grid.functions_picture(run.model)

    def pictures(self, run):
        return {"solutions": random_grid.solutions_picture(run.model)}

    def problem(self):
        """The equation."""
        return getattr(random_grid, self.equation.capitalize())()
