"""Order-preserving flow networks: the best trade-offs of several scores, which are not weighed."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.order_gflownet.model import FrontScores as FrontScores
    from ppgen.models.order_gflownet.model import OrderNetwork as OrderNetwork
    from ppgen.models.order_gflownet.model import OrderTask as OrderTask
    from ppgen.models.order_gflownet.model import front_scores as front_scores
    from ppgen.models.order_gflownet.model import order_policy as order_policy
    from ppgen.models.order_gflownet.model import weighed_loss as weighed_loss
    from ppgen.models.order_gflownet.model import weighed_policy as weighed_policy
    from ppgen.models.order_gflownet.pictures import front_picture as front_picture

_export_lazily(__name__)
