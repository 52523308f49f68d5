"""Marginalization models: Ising models, digits, molecules, and what a marginal costs.

    python benchmarks/models_marginalization.py                # prints, and writes the .md
    python benchmarks/models_marginalization.py --fast         # smaller, with easier marks; no file
    python benchmarks/models_marginalization.py --seeds 0 1 2

The exact side is a transfer matrix (Ising) or enumeration (4x4, molecules), so a perfect model
scores zero nats of divergence. Floors and controls: independent sites, uniform strings, training
without the consistency penalty, and digits whose pixels were shuffled between the images.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from scipy.special import logsumexp

import ppgen
from ppgen.inference import per_datum
from ppgen.models.baselines import pixel_marginal_log_likelihood
from ppgen.models.datasets import Ising, Molecules, all_strings, sample_ising
from ppgen.models.marginalization import (
    MaM,
    any_order,
    any_order_bound,
    inconsistency,
    log_marginal,
)
from ppgen.models.marginalization_tasks import binary_digits
from ppgen.models.marginalization_training import fit_energy, fit_likelihood, sample
from ppgen.models.networks import DualMLP


class Mark(NamedTuple):
    """A row: what, how much, what it has to be; whether it is, or None for what is only told."""

    mark: str
    measured: float
    bound: str
    passed: bool | None


def below(mark: str, measured: float, bound: float) -> Mark:
    return Mark(mark, float(measured), f"< {bound:g}", bool(measured < bound))


def above(mark: str, measured: float, bound: float) -> Mark:
    return Mark(mark, float(measured), f"> {bound:g}", bool(measured > bound))


def told(mark: str, measured: float) -> Mark:
    return Mark(mark, float(measured), "–", None)


# --- what is measured -----------------------------------------------------------------------------


def fresh(sites: int, values: int, width: int, depth: int, seed: int) -> MaM:
    network = DualMLP(sites, values, width, depth, key=jax.random.key(seed))
    return MaM(network, sites, values)


def adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


@eqx.filter_jit
def log_marginals(mam: MaM, x: Any, known: Any = None) -> Any:
    known = jnp.ones(x.shape, bool) if known is None else known
    return jax.lax.map(lambda a: log_marginal(mam, *a), (x, known), batch_size=4096)


@eqx.filter_jit
def ancestral(key: Any, mam: MaM, draws: int) -> tuple[Any, Any]:
    """Draws of p_φ, and log p_φ(x | σ) of each."""

    def one(key):
        drawn = ppgen.seed(ppgen.simulate(any_order))(key, mam)
        return drawn.value, jnp.sum(drawn.log_probs["values"])

    return jax.vmap(one)(jax.random.split(key, draws))


@eqx.filter_jit
def step_errors(key: Any, mam: MaM, x: Any) -> Any:
    """`inconsistency` of each x at one step of one order."""
    rank_key, d_key = jax.random.split(key)
    rank = jnp.argsort(jax.random.uniform(rank_key, x.shape))
    d = jax.random.randint(d_key, (len(x),), 0, mam.sites)
    return jax.vmap(inconsistency, (None, 0, 0, 0))(mam, x, rank, d)


def divergence_of_marginals(mam: MaM, x: np.ndarray, log_target: np.ndarray) -> tuple[float, float]:
    """KL(p_θ ‖ p), p_θ normalised, and log of its mass before: by enumeration, in nats."""
    log_p = np.asarray(log_marginals(mam, jnp.asarray(x)), np.float64)
    log_mass = logsumexp(log_p)
    log_p -= log_mass
    return float(np.exp(log_p) @ (log_p - log_target)), float(log_mass)


def correlation(mam: MaM, ising: Ising, count: int, seed: int) -> tuple[float, float]:
    """Pearson's, and the RMS error in nats, of log marginals of random subsets of real draws."""
    random = np.random.RandomState(seed)
    x = np.asarray(sample_ising(ising, count, key=jax.random.key(seed + 100)))
    sizes = random.randint(1, ising.sites + 1, count)
    known = np.stack([random.permutation(ising.sites) < size for size in sizes])
    exact = [ising.log_marginal(*pair) for pair in zip(x, known, strict=True)]
    found = np.asarray(log_marginals(mam, jnp.asarray(x), jnp.asarray(known)))
    return np.corrcoef(exact, found)[0, 1], np.sqrt(np.mean((exact - found) ** 2))


