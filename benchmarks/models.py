"""The marks of all models that have some: what each one reaches, and whether that is enough.

    python benchmarks/models.py                         # all, three seeds each; writes models.md
    python benchmarks/models.py --only diffuse_vae vae  # their sections of models.md, no others
    python benchmarks/models.py --fast                  # smaller, easier marks, one seed; no file

A model is here if its folder has a file `marks.py` with `marks(fast, seed)`, which trains, measures
and returns a list of `ppgen.models.parts.marks.Mark`; a first line of docstring, the title of its
section; and, if there is something to say on how it was measured, a paragraph `ABOUT`. Notes on
what is missed are written by hand into models.md, below the comment that ends a section: they stay
when it is measured again.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ppgen import models
from ppgen.models.parts.marks import machine, say, table, write_section

NAMES = sorted(
    {path.parent.name for path in Path(models.__path__[0]).glob("*/marks.py")} - {"parts"}
)


def sections(name: str, module: ModuleType, fast: bool, seeds: list[int]) -> Iterator[list[str]]:
    """Runs the marks of a model, and gives the lines of its section after each seed."""
    runs, began = [], time.process_time()
    for i, seed in enumerate(seeds):
        runs.append(module.marks(fast, seed))
        minutes = (time.process_time() - began) / 60
        say(f"{name}, seed {seed}: {minutes:.1f} minutes of CPU so far")
        done = " ".join(map(str, seeds[: i + 1]))
        command = f"python benchmarks/models.py{' --fast' * fast} --only {name} --seeds {done}"
        about = getattr(module, "ABOUT", "")
        yield [
            f"`{command}`; {minutes:.1f} minutes of CPU; {machine()}. Mean over the seeds, in "
            "brackets the least and the most; how many seeds pass.",
            "",
            *([about, ""] if about else []),
            *table(runs),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", help="30 31 32, with --fast 30")
    parser.add_argument("--fast", action="store_true", help="smaller, with easier marks; no file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    seeds = options.seeds or ([30] if options.fast else [30, 31, 32])
    for name in options.only:
        module = importlib.import_module(f"ppgen.models.{name}.marks")
        title = (module.__doc__ or name).splitlines()[0].rstrip(".")
        lines: list[str] = []
        for lines in sections(name, module, options.fast, seeds):
            if not options.fast:
                write_section(options.out, name, title, lines)
        print(f"## {title}", "", *lines, "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
