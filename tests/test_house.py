"""The two rules of dependence: the order of the packages, and that rooms do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIPELINE = (
    "_distributions _sampling estimators _staging _lowering _analysis _evaluation _expectation "
    "_programs _reports"
).split()
"""From the bottom; a package imports only those below it."""


def imported(path):
    """The modules of ppgen that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppgen":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ppgen"))


def edges(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name in imported(path):
            yield path.relative_to(ROOT / folder), name


@pytest.mark.parametrize("place, package", list(enumerate(PIPELINE)))
def test_the_pipeline_imports_downwards(place, package):
    for path, name in edges("ppgen"):
        if path.parts[0].removesuffix(".py") == package:
            other = name.split(".")[1]
            assert other not in PIPELINE[place + 1 :], f"{path} imports {name}, which is above it"


def test_the_whole_imports_downwards():
    for path, name in edges("ppgen"):
        assert not name.startswith(("ppgen.inference", "ppgen.models")), f"{path} imports {name}"
    for path, name in edges("inference"):
        assert not name.startswith("ppgen.models"), f"{path} imports {name}"
    rooms = {p.parent.name for p in (ROOT / "models").glob("*/__init__.py")} - {"cli", "parts"}
    for path, name in edges("models"):
        parts = name.split(".")
        other = parts[2] if parts[:2] == ["ppgen", "models"] and len(parts) > 2 else None
        own = path.parts[0]
        assert other not in rooms or other == own, f"{path} imports {name}: another's room"
        # The face of all models has the runs of the command.
        assert other != "cli" or own in ("cli", "__init__.py"), (
            f"{path} imports {name}: the command"
        )
