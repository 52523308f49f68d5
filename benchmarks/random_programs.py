"""Random programs from the whole language: is each one's estimate right, or refused?

    python benchmarks/random_programs.py --programs 2000 --seed 0    # goes on where it stopped
    python benchmarks/random_programs.py --programs 2000 --seed 0 1 2

Each program is drawn as by `ppgen.testing.programs(whole=True)` and gets a verdict: *right*, if
value and gradient agree with the exact value and with slopes of values, which an interpreter finds
that shares nothing with estimators and analysis; *wrong*, if they do not (*not a number*, if that
shows); *refused*, if ppgen raises an error of its own; *crashed*, with any other error; *unknown*,
where there is nothing to compare with. Of refused programs, one in eight (`ASKED`) is evaluated
without the refusal too, at seven points: what would have been right at all of them was *sound*.
What is done is kept, in pieces, in `--folder` (by default runs/random_programs); the table goes to
random_programs.md.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import gc
import json
import math
import platform
import re
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ppgen.testing._random_programs import random_program
from ppgen.testing._verdicts import judge

PIECE = 50
# To see whether a refused program is sound takes longer than to judge one that is not refused.
ASKED = 8
HERE = Path(__file__)
VERDICTS = ("right", "refused", "wrong", "not a number", "crashed", "unknown")
SOUND = ("sound", "unsound", "unknown", "no estimate")


def piece(seed: int, number: int) -> list[dict]:
    """The verdicts of one piece."""
    out = []
    # Tracing makes and drops so many objects that looking for cycles takes a fifth of the time.
    gc.disable()
    for i in range(PIECE):
        program = random_program(np.random.default_rng([seed, number, i]))
        began = time.process_time()
        found = judge(program, program.theta, draws=program.draws, soundness=i % ASKED == 0)
        out.append(
            {
                "verdict": found.verdict,
                "why": found.why,
                "sound": found.sound,
                "detectable": found.detectable,
                "program": repr(program),
                "seconds": round(time.process_time() - began, 3),
            }
        )
    gc.enable()
    gc.collect()
    if number % 8 == 7:
        jax.clear_caches()
    return out


def kind(why: str) -> str:
    """A refusal without the names of the program."""
    error, _, text = why.partition(": ")
    text = re.sub(r"'[^']*'(, '[^']*')*", "a choice", text)
    text = re.sub(r"\d+", "n", text.split(" at :")[0].split("(a ")[-1].split(", ")[0])
    return f"{error}: {text[:110]}"


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(str(x).replace("|", "/") for x in row) + " |" for row in rows]


def write(results: list[dict], seeds: list[int], path: Path) -> None:
    """Write the page."""
    counts = collections.Counter(r["verdict"] for r in results)
    total, seconds = len(results), sum(r["seconds"] for r in results)
    refused = [r for r in results if r["verdict"] == "refused"]
    sound = collections.Counter(r["sound"] for r in refused)
    asked = sum(sound[s] for s in SOUND)
    share = sound["sound"] / max(asked, 1)
    spread = 1.96 * math.sqrt(share * (1 - share) / max(asked, 1))
    seen = [r["detectable"] for r in results if r["detectable"] is not None]
    distinct = len({r["program"] for r in results})
    command = f"python benchmarks/random_programs.py --programs {math.ceil(total / len(seeds))}"
    lines = [
        "# Random programs",
        "",
        f"`{command} --seed {' '.join(map(str, seeds))}`: {total:,} programs from the whole "
        f"language ({distinct:,} of them distinct), {seconds / 60:.0f} minutes of one core "
        f"({1000 * seconds / total:.0f} ms each), {datetime.date.today()}, {platform.machine()}, "
        f"Python {platform.python_version()}, jax {jax.__version__}.",
        "",
        *table(["verdict", "programs", "share"], [
            [v, f"{counts[v]:,}", f"{counts[v] / total:.2%}"] for v in VERDICTS
        ]),
        "",
    ]  # fmt: skip
    if seen:
        lines += [
            "Of a program that is *right*, a bias of its gradient would have been found at once "
            f"where it is {statistics.median(seen):.0%} of the gradient or more in half of the "
            f"programs, {np.quantile(seen, 0.9):.0%} in nine of ten.",
            "",
        ]
    lines += [
        f"Refused although sound: {sound['sound']:,} of {asked:,} refused programs that were also "
        f"evaluated without the refusal, {share:.1%} ± {spread:.1%}, or "
        f"{share * len(refused) / total:.1%} of all programs; what they would have estimated is "
        "right at the program's point and at six others: mostly, what may jump hardly ever does "
        "there. "
        "*Unsound*: it is wrong at one of them. *Unknown*: there is nothing to compare it with. "
        "*No estimate*: nothing is there to compare.",
        "",
        f"Refusals by kind, and what the {asked:,} of them are:",
        "",
    ]
    kinds = collections.Counter(kind(r["why"]) for r in refused)
    by = collections.Counter((kind(r["why"]), r["sound"]) for r in refused)
    lines += table(["error", "programs", *SOUND], [
        [text, n, *(by[text, s] for s in SOUND)] for text, n in kinds.most_common(40)
    ])  # fmt: skip
    for verdict in ("wrong", "not a number", "crashed"):
        found = [r for r in results if r["verdict"] == verdict]
        if found:
            lines += ["", f"The first that are {verdict}:", ""]
            lines += [f"- `{' '.join(r['program'].split())}`: {r['why'][:300]}" for r in found[:10]]
    unknown = collections.Counter(kind(r["why"]) for r in results if r["verdict"] == "unknown")
    if unknown:
        lines += ["", "Unknown by kind:", ""]
        lines += table(["why", "programs"], [[k, n] for k, n in unknown.most_common(12)])
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Judge what is not judged yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--programs", type=int, default=1000, help="of each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/random_programs"))
    parser.add_argument("--out", type=Path, default=HERE.with_suffix(".md"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results: list[dict] = []
    # The seeds by turns, so that whenever it is stopped all have come equally far.
    jobs = [(s, i) for i in range(math.ceil(options.programs / PIECE)) for s in options.seed]
    began = time.monotonic()
    with tqdm(total=PIECE * len(jobs), unit="program") as bar:
        for seed, number in jobs:
            path = options.folder / f"{seed}-{number}.json"
            if not path.exists():
                if time.monotonic() - began > 60 * options.minutes:
                    continue
                done = path.with_suffix(".part")
                done.write_text(json.dumps(piece(seed, number), indent=1))
                done.replace(path)
            results += json.loads(path.read_text())
            bar.update(PIECE)
            counts = collections.Counter(r["verdict"] for r in results)
            bar.set_postfix({v: counts[v] for v in VERDICTS})
    write(results, options.seed, options.out)


if __name__ == "__main__":
    main()
