"""Balance losses against the variational gradient, in variance times time, and in what they reach.

The gradient of half the trajectory balance on policy *is* that of the divergence KL(P_F || target),
for the forward kernel: so they are estimators of one thing, and can be compared like others. Off
policy there is no such comparison, and what counts is the law that is reached in a given time.

    python benchmarks/gflownets.py        # prints, and writes benchmarks/gflownets.md
    python benchmarks/gflownets.py --samples 200 --steps 100 --seeds 0 --out /dev/null
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ppgen
from ppgen import inference
from ppgen.inference import Policy
from ppgen.models.gflownet import Task, bits_task, grid_task, subset_task
from ppgen.models.parts.marks import machine

DRAWS = 16
TASKS: dict[str, Callable[[], Task]] = {
    "grid, 8 × 8": lambda: grid_task(8, 2),
    "subsets, 4 of 8": lambda: subset_task(4, 8),
    "bits, 8": lambda: bits_task(8),
}


def tabular(task: Task) -> Policy:
    """A policy with logits and a flow for every state."""
    return Policy(
        lambda p, s: p["logits"][task.dag.index(s)],
        log_flow=lambda p, s: p["flow"][task.dag.index(s)] + p["log_z"],
    )


def parameters(task: Task, seed: int, scale: float) -> dict[str, Any]:
    states = len(jax.tree.leaves(task.dag.states())[0])
    logits = scale * jax.random.normal(jax.random.key(seed), (states, task.dag.actions))
    return {"logits": logits, "flow": jnp.zeros(states), "log_z": jnp.zeros(())}


def log_z_of(task: Task) -> float:
    flows = inference.optimal_log_flows(task.dag, Policy(), task.energy)()
    return float(flows[task.dag.index(task.dag.source())])


# --- one gradient, several estimators -------------------------------------------------------------


class Contender(NamedTuple):
    """An estimator of the gradient of the divergence: a loss, and where log Z stands."""

    loss: Callable[..., Any]
    params: dict[str, Any]
    draws: int = DRAWS


def contenders(task: Task, params: dict[str, Any]) -> dict[str, Contender]:
    policy = tabular(task)
    half = inference.balance(task.dag, policy, task.energy)
    bound = inference.elbo(
        inference.backward_walk(task.dag, policy, task.energy), inference.walk(task.dag, policy)
    )
    # What a loss with a learned log Z subtracts once it has learned it: the bound itself.
    value = jax.jit(ppgen.expectation(bound, draws=4000))(jax.random.key(9), params)
    return {
        "trajectory balance, log Z = 0": Contender(lambda p: 0.5 * half(p), params),
        "trajectory balance, log Z exact": Contender(
            lambda p: 0.5 * half(p), params | {"log_z": jnp.asarray(log_z_of(task))}
        ),
        "trajectory balance, log Z learned": Contender(
            lambda p: 0.5 * half(p), params | {"log_z": value}
        ),
        "divergence, leave-one-out": Contender(lambda p: -bound(p), params),
    }


def measured(contender: Contender, samples: int) -> tuple[Any, float, float]:
    """The mean gradient, the sum of variances, and milliseconds of processor for a gradient."""
    mean = ppgen.expectation(contender.loss, draws=contender.draws)
    fixed = contender.params

    def slope(key: Any) -> Any:
        return jax.grad(lambda x: mean(key, fixed | {"logits": x}))(fixed["logits"])

    run = jax.jit(lambda keys: jax.lax.map(slope, keys))
    keys = jax.random.split(jax.random.key(1), samples)
    jax.block_until_ready(run(keys))
    began = time.process_time()
    found = np.asarray(jax.block_until_ready(run(keys)), np.float64)
    seconds = time.process_time() - began
    return found.mean(0), float(found.var(0).sum()), 1e3 * seconds / samples


def variances(samples: int) -> list[str]:
    lines = []
    for where, scale in (("at the start", 0.0), ("at random logits", 1.0)):
        for name, make in TASKS.items():
            task = make()
            lines += ["", f"**{name}, {where}**", ""]
            lines += ["| estimator | variance | ms of processor | product | to the best |"]
            lines += ["| --- | --- | --- | --- | --- |"]
            rows, means = {}, []
            for label, contender in contenders(task, parameters(task, 0, scale)).items():
                mean, variance, ms = measured(contender, samples)
                means.append((mean, variance))
                rows[label] = (variance, ms)
            # All estimate the same: differences are within what their variances explain.
            for mean, variance in means[1:]:
                gap = np.sum((mean - means[0][0]) ** 2) / ((variance + means[0][1]) / samples)
                assert gap < 5, (name, where, gap)
            best = min(v * ms for v, ms in rows.values())
            for label, (v, ms) in rows.items():
                lines += [f"| {label} | {v:.3g} | {ms:.3g} | {v * ms:.3g} | {v * ms / best:.2f} |"]
    return lines


# --- what is reached ------------------------------------------------------------------------------


def losses(task: Task) -> dict[str, Callable[..., Any]]:
    policy, explore = tabular(task), inference.epsilon_uniform(0.1)

    def of(over: Any, behaviour: Any = None, policy: Policy = policy) -> Callable[..., Any]:
        return inference.balance(task.dag, policy, task.energy, over=over, behaviour=behaviour)

    forward = policy._replace(
        log_flow=inference.forward_looking(policy.log_flow or (lambda p, s: 0.0), task.energy)
    )
    target = inference.backward_walk(task.dag, policy, task.energy)
    bound = inference.elbo(target, inference.walk(task.dag, policy))
    return {
        "trajectory": of("trajectory"),
        "trajectory, 10 % uniform": of("trajectory", explore),
        "transition, 10 % uniform": of("transition", explore),
        "sub-trajectory .9, 10 % uniform": of(0.9, explore),
        "forward-looking, 10 % uniform": of("transition", explore, forward),
        "divergence, leave-one-out": lambda p: -bound(p),
    }


def reached(steps: int, seeds: list[int]) -> list[str]:
    lines = []
    for name, make in TASKS.items():
        task = make()
        target = inference.target_law(task.dag, task.energy)
        law = jax.jit(inference.terminal_law(task.dag, tabular(task)))
        lines += ["", f"**{name}**", "", "| loss | total variation | seconds |", "| - | - | - |"]
        for label, loss in losses(task).items():
            each, began = [], time.process_time()
            for seed in seeds:
                fitted = inference.fit(
                    loss,
                    parameters(task, seed, 0.0),
                    optax.adam(optax.cosine_decay_schedule(0.05, steps)),
                    key=jax.random.key(seed),
                    steps=steps,
                    draws=DRAWS,
                    progress=False,
                )
                each.append(float(0.5 * jnp.abs(law(fitted.params) - target).sum()))
            seconds = (time.process_time() - began) / len(seeds)
            text = f"{np.mean(each):.4f} ({min(each):.4f} to {max(each):.4f})"
            lines += [f"| {label} | {text} | {seconds:.1f} |"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[40, 41, 42])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    lines = [
        "# Balance losses and the variational gradient",
        "",
        f"`python benchmarks/gflownets.py`; {machine()}.",
        f"Tabular policies, {DRAWS} walks a gradient.",
        "",
        "## One gradient: the divergence of the forward kernel, on policy",
        "",
        "The variance is summed over the logits. Every pair of rows estimates the same gradient,",
        "which the run checks. `log Z learned` is the value that it converges to for this policy.",
        *variances(options.samples),
        "",
        "## What is reached at equal steps",
        "",
        f"{options.steps} steps of Adam; the mean over seeds, in brackets the least and the most.",
        "Total variations from the target are exact; seconds are of the processor, compilation",
        "included.",
        *reached(options.steps, options.seeds),
    ]
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
