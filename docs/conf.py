"""Sphinx configuration: the tutorials, and every public name from its docstring."""

import inspect
import shutil
from importlib import import_module
from pathlib import Path

import ppgen

HERE = Path(__file__).parent

project = "ppgen"
author = "The ppgen developers"
project_copyright = "The ppgen developers"
release = version = ppgen.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "ppgen"
exclude_patterns = ["_build", "jupyter_execute", "conf.py"]
# Single backquotes are code, in docstrings as in Markdown.
default_role = "code"

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
# Fields of named tuples are documented by the class, not once more each.
napoleon_use_ivar = True

myst_enable_extensions = ["amsmath", "dollarmath"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True

# The tutorials lie beside this folder, and Sphinx reads only what is inside.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", ignore=shutil.ignore_patterns("_*"))

PUBLIC = ["ppgen", "ppgen.testing", "ppgen.inference", "ppgen.models.datasets", "ppgen.models.vae"]


def _undocumented():
    for name in PUBLIC:
        module = import_module(name)
        for member, value in vars(module).items():
            if member.startswith("_") or inspect.ismodule(value):
                continue
            ours = getattr(value, "__module__", "").startswith("ppgen")
            if ours and callable(value) and not (inspect.getdoc(value) or "").strip():
                yield f"{name}.{member}"


def setup(app):
    if missing := sorted(_undocumented()):
        raise RuntimeError(f"public names without a docstring: {', '.join(missing)}")
