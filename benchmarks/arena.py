"""Leaderboards from simulated votes: do intervals cover, and what other ratings make of the votes.

    python benchmarks/arena.py            # prints, and writes arena.md
    python benchmarks/arena.py --fast     # a smoke run

Twelve systems, 6,000 votes between random pairs, with and without ties, by Davidson's model. Each
seed draws systems; its repetitions draw votes. The marks were fixed before the first run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.optimize import brentq
from scipy.stats import kendalltau

from ppgen.inference import FittedRewards, fit_rewards

SYSTEMS, SPREAD, SHARE = 12, 0.5, 0.25
COVERAGE, SAME = (0.93, 0.97), 1e-6
ONE, OTHER = np.triu_indices(SYSTEMS, 1)

Votes = tuple[np.ndarray, np.ndarray]  # winners and losers, and ties


def yes(flag: Any) -> str:
    return "yes" if flag else "**no**"


def probabilities(difference: np.ndarray, nu: float) -> np.ndarray:
    """Of a win, a loss and a tie: as in Davidson's paper, with no code of ppgen."""
    p = np.exp(difference)
    parts = np.stack([p, np.ones_like(p), nu * np.sqrt(p)], axis=-1)
    return parts / parts.sum(-1, keepdims=True)


def nu_of(rewards: np.ndarray, share: float) -> float:
    """The ν at which a share of all votes are ties."""
    if share == 0:
        return 0.0
    difference = rewards[ONE] - rewards[OTHER]
    return float(brentq(lambda nu: probabilities(difference, nu)[:, 2].mean() - share, 0, 1e3))


def draw(rewards: np.ndarray, nu: float, number: int, rng: np.random.Generator) -> Votes:
    pairs = np.argsort(rng.random((number, SYSTEMS)), axis=1)[:, :2]
    p = probabilities(rewards[pairs[:, 0]] - rewards[pairs[:, 1]], nu)
    outcome = (rng.random(number)[:, None] > p.cumsum(1)).sum(1)
    pairs[outcome == 1] = pairs[outcome == 1][:, ::-1]
    return pairs[outcome < 2], pairs[outcome == 2]


def elo(votes: Votes, step: float, rng: np.random.Generator) -> np.ndarray:
    """Elo's rating after one pass in random order, in points."""
    won, equal = votes
    rows = np.concatenate([np.c_[won, np.ones(len(won))], np.c_[equal, np.full(len(equal), 0.5)]])
    rating = [0.0] * SYSTEMS
    for i, j, score in rng.permutation(rows).tolist():
        i, j = int(i), int(j)
        change = step * (score - 1 / (1 + 10 ** ((rating[j] - rating[i]) / 400)))
        rating[i] += change
        rating[j] -= change
    return np.array(rating)


def one_each(votes: Votes) -> np.ndarray:
    """A tie as a vote for each, next to a win as one."""
    won, equal = votes
    return np.concatenate([won, equal, equal[:, ::-1]])


def half_each(votes: Votes) -> np.ndarray:
    """A tie as half a vote for each: here everything twice."""
    won, equal = votes
    return np.concatenate([won, won, equal, equal[:, ::-1]])


def slope(estimate: np.ndarray, truth: np.ndarray) -> float:
    """What differences are, on average, in units of the truth."""
    found, right = (x[ONE] - x[OTHER] for x in (estimate, truth))
    return float(found @ right / (right @ right))


def covered(
    fitted: FittedRewards, truth: np.ndarray, *, robust: bool = False, scale: float = 1.0
) -> float:
    """How many of all differences are inside of their intervals."""
    c = scale * (fitted.robust if robust else fitted.covariance)
    error = np.sqrt(c[ONE, ONE] + c[OTHER, OTHER] - 2 * c[ONE, OTHER])
    gap = fitted.rewards[ONE] - fitted.rewards[OTHER] - (truth[ONE] - truth[OTHER])
    return float(np.mean(np.abs(gap) < 1.959963984540054 * error))


