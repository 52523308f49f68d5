"""The pages on adding things, done to the letter in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["adding_an_estimator", "adding_an_objective", "adding_a_model"]
# A block of code: of what kind, whether a fence of four holds one of three, and what is in it.
BLOCK = re.compile(r"^(```+)(\w+)\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:# |<!-- )(\S+?)(?:, after: (.*?))?(?: -->)?")


def follow(page, checkout):
    """Write what a page says to write, where it says, and return the commands to run."""
    commands = []
    for _, kind, text in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
        if kind == "toml":
            continue  # for a package of the reader's own
        if kind == "sh":
            commands += text.splitlines()
            continue
        where, code = text.split("\n", 1)
        name, after = FILE.fullmatch(where).groups()
        path = checkout / name
        if after is None:
            assert not path.exists(), path
            path.parent.mkdir(exist_ok=True)
            path.write_text(code + "\n")
            continue
        lines = path.read_text().splitlines()
        # A line of a block is found, and followed, as it stands in the block.
        at = [i for i, line in enumerate(lines) if line.lstrip().startswith(after.lstrip())]
        assert at, f"{name} has no line that starts with {after!r}"
        if not after.startswith(" "):
            line = lines[at[0]]
            code = textwrap.indent(code, line[: len(line) - len(line.lstrip())])
        path.write_text("\n".join([*lines[: at[0] + 1], code, *lines[at[0] + 1 :]]) + "\n")
    return commands


@pytest.fixture
def checkout(tmp_path):
    for folder in ("ppgen", "inference", "models", "tests", "docs", "benchmarks"):
        kept = shutil.ignore_patterns("__pycache__", "_build", "tutorials", "jupyter_execute")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=kept)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_write_has_its_place_and_is_python(page, checkout):
    before = {path: path.read_text() for path in checkout.rglob("*.py")}
    assert follow(page, checkout)
    written = [path for path in checkout.rglob("*.py") if path.read_text() != before.get(path)]
    assert written
    for path in written:
        compile(path.read_text(), str(path), "exec")


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_page(page, checkout):
    for command in follow(page, checkout):
        python, *words = shlex.split(command)
        assert python == "python"
        if "law_pairs.py" in words[0] or "ruff" in words:
            continue  # minutes of all pairs; and ruff is not among what tests need
        ran = subprocess.run(
            [sys.executable, *words, "-p", "no:cacheprovider"],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        assert re.search(r"[1-9]\d* passed", ran.stdout)
