from ppgen.models.random_grid._poisson import Poisson as Poisson
from ppgen.models.random_grid._problem import AbstractProblem as AbstractProblem
from ppgen.models.random_grid._problem import derivative as derivative
from ppgen.models.random_grid._programs import RGNP as RGNP
from ppgen.models.random_grid._programs import Moments as Moments
from ppgen.models.random_grid._programs import outputs as outputs
from ppgen.models.random_grid._programs import rgnp_guide as rgnp_guide
from ppgen.models.random_grid._programs import rgnp_model as rgnp_model
