"""Marginalization models: the probability of any part of a vector in one pass."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.marginalization.data import BinaryDigits as BinaryDigits
    from ppgen.models.marginalization.data import Energy as Energy
    from ppgen.models.marginalization.data import binary_images as binary_images
    from ppgen.models.marginalization.model import MaM as MaM
    from ppgen.models.marginalization.model import any_order as any_order
    from ppgen.models.marginalization.model import any_order_bound as any_order_bound
    from ppgen.models.marginalization.model import consistency as consistency
    from ppgen.models.marginalization.model import importance_weighted_kl as importance_weighted_kl
    from ppgen.models.marginalization.model import inconsistency as inconsistency
    from ppgen.models.marginalization.model import log_marginal as log_marginal
    from ppgen.models.marginalization.model import published_kl as published_kl
    from ppgen.models.marginalization.model import target as target
    from ppgen.models.marginalization.model import target_loss as target_loss
    from ppgen.models.marginalization.model import uniform_order as uniform_order
    from ppgen.models.marginalization.model import untrained as untrained
    from ppgen.models.marginalization.pictures import agreement as agreement
    from ppgen.models.marginalization.pictures import samples as samples
    from ppgen.models.marginalization.scores import MARGINALS as MARGINALS
    from ppgen.models.marginalization.scores import TOGETHER as TOGETHER
    from ppgen.models.marginalization.scores import Draws as Draws
    from ppgen.models.marginalization.scores import Part as Part
    from ppgen.models.marginalization.scores import ancestral as ancestral
    from ppgen.models.marginalization.scores import energy_scores as energy_scores
    from ppgen.models.marginalization.scores import image_scores as image_scores
    from ppgen.models.marginalization.scores import independent_sites as independent_sites
    from ppgen.models.marginalization.scores import log_conditionals as log_conditionals
    from ppgen.models.marginalization.scores import log_marginals as log_marginals
    from ppgen.models.marginalization.scores import marginal_divergence as marginal_divergence
    from ppgen.models.marginalization.scores import mean_field_divergence as mean_field_divergence
    from ppgen.models.marginalization.scores import random_part as random_part
    from ppgen.models.marginalization.scores import step_errors as step_errors
    from ppgen.models.marginalization.scores import subsets as subsets
    from ppgen.models.marginalization.training import Chained as Chained
    from ppgen.models.marginalization.training import EnergyFit as EnergyFit
    from ppgen.models.marginalization.training import TwoStages as TwoStages
    from ppgen.models.marginalization.training import block_gibbs as block_gibbs
    from ppgen.models.marginalization.training import disagreement as disagreement
    from ppgen.models.marginalization.training import energy_fit as energy_fit
    from ppgen.models.marginalization.training import fit_energy as fit_energy
    from ppgen.models.marginalization.training import fit_likelihood as fit_likelihood
    from ppgen.models.marginalization.training import fitted as fitted
    from ppgen.models.marginalization.training import joined as joined
    from ppgen.models.marginalization.training import mean_bound as mean_bound
    from ppgen.models.marginalization.training import paired as paired
    from ppgen.models.marginalization.training import persistent_chains as persistent_chains

_export_lazily(__name__)
