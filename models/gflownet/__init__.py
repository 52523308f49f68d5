"""Generative flow networks: objects made step by step, as often as their reward says."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.gflownet.model import FlowNetwork as FlowNetwork
    from ppgen.models.gflownet.model import gflownet_loss as gflownet_loss
    from ppgen.models.gflownet.model import gflownet_policy as gflownet_policy
    from ppgen.models.gflownet.model import total_variation as total_variation
    from ppgen.models.gflownet.pictures import law_picture as law_picture
    from ppgen.models.gflownet.pictures import object_picture as object_picture
    from ppgen.models.gflownet.tasks import Task as Task
    from ppgen.models.gflownet.tasks import bits_task as bits_task
    from ppgen.models.gflownet.tasks import grid_task as grid_task
    from ppgen.models.gflownet.tasks import subset_task as subset_task

_export_lazily(__name__)
