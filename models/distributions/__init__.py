"""Distributions that the models need and that NumPyro does not have."""

from ppgen.models.distributions.discretized_logistic import (
    DiscretizedLogistic as DiscretizedLogistic,
)
from ppgen.models.distributions.permutation import UniformPermutation as UniformPermutation
from ppgen.models.distributions.von_mises_fisher import VonMisesFisher as VonMisesFisher
