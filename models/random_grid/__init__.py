"""Random grid neural processes: parametric differential equations, solved forward and inversely."""

from ppgen.models.random_grid._burgers import Burgers as Burgers
from ppgen.models.random_grid._cavity import Cavity as Cavity
from ppgen.models.random_grid._law import Moments as Moments
from ppgen.models.random_grid._pictures import draw_functions as draw_functions
from ppgen.models.random_grid._pictures import draw_solutions as draw_solutions
from ppgen.models.random_grid._poisson import Poisson as Poisson
from ppgen.models.random_grid._problem import AbstractProblem as AbstractProblem
from ppgen.models.random_grid._problem import derivative as derivative
from ppgen.models.random_grid._process import RGNP as RGNP
from ppgen.models.random_grid._process import outputs as outputs
from ppgen.models.random_grid._programs import Observations as Observations
from ppgen.models.random_grid._programs import grid_guide as grid_guide
from ppgen.models.random_grid._programs import observations_model as observations_model
from ppgen.models.random_grid._programs import rgnp_guide as rgnp_guide
from ppgen.models.random_grid._programs import rgnp_model as rgnp_model
from ppgen.models.random_grid._scores import References as References
from ppgen.models.random_grid._scores import Scores as Scores
from ppgen.models.random_grid._scores import Solved as Solved
from ppgen.models.random_grid._scores import draw_references as draw_references
from ppgen.models.random_grid._scores import normalized_squared_error as normalized_squared_error
from ppgen.models.random_grid._scores import observe as observe
from ppgen.models.random_grid._scores import score as score
from ppgen.models.random_grid._scores import solve_references as solve_references
from ppgen.models.random_grid._training import equation_objective as equation_objective
from ppgen.models.random_grid._training import fit_random_grid as fit_random_grid
from ppgen.models.random_grid._training import observations_objective as observations_objective
