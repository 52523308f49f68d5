"""Marginalization models: Ising models, digits, molecules, and what a marginal costs.

`python benchmarks/models.py --only marginalization` runs it. The exact side is a transfer matrix
(Ising) or enumeration (4x4, molecules), so a perfect model scores zero nats of divergence. Floors
and controls: independent sites, uniform strings, training without the consistency penalty, and
digits whose pixels were shuffled between the images.
"""

# pyright: reportArgumentType=false, reportReturnType=false
# (JAX and NumPyro annotate arrays more widely than what they are.)

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from scipy.special import logsumexp

import ppgen
from ppgen.inference import per_datum
from ppgen.models.marginalization import MaM, any_order, any_order_bound, log_marginal
from ppgen.models.marginalization.scores import (
    ancestral,
    binary_digits,
    log_conditionals,
    log_marginals,
    marginal_divergence,
    mean_field_divergence,
    step_errors,
    subsets,
)
from ppgen.models.marginalization.training import fit_energy, fit_likelihood
from ppgen.models.parts.data import Ising, Molecules, all_strings, sample_ising
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood
from ppgen.models.parts.networks import DualMLP, DualTorus

ABOUT = (
    "Divergences and errors in nats. `p_theta` are the marginals, in one pass, `p_phi` the "
    "conditionals; the divergence of `p_phi` is that of vector and order together, an upper bound "
    "on that of the vector. Energies are by the published heuristic with persistent chains, unless "
    "it says otherwise: the unbiased gradient, or chains that are corrected to follow the target."
)


# --- what is measured -----------------------------------------------------------------------------


def fresh(sites: int, values: int, width: int, depth: int, seed: int) -> MaM:
    network = DualMLP(sites, values, width, depth, key=jax.random.key(seed))
    return MaM(network, sites, values)


def adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def correlation(mam: MaM, ising: Ising, count: int, seed: int) -> tuple[float, float]:
    """Pearson's, and the RMS error in nats, of log marginals of random subsets of real draws."""
    x = np.asarray(sample_ising(ising, count, key=jax.random.key(seed + 100)))
    known = subsets(count, ising.sites, key=jax.random.key(seed + 400))
    exact = [ising.log_marginal(*pair) for pair in zip(x, known, strict=True)]
    found = np.asarray(log_marginals(mam, x, known))
    return np.corrcoef(exact, found)[0, 1], np.sqrt(np.mean((exact - found) ** 2))


