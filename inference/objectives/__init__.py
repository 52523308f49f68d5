"""Objectives of variational inference, each a few lines of the language.

An objective is a function `(*args) -> scalar` that draws: give it to `ppgen.expectation`, to `fit`,
add to it, scale it, `jax.vmap` it over data. Bounds are returned as bounds, to be maximised; losses
as losses, to be minimised. A model and its guide take the same arguments, parameters among them.
"""

from ppgen.inference.objectives._beta import beta_elbo as beta_elbo
from ppgen.inference.objectives._detached import detached as detached
from ppgen.inference.objectives._divergences import cubo as cubo
from ppgen.inference.objectives._divergences import f_divergence as f_divergence
from ppgen.inference.objectives._divergences import renyi as renyi
from ppgen.inference.objectives._elbo import elbo as elbo
from ppgen.inference.objectives._elbo import sticking_the_landing as sticking_the_landing
from ppgen.inference.objectives._hierarchical import diwhvi as diwhvi
from ppgen.inference.objectives._hierarchical import hvi as hvi
from ppgen.inference.objectives._hierarchical import iwhvi as iwhvi
from ppgen.inference.objectives._importance_weighted import dreg as dreg
from ppgen.inference.objectives._importance_weighted import iwelbo as iwelbo
from ppgen.inference.objectives._importance_weighted import vimco as vimco
from ppgen.inference.objectives._log_evidence import log_evidence as log_evidence
from ppgen.inference.objectives._per_batch import per_batch as per_batch
from ppgen.inference.objectives._rewards import expected_reward as expected_reward
from ppgen.inference.objectives._rewards import kl_regularized_reward as kl_regularized_reward
from ppgen.inference.objectives._score_matching import (
    implicit_score_matching as implicit_score_matching,
)
from ppgen.inference.objectives._score_matching import (
    sliced_score_matching as sliced_score_matching,
)
from ppgen.inference.objectives._thermodynamic import tvo as tvo
from ppgen.inference.objectives._wake_sleep import forward_kl as forward_kl
from ppgen.inference.objectives._wake_sleep import reweighted_wake_sleep as reweighted_wake_sleep
from ppgen.inference.objectives._wake_sleep import sleep as sleep
