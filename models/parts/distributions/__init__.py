"""Distributions that the models need and that NumPyro does not have."""

from ppgen.models.parts.distributions.discretized_logistic import (
    DiscretizedLogistic as DiscretizedLogistic,
)
from ppgen.models.parts.distributions.permutation import UniformPermutation as UniformPermutation
from ppgen.models.parts.distributions.von_mises_fisher import VonMisesFisher as VonMisesFisher
