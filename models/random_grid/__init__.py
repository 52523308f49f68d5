"""Random grid neural processes: parametric differential equations, solved forward and inversely."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.random_grid.equations.burgers import Burgers as Burgers
    from ppgen.models.random_grid.equations.cavity import Cavity as Cavity
    from ppgen.models.random_grid.equations.poisson import Poisson as Poisson
    from ppgen.models.random_grid.equations.solve_burgers import solve_burgers as solve_burgers
    from ppgen.models.random_grid.equations.solve_cavity import Flow as Flow
    from ppgen.models.random_grid.equations.solve_cavity import solve_cavity as solve_cavity
    from ppgen.models.random_grid.equations.solve_poisson import solve_poisson as solve_poisson
    from ppgen.models.random_grid.law import Moments as Moments
    from ppgen.models.random_grid.model import Observations as Observations
    from ppgen.models.random_grid.model import grid_guide as grid_guide
    from ppgen.models.random_grid.model import observations_model as observations_model
    from ppgen.models.random_grid.model import rgnp_guide as rgnp_guide
    from ppgen.models.random_grid.model import rgnp_model as rgnp_model
    from ppgen.models.random_grid.pictures import draw_functions as draw_functions
    from ppgen.models.random_grid.pictures import draw_solutions as draw_solutions
    from ppgen.models.random_grid.pictures import functions_picture as functions_picture
    from ppgen.models.random_grid.pictures import solutions_picture as solutions_picture
    from ppgen.models.random_grid.problem import AbstractProblem as AbstractProblem
    from ppgen.models.random_grid.problem import derivative as derivative
    from ppgen.models.random_grid.process import RGNP as RGNP
    from ppgen.models.random_grid.process import deep_operator as deep_operator
    from ppgen.models.random_grid.process import outputs as outputs
    from ppgen.models.random_grid.process import uniform_grids as uniform_grids
    from ppgen.models.random_grid.references import Problems as Problems
    from ppgen.models.random_grid.references import References as References
    from ppgen.models.random_grid.references import draw_references as draw_references
    from ppgen.models.random_grid.references import load_problems as load_problems
    from ppgen.models.random_grid.references import observe as observe
    from ppgen.models.random_grid.scores import Scores as Scores
    from ppgen.models.random_grid.scores import Solved as Solved
    from ppgen.models.random_grid.scores import mean_solution_error as mean_solution_error
    from ppgen.models.random_grid.scores import normalized_squared_error as normalized_squared_error
    from ppgen.models.random_grid.scores import score as score
    from ppgen.models.random_grid.scores import solve_references as solve_references
    from ppgen.models.random_grid.scores import solved as solved
    from ppgen.models.random_grid.training import equation_objective as equation_objective
    from ppgen.models.random_grid.training import fit_random_grid as fit_random_grid
    from ppgen.models.random_grid.training import observations_objective as observations_objective
    from ppgen.models.random_grid.training import random_grid_optimizer as random_grid_optimizer

_export_lazily(__name__)
