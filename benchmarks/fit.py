"""What `fit` costs: against a loop written by hand and NumPyro's `SVI`, over devices, in memory.

A variational autoencoder, 784-400-10, on random binary rows, batches of 128, Adam.

    python benchmarks/fit.py                      # prints, and writes benchmarks/fit.md
    python benchmarks/fit.py --only speed latency --repetitions 11 --out /dev/null

- speed: in one process. `fit` runs once, and its callback has the others take as many steps, in
  random order, so that whatever else the machine does meets all of them alike.
- latency: from the call to the end of the first step, in fresh processes without a cache.
- scaling: what the compiled step sends between 1, 2, 4 and 8 virtual devices.
- memory: the peak of fits to rows on disk.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from pathlib import Path

import jax
import numpyro
from fit_common import BATCH
from fit_latency import latency
from fit_memory import memory
from fit_scaling import scaling
from fit_speed import speed
from overhead import (
    machine,
)

import ppgen

SECTIONS = {"speed": speed, "latency": latency, "scaling": scaling, "memory": memory}


def earlier(path: Path) -> dict[str, str]:
    """The sections of a report, so that one can be made anew without the others."""
    parts = path.read_text().split("\n## ")[1:] if path.is_file() else []
    named = dict(part.split("\n\n", 1) for part in parts)
    return {name.lower(): text.strip() for name, text in named.items()}


def report(sections: dict[str, str], seed: int) -> str:
    ordered = [(name, sections[name]) for name in SECTIONS if name in sections]
    return "\n".join(
        [
            "# What fitting costs",
            "",
            f"{machine()}; Python {platform.python_version()}, ppgen {ppgen.__version__}, jax "
            f"{jax.__version__}, numpyro {numpyro.__version__}; seed {seed}.",
            "A VAE, 784-400-10, on random binary rows in batches of 128, with Adam.",
            "",
            *(f"## {name.capitalize()}\n\n{text}\n" for name, text in ordered),
        ]
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repetitions", type=int, default=51, help="chunks, for speed")
    parser.add_argument("--chunk", type=int, default=50, help="steps of one, for speed")
    parser.add_argument("--processes", type=int, default=5, help="of each kind, for latency")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[BATCH, 80 * BATCH], help="for speed and latency"
    )
    parser.add_argument("--memory-steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    command = f"python benchmarks/fit.py {' '.join(arguments)}".strip()
    for name in options.only:
        load = os.getloadavg()[0]
        text = SECTIONS[name](options)
        text += (
            f"\n\n{datetime.date.today()}, load {load:.0f} to {os.getloadavg()[0]:.0f}. `{command}`"
        )
        print(f"## {name.capitalize()}\n\n{text}\n", flush=True)
        sections = earlier(options.out) | {name: text}
        options.out.write_text(report(sections, options.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
