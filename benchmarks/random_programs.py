"""Random programs from the whole language: is each one's estimate right, or refused?

    python benchmarks/random_programs.py --programs 2000 --seed 0    # goes on where it stopped
    python benchmarks/random_programs.py --programs 2000 --seed 0 1 2

Each program is drawn by `ppgen.testing.programs(whole=True)` and gets a verdict: *right*, if value
and gradient agree with a sum over all choices by an interpreter that shares nothing with estimators
and analysis; *wrong*, if they do not, at two keys; *refused*, if ppgen raises an error of its own;
*crashed*, with any other error; *unknown*, where the sum has no grid. What is done is kept, in
pieces, in `--folder` (by default runs/random_programs); the table goes to random_programs.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import time
from pathlib import Path
from typing import Any

import hypothesis
import jax
from hypothesis import HealthCheck, Phase, settings
from tqdm import tqdm

import ppgen
from ppgen.testing import RandomProgram, assert_unbiased, programs

PIECE = 50
HERE = Path(__file__)


def judge(program: RandomProgram, samples: int = 4096) -> tuple[str, str]:
    """A verdict, and why: the error's class and message, or the entries that differ."""
    g = ppgen.expectation(program)
    try:
        jax.eval_shape(jax.value_and_grad(g, argnums=1), jax.random.key(0), *program.args)
    except ppgen.PpgenError as error:
        return "refused", f"{type(error).__name__}: {error.message}"
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {error}"
    options: dict[str, Any] = {"order": 1, "exact": program.exact, "samples": samples}
    for i in range(2):
        try:
            assert_unbiased(
                program,
                *program.args,
                key=jax.random.key(i),
                detect=math.inf,
                error_probability=1e-7,
                **options,
            )
            return "right", ""
        except AssertionError as error:
            found = "; ".join(str(error).splitlines()[1:])
        except ppgen.PpgenError as error:
            return "unknown", f"{type(error).__name__}: {error.message}"
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {error}"
        options["samples"] = 4 * samples
    return "wrong", found


def piece(seed: int, number: int) -> list[dict]:
    """The verdicts of one piece."""
    out: list[dict] = []
    seen: set[str] = set()

    @hypothesis.seed(1_000_003 * seed + number)
    @settings(
        max_examples=PIECE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(programs(whole=True, max_choices=2, max_points=2000))
    def run(program: RandomProgram) -> None:
        if repr(program) in seen:
            return
        seen.add(repr(program))
        began = time.perf_counter()
        verdict, why = judge(program)
        seconds = round(time.perf_counter() - began, 2)
        out.append({"verdict": verdict, "why": why, "program": repr(program), "seconds": seconds})
        if len(out) % 10 == 0:
            jax.clear_caches()

    run()
    return out


def kind(why: str) -> str:
    """A refusal without the names of the program."""
    words = why.split(" reaches ")
    if len(words) == 2:
        return f"{words[0].split(' of ')[0]} reaches {words[1].split(' at ')[0]}"
    return why.split(", ")[0][:90]


def write(results: list[dict], seeds: list[int], path: Path) -> None:
    counts = collections.Counter(r["verdict"] for r in results)
    total, seconds = len(results), sum(r["seconds"] for r in results)
    lines = [
        "# Random programs",
        "",
        f"`python benchmarks/random_programs.py --seed {' '.join(map(str, seeds))}`: {total:,} "
        f"programs from the whole language, {seconds / 60:.0f} minutes.",
        "",
        "| verdict | programs | share |",
        "| --- | ---: | ---: |",
    ]
    for verdict in ("right", "refused", "wrong", "crashed", "unknown"):
        lines.append(f"| {verdict} | {counts[verdict]:,} | {counts[verdict] / total:.1%} |")
    lines += ["", "Refusals by kind:", "", "| error | programs |", "| --- | ---: |"]
    kinds = collections.Counter(kind(r["why"]) for r in results if r["verdict"] == "refused")
    lines += [f"| {text.replace('|', '/')} | {n:,} |" for text, n in kinds.most_common(30)]
    for verdict in ("wrong", "crashed"):
        found = [r for r in results if r["verdict"] == verdict]
        if found:
            lines += ["", f"The first that are {verdict}:", ""]
            lines += [f"- `{r['program']}`: {r['why'][:300]}" for r in found[:10]]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--programs", type=int, default=1000, help="of each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/random_programs"))
    parser.add_argument("--out", type=Path, default=HERE.with_suffix(".md"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results: list[dict] = []
    jobs = [(s, i) for s in options.seed for i in range(math.ceil(options.programs / PIECE))]
    with tqdm(total=PIECE * len(jobs), unit="program") as bar:
        for seed, number in jobs:
            path = options.folder / f"{seed}-{number}.json"
            if not path.exists():
                path.write_text(json.dumps(piece(seed, number), indent=1))
            results += json.loads(path.read_text())
            bar.update(PIECE)
            counts = collections.Counter(r["verdict"] for r in results)
            bar.set_postfix(counts)
            write(results, options.seed, options.out)


if __name__ == "__main__":
    main()
