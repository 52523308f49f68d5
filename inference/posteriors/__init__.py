"""Posterior samples by NumPyro's and BlackJAX's samplers, and their conversion to ArviZ."""

from ppgen.inference.posteriors._arviz_data import ParetoSmoothed as ParetoSmoothed
from ppgen.inference.posteriors._arviz_data import pareto_smoothed as pareto_smoothed
from ppgen.inference.posteriors._arviz_data import to_arviz as to_arviz
from ppgen.inference.posteriors._numpyro_elbo import as_numpyro_elbo as as_numpyro_elbo
from ppgen.inference.posteriors._posterior import Posterior as Posterior
from ppgen.inference.posteriors._posterior import posterior as posterior