def tau(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(kendalltau(estimate, truth).statistic)


def one_repetition(
    truth: np.ndarray, nu: float, number: int, rng: np.random.Generator
) -> dict[str, float]:
    votes = draw(truth, nu, number, rng)
    fitted = fit_rewards(votes[0], ties=votes[1])
    shuffled = fit_rewards(rng.permutation(votes[0]), ties=rng.permutation(votes[1]))
    best, worst = fitted.ranks().T
    ranks = 1 + np.argsort(np.argsort(-truth))
    found = {
        "coverage": covered(fitted, truth),
        "sandwich": covered(fitted, truth, robust=True),
        "ranks": float(np.all((best <= ranks) & (ranks <= worst))),
        "tau": tau(fitted.rewards, truth),
        "slope": slope(fitted.rewards, truth),
        "moved": float(np.abs(shuffled.rewards - fitted.rewards).max()),
    }
    for step in (4, 32):
        ratings = [elo(votes, step, rng) for _ in range(2)]
        found[f"Elo {step} tau"] = tau(ratings[0], truth)
        found[f"Elo {step} moved"] = float(np.abs(ratings[0] - ratings[1]).max())
    if nu > 0:
        found["nu"] = float(abs(np.log(fitted.nu / nu)) < 1.959963984540054 * fitted.log_nu_error)
        for name, count, scale in (("one each", one_each, 1.0), ("half each", half_each, 2.0)):
            other = fit_rewards(count(votes))
            found[f"{name} slope"] = slope(other.rewards, truth)
            found[f"{name} coverage"] = covered(other, truth, scale=scale)
            found[f"{name} tau"] = tau(other.rewards, truth)
    return found


def repeated(options: Any, seed: int, share: float, control: bool = False) -> dict[str, Any]:
    """The figures of all repetitions, by name."""
    rng = np.random.default_rng([seed, int(100 * share), control])
    truth = np.zeros(SYSTEMS) if control else SPREAD * rng.normal(size=SYSTEMS)
    nu = nu_of(truth, share)
    if control:
        rows = []
        for _ in range(options.repetitions):
            votes = draw(truth, nu, options.votes, rng)
            fitted = fit_rewards(votes[0], ties=votes[1])
            alone = np.all(fitted.ranks() == [1, SYSTEMS])
            rows.append({"coverage": covered(fitted, truth), "ranks": float(alone)})
    else:
        rows = [one_repetition(truth, nu, options.votes, rng) for _ in range(options.repetitions)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def agreement(options: Any) -> float | None:
    """The largest difference of a reward from that by `choix`, or None without it."""
    try:
        from choix import opt_pairwise
    except ImportError:
        return None
    rng = np.random.default_rng(options.seeds[0])
    won, _ = draw(SPREAD * rng.normal(size=SYSTEMS), 0.0, options.votes, rng)
    other = opt_pairwise(SYSTEMS, won.tolist(), alpha=0.0, tol=1e-12)
    return float(np.abs(fit_rewards(won).rewards - (other - other.mean())).max())


def over_seeds(found: list[dict[str, Any]], name: str, digits: int = 3) -> str:
    """The mean of each seed; an interval of the mean of all, by repetitions."""
    each = [f"{np.mean(x[name]):.{digits}f}" for x in found]
    values = np.concatenate([x[name] for x in found])
    reach = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{', '.join(each)} (mean {values.mean():.{digits}f} ± {reach:.{digits}f})"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--votes", type=int, default=6000)
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    if options.fast:
        options.seeds, options.repetitions, options.votes = options.seeds[:1], 3, 1000
    began = time.process_time()
    lines, marks = [], []
    for share in (0.0, SHARE):
        found = [repeated(options, seed, share) for seed in options.seeds]
        said = over(found, lines, share)
        marks += said
        print("\n".join(lines[-12:]), flush=True)
    control = [repeated(options, seed, SHARE, control=True) for seed in options.seeds]
    inside = all(COVERAGE[0] <= np.mean(x["coverage"]) <= COVERAGE[1] for x in control)
    lines += [
        "",
        "## Control: votes at random",
        "",
        "| | by seed |",
        "| --- | --- |",
        f"| intervals of differences that cover 0 | {over_seeds(control, 'coverage')} |",
        f"| leaderboards on which every rank is 1–12 | {over_seeds(control, 'ranks')} |",
    ]
    marks.append(("control: coverage of 0 in .93–.97, each seed", inside))
    apart = agreement(options)
    if apart is not None:
        marks.append((f"`choix` without ties within {SAME:g}: {apart:.1e}", apart < SAME))
    text = "\n".join(
        [
            "# Leaderboards from votes",
            "",
            f"`{' '.join(['python benchmarks/arena.py', *arguments])}`, "
            f"{datetime.date.today()}, seeds {options.seeds}, {options.repetitions} "
            f"repetitions each, {(time.process_time() - began) / 60:.1f} min of CPU "
            f"({os.cpu_count()} cores, {platform.machine()}, shared), Python "
            f"{sys.version.split()[0]}, numpy {np.__version__}, scipy {scipy.__version__}.",
            "",
            f"{SYSTEMS} systems with rewards from N(0, {SPREAD:g}²), {options.votes:,} votes "
            "between random pairs. All 66 differences are counted; an",
            "interval has 95 %. The marks were fixed before the first run.",
            "",
            "| mark | reached |",
            "| --- | --- |",
            *(f"| {what} | {yes(reached)} |" for what, reached in marks),
            *([] if apart is not None else ["", "`choix` was not installed."]),
            *lines,
            "",
            NOTES,
        ]
    )
    print(text)
    options.out.write_text(text)


def over(found: list[dict[str, Any]], lines: list[str], share: float) -> list[tuple[str, bool]]:
    """Adds a table to the page, and returns its marks."""
    say: Callable[..., str] = lambda name, digits=3: over_seeds(found, name, digits)  # noqa: E731
    what = f"with {100 * share:.0f} % ties" if share else "without ties"
    moved = max(float(x["moved"].max()) for x in found)
    rows = {
        "coverage": say("coverage"),
        "coverage by the sandwich": say("sandwich"),
        "all ranks within their limits": say("ranks"),
        "slope of differences against the truth": say("slope"),
        "Kendall's τ": say("tau"),
        "Kendall's τ, Elo with K = 4": say("Elo 4 tau"),
        "Kendall's τ, Elo with K = 32": say("Elo 32 tau"),
        "moved by reshuffling, at most (nats)": f"{moved:.1e}",
        "moved by reshuffling, Elo with K = 4 (points)": say("Elo 4 moved", 0),
        "moved by reshuffling, Elo with K = 32 (points)": say("Elo 32 moved", 0),
    }
    if share:
        rows["coverage of log ν"] = say("nu")
        for name in ("one each", "half each"):
            rows[f"a tie as {name.replace(' each', ' vote for each')}: slope"] = say(
                f"{name} slope"
            )
            rows[f"— coverage of the truth, {name}"] = say(f"{name} coverage")
            rows[f"— Kendall's τ, {name}"] = say(f"{name} tau")
    lines += ["", f"## {what[0].upper()}{what[1:]}", "", "| | by seed |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    inside = all(COVERAGE[0] <= np.mean(x["coverage"]) <= COVERAGE[1] for x in found)
    best = max(np.mean([x[f"Elo {k} tau"].mean() for x in found]) for k in (4, 32))
    ours = np.mean([x["tau"].mean() for x in found])
    return [
        (f"{what}: coverage in .93–.97, each seed", inside),
        (f"{what}: τ at least that of Elo's ratings", bool(ours >= best)),
        (f"{what}: invariant to the order of votes ({SAME:g})", moved < SAME),
    ]


NOTES = """\
Elo's rating is that of a game whose players change: it depends on the order of votes, here drawn at
random, and has no intervals. A tie that is counted as votes for both is a vote that says more than
it does: differences shrink, although their order hardly changes, and intervals cover what is
estimated but not the truth. Limits of ranks hold for all systems at once, by Bonferroni's
inequality and so more often than they have to. These are simulated votes from the model that is
fitted: real voters are not like it, and then the sandwich is what remains valid.
"""


if __name__ == "__main__":
    main(sys.argv[1:])
