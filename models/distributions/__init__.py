"""Distributions that the models need and that NumPyro does not have."""

from ppgen.models.distributions.discretized_logistic import (
    DiscretizedLogistic as DiscretizedLogistic,
)
from ppgen.models.distributions.permutation import UniformPermutation as UniformPermutation
