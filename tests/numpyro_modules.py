"""Networks in programs, by flax (both of its interfaces) and Equinox, with state and noise."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.module import (
    eqx_module,
    flax_module,
    nnx_module,
    random_eqx_module,
    random_flax_module,
    random_nnx_module,
)
from numpyro.infer import autoguide
from numpyro.primitives import mutable
from numpyro_programs import Row

X = jax.random.normal(jax.random.key(5), (6, 3))


def regression(net: Callable) -> Callable:
    """A random offset around what a network predicts."""

    def model(x):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        mean = net(x) + z
        with numpyro.plate("N", 6):
            numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=x[:, :2])

    return model


def offset(x):
    loc = numpyro.param("loc", jnp.zeros(2))
    numpyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def linen_state_and_dropout() -> Row:
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=False)(linen.Dense(4)(x))
            return linen.Dense(2)(linen.Dropout(0.5, deterministic=False)(x))

    def net(x):
        shape, noise = x.shape, {"dropout": numpyro.prng_key()}
        apply = flax_module(
            "net", Net(), input_shape=shape, mutable=["batch_stats"], apply_rng=["dropout"]
        )
        return apply(x, rngs=noise)

    return Row(regression(net), offset, (X,), replay=False)


def nnx_state_and_dropout() -> Row:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(self.dropout(self.norm(self.first(x))))

    # Its dropout draws from the state, not from the program's keys: the same in every run of one.
    module = Net(nnx.Rngs(0))
    return Row(regression(lambda x: nnx_module("net", module)(x)), offset, (X,), replay=False)


def equinox_state_and_dropout() -> Row:
    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            self.first = eqx.nn.Linear(3, 2, key=key)
            self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")
            self.dropout = eqx.nn.Dropout(0.5)

        def __call__(self, x, state, key):
            x, state = self.norm(self.first(x), state)
            return self.dropout(x, key=key), state

    module, eager = eqx.nn.make_with_state(Net)(jax.random.key(1))

    def net(x):
        apply = eqx_module("net", module)
        holder = mutable("net$state", {"state": eager})
        keys = jax.random.split(numpyro.prng_key(), 6)
        batched = jax.vmap(apply, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")
        out, holder["state"] = batched(x, holder["state"], keys)
        return out

    return Row(regression(net), offset, (X,), replay=False)


def variational_autoencoder() -> Row:
    from flax import linen

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = linen.softplus(linen.Dense(4)(x))
            return linen.Dense(2)(h), jnp.exp(0.3 * linen.Dense(2)(h))

    def model(batch):
        decoder = flax_module("decoder", linen.Dense(3), input_shape=(1, 2))
        with numpyro.plate("batch", 6):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
            pixels = dist.Bernoulli(logits=decoder(z)).to_event(1)
            numpyro.sample("obs", pixels, obs=1.0 * (batch > 0))

    def guide(batch):
        encoder = flax_module("encoder", Encoder(), input_shape=(1, 3))
        loc, scale = encoder(batch)
        with numpyro.plate("batch", 6):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Row(model, guide, (X,))


def _bayesian(net: Callable) -> Row:
    def model(x):
        mean = net(x)
        with numpyro.plate("N", 6):
            numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=x[:, :2])

    return Row(model, autoguide.AutoNormal(model), (X,))


def bayesian_linen() -> Row:
    from flax import linen

    def net(x):
        return random_flax_module("net", linen.Dense(2), dist.Normal(), input_shape=(3,))(x)

    return _bayesian(net)


def bayesian_nnx() -> Row:
    from flax import nnx

    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    return _bayesian(lambda x: random_nnx_module("net", module, dist.Normal())(x))


def bayesian_equinox() -> Row:
    module = eqx.nn.Linear(3, 2, key=jax.random.key(2))
    return _bayesian(lambda x: jax.vmap(random_eqx_module("net", module, dist.Normal()))(x))


ROWS: dict[str, Callable[[], Row]] = {
    row.__name__: row
    for row in (
        linen_state_and_dropout,
        nnx_state_and_dropout,
        equinox_state_and_dropout,
        variational_autoencoder,
        bayesian_linen,
        bayesian_nnx,
        bayesian_equinox,
    )
}
