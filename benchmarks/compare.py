"""The README's table: the same programs in four libraries, against exact gradients.

    python benchmarks/compare.py                                  # ppgen and NumPyro
    python benchmarks/compare.py --python Pyro=/a/bin/python --python GenJAX=/b/bin/python

Pyro and GenJAX want other versions of what ppgen needs, so each runs in an environment of its own
(`pip install pyro-ppl`, `pip install genjax`), in which this file needs nothing of ppgen. Each
library does it the way that its users would; where that is by hand, the table says so. A cell is
the mean of many estimates with its standard error. It is *right* within five of them of the exact
value, *wrong* beyond, and an error where the library says that it cannot.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRAWS = 40_000
THETA, SEEN = 0.4, (0.3, -1.2, 0.8, 2.0)
LIBRARIES = {"ppgen": "ppgen", "NumPyro": "numpyro", "Pyro": "pyro-ppl", "GenJAX": "genjax"}
ROWS = {
    "elbo": "ELBO of a flip",
    "iwelbo": "importance-weighted bound of a flip, two particles",
    "minibatch": "ELBO of four flips, two of them in the minibatch",
    "chain": "ELBO of a chain of four flips, in a `scan`",
    "branch": "a flip in a branch that is used after it",
    "own": "an objective of one's own: (flip + Poisson)²",
    "hessian": "second derivative of a product of two flips",
}


# --- exact answers, by enumeration and central differences ----------------------------------------


def _log_flip(p: float, z: int) -> float:
    return math.log(p if z else 1 - p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _log_normal(x: float, loc: float) -> float:
    return -0.5 * (x - loc) ** 2 - 0.5 * math.log(2 * math.pi)


def _log_ratio(theta: float, z: int, x: float) -> tuple[float, float]:
    log_q = _log_flip(_sigmoid(theta), z)
    return log_q, _log_flip(0.3, z) + _log_normal(x, 2 * z) - log_q


def _elbo(theta: float, xs: Any = SEEN[:1]) -> float:
    rows = [_log_ratio(theta, z, x) for x in xs for z in (0, 1)]
    return sum(math.exp(log_q) * log_w for log_q, log_w in rows)


def _iwelbo(theta: float) -> float:
    total = 0.0
    for pair in itertools.product((0, 1), repeat=2):
        (a, u), (b, v) = (_log_ratio(theta, z, SEEN[0]) for z in pair)
        total += math.exp(a + b) * math.log((math.exp(u) + math.exp(v)) / 2)
    return total


def _chain(theta: float) -> float:
    total = 0.0
    for zs in itertools.product((0, 1), repeat=len(SEEN)):
        log_q = log_w = 0.0
        for before, z, x in zip((0, *zs), zs, SEEN, strict=False):
            q = _log_flip(_sigmoid(theta - 0.3 * before), z)
            log_q += q
            log_w += _log_flip(0.2 + 0.6 * before, z) + _log_normal(x, 2 * z) - q
        total += math.exp(log_q) * log_w
    return total


def _slope(f: Callable[[float], float], h: float = 1e-5) -> float:
    return (f(THETA + h) - f(THETA - h)) / (2 * h)


EXACT = {
    "elbo": _slope(_elbo),
    "iwelbo": _slope(_iwelbo),
    "minibatch": _slope(lambda theta: _elbo(theta, SEEN)),
    "chain": _slope(_chain),
    # A flip of p = θ, and where it is one, another one, which counts three: E = θ (1 + 3 θ).
    "branch": 1 + 6 * THETA,
    "own": 2 + 6 * THETA,
    "hessian": 2.0,
}


# --- each library: functions of a row's name to estimates, or to why there are none ---------------


def with_ppgen() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import ppgen
    from ppgen.inference import elbo, iwelbo

    programs = _numpyro_programs()

    def many(estimate: Callable) -> Any:
        keys = jax.random.split(jax.random.key(0), DRAWS)
        return jax.jit(jax.vmap(estimate, (0, None)))(keys, jnp.asarray(THETA))

    def of_bound(bound: Callable, row: str, **options: Any) -> Callable:
        def run() -> Any:
            model, guide = map(ppgen.functional, programs[row])
            g = ppgen.expectation(bound(model, guide, **options))
            return many(jax.grad(lambda key, theta: g(key, {"theta": theta}), argnums=1))

        return run

    def own(p: Any) -> Any:
        return (ppgen.draw(dist.Bernoulli(p)) + ppgen.draw(dist.Poisson(p))) ** 2

    def branch(p: Any) -> Any:
        z = ppgen.draw(dist.Bernoulli(p))
        again = lambda p: 1.0 + 3.0 * ppgen.draw(dist.Bernoulli(p))  # noqa: E731
        return jax.lax.cond(z == 1, again, lambda p: 0.0 * p, p)

    def product(p: Any) -> Any:
        return 1.0 * ppgen.draw(dist.Bernoulli(p)) * ppgen.draw(dist.Bernoulli(p))

    return {
        "elbo": of_bound(elbo, "elbo"),
        "iwelbo": of_bound(iwelbo, "elbo", particles=2),
        "minibatch": of_bound(elbo, "minibatch"),
        "chain": of_bound(elbo, "chain"),
        "branch": lambda: many(jax.grad(ppgen.expectation(branch), argnums=1)),
        "own": lambda: many(jax.grad(ppgen.expectation(own), argnums=1)),
        "hessian": lambda: many(jax.hessian(ppgen.expectation(product), argnums=1)),
    }


def _numpyro_programs() -> dict[str, tuple[Callable, Callable]]:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    xs = jnp.array(SEEN)

    def theta() -> Any:
        return numpyro.param("theta", THETA)

    def coin(x: Any = xs[0], logits: Any = None) -> None:
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)

    def coin_guide() -> None:
        numpyro.sample("z", dist.Bernoulli(logits=theta()))

    def batch() -> None:
        with numpyro.plate("N", 4, subsample_size=2):
            coin(numpyro.subsample(xs, event_dim=0))

    def batch_guide() -> None:
        with numpyro.plate("N", 4, subsample_size=2):
            coin_guide()

    def chain() -> None:
        def step(before: Any, x: Any) -> tuple[Any, None]:
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.6 * before))
            numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)
            return z.astype(float), None

        scan(step, 0.0, xs)

    def chain_guide() -> None:
        at = theta()

        def step(before: Any, x: Any) -> tuple[Any, None]:
            z = numpyro.sample("z", dist.Bernoulli(logits=at - 0.3 * before))
            return jax.lax.stop_gradient(z.astype(float)), None

        scan(step, 0.0, xs)

    return {
        "elbo": (coin, coin_guide),
        "minibatch": (batch, batch_guide),
        "chain": (chain, chain_guide),
    }


def with_numpyro() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from numpyro.infer import RenyiELBO, TraceGraph_ELBO

    programs = _numpyro_programs()

    def of(loss: Any, row: str) -> Callable:
        def run() -> Any:
            def estimate(theta: Any, key: Any) -> Any:
                return -loss.loss(key, {"theta": theta}, *programs[row])

            keys = jax.random.split(jax.random.key(0), DRAWS)
            return jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(jnp.asarray(THETA), keys)

        return run

    none = "a loss is a subclass of `ELBO`, without a gradient for discrete choices of its own"
    return {
        "elbo": of(TraceGraph_ELBO(), "elbo"),
        "iwelbo": of(RenyiELBO(alpha=0, num_particles=2), "elbo"),
        "minibatch": of(TraceGraph_ELBO(), "minibatch"),
        "chain": of(TraceGraph_ELBO(), "chain"),
        **dict.fromkeys(("branch", "own", "hessian"), none),
    }


def with_pyro() -> dict[str, Any]:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import RenyiELBO, TraceGraph_ELBO

    xs = torch.tensor(SEEN)

    def theta() -> Any:
        return pyro.param("theta", lambda: torch.tensor(THETA))

    def coin(x: Any = xs[0]) -> None:
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).expand(x.shape)))
        pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)

    def coin_guide(shape: Any = ()) -> None:
        pyro.sample("z", dist.Bernoulli(logits=theta().expand(shape)))

    # The minibatch of the guide is that of the model: pyro.plate records its indices as a site.
    def batch() -> None:
        with pyro.plate("N", 4, subsample_size=2) as index:
            coin(xs[index])

    def batch_guide() -> None:
        with pyro.plate("N", 4, subsample_size=2):
            coin_guide((2,))

    def chain() -> None:
        before = torch.tensor(0.0)
        for t, x in enumerate(xs):
            before = pyro.sample(f"z_{t}", dist.Bernoulli(0.2 + 0.6 * before))
            pyro.sample(f"x_{t}", dist.Normal(2.0 * before, 1.0), obs=x)

    def chain_guide() -> None:
        before = torch.tensor(0.0)
        for t in range(len(xs)):
            before = pyro.sample(f"z_{t}", dist.Bernoulli(logits=theta() - 0.3 * before))

    def of(loss: Any, *programs: Callable) -> Callable:
        def run() -> list[float]:
            pyro.set_rng_seed(0)
            pyro.clear_param_store()
            found = []
            for _ in range(DRAWS // 10):
                theta()  # so that it is there
                at = pyro.get_param_store()._params["theta"]
                at.grad = None
                loss.loss_and_grads(*programs)
                found.append(-float(at.grad))
            return found

        return run

    none = "a loss is a subclass of `ELBO`"
    return {
        "elbo": of(TraceGraph_ELBO(), coin, coin_guide),
        "iwelbo": of(RenyiELBO(alpha=0, num_particles=2), coin, coin_guide),
        "minibatch": of(TraceGraph_ELBO(), batch, batch_guide),
        "chain": of(TraceGraph_ELBO(), chain, chain_guide),
        **dict.fromkeys(("branch", "own", "hessian"), none),
    }


def with_genjax() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from genjax import seed
    from genjax.adev import expectation, flip_reinforce
    from jax.scipy.stats import norm

    xs = jnp.array(SEEN)

    def log_flip(p: Any, z: Any) -> Any:
        return jnp.log(jnp.where(z, p, 1 - p))

    def log_weight(theta: Any, x: Any) -> Any:
        q = jax.nn.sigmoid(theta)
        z = flip_reinforce(q)
        return log_flip(0.3, z) + norm.logpdf(x, 2.0 * z) - log_flip(q, z)

    def chain(theta: Any) -> Any:
        def step(before: Any, x: Any) -> tuple[Any, Any]:
            q = jax.nn.sigmoid(theta - 0.3 * before)
            z = flip_reinforce(q)
            cost = log_flip(0.2 + 0.6 * before, z) + norm.logpdf(x, 2.0 * z) - log_flip(q, z)
            return 1.0 * z, cost

        return jax.lax.scan(step, 0.0, xs)[1].sum()

    def branch(p: Any) -> Any:
        again = lambda p: 1.0 + 3.0 * flip_reinforce(p)  # noqa: E731
        return jax.lax.cond(flip_reinforce(p), again, lambda p: 0.0 * p, p)

    def iwelbo(theta: Any) -> Any:
        weights = jnp.stack([log_weight(theta, xs[0]) for _ in range(2)])
        return jax.nn.logsumexp(weights) - jnp.log(2.0)

    def product(p: Any) -> Any:
        return 1.0 * flip_reinforce(p) * flip_reinforce(p)

    def of(f: Callable, derivative: Callable = lambda f: f.grad_estimate) -> Callable:
        def run() -> Any:
            keys = jax.random.split(jax.random.key(0), DRAWS)
            one = seed(derivative(expectation(f)))
            return jax.jit(jax.vmap(one, (0, None)))(keys, jnp.asarray(THETA))

        return run

    return {
        "elbo": of(lambda theta: log_weight(theta, xs[0])),
        "iwelbo": of(iwelbo),
        "minibatch": "no plates that subsample",
        "chain": of(chain),
        "branch": of(branch),
        "own": "no Poisson to differentiate by",
        "hessian": of(product, lambda f: jax.grad(f.grad_estimate)),
    }


# --- running and telling --------------------------------------------------------------------------


def measure(library: str) -> dict[str, Any]:
    """Mean and standard error of each row, or why there is none."""
    import warnings

    warnings.simplefilter("ignore")  # of general warnings about discrete choices
    cells: dict[str, Any] = {}
    rows = {"ppgen": with_ppgen, "NumPyro": with_numpyro, "Pyro": with_pyro, "GenJAX": with_genjax}
    for row, run in rows[library]().items():
        if isinstance(run, str):
            cells[row] = f"not there: {run}"
            continue
        try:
            found = [float(x) for x in run()]
        except Exception as error:  # whatever a library raises is its answer
            cells[row] = (
                f"error: {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
            )
            continue
        mean = sum(found) / len(found)
        spread = math.sqrt(sum((x - mean) ** 2 for x in found) / len(found))
        cells[row] = (mean, spread / math.sqrt(len(found)))
    version = importlib.metadata.version(LIBRARIES[library])
    return {"version": version, "python": platform.python_version(), "cells": cells}


def told(cell: Any, exact: float, notes: list[str]) -> str:
    """A cell of the table."""
    if isinstance(cell, str):
        if cell not in notes:
            notes.append(cell)
        return f"{'error' if cell.startswith('error') else '–'} [{notes.index(cell) + 1}]"
    mean, error = cell
    right = abs(mean - exact) <= 5 * error + 1e-4
    return f"{'right' if right else '**wrong**'}: {mean:.3f} ± {error:.3f}"


def report(found: dict[str, Any]) -> str:
    """The table, in Markdown."""
    versions = ", ".join(f"{k} {v['version']} (Python {v['python']})" for k, v in found.items())
    load = os.getloadavg()[0]
    command = " ".join(
        ["python", "benchmarks/compare.py", *("--python ..." for _ in sys.argv[1:2])]
    )
    lines = [
        "# The same programs in four libraries",
        "",
        f"{datetime.date.today()}; {platform.system()}, load {load:.1f}; {versions}. "
        f"Command: `{command}`.",
        "",
        "Gradients at θ = 0.4: the mean of "
        f"{DRAWS:,} estimates ({DRAWS // 10:,} of Pyro's) ± its standard error. GenJAX has the "
        "objectives written by hand in `genjax.adev`, the others by their own names.",
        "",
        f"| gradient of | exact | {' | '.join(found)} |",
        f"| --- | --- |{' --- |' * len(found)}",
    ]
    notes: list[str] = []
    for row, title in ROWS.items():
        cells = [told(v["cells"][row], EXACT[row], notes) for v in found.values()]
        lines.append(f"| {title} | {EXACT[row]:.3f} | {' | '.join(cells)} |")
    lines += ["", *(f"{i}. {note}" for i, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=PATH")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    pythons = {"ppgen": sys.executable, "NumPyro": sys.executable}
    pythons |= dict(pair.split("=", 1) for pair in options.python)
    found = {}
    for library, python in pythons.items():
        command = [python, __file__, "--measure", library]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[library] = json.loads(out.splitlines()[-1])
    text = report(found)
    print(text)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
