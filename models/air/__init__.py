"""Attend, infer, repeat: a scene is a few things, found one after the other."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.air.model import AIR as AIR
    from ppgen.models.air.model import NEVER as NEVER
    from ppgen.models.air.model import PLACE_MEAN as PLACE_MEAN
    from ppgen.models.air.model import PLACE_SCALE as PLACE_SCALE
    from ppgen.models.air.model import PRESENT as PRESENT
    from ppgen.models.air.model import air_guide as air_guide
    from ppgen.models.air.model import air_model as air_model
    from ppgen.models.air.model import reconstruct as reconstruct

_export_lazily(__name__)
