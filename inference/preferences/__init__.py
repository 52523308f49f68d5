"""Preferences: rewards from votes, losses on preferred data, and training on curated draws."""

from ppgen.inference.preferences._curated_law import curated_law as curated_law
from ppgen.inference.preferences._determined import VotesError as VotesError
from ppgen.inference.preferences._direct import ddo as ddo
from ppgen.inference.preferences._direct import ddo_jensen as ddo_jensen
from ppgen.inference.preferences._direct import dpo as dpo
from ppgen.inference.preferences._retrain import Retrained as Retrained
from ppgen.inference.preferences._retrain import Round as Round
from ppgen.inference.preferences._retrain import retrain as retrain
from ppgen.inference.preferences._votes import FittedRewards as FittedRewards
from ppgen.inference.preferences._votes import Interval as Interval
from ppgen.inference.preferences._votes import fit_rewards as fit_rewards
from ppgen.inference.preferences._votes import vote_log_likelihood as vote_log_likelihood
