"""NumPyro's automatic guides, on models of their documentation's kind."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import TraceMeanField_ELBO, autoguide
from numpyro.infer.initialization import init_to_median
from numpyro_programs import Row, Y

from ppgen.inference import elbo


def regression(y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    x = jnp.stack([jnp.ones(4), jnp.arange(4.0) / 4], -1)
    numpyro.deterministic("line", x @ slope)
    with numpyro.plate("N", 4):
        numpyro.sample("y", dist.Normal(x @ slope, 0.5 + sigma), obs=y)


def with_guide(make: Callable, **options) -> Row:
    return Row(regression, make(regression, init_loc_fn=init_to_median), (Y,), **options)


def batched(make: Callable, **options) -> Row:
    def model(y):
        with numpyro.plate("N", 4):
            w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
            numpyro.sample("y", dist.Normal(w.sum(-1), s), obs=y)

    return Row(model, make(model, batch_ndim=1, **options), (Y,))


def local_latents_of_a_minibatch() -> Row:
    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("N", 4, subsample_size=2):
            batch = numpyro.subsample(y, event_dim=0)
            z = numpyro.sample("z", dist.HalfNormal(1.0))
            numpyro.sample("y", dist.Normal(a + z, 1.0), obs=batch)

    return Row(model, autoguide.AutoNormal(model), (Y,))


def constrained_supports() -> Row:
    def model(y):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        chol = numpyro.sample("chol", dist.LKJCholesky(2, 2.0))
        u = numpyro.sample("u", dist.Uniform(-1.0, 3.0))
        numpyro.sample("y", dist.Normal(p[0] + chol[1, 0] + u, 1.0).expand([4]).to_event(1), obs=y)

    return Row(model, autoguide.AutoNormal(model), (Y,))


def analytic() -> Row:
    def closed(model, guide):
        return elbo(model, guide, analytic_kl=True)

    return with_guide(autoguide.AutoNormal, loss=TraceMeanField_ELBO(), objective=closed)


def guide_list() -> Row:
    seeded = handlers.seed(regression, rng_seed=1)
    guide = autoguide.AutoGuideList(regression)
    guide.append(
        autoguide.AutoDiagonalNormal(handlers.block(seeded, hide=["sigma", "line"]), prefix="one")
    )

    def custom(y):
        loc = numpyro.param("sigma_loc", 0.1)
        scale = numpyro.param("sigma_scale", 0.2, constraint=constraints.positive)
        return {"sigma": numpyro.sample("sigma", dist.LogNormal(loc, scale))}

    guide.append(custom)
    return Row(regression, guide, (Y,))


def list_of_normal_and_delta() -> Row:
    seeded = handlers.seed(regression, rng_seed=1)
    guide = autoguide.AutoGuideList(regression)
    guide.append(autoguide.AutoNormal(handlers.block(seeded, hide=["sigma", "line"])))
    guide.append(autoguide.AutoDelta(handlers.block(seeded, expose=["sigma"])))
    return Row(regression, guide, (Y,))


def semi_dais() -> Row:
    def global_model(y):
        return numpyro.sample("a", dist.Normal(0.0, 1.0))

    def local_model(a):
        with numpyro.plate("N", 4, subsample_size=2):
            batch = numpyro.subsample(Y, event_dim=0)
            z = numpyro.sample("z", dist.HalfNormal(1.0))
            numpyro.sample("y", dist.Normal(a + z, 1.0), obs=batch)

    def model(y):
        local_model(global_model(y))

    guide = autoguide.AutoSemiDAIS(model, local_model, autoguide.AutoNormal(global_model), K=2)
    return Row(model, guide, (Y,))


def surrogate_dais() -> Row:
    def surrogate():
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        weight = numpyro.param("weight", jnp.full(2, 2.0), constraint=constraints.positive)
        with numpyro.plate("S", 2), handlers.scale(scale=weight):
            numpyro.sample("y", dist.Normal(slope, 0.5 + sigma), obs=Y[:2])

    make = autoguide.AutoSurrogateLikelihoodDAIS
    return Row(regression, make(regression, surrogate, K=2), (Y,))


SIMPLE = {
    "normal": autoguide.AutoNormal,
    "delta": autoguide.AutoDelta,
    "diagonal": autoguide.AutoDiagonalNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "laplace": autoguide.AutoLaplaceApproximation,
    "iaf": functools.partial(autoguide.AutoIAFNormal, num_flows=2),
    "dais": functools.partial(autoguide.AutoDAIS, K=2),
}
BATCHED = {
    "batched_multivariate": autoguide.AutoBatchedMultivariateNormal,
    "batched_low_rank": functools.partial(autoguide.AutoBatchedLowRankMultivariateNormal, rank=1),
}

ROWS: dict[str, Callable[[], Row]] = {
    **{f"auto_{name}": functools.partial(with_guide, make) for name, make in SIMPLE.items()},
    **{f"auto_{name}": functools.partial(batched, make) for name, make in BATCHED.items()},
    # Its density at a given value would need the inverse of its flow.
    "auto_bnaf": lambda: with_guide(
        functools.partial(autoguide.AutoBNAFNormal, num_flows=1, hidden_factors=[4]),
        replay=False,
    ),
    "auto_normal_local_latents": local_latents_of_a_minibatch,
    "auto_normal_constrained": constrained_supports,
    "auto_normal_mean_field": analytic,
    "auto_guide_list": guide_list,
    "auto_guide_list_with_delta": list_of_normal_and_delta,
    "auto_semi_dais": semi_dais,
    "auto_surrogate_dais": surrogate_dais,
}