def figures(
    mam: MaM, log_weight: Callable, log_z: float, seed: int, draws: int = 4096
) -> dict[str, float]:
    """What draws of p_φ say, in nats."""
    x, log_q = ancestral(mam, draws, key=jax.random.key(seed + 200))
    log_p = np.asarray(log_marginals(mam, x))
    log_f = np.asarray(jax.vmap(log_weight)(x)) - log_z
    errors = np.asarray(step_errors(mam, x, key=jax.random.key(seed + 300)))
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
    width, depth, steps, draws = (64, 1, 300, 128) if fast else (256, 1, 1200, 512)
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
    of_theta, log_mass = marginal_divergence(mam, x, log_target)
    of_phi = figures(mam, ising.log_weight, log_z, seed)
    pearson, rms = correlation(mam, ising, 300, seed)
    rows = [
        above(f"{name}: Pearson, 300 log marginals", pearson, 0.98 if fast else 0.995),
        below(f"{name}: KL(p_theta ‖ p), exact", of_theta, 0.1 if fast else 0.02),
        below(f"{name}: KL(p_phi, order ‖ p)", of_phi["of phi"], 0.2 if fast else 0.05),
        report(f"{name}: its standard error", of_phi["standard error"]),
        report(f"{name}: RMS error of a log marginal", rms),
        report(f"{name}: consistency, RMS of a step", of_phi["rms step"]),
        report(f"{name}: log mass of p_theta, exact", log_mass),
        report(f"{name}: KL of independent sites", mean_field_divergence(ising)),
    ]
    if fast:
        return rows
    # Without the penalty nothing ties the conditionals to the target.
    third = f"{name}, a third of the steps"
    alone = trained(steps // 3, erased=4, penalty=0.0)
    rows.append(
        above(
            f"{third}: control without penalty, KL of p_phi",
            figures(alone, ising.log_weight, log_z, seed)["of phi"],
            0.2,
        )
    )
    for what, options in (
        ("published, chains", {"erased": 4}),
        ("published, ancestral draws", {}),
        ("unbiased, ancestral draws", {"objective": "importance"}),
    ):
        start = time.process_time()
        mam = trained(steps // 3, **options)
        spent = time.process_time() - start
        theta, _ = marginal_divergence(mam, x, log_target)
        phi = figures(mam, ising.log_weight, log_z, seed)["of phi"]
        rows += [
            report(f"{third}, {what}: KL of p_theta, exact", theta),
            report(f"{third}, {what}: KL of p_phi", phi),
            report(f"{third}, {what}: seconds of CPU", spent),
        ]
    return rows


def ising_10x10(fast: bool, seed: int) -> list[Mark]:
    ising, steps, name = Ising(10), 1500, "Ising 10x10, corrected chains"
    log_z = ising.log_normalizer()
    mam = fit_energy(
        fresh(100, 2, 256, 1, seed),
        ising.log_weight,
        adam(2e-3, steps),
        key=jax.random.key(seed + 1),
        steps=steps,
        objective="corrected",
        draws=256,
        erased=5,
    )
    found = figures(mam, ising.log_weight, log_z, seed)
    pearson, rms = correlation(mam, ising, 100, seed)
    bits = (ising.entropy() + found["of phi"]) / (100 * np.log(2))
    return [
        below(f"{name}: KL(p_phi, order ‖ p)", found["of phi"], 1.0),
        report(f"{name}: its standard error", found["standard error"]),
        report(f"{name}: that entropy and KL in bits per site (exact .78332, published .80)", bits),
        report(f"{name}: KL of independent sites", mean_field_divergence(ising)),
        report(f"{name}: Pearson, 100 log marginals", pearson),
        report(f"{name}: RMS error of a log marginal", rms),
        report(f"{name}: consistency, RMS of a step", found["rms step"]),
        report(
            f"{name}: log p_theta - log p_phi of a vector, standard deviation", found["rms whole"]
        ),
        report(f"{name}: mass of p_theta, by importance sampling", found["mass"]),
    ]


def ising_30x30(fast: bool, seed: int) -> list[Mark]:
    """One network for every torus: trained on 10x10, it is measured there and on 30x30."""
    small, large = Ising(10), Ising(30)
    name, steps = "Ising, one network of all sites, trained on 10x10", 300
    network = DualTorus(2, 16, 3, key=jax.random.key(seed))
    mam = fit_energy(
        MaM(network, small.sites, 2),
        small.log_weight,
        adam(5e-3, steps),
        key=jax.random.key(seed + 1),
        steps=steps,
        objective="corrected",
        draws=64,
        erased=5,
    )
    # Sites a few steps apart are independent, so that a narrower torus has the same log Z per
    # site: as nearly as an even narrower one says.
    log_z, error = (
        large.sites * Ising(30, columns).log_normalizer() / (30 * columns) for columns in (10, 8)
    )
    error = abs(error - log_z)
    there = figures(mam, small.log_weight, small.log_normalizer(), seed, draws=1024)
    mam = MaM(mam.network, large.sites, 2)
    found = figures(mam, large.log_weight, log_z, seed, draws=32)
    x = np.asarray(sample_ising(large, 64, key=jax.random.key(seed + 100)))
    log_p = np.asarray(jax.vmap(large.log_weight)(x)) - log_z
    gap = log_p - np.asarray(log_marginals(mam, x))
    return [
        below(f"{name}: KL(p_phi, order ‖ p), 10x10", there["of phi"], 1.0),
        report(f"{name}: its standard error", there["standard error"]),
        below(f"{name}: KL(p_phi, order ‖ p), 30x30", found["of phi"], 9.0),
        report(f"{name}: its standard error, 30x30", found["standard error"]),
        report(f"{name}: error of log Z, 30x30", error),
        report(
            f"{name}: KL of independent sites, 30x30 (nine of 10x10)",
            9 * mean_field_divergence(small),
        ),
        report(f"{name}: log p - log p_theta of exact draws, 30x30, mean", gap.mean()),
        report(f"{name}: its standard deviation", gap.std()),
        report(f"{name}: consistency, RMS of a step, 30x30", found["rms step"]),
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
    width, depth, steps = (64, 1, (200, 200)) if fast else (256, 1, (2000, 4000))
    rates = (3e-3, 3e-3) if fast else (2e-3, 1e-3)

    def trained(train: np.ndarray, steps: tuple[int, int]) -> MaM:
        # The conditionals overfit 1,500 images. The marginals, which have draws besides, do not.
        first = optax.adamw(optax.cosine_decay_schedule(rates[0], steps[0]), weight_decay=0.4)
        return fit_likelihood(
            fresh(64, 2, width, depth, seed),
            train,
            (first, adam(rates[1], steps[1])),
            key=jax.random.key(seed + 1),
            steps=steps,
            batch_sizes=(128, 128 if fast else 256),
            draws=2000 if fast else 20_000,
        )

    def bound(mam: MaM) -> float:
        """The mean log p_φ(x | σ) of held-out images, over orders: one pass for each draw."""
        key, draws = jax.random.key(seed + 2), 64 if fast else 256
        return float(per_datum(any_order_bound, mam, held_out, key=key, draws=draws).mean())

    mam = trained(train, steps)
    of_phi = bound(mam)
    whole = np.asarray(log_marginals(mam, held_out))
    known = subsets(len(held_out), 64, key=jax.random.key(seed + 5))
    by_theta = np.asarray(log_marginals(mam, held_out, known))
    # The orders of a subset differ in p_φ: what it says of the subset is their mean.
    orders = [
        np.asarray(log_conditionals(mam, held_out, known, key=key))
        for key in jax.random.split(jax.random.key(seed + 6), 2 if fast else 8)
    ]
    by_phi = logsumexp(orders, axis=0) - np.log(len(orders))
    pixels = float(pixel_marginal_log_likelihood(train, held_out, values=2).mean())
    x, log_q = ancestral(mam, 4096, key=jax.random.key(seed + 3))
    ratio = np.asarray(log_marginals(mam, x)) - np.asarray(log_q)
    errors = np.asarray(step_errors(mam, held_out, key=jax.random.key(seed + 4)))
    rows = [
        below(
            f"{name}: NLL, any-order ARM (p_phi), held out", -of_phi, -pixels - (4 if fast else 8)
        ),
        below(
            f"{name}: NLL of p_theta and of p_phi, difference",
            abs(whole.mean() - of_phi),
            4.0 if fast else 1.0,
        ),
        report(f"{name}: NLL, p_theta, held out", -whole.mean()),
        report(f"{name}: NLL, independent pixels, held out", -pixels),
        report(f"{name}: NLL, any-order ARM, bits per pixel", -of_phi / (64 * np.log(2))),
        above(
            f"{name}: Pearson, log marginals of p_theta and p_phi",
            np.corrcoef(by_theta, by_phi)[0, 1],
            0.95 if fast else 0.99,
        ),
        report(
            f"{name}: the same, of one order of p_phi and another",
            np.corrcoef(orders[0], orders[1])[0, 1],
        ),
        report(f"{name}: consistency, RMS of a step, held out", np.sqrt(np.mean(errors**2))),
        report(f"{name}: mass of p_theta, by importance sampling", np.exp(ratio).mean()),
    ]
    if fast:
        return rows
    # Pixels shuffled between the images keep their histograms and nothing else.
    random = np.random.RandomState(seed)
    shuffled = np.stack([random.permutation(column) for column in train.T], 1)
    control = bound(trained(shuffled, (steps[0] // 2, 1)))
    return [*rows, above(f"{name}: control, NLL of shuffled pixels", -control, -pixels - 1.0)]


def molecules(fast: bool, seed: int) -> list[Mark]:
    task = Molecules(length=4 if fast else 5)
    x, name = all_strings(task.sites, task.values), "molecules"
    rewards, valid = (np.asarray(jax.vmap(f)(x)) for f in (task.log_weight, task.is_valid))
    log_z = float(logsumexp(rewards.astype(np.float64)))
    p = np.exp(rewards - log_z)
    steps = 300 if fast else 2000
    mam = fit_energy(
        fresh(task.sites, task.values, 64 if fast else 128, 1, seed),
        task.log_weight,
        adam(5e-3 if fast else 3e-3, steps),
        key=jax.random.key(seed + 1),
        steps=steps,
        draws=256 if fast else 1024,
        erased=2,
    )
    of_theta, log_mass = marginal_divergence(mam, x, rewards - log_z)
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
        report(f"{name}: the same, of uniform strings", 0.5 * np.abs(uniform - exact).sum()),
        report(f"{name}: the same, of as many exact draws", noise(exact, len(drawn), seed)),
        below(f"{name}: KL(p_theta ‖ p), exact", of_theta, 0.3 if fast else 0.05),
        below(f"{name}: KL(p_phi, order ‖ p)", found["of phi"], 0.5 if fast else 0.1),
        report(f"{name}: valid draws", (drawn > task.invalid).mean()),
        report(f"{name}: valid, exact", p[valid].sum()),
        report(f"{name}: valid, of uniform strings", valid.mean()),
        report(f"{name}: consistency, RMS of a step", found["rms step"]),
        report(f"{name}: log mass of p_theta, exact", log_mass),
    ]


def sampled_rewards(key: Any, mam: MaM, task: Molecules, draws: int = 10_000) -> np.ndarray:
    return np.asarray(jax.vmap(task.log_weight)(ancestral(mam, draws, key=key).x))


def noise(shares: np.ndarray, draws: int, seed: int) -> float:
    counts = np.random.RandomState(seed).multinomial(draws, shares / shares.sum())
    return 0.5 * float(np.abs(counts / draws - shares).sum())


PARTS = {f.__name__: f for f in (ising_4x4, ising_10x10, ising_30x30, speed, digits, molecules)}


def marks(fast: bool, seed: int, parts: Sequence[str] = tuple(PARTS)) -> list[Mark]:
    """All of them: with `fast` smaller ones with easier marks, and no larger Ising models."""
    rows = []
    for name in parts:
        if fast and name in ("ising_10x10", "ising_30x30"):
            continue
        start = time.process_time()
        rows += PARTS[name](fast, seed)
        say(f"{name}, seed {seed}: {time.process_time() - start:.0f} s of CPU")
    return rows
