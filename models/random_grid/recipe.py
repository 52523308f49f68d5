"""`ppgen fit random_grid`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from ppgen.models.parts.bounds import Bounds, Count, Number, Positive
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from ppgen.models.random_grid import RGNP, AbstractProblem, Observations, References


class Problems(NamedTuple):
    """Problems with their solutions.

    Attributes:
        held_out: Solved by finite differences, for figures.
        seen: Those that were observed, if any.
        observations: What was observed of them.
    """

    held_out: References
    seen: References | None
    observations: Observations | None


@dataclasses.dataclass(frozen=True)
class RandomGridRecipe(AbstractRecipe):
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
    """Of the solution: on the grid, or of the parameters alone."""
    rank: Count = 4
    """Of the covariance of a solution, white noise apart."""
    width: Count = 96
    """Width of the dense layers."""
    channels: Count = 16
    """Channels of the convolutions."""
    nodes: Annotated[int, Bounds(2)] | None = None
    """Nodes of the regular grid that they run on, in each dimension. None stands for 16 on a line
    and 8 in the plane."""
    tolerance: Positive = 0.05
    """Standard deviation of the residuals of the equation."""
    observed: Number = 0
    """Problems whose solutions are observed."""
    observations: Count = 30
    """Points at which each of them is, off the grid."""
    noise: Positive = 0.01
    """Standard deviation of the noise of an observation."""
    held_out: Annotated[int, Bounds(2)] = 64
    """Problems that are solved by finite differences, for figures."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=32, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 4
    tiny: ClassVar[Mapping[str, Any]] = {
        "points": 4,
        "width": 8,
        "channels": 4,
        "nodes": 5,
        "rank": 1,
        "batch_size": 2,
        "held_out": 4,
    }

    def check(self) -> None:
        """Nothing: the bounds of the options are in their types."""

    def load(self) -> Problems:
        """Problems and numerical solutions: always the same ones."""
        import jax

        from ppgen.models.random_grid import draw_references, observe

        keys = jax.random.split(jax.random.key(0), 3)
        problem = self._problem()
        held_out = draw_references(problem, self.held_out, key=keys[0])
        if not self.observed:
            return Problems(held_out, None, None)
        seen = draw_references(problem, self.observed, key=keys[1])
        values = observe(seen, self.observations, noise=self.noise, key=keys[2])
        return Problems(held_out, seen, values)

    def facts(self, data: Problems) -> dict[str, Any]:
        """All follows from the options, the solutions from the version of the solver too."""
        from ppgen.models.parts.data.kinds import fingerprint

        return {"sha256": fingerprint(data)}

    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> RGNP:
        """Fresh weights."""
        import jax
        import numpy as np

        import ppgen
        from ppgen.models.parts.networks import DeepONet
        from ppgen.models.random_grid import RGNP, outputs

        problem = self._problem()
        net_key, grid_key, weights_key = jax.random.split(key, 3)

        def make(**options: Any) -> RGNP:
            return RGNP(
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

        options = {}
        if self.network == "deeponet":
            (z,), (w,) = problem.parameters().event_shape, problem.conditions().event_shape
            options["forward"] = DeepONet(
                context=z + w,
                query=len(problem.low),
                outputs=outputs(problem, self.rank),
                width=self.width,
                frequencies=2,
                key=net_key,
            )
        if self.grid == "kept":
            grid: Any = ppgen.seed(lambda: ppgen.draw(make().grids()))(grid_key)
            options["grid"] = np.asarray(grid).tolist()
        return make(**options)

    def stage(
        self,
        name: str,
        training: Training,
        params: RGNP,
        data: Problems,
        fitted: Mapping[str, Any],
    ) -> Stage:
        """The bound, with the likelihood of observations, by Adam with a rate along a cosine."""
        from ppgen.models.random_grid import (
            equation_objective,
            observations_objective,
            random_grid_optimizer,
        )

        batch = training.batch_size
        objective = equation_objective(batch)
        if data.observations is not None:
            objective = observations_objective(batch, noise=self.noise)
        return Stage(
            objective=objective,
            params=params,
            optimizer=random_grid_optimizer(training.learning_rate, training.steps),
            data=data.observations,
            maximize=True,
            label="bound",
            unit="nats per problem, flat prior",
            batch_size=min(batch, max(self.observed, 1)),
        )

    def evaluate(
        self,
        data: Problems,
        fitted: Mapping[str, RGNP],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """Errors, with what zero and the mean solution have, and how much two deviations cover."""
        import jax
        import numpy as np

        from ppgen.inference import Estimate, mean_over_data
        from ppgen.models.random_grid import draw_references, normalized_squared_error, score

        keys = jax.random.split(key, particles + 1)
        references = data.held_out if split == "held-out" else data.seen
        if references is None:
            raise CommandError("no solution was observed in training (--observed): no such figures")
        count, one = len(references.z), Estimate(1.0, 0.0)
        others = draw_references(self._problem(), count, key=keys[0]).u.mean(0)
        # Each problem on several grids, which are as good as one another.
        each = [score(fitted[""], references, key=k) for k in keys[1:]]
        scores = jax.tree.map(lambda *x: np.mean(x, 0), *each)
        figures = (scores.nse_u, scores.nse_z, scores.coverage_u, scores.coverage_z)
        both = jax.numpy.asarray(others.ravel()), jax.numpy.asarray(references.u.reshape(count, -1))
        mean_solution = np.asarray(normalized_squared_error(*both))
        where = "held out" if split == "held-out" else "trained on"
        return Report(
            title=f"{where}: {count} problems, {particles} grids of {self.points} points each; "
            "normalised squared errors, shares covered by two deviations",
            columns=(
                ("of the solution", 4),
                ("of the parameters", 3),
                ("solution covered", 3),
                ("parameters covered", 3),
            ),
            rows=[
                ("zero; the mean of the prior", (one, one, None, None)),
                ("mean of other solutions", (mean_over_data(mean_solution), None, None, None)),
                (f"{self.network}, {self.grid} grids", tuple(map(mean_over_data, figures))),
            ],
            references={},
        )

    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, RGNP],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Draws problems, and a solution of each, along the first coordinate."""
        from ppgen.models.random_grid import draw_functions

        draw_functions(path, fitted[""], count, key=key)

    def pictures(
        self, folder: Path, data: Problems, fitted: Mapping[str, RGNP], key: Key[Array, ""]
    ) -> None:
        """Solutions of held-out problems, next to their references."""
        from ppgen.models.random_grid import draw_solutions

        draw_solutions(folder / "solutions.png", fitted[""], data.held_out, key=key)

    def _problem(self) -> AbstractProblem:
        from ppgen.models.random_grid import Burgers, Cavity, Poisson

        return {"poisson": Poisson, "burgers": Burgers, "cavity": Cavity}[self.equation]()
