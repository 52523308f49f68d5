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
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from scipy.special import logsumexp

import ppgen
from ppgen.inference import per_datum
from ppgen.models.marginalization import (
    BinaryDigits,
    MaM,
    ancestral,
    any_order,
    any_order_bound,
    binary_images,
    fitted,
    log_conditionals,
    log_marginal,
    log_marginals,
    marginal_divergence,
    mean_field_divergence,
    step_errors,
    subsets,
    untrained,
)
from ppgen.models.marginalization.recipe import MarginalizationRecipe
from ppgen.models.parts.data import Ising, Molecules, all_strings, sample_ising
from ppgen.models.parts.marks import Mark, above, below, report, say
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood
from ppgen.models.parts.runs import Run, fit_recipe

ABOUT = (
    "Divergences and errors in nats. `p_theta` are the marginals, in one pass, `p_phi` the "
    "conditionals; the divergence of `p_phi` is that of vector and order together, an upper bound "
    "on that of the vector. Energies are by the published heuristic with persistent chains, unless "
    "it says otherwise: the unbiased gradient, or chains that are corrected to follow the target."
)


# --- what is measured -----------------------------------------------------------------------------


def by_energy(seed: int, steps: int, rate: float, **options: Any) -> tuple[MaM, Any]:
    """What `ppgen fit marginalization` fits to an energy, and that."""
    run = fit_recipe(MarginalizationRecipe(**options), seed=seed, steps=steps, learning_rate=rate)
    return fitted(run.model), run.data.target


def correlation(mam: MaM, ising: Ising, count: int, seed: int) -> tuple[float, float]:
    """Pearson's, and the RMS error in nats, of log marginals of random subsets of real draws."""
    x = np.asarray(sample_ising(ising, count, key=jax.random.key(seed + 100)))
    known = subsets(count, ising.sites, key=jax.random.key(seed + 400))
    exact = [ising.log_marginal(*pair) for pair in zip(x, known, strict=True)]
    found = np.asarray(log_marginals(mam, x, known))
    return np.corrcoef(exact, found)[0, 1], np.sqrt(np.mean((exact - found) ** 2))


def figures(
    mam: MaM, target: Ising | Molecules, seed: int, log_z: float | None = None, draws: int = 4096
) -> dict[str, float]:
    """What draws of p_φ say, in nats. Log Z is the exact one if None."""
    log_z = target.log_normalizer() if log_z is None else log_z
    x, log_q = ancestral(mam, draws, key=jax.random.key(seed + 200))
    log_p = np.asarray(log_marginals(mam, x))
    log_f = np.asarray(jax.vmap(target.log_weight)(x)) - log_z
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
    x, name, target = all_strings(16, 2), "Ising 4x4", Ising(4)
    log_p = np.asarray(jax.vmap(target.log_weight)(x), np.float64) - target.log_normalizer()
    steps, rate, width, draws = (300, 3e-3, 64, 128) if fast else (1200, 1e-3, 256, 512)

    def trained(steps: int, erased: int | None = 4, **options: Any) -> MaM:
        options |= {"task": "ising", "side": 4, "hidden": width, "draws": draws}
        return by_energy(seed, steps, rate, erased=erased, **options)[0]

    mam = trained(steps)
    of_theta, log_mass = marginal_divergence(mam, x, log_p)
    of_phi = figures(mam, target, seed)
    pearson, rms = correlation(mam, target, 300, seed)
    rows = [
        above(f"{name}: Pearson, 300 log marginals", pearson, 0.98 if fast else 0.995),
        below(f"{name}: KL(p_theta ‖ p), exact", of_theta, 0.1 if fast else 0.02),
        below(f"{name}: KL(p_phi, order ‖ p)", of_phi["of phi"], 0.2 if fast else 0.05),
        report(f"{name}: its standard error", of_phi["standard error"]),
        report(f"{name}: RMS error of a log marginal", rms),
        report(f"{name}: consistency, RMS of a step", of_phi["rms step"]),
        report(f"{name}: log mass of p_theta, exact", log_mass),
        report(f"{name}: KL of independent sites", mean_field_divergence(target)),
    ]
    if fast:
        return rows
    # Without the penalty nothing ties the conditionals to the target.
    third, few = f"{name}, a third of the steps", steps // 3
    alone = figures(trained(few, penalty=0.0), target, seed)["of phi"]
    rows.append(above(f"{third}: control without penalty, KL of p_phi", alone, 0.2))
    for what, options in (
        ("published, chains", {}),
        ("published, ancestral draws", {"erased": None}),
        ("unbiased, ancestral draws", {"objective": "importance"}),
    ):
        start = time.process_time()
        mam = trained(few, **options)
        spent = time.process_time() - start
        theta, _ = marginal_divergence(mam, x, log_p)
        rows += [
            report(f"{third}, {what}: KL of p_theta, exact", theta),
            report(f"{third}, {what}: KL of p_phi", figures(mam, target, seed)["of phi"]),
            report(f"{third}, {what}: seconds of CPU", spent),
        ]
    return rows


