"""Paths and energies against closed forms: guidance, likelihoods, samplers, trained guides.

Everything here has a right answer, that of a Gaussian mixture or of a conjugate model: fields,
lookaheads and normalisers are exact, so that what is measured is the method.

    python benchmarks/energies.py                        # prints, and writes energies.md
    python benchmarks/energies.py --only guidance --seeds 0 --out /dev/null

Each section has a floor (draws from the answer itself), a trivial baseline and a negative control.
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

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from overhead import machine

import ppgen
from ppgen.inference import (
    Chain,
    Exact,
    Fields,
    Learned,
    PlugIn,
    ancestral,
    decode,
    empirical_denoiser,
    fit,
    flow_log_density,
    guide,
    guide_approximately,
    kl_to_tilted,
    lagrangian,
    solve,
)
from ppgen.models.parts.data import GaussianMixture

Rows = dict[str, dict[str, float]]


def mixture() -> GaussianMixture:
    """Three modes, at the precision that is in force."""
    means = [[-1.5, 0.0], [1.5, 1.0], [0.5, -1.5]]
    return GaussianMixture.isotropic([0.3, 0.5, 0.2], means, [0.5, 0.6, 0.4])


def bridge_of(alpha: Callable, sigma: Callable, law: Any, noise: Any = None) -> Callable:
    def bridge():
        t = numpyro.sample("t", dist.Uniform())
        x1 = numpyro.sample("x1", law)
        normal = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        x0 = numpyro.sample("x0", normal if noise is None else noise)
        return alpha(t) * x1 + sigma(t) * x0

    return bridge


def vp_alpha(t: Any) -> Any:
    return jnp.exp(-0.25 * (1 - t) ** 2 * 19.9 - 0.5 * (1 - t) * 0.1)


def edm_sigma(t: Any) -> Any:
    return ((1 - t) * 80 ** (1 / 7) + t * 0.002 ** (1 / 7)) ** 7


PATHS = {
    "rectified": (lambda t: t, lambda t: 1 - t),
    "VP": (vp_alpha, lambda t: jnp.sqrt(1 - vp_alpha(t) ** 2)),
}


def decoder(law: GaussianMixture, path: str):
    alpha, sigma = PATHS[path]
    bridge = bridge_of(alpha, sigma, law.distribution)
    return decode(lambda x, t: law.denoised(x, alpha(t), sigma(t)), bridge, given="x1")


# --- guidance -------------------------------------------------------------------------------------

MATRIX, SEEN, SCALE = jnp.array([[1.0, 0.5]]), jnp.array([0.9]), 0.5


def guidance(seeds: list[int], particles: int, steps: int) -> dict[int, Rows]:
    """Errors against the closed-form posterior of E = |Hx - y|²/2s²."""
    law, fields = mixture(), decoder(mixture(), "rectified")
    posterior, log_z = law.tilted(MATRIX, SEEN, SCALE)
    main, weight = int(jnp.argmax(posterior.weights)), posterior.weights.max()
    times = jnp.linspace(0.002, 0.998, steps + 1)
    initial = law.smoothed(times[0], 1 - times[0]).distribution
    chain, ode = (Chain(initial, ancestral(fields, eta), times) for eta in (1.0, 0.0))

    def energy(x: jax.Array, at: float = 0.0) -> jax.Array:
        return 0.5 * jnp.sum((MATRIX @ x - SEEN - at) ** 2) / SCALE**2

    def log_h(x: jax.Array, t: jax.Array) -> jax.Array:
        given = law.given_noised(x, t, 1 - t)
        variances = jnp.sum((MATRIX[0] @ given.axes * given.scales) ** 2, -1) + SCALE**2
        logs = -0.5 * (given.means @ MATRIX[0] - SEEN[0]) ** 2 / variances
        logs = logs + 0.5 * jnp.log(SCALE**2 / variances)
        return jax.nn.logsumexp(jax.nn.log_softmax(given.logits) + logs)

    def known(t: jax.Array) -> jax.Array:
        """About the part of the variance of the data that is known at a time."""
        return t**2 / (t**2 + (1 - t) ** 2)

    plug_in = PlugIn(fields.field)
    truth = posterior.distribution.sample(jax.random.key(10**6), (400_000,))
    mean_energy = jnp.mean(jax.vmap(energy)(truth))

    def row(x: jax.Array, log_w: jax.Array, evidence: float, seconds: float) -> dict[str, float]:
        w = jax.nn.softmax(log_w)
        mean = w @ x
        return {
            "mean": float(jnp.linalg.norm(mean - posterior.mean)),
            "main mode": float(w @ jax.vmap(posterior.component)(x)[:, main] - weight),
            "E[E]": float(w @ jax.vmap(energy)(x) - mean_energy),
            "log Z": float(evidence - log_z),
            "ESS/n": float(1 / jnp.sum(w**2) / len(w)),
            "s": seconds,
        }

    def over_seeds(run: Callable, weights: bool) -> dict[int, dict[str, float]]:
        rows = {}
        compiled = jax.jit(run).lower(jax.random.key(0)).compile()
        for seed in seeds:
            began = time.perf_counter()
            found = jax.block_until_ready(compiled(jax.random.key(seed)))
            seconds = time.perf_counter() - began
            parts = (
                (found.x, found.log_weights, float(found.log_evidence))
                if weights
                else (found, jnp.zeros(particles), float("nan"))
            )
            rows[seed] = row(*parts, seconds)
        return rows

    def weighted(lookahead: Any, threshold: float) -> dict[int, dict[str, float]]:
        samples = guide(chain, energy, lookahead).smc(particles=particles, threshold=threshold)
        return over_seeds(ppgen.seed(samples), True)

    def unweighted(on: Chain, energy: Callable, lookahead: Any) -> dict[int, dict[str, float]]:
        one = jax.vmap(ppgen.seed(guide_approximately(on, energy, lookahead)))
        return over_seeds(lambda key: one(jax.random.split(key, particles)), False)

    def drawn(key: jax.Array) -> jax.Array:
        return posterior.distribution.sample(key, (particles,))

    methods = {
        "floor: draws from the posterior": over_seeds(drawn, False),
        "exact, weights": weighted(Exact(log_h), 0.0),
        "exact, SMC": weighted(Exact(log_h), 0.5),
        "exact, ODE without weights": unweighted(ode, energy, Exact(log_h)),
        "plug-in alone": unweighted(chain, energy, plug_in),
        "plug-in, weights": weighted(plug_in, 0.0),
        "plug-in, SMC": weighted(plug_in, 0.5),
        "plug-in, tempered, SMC": weighted(PlugIn(fields.field, known), 0.5),
        "baseline: the prior, weighted": weighted(Learned(lambda x, t: 0.0 * x[0]), 0.0),
        "control: another observation": unweighted(
            ode, lambda x: energy(x, 1.5), PlugIn(fields.field)
        ),
    }
    return {seed: {name: found[seed] for name, found in methods.items()} for seed in seeds}


# --- likelihoods ----------------------------------------------------------------------------------


def likelihoods(seeds: list[int], points: int) -> dict[int, Rows]:
    """Largest errors of log densities in nats, in float64."""
    rows: dict[int, Rows] = {seed: {} for seed in seeds}
    with jax.enable_x64(True):
        law = mixture()
        for path, (alpha, sigma) in PATHS.items():
            times = jnp.linspace(0.01, 0.99, 101)
            fields = decoder(law, path)
            begin = law.smoothed(alpha(times[0]), sigma(times[0]))
            end = law.smoothed(alpha(times[-1]), sigma(times[-1]))
            normal = dist.Normal(jnp.zeros(2), sigma(times[0])).to_event(1).log_prob
            controller = diffrax.PIDController(rtol=1e-7, atol=1e-7)
            tight = {"solver": diffrax.Tsit5(), "controller": controller}

            def slower(x: jax.Array, t: jax.Array, fields: Any = fields) -> Fields:
                return Fields(0.9 * fields(x, t).velocity)

            exact = begin.log_density
            methods = {
                "exact terminal density": flow_log_density(fields, times, exact, **tight),
                "100 steps of Heun": flow_log_density(fields, times, exact),
                "Hutchinson, 1 probe": flow_log_density(fields, times, exact, probes=1),
                "baseline: normal terminal density": flow_log_density(fields, times, normal),
                "control: a field .9 as fast": flow_log_density(slower, times, exact),
            }
            for name, score in methods.items():
                run = jax.jit(jax.vmap(ppgen.seed(score)))
                for seed in seeds:
                    keys = jax.random.split(jax.random.key(seed), points)
                    drawn = end.distribution.sample(jax.random.key(seed), (points,))
                    x = jnp.asarray(drawn, jnp.float64)
                    gap = np.asarray(run(keys, x) - jax.vmap(end.log_density)(x))
                    found = {"largest": float(np.abs(gap).max()), "mean": float(gap.mean())}
                    rows[seed][f"{path}, {name}"] = found
    return rows


# --- one law at every epsilon ---------------------------------------------------------------------


def epsilons(seeds: list[int], draws: int, steps: int) -> dict[int, Rows]:
    """Distances in standard errors between sampled and direct means of seven bounded functions."""
    law, fields = mixture(), decoder(mixture(), "rectified")
    times = jnp.linspace(0.01, 0.99, steps + 1)
    begin, end = (law.smoothed(t, 1 - t) for t in (times[0], times[-1]))

    def looks(x: jax.Array) -> np.ndarray:
        modes = jax.vmap(end.component)(x)
        return np.asarray(jnp.concatenate([modes, jnp.tanh(x), jnp.cos(x)], 1), np.float64)

    def distance(x: jax.Array, right: jax.Array) -> dict[str, float]:
        a, b = looks(x), looks(right)
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        return {"largest z": float(np.max(np.abs(a.mean(0) - b.mean(0)) / error))}

    @jax.jit
    def run(keys: jax.Array, x0: jax.Array, epsilon: float, factor: float) -> jax.Array:
        def scaled(x: jax.Array, t: jax.Array) -> Fields:
            found = fields(x, t)
            return Fields(found.velocity, factor * found.score)

        sampler = solve(scaled, times, epsilon=lambda t: epsilon)
        return jax.vmap(ppgen.seed(sampler))(keys, x0)

    def rows(seed: int) -> Rows:
        parts = jax.random.split(jax.random.key(seed), 4)
        keys = jax.random.split(parts[0], draws)
        x0 = begin.distribution.sample(parts[1], (draws,))
        right = end.distribution.sample(parts[2], (10 * draws,))
        found = {
            "floor: other direct draws": end.distribution.sample(parts[3], (draws,)),
            **{f"epsilon = {e:g}": run(keys, x0, e, 1.0) for e in (0.0, 0.1, 1.0, 3.0)},
            "baseline: never moved": x0,
            "control: epsilon = 1, half of the score": run(keys, x0, 1.0, 0.5),
        }
        return {name: distance(x, right) for name, x in found.items()}

    return {seed: rows(seed) for seed in seeds}


# --- PFGM++ ---------------------------------------------------------------------------------------


def poisson(seeds: list[int]) -> dict[int, Rows]:
    """Relative errors of the field of 200 data, at 100 points, in float64."""

    def velocity(data: jax.Array, x: jax.Array, t: float, noise: Any) -> jax.Array:
        bridge = bridge_of(lambda t: 1.0, edm_sigma, mixture().distribution, noise)
        field = decode(empirical_denoiser(bridge, data), bridge, given="x1")
        return jax.vmap(lambda x: field(x, t).velocity)(x)

    def student(degrees: float) -> Any:
        return dist.MultivariateStudentT(degrees, jnp.zeros(2), jnp.eye(2))

    def charges(data: jax.Array, x: jax.Array, t: float) -> jax.Array:
        """Along the field of electric charges at the data, in one dimension more."""
        r = edm_sigma(t)
        gaps = jnp.concatenate([x - data, jnp.full((len(data), 1), r)], 1)
        field = jnp.sum(gaps / jnp.sum(gaps**2, 1, keepdims=True) ** 1.5, 0)
        return jax.grad(edm_sigma)(t) * field[:2] / field[2]

    @jax.jit
    def fields(data: jax.Array, x: jax.Array, t: float) -> dict[str, jax.Array]:
        found = {f"D = {d:g}": velocity(data, x, t, student(d)) for d in (1e5, 8.0, 1.0)}
        found["EDM"] = velocity(data, x, t, None)
        found["the Poisson field"] = jax.vmap(lambda x: charges(data, x, t))(x)
        return found

    def rows(seed: int) -> Rows:
        keys = jax.random.split(jax.random.key(seed), 2)
        data = mixture().distribution.sample(keys[0], (200,))
        x = data[:100] + edm_sigma(0.6) * jax.random.normal(keys[1], (100, 2))
        found = fields(data, x, 0.6)

        def error(a: str, b: str) -> dict[str, float]:
            gap = jnp.max(jnp.abs(found[a] - found[b])) / jnp.max(jnp.abs(found[b]))
            return {"relative": float(gap)}

        return {
            "D = 1e5 against EDM": error("D = 100000", "EDM"),
            "D = 1 against the Poisson field": error("D = 1", "the Poisson field"),
            "control: D = 8 against EDM": error("D = 8", "EDM"),
            "control: D = 8 against the Poisson field": error("D = 8", "the Poisson field"),
        }

    with jax.enable_x64(True):
        return {seed: rows(seed) for seed in seeds}


# --- trained guides -------------------------------------------------------------------------------


def trained(seed: int, steps: int) -> Rows:
    """A flow that is trained against an energy whose tilted law is normal, and a moment."""
    from flowjax.distributions import Normal
    from flowjax.experimental.numpyro import distribution_to_numpyro
    from flowjax.flows import masked_autoregressive_flow

    line, seen, width = jnp.array([1.0, -0.5]), 0.7, 0.4

    def program(_: Any) -> jax.Array:
        return numpyro.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def flow_guide(flow: Any) -> jax.Array:
        return numpyro.sample("x", distribution_to_numpyro(flow))

    def energy(x: jax.Array) -> jax.Array:
        return 0.5 * ((line @ x - seen) / width) ** 2

    variance = line @ line + width**2
    log_z = 0.5 * jnp.log(width**2 / variance) - 0.5 * seen**2 / variance

    def divergence(guide: Callable, params: Any) -> dict[str, float]:
        loss = kl_to_tilted(guide, program, energy)
        keys = jax.random.split(jax.random.key(seed + 1), 50_000)
        draws = jax.jit(jax.vmap(lambda key: ppgen.expectation(loss)(key, params)))(keys)
        return {
            "KL": float(draws.mean() + log_z),
            "± KL": float(draws.std() / len(draws) ** 0.5),
        }

    def train(energy: Callable) -> Any:
        base = Normal(jnp.zeros(2))
        flow = masked_autoregressive_flow(
            jax.random.key(seed), base_dist=base, flow_layers=2, nn_width=16
        )
        optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
        loss = kl_to_tilted(flow_guide, program, energy)
        key = jax.random.key(seed)
        return fit(loss, flow, optimizer, key=key, steps=steps, draws=64, chunk=steps).params

    # The law nearest to N(0, I) with E[x0 + x1] = 1 and E[x0 x1] = .5, by a normal of any shape.
    def normal(params: Any) -> jax.Array:
        loc, raw = params
        scale = jnp.array([[jnp.exp(raw[0]), 0.0], [raw[1], jnp.exp(raw[2])]])
        return numpyro.sample("x", dist.MultivariateNormal(loc, scale_tril=scale))

    def moments(x: jax.Array) -> jax.Array:
        return jnp.stack([x[0] + x[1], x[0] * x[1]])

    target = jnp.array([1.0, 0.5])
    constrained = lagrangian(
        kl_to_tilted(normal, program, lambda x: 0.0 * x[0]), normal, moments, target
    )
    # The dual variable moves more slowly: far from the answer, what it asks for may not exist.
    down = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    up = optax.chain(optax.sgd(optax.cosine_decay_schedule(0.02, steps)), optax.scale(-1.0))
    optimizer = optax.partition({"down": down, "up": up}, ("up", "down"))
    start = (jnp.zeros(2), (jnp.zeros(2), jnp.zeros(3)))
    found = fit(
        lambda p: constrained(*p),
        start,
        optimizer,
        key=jax.random.key(seed),
        steps=steps,
        draws=1024,
        chunk=steps,
    ).params[1]

    def gap(params: Any) -> dict[str, float]:
        scale = np.array([[np.exp(params[1][0]), 0.0], [params[1][1], np.exp(params[1][2])]])
        covariance, loc = scale @ scale.T, np.asarray(params[0], np.float64)
        exact = np.array([loc.sum(), loc[0] * loc[1] + covariance[0, 1]])
        return {"moment": float(np.abs(exact - np.asarray(target)).max())}

    mean = line * seen / variance
    exact_scale = jnp.linalg.cholesky(jnp.eye(2) - jnp.outer(line, line) / variance)

    def closed_form(_: Any) -> jax.Array:
        return numpyro.sample("x", dist.MultivariateNormal(mean, scale_tril=exact_scale))

    return {
        "floor: the closed form": divergence(closed_form, 0.0),
        "flow, trained against the energy": divergence(flow_guide, train(energy)),
        "baseline: the prior": divergence(program, 0.0),
        "control: trained against an opposite energy that no law has": divergence(
            flow_guide, train(lambda x: -0.2 * energy(x))
        ),
        "normal, trained under two moments": gap(found),
        "baseline: no constraint": gap(start[1]),
    }


# --- the report -----------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[str, str, Callable[[list[int], Any], dict[int, Rows]]]] = {
    "guidance": (
        "Guidance",
        "Prior: a mixture of three normals; energy |Hx - y|²/2s² with a closed-form posterior. "
        "Signed errors (of the mean: its distance). Marks: exact lookahead within .02, plug-in "
        "with SMC within .05.",
        lambda seeds, o: guidance(seeds, o.particles, o.steps),
    ),
    "likelihoods": (
        "Log likelihood by the probability-flow ODE",
        "Mark: 1e-3 nats with the exact terminal density.",
        lambda seeds, o: likelihoods(seeds, 200),
    ),
    "epsilons": (
        "The same law at every epsilon",
        "Sampled against direct draws. Of seven distances in standard errors, the largest is "
        "beyond 3.2 in one case of a hundred.",
        lambda seeds, o: epsilons(seeds, o.particles, o.steps),
    ),
    "poisson": (
        "PFGM++ as a noise site",
        "Marks: 1e-3 and 1e-8.",
        lambda seeds, o: poisson(seeds),
    ),
    "trained": (
        "Guides that are trained against an energy",
        "Marks: a divergence of .01 nats, moments to .01.",
        lambda seeds, o: {seed: trained(seed, o.training) for seed in seeds},
    ),
}


def table(found: dict[int, Rows]) -> list[str]:
    """One row per method, seeds side by side."""
    seeds = list(found)
    first = found[seeds[0]]
    columns = list(dict.fromkeys(c for row in first.values() for c in row))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name in first:
        cells = []
        for column in columns:
            values = [found[seed][name].get(column, float("nan")) for seed in seeds]
            known = [v for v in values if np.isfinite(v)]
            cells.append(", ".join(f"{v:.2g}" for v in known) if known else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--particles", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--training", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    versions = f"ppgen {ppgen.__version__}, jax {jax.__version__}, numpyro {numpyro.__version__}"
    began = time.perf_counter()
    body: list[str] = []
    for name in options.only:
        title, text, section = SECTIONS[name]
        start = time.perf_counter()
        lines = table(section(options.seeds, options))
        body += [f"## {title}", "", text, f"{time.perf_counter() - start:.0f} s.", "", *lines, ""]
        print("\n".join(body[-len(lines) - 6 :]), flush=True)
    load = f"{os.getloadavg()[0]:.1f}"
    command = f"python benchmarks/energies.py {' '.join(arguments)}".strip()
    head = [
        "# Paths and energies against closed forms",
        "",
        f"{datetime.date.today()}; {machine()} (load {load} at the end); Python "
        f"{platform.python_version()}, {versions}; seeds {options.seeds}, side by side in each "
        f"cell; {options.particles:,} particles, {options.steps} steps; "
        f"{time.perf_counter() - began:.0f} s. Command: `{command}`.",
        "",
    ]
    options.out.write_text("\n".join(head + body))


if __name__ == "__main__":
    main(sys.argv[1:])
