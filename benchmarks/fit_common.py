"""The problem of `fit.py`, the loop by hand and NumPyro's, and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import optax_to_numpyro
from overhead import (
    LATENT,
    PIXELS,
    decode,
    encode,
    numpyro_params,
    vae_by_hand,
    vae_guide,
    vae_model,
)

from ppgen.inference import elbo

HIDDEN, BATCH = 400, 128
BOUND = elbo(vae_model, vae_guide)


def batch_bound(p: dict, x: jax.Array) -> jax.Array:
    return BOUND(p, x) / x.shape[0]


def image_bound(p: dict, x: jax.Array) -> jax.Array:
    """The same, as a mean of bounds on one image each."""
    return jnp.mean(jax.vmap(lambda row: BOUND(p, row[None]))(x))


def binary(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (rows, PIXELS)).astype(np.float32)


def svi_of(p: dict, rows: int) -> SVI:
    """NumPyro's way to take batches is a plate that subsamples."""

    def model(x: jax.Array) -> None:
        q = numpyro_params(p)
        with numpyro.plate("images", rows, subsample_size=BATCH):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            x = numpyro.subsample(x, event_dim=1)
            numpyro.sample("x", dist.Bernoulli(logits=decode(q, z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        q = numpyro_params(p)
        with numpyro.plate("images", rows, subsample_size=BATCH):
            x = numpyro.subsample(x, event_dim=1)
            numpyro.sample("z", dist.Normal(*encode(q, x)).to_event(1))

    return SVI(model, guide, optax_to_numpyro(optax.adam(1e-3)), Trace_ELBO())


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def hand_loop(x: jax.Array, chunk: int, key: jax.Array) -> Callable:
    """`chunk` steps in a scan that overwrites what it is given, shuffling as `fit` does."""
    rows, optimizer = x.shape[0], optax.adam(1e-3)
    per_epoch = rows // BATCH
    order_key, draw_key = jax.random.split(key)

    def step(carry: tuple, _: None) -> tuple:
        i, p, state, epoch, order = carry
        batch = x
        if rows > BATCH:
            now = i // per_epoch
            order = jax.lax.cond(
                now == epoch,
                lambda: order,
                lambda: jax.random.permutation(jax.random.fold_in(order_key, now), order),
            )
            epoch = now
            batch = x[jax.lax.dynamic_slice(order, (i % per_epoch * BATCH,), (BATCH,))]

        def loss(p: dict) -> jax.Array:
            return -vae_by_hand(jax.random.fold_in(draw_key, i), p, batch)

        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(gradient, state)
        return (i + 1, optax.apply_updates(p, updates), state, epoch, order), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=chunk), donate_argnums=0)

    def begin(p: dict) -> tuple:
        p = jax.tree.map(jnp.copy, p)
        return jnp.int32(0), p, optimizer.init(p), jnp.int32(-1), jnp.arange(rows)

    return run, begin


def child(file: str, *arguments: Any, **environment: str) -> dict[str, Any]:
    """What one of these files does when it is run: part of a section, in a process of its own."""
    command = [sys.executable, file, *map(str, arguments)]
    cold = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment = os.environ | cold | environment
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
