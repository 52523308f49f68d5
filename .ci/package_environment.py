"""An installation without extras: where it lies, what it pulled, and that the main job runs.

Usage: `python .ci/package_environment.py README.md`, in the environment.
"""

import re
import sys
from importlib.metadata import distributions, requires, version
from pathlib import Path


def name_of(requirement: str) -> str:
    """The package of a requirement, spelt as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def check(readme: Path) -> None:
    """Checks it, and runs the first program of the README."""
    import ppgen

    assert Path(ppgen.__file__).is_relative_to(sys.prefix), ppgen.__file__
    assert ppgen.__version__ == version("ppgen") != "0+unknown"
    wanted = requires("ppgen") or []
    core = {name_of(line) for line in wanted if "extra ==" not in line}
    extras = {name_of(line) for line in wanted if "extra ==" in line} - core - {"ppgen"}
    there = {name_of(found.metadata["Name"]) for found in distributions()}
    assert core <= there, sorted(core - there)
    assert extras and not extras & there, f"only for extras: {sorted(extras & there)}"
    block = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)[0]
    scope: dict = {}
    exec(compile(block, str(readme), "exec"), scope)
    print(f"ppgen {version('ppgen')}, {len(there)} packages; the README's bound: {scope['value']}")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