def ising_10x10(fast: bool, seed: int) -> list[Mark]:
    options = {"task": "ising", "side": 10, "objective": "corrected", "draws": 256, "erased": 5}
    (mam, ising), name = by_energy(seed, 1500, 2e-3, **options), "Ising 10x10, corrected chains"
    found = figures(mam, ising, seed)
    pearson, rms = correlation(mam, ising, 100, seed)
    bits = (ising.entropy() + found["of phi"]) / (100 * np.log(2))
    spread = f"{name}: log p_theta - log p_phi of a vector, standard deviation"
    return [
        below(f"{name}: KL(p_phi, order ‖ p)", found["of phi"], 1.0),
        report(f"{name}: its standard error", found["standard error"]),
        report(f"{name}: that entropy and KL in bits per site (exact .78332, published .80)", bits),
        report(f"{name}: KL of independent sites", mean_field_divergence(ising)),
        report(f"{name}: Pearson, 100 log marginals", pearson),
        report(f"{name}: RMS error of a log marginal", rms),
        report(f"{name}: consistency, RMS of a step", found["rms step"]),
        report(spread, found["rms whole"]),
        report(f"{name}: mass of p_theta, by importance sampling", found["mass"]),
    ]


def ising_30x30(fast: bool, seed: int) -> list[Mark]:
    """One network for every torus: trained on 10x10, it is measured there and on 30x30."""
    name, large = "Ising, one network of all sites, trained on 10x10", Ising(30)
    options = {"task": "ising", "side": 10, "objective": "corrected", "draws": 64, "erased": 5}
    options |= {"network": "torus", "hidden": 16, "depth": 3}
    mam, small = by_energy(seed, 300, 5e-3, **options)
    # Sites a few steps apart are independent, so that a narrower torus has the same log Z per
    # site: as nearly as an even narrower one says.
    log_z, error = (
        large.sites * Ising(30, columns).log_normalizer() / (30 * columns) for columns in (10, 8)
    )
    error, there = abs(error - log_z), figures(mam, small, seed, draws=1024)
    mam = MaM(mam.network, large.sites, 2)
    found = figures(mam, large, seed, log_z, draws=32)
    x = np.asarray(sample_ising(large, 64, key=jax.random.key(seed + 100)))
    log_p = np.asarray(jax.vmap(large.log_weight)(x)) - log_z
    gap, floor = log_p - np.asarray(log_marginals(mam, x)), 9 * mean_field_divergence(small)
    return [
        below(f"{name}: KL(p_phi, order ‖ p), 10x10", there["of phi"], 1.0),
        report(f"{name}: its standard error", there["standard error"]),
        below(f"{name}: KL(p_phi, order ‖ p), 30x30", found["of phi"], 9.0),
        report(f"{name}: its standard error, 30x30", found["standard error"]),
        report(f"{name}: error of log Z, 30x30", error),
        report(f"{name}: KL of independent sites, 30x30 (nine of 10x10)", floor),
        report(f"{name}: log p - log p_theta of exact draws, 30x30, mean", gap.mean()),
        report(f"{name}: its standard deviation", gap.std()),
        report(f"{name}: consistency, RMS of a step, 30x30", found["rms step"]),
    ]


