"""Guidance: samplers guided by an energy, and guides trained against one."""

from ppgen.inference.guidance._amortised import kl_to_tilted as kl_to_tilted
from ppgen.inference.guidance._amortised import lagrangian as lagrangian
from ppgen.inference.guidance._guide import Guided as Guided
from ppgen.inference.guidance._guide import GuidedSamples as GuidedSamples
from ppgen.inference.guidance._guide import guide as guide
from ppgen.inference.guidance._guide import guide_approximately as guide_approximately
from ppgen.inference.guidance._lookaheads import AbstractLookahead as AbstractLookahead
from ppgen.inference.guidance._lookaheads import Exact as Exact
from ppgen.inference.guidance._lookaheads import Learned as Learned
from ppgen.inference.guidance._lookaheads import PlugIn as PlugIn
from ppgen.inference.guidance._lookaheads import Project as Project
from ppgen.inference.guidance._lookaheads import log_mean_exp_error as log_mean_exp_error
