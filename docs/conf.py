"""Sphinx configuration: the tutorials, and every public name from its docstring."""

import os
import pkgutil
import shutil
import sys
from importlib import import_module
from pathlib import Path

import ppgen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import gallery  # noqa: E402
import unbiased  # noqa: E402

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
    # MathJax and its fonts among the pages: equations need no network.
    "sphinx-mathjax-offline",
]
html_theme = "furo"
html_title = "ppgen"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
exclude_patterns = ["_build", "jupyter_execute", "notebooks", "*.py"]
# Single backquotes are code, in docstrings as in Markdown.
default_role = "code"

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# A signature that is longer has a line for each argument.
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
# Fields of named tuples are documented by the class, not once more each.
napoleon_use_ivar = True

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
# Whatever it is here: with another one the tutorials run, and their pictures are lost.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

# The tutorials lie beside this folder, and Sphinx reads only what is inside.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", ignore=shutil.ignore_patterns("_*"))

(HERE / "gallery.md").write_text(gallery.page(HERE.parent / "tutorials"), encoding="utf-8")
gallery.write_notebooks(HERE.parent / "tutorials", HERE / "notebooks")

(HERE / "unbiased.md").write_text(unbiased.page(), encoding="utf-8")


def _public():
    """Everything of ppgen that its users import: the full name and the object."""
    modules = ["ppgen", "ppgen.inference"]
    for package in ("ppgen", "ppgen.models", "ppgen.models.parts"):
        # In a checkout the folder above is on ppgen's path too, with everything in it.
        path = import_module(package).__path__[:1]
        names = [info.name for info in pkgutil.iter_modules(path)]
        modules += [f"{package}.{name}" for name in names if not name.startswith("_")]
    for module in modules:
        for member in dir(import_module(module)):
            value = getattr(sys.modules[module], member)
            # A package exports what its modules have; a module, what is its own.
            own = getattr(value, "__module__", "").startswith(
                "ppgen." if hasattr(sys.modules[module], "__path__") else module
            )
            if member == "TYPE_CHECKING":
                continue  # typing's
            if not member.startswith("_") and (own and callable(value) or member.isupper()):
                yield f"{module}.{member}", value


def _documented(env):
    """The objects that have a place in the reference."""
    for name in env.get_domain("py").objects:
        module, _, member = name.rpartition(".")
        if module in sys.modules:
            yield getattr(sys.modules[module], member, None)


def _check(app, env):
    public = dict(_public())
    # By identity: what one module takes over from another has its place there.
    there = {id(value) for value in _documented(env)}
    if missing := sorted(name for name, value in public.items() if id(value) not in there):
        raise RuntimeError(f"public names that no page of the reference has: {', '.join(missing)}")


def setup(app):
    app.connect("env-check-consistency", _check)