def speed(fast: bool, seed: int) -> list[Mark]:
    """One pass of p_θ against log p_φ(x | σ), D passes in a row, by the same network."""
    mam, batch = untrained("mlp", 100, 2, hidden=256, depth=1, key=jax.random.key(seed)), 64
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
    name, images = "digits 8x8", binary_images()
    train, held_out = images.train, images.held_out
    hidden, steps, batch, joined = (64, 200, 128, 2000) if fast else (256, 4000, 256, 20_000)
    recipe = MarginalizationRecipe(hidden=hidden, joined=joined)
    keys = [jax.random.key(seed + i) for i in range(2, 7)]

    def conditionals(train: np.ndarray, steps: int) -> Run:
        # They overfit 1,500 images. The marginals, which have draws besides, do not.
        data, rate = BinaryDigits(train, held_out), 3e-3 if fast else 2e-3
        options = {"seed": seed, "steps": steps, "learning_rate": rate}
        return fit_recipe(recipe, data=data, stages=("conditionals",), **options)

    def bound(run: Run) -> float:
        """The mean log p_φ(x | σ) of held-out images, over orders: one pass for each draw."""
        mam, options = run.model.conditionals, {"draws": 64 if fast else 256, "key": keys[0]}
        return float(per_datum(any_order_bound, mam, held_out, **options).mean())

    first = conditionals(train, 200 if fast else 2000)
    options = {"steps": steps, "batch_size": batch, "learning_rate": 3e-3 if fast else 1e-3}
    options |= {"data": first.data, "model": first.model, "seed": seed}
    mam, of_phi = fitted(fit_recipe(recipe, stages=("marginals",), **options).model), bound(first)
    whole = np.asarray(log_marginals(mam, held_out))
    known = subsets(len(held_out), 64, key=keys[3])
    by_theta = np.asarray(log_marginals(mam, held_out, known))
    # The orders of a subset differ in p_φ: what it says of the subset is their mean.
    orders = [
        np.asarray(log_conditionals(mam, held_out, known, key=key))
        for key in jax.random.split(keys[4], 2 if fast else 8)
    ]
    by_phi = logsumexp(orders, axis=0) - np.log(len(orders))
    pixels = float(pixel_marginal_log_likelihood(train, held_out, values=2).mean())
    x, log_q = ancestral(mam, 4096, key=keys[1])
    ratio = np.asarray(log_marginals(mam, x)) - np.asarray(log_q)
    errors = np.asarray(step_errors(mam, held_out, key=keys[2]))
    beaten, apart = -pixels - (4 if fast else 8), abs(whole.mean() - of_phi)
    agree, orders_agree = (np.corrcoef(a, b)[0, 1] for a, b in ((by_theta, by_phi), orders[:2]))
    rows = [
        below(f"{name}: NLL, any-order ARM (p_phi), held out", -of_phi, beaten),
        below(f"{name}: NLL of p_theta and of p_phi, difference", apart, 4.0 if fast else 1.0),
        report(f"{name}: NLL, p_theta, held out", -whole.mean()),
        report(f"{name}: NLL, independent pixels, held out", -pixels),
        report(f"{name}: NLL, any-order ARM, bits per pixel", -of_phi / (64 * np.log(2))),
        above(
            f"{name}: Pearson, log marginals of p_theta and p_phi", agree, 0.95 if fast else 0.99
        ),
        report(f"{name}: the same, of one order of p_phi and another", orders_agree),
        report(f"{name}: consistency, RMS of a step, held out", np.sqrt(np.mean(errors**2))),
        report(f"{name}: mass of p_theta, by importance sampling", np.exp(ratio).mean()),
    ]
    if fast:
        return rows
    # Pixels shuffled between the images keep their histograms and nothing else.
    random = np.random.RandomState(seed)
    shuffled = np.stack([random.permutation(column) for column in train.T], 1)
    control = bound(conditionals(shuffled, 1000))
    return [*rows, above(f"{name}: control, NLL of shuffled pixels", -control, -pixels - 1.0)]


def molecules(fast: bool, seed: int) -> list[Mark]:
    steps, rate, width, draws = (800, 5e-3, 64, 256) if fast else (2000, 3e-3, 128, 1024)
    options = {"task": "molecules", "hidden": width, "draws": draws, "erased": 2}
    (mam, task), name = by_energy(seed, steps, rate, **options), "molecules"
    x = all_strings(task.sites, task.values)
    rewards, valid = (np.asarray(jax.vmap(f)(x)) for f in (task.log_weight, task.is_valid))
    log_p = rewards - float(logsumexp(rewards.astype(np.float64)))
    p, levels = np.exp(log_p), np.unique(rewards)
    of_theta, log_mass = marginal_divergence(mam, x, log_p)
    found = figures(mam, task, seed)
    drawn = ancestral(mam, 10_000, key=jax.random.key(seed + 2)).x
    drawn = np.asarray(jax.vmap(task.log_weight)(drawn))

    def share(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        weights = np.full(len(values), 1 / len(values)) if weights is None else weights
        return np.array([weights[values == level].sum() for level in levels])

    exact = share(rewards, p)
    again = np.random.RandomState(seed).multinomial(len(drawn), exact / exact.sum()) / len(drawn)
    ours, uniform, noise = (
        0.5 * np.abs(shares - exact).sum() for shares in (share(drawn), share(rewards), again)
    )
    name_of_ours = f"{name}: total variation of the rewards of draws"
    return [
        below(name_of_ours, ours, 0.1 if fast else 0.03),
        report(f"{name}: the same, of uniform strings", uniform),
        report(f"{name}: the same, of as many exact draws", noise),
        below(f"{name}: KL(p_theta ‖ p), exact", of_theta, 0.3 if fast else 0.05),
        below(f"{name}: KL(p_phi, order ‖ p)", found["of phi"], 0.5 if fast else 0.1),
        report(f"{name}: valid draws", (drawn > task.invalid).mean()),
        report(f"{name}: valid, exact", p[valid].sum()),
        report(f"{name}: valid, of uniform strings", valid.mean()),
        report(f"{name}: consistency, RMS of a step", found["rms step"]),
        report(f"{name}: log mass of p_theta, exact", log_mass),
    ]


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
