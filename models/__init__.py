"""Generative models, written as NumPyro programs. Import them as `ppgen.models`.

The names here are those of a run in Python, and what a model of one's own takes.
"""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.cli._export import load_exported as load_exported
    from ppgen.models.cli._load_run import load_run as load_run
    from ppgen.models.parts.bounds import Count as Count
    from ppgen.models.parts.data.table import split_table as split_table
    from ppgen.models.parts.figures import Figures as Figures
    from ppgen.models.parts.figures import bound_figures as bound_figures
    from ppgen.models.parts.recipe import Picture as Picture
    from ppgen.models.parts.recipe import Recipe as Recipe
    from ppgen.models.parts.recipe import Stage as Stage
    from ppgen.models.parts.recipe import point_picture as point_picture
    from ppgen.models.parts.runs import Run as Run
    from ppgen.models.parts.runs import fit_recipe as fit_recipe
    from ppgen.models.parts.training import Training as Training

_export_lazily(__name__)
