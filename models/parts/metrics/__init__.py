"""Scores of samples, and of trivial baselines."""

from ppgen.models.parts.metrics.baselines import (
    gaussian_denoising_error as gaussian_denoising_error,
)
from ppgen.models.parts.metrics.baselines import (
    pixel_marginal_log_likelihood as pixel_marginal_log_likelihood,
)
from ppgen.models.parts.metrics.baselines import trivial_draws as trivial_draws
from ppgen.models.parts.metrics.distances import frechet_distance as frechet_distance
from ppgen.models.parts.metrics.distances import nearest_distances as nearest_distances
from ppgen.models.parts.metrics.distances import neighbour_accuracy as neighbour_accuracy
from ppgen.models.parts.metrics.distances import told_apart as told_apart
