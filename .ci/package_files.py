"""The files of a wheel and of an sdist: all that belongs there, and nothing else.

Usage: `python .ci/package_files.py CHECKOUT DIST`.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

# In a checkout, and in an installation.
PACKAGES = {"ppgen": "ppgen", "models": "ppgen/models", "inference": "ppgen/inference"}
ONLY_SOURCE = ["tests", "tutorials", "benchmarks", "docs"]


def sources(checkout: Path, folder: str) -> set[str]:
    """The Python files of a folder of a checkout, and the mark that types are checked."""
    found = {*(checkout / folder).rglob("*.py"), *(checkout / folder).rglob("py.typed")}
    return {path.relative_to(checkout / folder).as_posix() for path in found}


def check(checkout: Path, dist: Path) -> None:
    """Compares both with the checkout."""
    [wheel] = dist.glob("*.whl")
    [sdist] = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if not name.endswith("/")}
    [information] = {name.split("/")[0] for name in found if ".dist-info/" in name}
    wanted = {
        f"{there}/{name}" for here, there in PACKAGES.items() for name in sources(checkout, here)
    }
    wanted |= {f"{information}/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    wanted |= {f"{information}/entry_points.txt", f"{information}/licenses/LICENSE"}
    assert found == wanted, f"wheel: {sorted(found ^ wanted)}"
    assert "ppgen/py.typed" in found and "ppgen/models/vae/recipe.py" in found

    with tarfile.open(sdist) as file:
        found = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    wanted = {
        f"{folder}/{name}" for folder in [*PACKAGES, *ONLY_SOURCE]
        for name in sources(checkout, folder)
        if not name.startswith(("_build/", "tutorials/", "jupyter_execute/"))
    }  # fmt: skip
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"}
    assert wanted <= found, f"sdist lacks {sorted(wanted - found)}"
    litter = [name for name in found if "__pycache__" in name or "_build/" in name]
    assert not litter, f"sdist: {litter}"
    print(f"{wheel.name} and {sdist.name} hold what they should")


if __name__ == "__main__":
    check(Path(sys.argv[1]), Path(sys.argv[2]))
