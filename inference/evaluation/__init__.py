"""Evaluation: distances between laws from samples of both, and comparisons of systems."""

from ppgen.inference.evaluation._comparison import Comparison as Comparison
from ppgen.inference.evaluation._comparison import EvaluationError as EvaluationError
from ppgen.inference.evaluation._composition import Caption as Caption
from ppgen.inference.evaluation._composition import Scene as Scene
from ppgen.inference.evaluation._composition import compositional_score as compositional_score
from ppgen.inference.evaluation._discrepancies import energy_distance as energy_distance
from ppgen.inference.evaluation._discrepancies import mmd as mmd
from ppgen.inference.evaluation._frechet import Frechet as Frechet
from ppgen.inference.evaluation._frechet import frechet as frechet
from ppgen.inference.evaluation._graphs import clustering_histogram as clustering_histogram
from ppgen.inference.evaluation._graphs import degree_histogram as degree_histogram
from ppgen.inference.evaluation._graphs import spectrum_histogram as spectrum_histogram
from ppgen.inference.evaluation._head_to_head import head_to_head as head_to_head
from ppgen.inference.evaluation._kernels import gaussian_emd_kernel as gaussian_emd_kernel
from ppgen.inference.evaluation._kernels import gaussian_kernel as gaussian_kernel
from ppgen.inference.evaluation._kernels import set_kernel as set_kernel
from ppgen.inference.evaluation._kernels import total_variation_kernel as total_variation_kernel
