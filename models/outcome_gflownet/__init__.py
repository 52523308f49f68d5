"""Outcome-conditioned flow networks: pre-trained without a reward, adapted to any by a sum."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.outcome_gflownet.model import Amortiser as Amortiser
    from ppgen.models.outcome_gflownet.model import OutcomeFlows as OutcomeFlows
    from ppgen.models.outcome_gflownet.model import OutcomeStages as OutcomeStages
    from ppgen.models.outcome_gflownet.model import OutcomeTask as OutcomeTask
    from ppgen.models.outcome_gflownet.model import adapted as adapted
    from ppgen.models.outcome_gflownet.model import amortised as amortised
    from ppgen.models.outcome_gflownet.model import amortiser_loss as amortiser_loss
    from ppgen.models.outcome_gflownet.model import edge_flows as edge_flows
    from ppgen.models.outcome_gflownet.model import outcome_loss as outcome_loss
    from ppgen.models.outcome_gflownet.model import outcome_policy as outcome_policy
    from ppgen.models.outcome_gflownet.model import patient_walk as patient_walk
    from ppgen.models.outcome_gflownet.model import success as success
    from ppgen.models.outcome_gflownet.model import total_variation as total_variation

_export_lazily(__name__)
