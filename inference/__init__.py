"""What is written in the language: objectives and fitting. Import it as `ppgen.inference`."""

from ppgen.inference.checkpoint import CheckpointError as CheckpointError
from ppgen.inference.checkpoint import load_checkpoint as load_checkpoint
from ppgen.inference.checkpoint import save_checkpoint as save_checkpoint
from ppgen.inference.filtering import ParticleFilter as ParticleFilter
from ppgen.inference.filtering import Trajectory as Trajectory
from ppgen.inference.filtering import conditional_smc as conditional_smc
from ppgen.inference.filtering import fivo as fivo
from ppgen.inference.filtering import smc as smc
from ppgen.inference.fitting import FitError as FitError
from ppgen.inference.fitting import Fitted as Fitted
from ppgen.inference.fitting import Progress as Progress
from ppgen.inference.fitting import fit as fit
from ppgen.inference.metrics import Estimate as Estimate
from ppgen.inference.metrics import bits_per_dimension as bits_per_dimension
from ppgen.inference.metrics import mean_over_data as mean_over_data
from ppgen.inference.metrics import per_datum as per_datum
from ppgen.inference.objectives import elbo as elbo
from ppgen.inference.objectives import iwelbo as iwelbo
from ppgen.inference.resampling import MultinomialResampling as MultinomialResampling
from ppgen.inference.resampling import ResidualResampling as ResidualResampling
from ppgen.inference.resampling import SystematicResampling as SystematicResampling
from ppgen.inference.resampling import WithoutScore as WithoutScore
from ppgen.inference.resampling import draw_ancestors as draw_ancestors
