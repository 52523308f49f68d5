"""Generative models, written as NumPyro programs. Import them as `ppgen.models`."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.cli._export import load_exported as load_exported
    from ppgen.models.cli._load_run import load_run as load_run
    from ppgen.models.parts.runs import Run as Run
    from ppgen.models.parts.runs import fit_recipe as fit_recipe

_export_lazily(__name__)
