"""Six jobs of a researcher, each in at most 40 lines that use only what the docs teach.

`tests/jobs/` has them as scripts, which the docs show: the lines of a user between two marks, and
after them what has to be true of the result. A line `# $ ppgen ...` is typed before the script
runs.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import warnings
from pathlib import Path

import pytest
from cli_runs import cache, here  # noqa: F401

from ppgen.models.cli import main

JOBS = sorted((Path(__file__).parent / "jobs").glob("*.py"))
BEGIN, END = "# --- user code\n", "# --- end of user code\n"


def user_code(path):
    text = path.read_text()
    assert text.count(BEGIN) == text.count(END) == 1, path
    return text.split(BEGIN)[1].split(END)[0]


def lines(code):
    """Those with something on them, imports included, without comments."""
    return [line for line in code.splitlines() if line.strip() and line.strip()[0] != "#"]


def test_there_are_six():
    assert len(JOBS) == 6
    # Pytest would run the tests in them, one of which has to fail.
    assert not [p.name for p in JOBS if p.stem.startswith("test_") or p.stem.endswith("_test")]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_takes_forty_lines_of_public_names(path):
    code = user_code(path)
    assert 15 <= len(lines(code)) <= 40, len(lines(code))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        else:
            continue
        assert not any(name[0] == "_" and name[:2] != "__" for name in names), names


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job(path, here):  # noqa: F811
    shutil.copy(path, here)
    for command in re.findall(r"^ *# \$ ppgen (.*)$", path.read_text(), re.MULTILINE):
        assert main(shlex.split(command)) == 0
    runpy.run_path(str(here / path.name), run_name="__main__")


def test_without_its_one_line_the_numpyro_script_is_wrong(tmp_path):
    [path] = [path for path in JOBS if path.stem == "numpyro_script"]
    text = path.read_text()
    [changed] = [line for line in text.splitlines() if "# the line that changes" in line]
    before = tmp_path / "before.py"
    before.write_text(text.replace(changed + "\n", ""))
    with warnings.catch_warnings(), pytest.raises(AssertionError):
        warnings.simplefilter("ignore")  # NumPyro's, which says so
        runpy.run_path(str(before), run_name="__main__")
