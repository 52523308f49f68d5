"""Rectified flow: straight paths from noise to images, reflowed and distilled to one step."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.rectified_flow.model import RectifiedFlow as RectifiedFlow
    from ppgen.models.rectified_flow.model import Velocity as Velocity
    from ppgen.models.rectified_flow.model import flow_chain as flow_chain
    from ppgen.models.rectified_flow.model import flow_objective as flow_objective
    from ppgen.models.rectified_flow.model import straight_path as straight_path

_export_lazily(__name__)