def independent_divergence(ising: Ising) -> float:
    """KL(q ‖ p) of the best q with independent, equal sites: naive mean field, in nats."""
    m = np.linspace(-0.9999, 0.9999, 200_001)
    entropy = -((1 + m) / 2 * np.log((1 + m) / 2) + (1 - m) / 2 * np.log((1 - m) / 2))
    free = 4 * ising.coupling * m**2 + ising.field * m + entropy
    return ising.log_normalizer() - ising.sites * float(free.max())


def figures(mam: MaM, log_weight: Callable, log_z: float, seed: int) -> dict[str, float]:
    """What draws of p_φ say, in nats."""
    x, log_q = ancestral(jax.random.key(seed + 200), mam, 4096)
    log_p = np.asarray(log_marginals(mam, x))
    log_f = np.asarray(jax.vmap(log_weight)(x)) - log_z
    errors = np.asarray(step_errors(jax.random.key(seed + 300), mam, x))
    gaps = np.asarray(log_q) - log_f
    return {
        "of phi": float(gaps.mean()),
        "standard error": float(gaps.std() / np.sqrt(len(gaps))),
        "rms step": float(np.sqrt(np.mean(errors**2))),
        "rms whole": float(np.std(log_p - log_q)),
        "mass": float(np.exp(log_p - log_q).mean()),
    }


# --- the marks ------------------------------------------------------------------------------------


