"""Paths from noise to data as programs, and what moves along them."""

from ppgen.inference.paths._algebra import Coefficients as Coefficients
from ppgen.inference.paths._algebra import Decoded as Decoded
from ppgen.inference.paths._algebra import Decoder as Decoder
from ppgen.inference.paths._algebra import coefficients as coefficients
from ppgen.inference.paths._algebra import decode as decode
from ppgen.inference.paths._chains import Chain as Chain
from ppgen.inference.paths._chains import Step as Step
from ppgen.inference.paths._chains import ancestral as ancestral
from ppgen.inference.paths._chains import euler_maruyama as euler_maruyama
from ppgen.inference.paths._chains import noising as noising
from ppgen.inference.paths._couplings import optimal_pairs as optimal_pairs
from ppgen.inference.paths._empirical import empirical_denoiser as empirical_denoiser
from ppgen.inference.paths._errors import PathError as PathError
from ppgen.inference.paths._log_likelihood import flow_log_density as flow_log_density
from ppgen.inference.paths._points import PathPoint as PathPoint
from ppgen.inference.paths._points import path_point as path_point
from ppgen.inference.paths._regress import regress as regress
from ppgen.inference.paths._regress import squared_error as squared_error
from ppgen.inference.paths._solve import Fields as Fields
from ppgen.inference.paths._solve import solve as solve
from ppgen.inference.paths._times import Warped as Warped