def ising_4x4(fast: bool, seed: int) -> list[Mark]:
    ising, x = Ising(4), all_strings(16, 2)
    log_z = ising.log_normalizer()
    log_target = np.asarray(jax.vmap(ising.log_weight)(x), np.float64) - log_z
    width, depth, steps, draws = (64, 1, 300, 128) if fast else (256, 1, 1500, 512)
    name = "Ising 4x4"

    def trained(steps: int, **options: Any) -> MaM:
        return fit_energy(
            fresh(16, 2, width, depth, seed),
            ising.log_weight,
            adam(3e-3 if fast else 1e-3, steps),
            key=jax.random.key(seed + 1),
            steps=steps,
            draws=draws,
            **options,
        )

    mam = trained(steps, erased=4)
    of_theta, log_mass = divergence_of_marginals(mam, x, log_target)
    of_phi = figures(mam, ising.log_weight, log_z, seed)
    pearson, rms = correlation(mam, ising, 300, seed)
    rows = [
        above(f"{name}: Pearson, 300 log marginals", pearson, 0.98 if fast else 0.995),
        below(f"{name}: KL(p_theta | p), exact", of_theta, 0.1 if fast else 0.02),
        below(f"{name}: KL(p_phi, order | p)", of_phi["of phi"], 0.2 if fast else 0.05),
        told(f"{name}: its standard error", of_phi["standard error"]),
        told(f"{name}: RMS error of a log marginal", rms),
        told(f"{name}: consistency, RMS of a step", of_phi["rms step"]),
        told(f"{name}: log mass of p_theta, exact", log_mass),
        told(f"{name}: KL of independent sites", independent_divergence(ising)),
    ]
    if fast:
        return rows
    # Without the penalty nothing ties the conditionals to the target.
    control = trained(steps // 3, erased=4, penalty=0.0)
    alone = figures(control, ising.log_weight, log_z, seed)["of phi"]
    unbiased = trained(steps // 3, objective="importance")
    theta, _ = divergence_of_marginals(unbiased, x, log_target)
    phi = figures(unbiased, ising.log_weight, log_z, seed)["of phi"]
    return [
        *rows,
        above(f"{name}: control without penalty, a third of the steps, KL of p_phi", alone, 0.2),
        told(f"{name}: unbiased gradient, a third of the steps, KL of p_theta", theta),
        told(f"{name}: unbiased gradient, a third of the steps, KL of p_phi", phi),
    ]


def ising_10x10(fast: bool, seed: int) -> list[Mark]:
    ising, steps, name = Ising(10), 2500, "Ising 10x10"
    log_z = ising.log_normalizer()
    mam = fit_energy(
        fresh(100, 2, 256, 1, seed),
        ising.log_weight,
        adam(2e-3, steps),
        key=jax.random.key(seed + 1),
        steps=steps,
        draws=256,
        erased=5,
    )
    found = figures(mam, ising.log_weight, log_z, seed)
    pearson, rms = correlation(mam, ising, 100, seed)
    bits = (ising.entropy() + found["of phi"]) / (100 * np.log(2))
    return [
        below(f"{name}: KL(p_phi, order | p)", found["of phi"], 1.0),
        told(f"{name}: its standard error", found["standard error"]),
        told(f"{name}: that entropy and KL in bits per site (exact .78332, published .80)", bits),
        told(f"{name}: KL of independent sites", independent_divergence(ising)),
        told(f"{name}: Pearson, 100 log marginals", pearson),
        told(f"{name}: RMS error of a log marginal", rms),
        told(f"{name}: consistency, RMS of a step", found["rms step"]),
        told(
            f"{name}: log p_theta - log p_phi of a vector, standard deviation", found["rms whole"]
        ),
        told(f"{name}: mass of p_theta, by importance sampling", found["mass"]),
    ]


def speed(fast: bool, seed: int) -> list[Mark]:
    """One pass of p_θ against log p_φ(x | σ), D passes in a row, by the same network."""
    mam, batch = fresh(100, 2, 256, 1, seed), 64
    x = jax.random.randint(jax.random.key(seed), (batch, 100), 0, 2)
    orders = jax.vmap(lambda key: jax.random.permutation(key, 100))(
        jax.random.split(jax.random.key(seed + 1), batch)
    )
    conditionals = ppgen.log_density(any_order)
    once = eqx.filter_jit(jax.vmap(log_marginal, (None, 0)))
    in_a_row = eqx.filter_jit(
        lambda mam, x: jax.vmap(lambda x, order: conditionals({"order": order}, mam, x))(x, orders)
    )
    for f in (once, in_a_row):
        jax.block_until_ready(f(mam, x))
    ratios = []
    for _ in range(5 if fast else 21):
        times = []
        for f, repetitions in ((once, 20), (in_a_row, 1)):
            start = time.perf_counter()
            for _ in range(repetitions):
                jax.block_until_ready(f(mam, x))
            times.append((time.perf_counter() - start) / repetitions)
        ratios.append(times[1] / times[0])
    # A shared machine is no place to ask for a ratio in a smoke run.
    mark = "D = 100: time of D passes of p_phi to one of p_theta, median"
    return [above(mark, statistics.median(ratios), 25 if fast else 50)]


def digits(fast: bool, seed: int) -> list[Mark]:
    (train, held_out), name = binary_digits(), "digits 8x8"
    width, depth, steps = (64, 1, (300, 300)) if fast else (256, 1, (2000, 2000))

    def trained(train: np.ndarray, steps: tuple[int, int]) -> MaM:
        return fit_likelihood(
            fresh(64, 2, width, depth, seed),
            train,
            optax.adamw(
                optax.cosine_decay_schedule(3e-3 if fast else 2e-3, steps[0]), weight_decay=0.1
            ),
            key=jax.random.key(seed + 1),
            steps=steps,
            batch_size=128,
            draws=2000 if fast else 20_000,
        )

    def bound(mam: MaM) -> float:
        """The mean log p_φ(x | σ) of held-out images, over orders: one pass for each draw."""
        key = jax.random.key(seed + 2)
        return float(per_datum(any_order_bound, mam, held_out, key=key, draws=256).mean())

    mam = trained(train, steps)
    of_phi = bound(mam)
    whole = np.asarray(log_marginals(mam, jnp.asarray(held_out)))
    random = np.random.RandomState(seed)
    sizes = random.randint(1, 65, len(held_out))
    known = np.stack([random.permutation(64) < size for size in sizes])
    by_theta = np.asarray(log_marginals(mam, jnp.asarray(held_out), jnp.asarray(known)))
    by_phi = subset_by_conditionals(mam, held_out, known, seed)
    pixels = float(pixel_marginal_log_likelihood(train, held_out, values=2).mean())
    x, log_q = ancestral(jax.random.key(seed + 3), mam, 4096)
    ratio = np.asarray(log_marginals(mam, x)) - np.asarray(log_q)
    errors = np.asarray(step_errors(jax.random.key(seed + 4), mam, jnp.asarray(held_out)))
    rows = [
        below(
            f"{name}: NLL, any-order ARM (p_phi), held out", -of_phi, -pixels - (4 if fast else 8)
        ),
        below(
            f"{name}: |NLL of p_theta - NLL of p_phi|",
            abs(whole.mean() - of_phi),
            4.0 if fast else 1.0,
        ),
        told(f"{name}: NLL, p_theta, held out", -whole.mean()),
        told(f"{name}: NLL, independent pixels, held out", -pixels),
        told(f"{name}: NLL, any-order ARM, bits per pixel", -of_phi / (64 * np.log(2))),
        above(
            f"{name}: Pearson, log marginals of p_theta and p_phi",
            np.corrcoef(by_theta, by_phi)[0, 1],
            0.95 if fast else 0.99,
        ),
        told(f"{name}: consistency, RMS of a step, held out", np.sqrt(np.mean(errors**2))),
        told(f"{name}: mass of p_theta, by importance sampling", np.exp(ratio).mean()),
    ]
    if fast:
        return rows
    # Pixels shuffled between the images keep their histograms and nothing else.
    shuffled = np.stack([random.permutation(column) for column in train.T], 1)
    control = bound(trained(shuffled, (steps[0] // 2, 1)))
    return [*rows, above(f"{name}: control, NLL of shuffled pixels", -control, -pixels - 1.0)]


@eqx.filter_jit
def subset_by_conditionals(mam: MaM, x: Any, known: Any, seed: int) -> Any:
    """The log p_φ of a subset, its sites first in a random order: D passes, as an ARM has to."""

    def one(x, known, key):
        order = jnp.argsort(jnp.where(known, 0.0, 1.0) + jax.random.uniform(key, x.shape))
        terms = ppgen.assess(any_order)({"order": order, "values": x[order]}, mam)
        inside = jnp.arange(len(x)) < known.sum()
        return jnp.sum(jnp.where(inside, terms.log_probs["values"], 0.0))

    keys = jax.random.split(jax.random.key(seed), len(x))
    return jax.lax.map(lambda a: one(*a), (jnp.asarray(x), jnp.asarray(known), keys), batch_size=64)


def molecules(fast: bool, seed: int) -> list[Mark]:
    task = Molecules(length=4 if fast else 5)
    x, name = all_strings(task.sites, task.values), "molecules"
    rewards, valid = (np.asarray(jax.vmap(f)(x)) for f in (task.log_weight, task.is_valid))
    log_z = float(logsumexp(rewards.astype(np.float64)))
    p = np.exp(rewards - log_z)
    steps = 400 if fast else 2000
    mam = fit_energy(
        fresh(task.sites, task.values, 64 if fast else 128, 1 if fast else 2, seed),
        task.log_weight,
        adam(5e-3 if fast else 3e-3, steps),
        key=jax.random.key(seed + 1),
        steps=steps,
        draws=256,
        erased=2,
    )
    of_theta, log_mass = divergence_of_marginals(mam, x, rewards - log_z)
    found = figures(mam, task.log_weight, log_z, seed)
    drawn = sampled_rewards(jax.random.key(seed + 2), mam, task)
    levels = np.unique(rewards)

    def share(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.array([weights[values == level].sum() for level in levels])

    exact = share(rewards, p)
    uniform = share(rewards, np.full(len(x), 1 / len(x)))
    by_model = share(drawn, np.full(len(drawn), 1 / len(drawn)))
    return [
        below(
            f"{name}: total variation of the rewards of draws",
            0.5 * np.abs(by_model - exact).sum(),
            0.1 if fast else 0.03,
        ),
        told(f"{name}: the same, of uniform strings", 0.5 * np.abs(uniform - exact).sum()),
        told(f"{name}: the same, of as many exact draws", noise(exact, len(drawn), seed)),
        below(f"{name}: KL(p_theta | p), exact", of_theta, 0.3 if fast else 0.05),
        below(f"{name}: KL(p_phi, order | p)", found["of phi"], 0.5 if fast else 0.1),
        told(f"{name}: valid draws", (drawn > task.invalid).mean()),
        told(f"{name}: valid, exact", p[valid].sum()),
        told(f"{name}: valid, of uniform strings", valid.mean()),
        told(f"{name}: consistency, RMS of a step", found["rms step"]),
        told(f"{name}: log mass of p_theta, exact", log_mass),
    ]


def sampled_rewards(key: Any, mam: MaM, task: Molecules, draws: int = 10_000) -> np.ndarray:
    return np.asarray(jax.vmap(task.log_weight)(eqx.filter_jit(sample)(key, mam, draws)))


def noise(shares: np.ndarray, draws: int, seed: int) -> float:
    counts = np.random.RandomState(seed).multinomial(draws, shares / shares.sum())
    return 0.5 * float(np.abs(counts / draws - shares).sum())


def marks(fast: bool, seed: int) -> list[Mark]:
    """All of them: with `fast` smaller ones with easier marks, and no Ising 10x10."""
    parts: list[Callable[[bool, int], list[Mark]]]
    parts = [ising_4x4, *([] if fast else [ising_10x10]), speed, digits, molecules]
    return [row for part in parts for row in part(fast, seed)]


# --- the report -----------------------------------------------------------------------------------


def table(runs: list[list[Mark]]) -> list[str]:
    """A row for each mark: mean and spread over the seeds; it passes if every seed does."""
    lines = ["| mark | measured | bound | pass |", "| --- | --- | --- | --- |"]
    for rows in zip(*runs, strict=True):
        values = [row.measured for row in rows]
        measured = f"{statistics.mean(values):.4g}"
        if len(values) > 1:
            measured += f" ({min(values):.4g} to {max(values):.4g})"
        first = rows[0]
        verdict = "–" if first.passed is None else "yes" if all(r.passed for r in rows) else "NO"
        lines.append(f"| {first.mark} | {measured} | {first.bound} | {verdict} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fast", action="store_true", help="smaller, with easier marks; no file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    runs, spent = [], []
    for seed in options.seeds:
        start = time.process_time()
        runs.append(marks(options.fast, seed))
        spent.append(time.process_time() - start)
        print(f"seed {seed}: {spent[-1]:.0f} s of CPU", *table(runs[-1:]), sep="\n", flush=True)
    command = "python benchmarks/models_marginalization.py --seeds "
    command += " ".join(map(str, options.seeds))
    lines = [
        "# Marginalization models",
        "",
        f"`{command}`, {datetime.date.today()}; {os.cpu_count()} CPU cores "
        f"({platform.machine()}, shared); Python {sys.version.split()[0]}, "
        f"jax {jax.__version__}, numpyro {numpyro.__version__}; "
        f"{statistics.mean(spent):.0f} s of CPU for a seed.",
        "",
        "Divergences and errors in nats; mean over the seeds, in brackets the least and the most. "
        "`p_theta` are the marginals, in one pass, `p_phi` the conditionals; the divergence of "
        "`p_phi` is that of vector and order together, an upper bound on that of the vector. "
        "Energies are by the published heuristic with persistent chains, unless it says unbiased.",
        "",
        *table(runs),
    ]
    print("\n".join(lines))
    if not options.fast:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
