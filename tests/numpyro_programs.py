"""Models and guides in the style of NumPyro's examples, none of which knows of ppgen.

Each row is made when it is asked for: model, guide, their arguments, and NumPyro's own loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints
from numpyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    reparam,
)
from numpyro.ops.indexing import Vindex

from ppgen.inference import elbo, renyi


class Row(NamedTuple):
    """A program and what to compare.

    Attributes:
        model: NumPyro's model.
        guide: NumPyro's guide.
        args: of both.
        loss: NumPyro's loss.
        objective: ppgen's builder of the same.
        replay: whether the densities of the same choices are to be the same numbers.
        gradient: whether NumPyro's gradient is right, for this program.
        to_ours: what ppgen needs done to the model.
        draws: how many runs to average.
    """

    model: Callable
    guide: Callable
    args: tuple = ()
    loss: Any = Trace_ELBO()
    objective: Callable = elbo
    replay: bool = True
    gradient: bool = True
    to_ours: Callable = lambda model: model
    draws: int = 1000


Y = jnp.array([0.3, -1.2, 0.8, 2.0])
FLIPS = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])


def beta_bernoulli() -> Row:
    def model(data):
        f = numpyro.sample("latent_fairness", dist.Beta(10, 10))
        with numpyro.plate("N", len(data)):
            numpyro.sample("obs", dist.Bernoulli(f), obs=data)

    def guide(data):
        alpha = numpyro.param("alpha", 15.0, constraint=constraints.positive)
        beta = numpyro.param(
            "beta", lambda key: 12 + jax.random.exponential(key), constraint=constraints.positive
        )
        numpyro.sample("latent_fairness", dist.Beta(alpha, beta))

    return Row(model, guide, (FLIPS,))


def mixed_chain() -> Row:
    def model(y):
        a = numpyro.sample("a", dist.Bernoulli(0.4))
        b = numpyro.sample("b", dist.Normal(a - 0.5, 1.0))
        c = numpyro.sample("c", dist.Bernoulli(logits=b))
        numpyro.sample("y", dist.Normal(b + c, 1.0), obs=y)

    def guide(y):
        a = numpyro.sample("a", dist.Bernoulli(logits=numpyro.param("a_logit", 0.3)))
        scale = numpyro.param("scale", 0.8, constraint=constraints.positive)
        b = numpyro.sample("b", dist.Normal(numpyro.param("loc", 0.2) + 0.5 * a, scale))
        numpyro.sample("c", dist.Bernoulli(logits=numpyro.param("c_logit", -0.4) * b))

    return Row(model, guide, (0.7,), TraceGraph_ELBO(), draws=5_000)


def renyi_with_local_latents() -> Row:
    def model(y):
        with numpyro.plate("N", 4, subsample_size=2):
            batch = numpyro.subsample(y, event_dim=0)
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=batch)

    def guide(y):
        with numpyro.plate("N", 4, subsample_size=2):
            loc = numpyro.param("loc", 0.3 * y, event_dim=0)
            scale = numpyro.param(
                "scale", jnp.full(4, 0.8), constraint=constraints.positive, event_dim=0
            )
            numpyro.sample("z", dist.Normal(loc, scale))

    def objective(model, guide):
        return renyi(model, guide, alpha=0.5, particles=3)

    return Row(model, guide, (Y,), RenyiELBO(alpha=0.5, num_particles=3), objective)


def multi_sample_guide() -> Row:
    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0).expand([4]).to_event(1), obs=y)

    def guide(y):
        loc = numpyro.param("loc", jnp.zeros(5))
        numpyro.sample("z", dist.Normal(loc, numpyro.param("scale", 0.5)).to_event(0))

    def each(model):
        return lambda *args: jax.vmap(lambda _: model(*args))(jnp.arange(5))

    return Row(model, guide, (Y,), Trace_ELBO(multi_sample_guide=True), replay=False, to_ours=each)


def tree_with_vindex() -> Row:
    probs = jnp.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    means = jnp.array([[-1.0, 0.0, 1.0], [0.5, 1.5, 2.5]])

    def model(y):
        a = numpyro.sample("a", dist.Categorical(jnp.array([0.3, 0.7])))
        b = numpyro.sample("b", dist.Categorical(Vindex(probs)[a]))
        numpyro.sample("y", dist.Normal(Vindex(means)[a, b], 1.0), obs=y)

    def guide(y):
        first = numpyro.param("first", jnp.array([0.1, -0.2]))
        second = numpyro.param("second", 0.3 * jnp.arange(6.0).reshape(2, 3))
        a = numpyro.sample("a", dist.Categorical(logits=first))
        numpyro.sample("b", dist.Categorical(logits=Vindex(second)[a]))

    return Row(model, guide, (0.7,), TraceGraph_ELBO(), draws=5_000)


def enumerated_poisson() -> Row:
    """TraceEnum's plate contraction: it sums over the guide's choices, we draw them."""
    counts = jnp.array([1, 4, 0, 7])

    def model(counts):
        low = numpyro.param("low", 1.0, constraint=constraints.positive)
        rates = jnp.stack([low, low + 4.0])
        with numpyro.plate("N", 4):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.6, 0.4])))
            numpyro.sample("x", dist.Poisson(Vindex(rates)[z]), obs=counts)

    def guide(counts):
        logits = numpyro.param("logits", 0.2 * jnp.arange(8.0).reshape(4, 2))
        with numpyro.plate("N", 4):
            numpyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    return Row(model, guide, (counts,), TraceEnum_ELBO(), draws=5_000)


def auxiliary_site() -> Row:
    def model(y):
        z = numpyro.sample("z", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        loc = numpyro.param("loc", 0.1)
        u = numpyro.sample("u", dist.Normal(loc, 0.7), infer={"is_auxiliary": True})
        z = jnp.exp(u)
        numpyro.sample("z", dist.Delta(z, log_density=-u))

    return Row(model, guide, (1.3,))


def partly_observed() -> Row:
    mask = jnp.array([True, False, True, False])

    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("N", 4):
            x = numpyro.sample("x", dist.Normal(loc, 1.0), obs=y, obs_mask=mask)
            numpyro.sample("next", dist.Normal(x, 0.5), obs=y + 0.1)

    def guide(y):
        numpyro.sample("loc", dist.Normal(numpyro.param("m", 0.2), 0.5))
        with numpyro.plate("N", 4), handlers.mask(mask=~mask):
            numpyro.sample("x_unobserved", dist.Normal(numpyro.param("missing", 0.1 * y), 0.5))

    return Row(model, guide, (Y,))


def branches() -> Row:
    """With what is observed inside; a latent there is one of the defects."""

    def model(flag):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))

        def yes(x):
            numpyro.sample("y", dist.Normal(x, 2.0), obs=0.4)

        def no(x):
            numpyro.sample("y", dist.Normal(-x, 0.5), obs=0.4)

        cond(flag > 0, yes, no, x)

    def guide(flag):
        loc = numpyro.param("loc", 0.3)
        x = numpyro.sample("x", dist.Normal(loc * flag, 0.9))
        return cond(flag > 0, lambda x: x, lambda x: -x, x)

    return Row(model, guide, (jnp.array(1.0),))


def time_series() -> Row:
    def model(y):
        drift = numpyro.sample("drift", dist.Normal(0.5, 0.3))

        def step(previous, y_t):
            z = numpyro.sample("z", dist.Normal(drift * previous, 1.0))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y_t)
            return z, None

        scan(step, 0.0, y)

    def guide(y):
        numpyro.sample("drift", dist.Normal(numpyro.param("drift_loc", 0.4), 0.2))
        loc = numpyro.param("loc", 0.5 * y)
        scale = numpyro.param("scale", jnp.full(4, 0.6), constraint=constraints.positive)

        def step(previous, of_step):
            z = numpyro.sample("z", dist.Normal(of_step[0] + 0.1 * previous, of_step[1]))
            return z, None

        scan(step, 0.0, (loc, scale))

    return Row(model, guide, (Y,))


def gp_classification() -> Row:
    x = jnp.linspace(-1.0, 1.0, 5)

    def model(labels):
        length = numpyro.param("length", 0.7, constraint=constraints.positive)
        kernel = jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-2 * jnp.eye(5)
        f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(5), kernel))
        with numpyro.plate("N", 5):
            numpyro.sample("label", dist.Bernoulli(logits=f), obs=labels)

    def guide(labels):
        loc = numpyro.param("f_loc", jnp.zeros(5))
        scale = numpyro.param(
            "f_scale_tril", 0.3 * jnp.eye(5), constraint=constraints.lower_cholesky
        )
        numpyro.sample("f", dist.MultivariateNormal(loc, scale_tril=scale))

    return Row(model, guide, (FLIPS,))


def toy_mixture() -> Row:
    def model(y):
        weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
        locs = numpyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("N", 4):
            z = numpyro.sample("z", dist.Bernoulli(weight))
            numpyro.sample("y", dist.Normal(locs[z], 1.0), obs=y)

    def guide(y):
        a = numpyro.param("a", 3.0, constraint=constraints.positive)
        numpyro.sample("weight", dist.Beta(a, 3.0))
        loc = numpyro.param("loc", jnp.array([-1.0, 1.0]))
        numpyro.sample("locs", dist.Normal(loc, 0.4).to_event(1))
        with numpyro.plate("N", 4):
            numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", 0.3 * y)))

    return Row(model, guide, (Y,), TraceGraph_ELBO(), draws=5_000)


def mean_field() -> Row:
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("N", 4):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(z, 1 + rate), obs=y)

    def guide(y):
        a = numpyro.param("a", 2.5, constraint=constraints.positive)
        numpyro.sample("rate", dist.Gamma(a, 1.5))
        with numpyro.plate("N", 4):
            numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.2 * y), 0.5))

    def closed(model, guide):
        return elbo(model, guide, analytic_kl=True)

    return Row(model, guide, (Y,), TraceMeanField_ELBO(), closed)


def scaled_and_masked() -> Row:
    def model(y):
        w = numpyro.sample("w", dist.HalfCauchy(1.0))
        with handlers.scale(scale=2.5), numpyro.plate("N", 4):
            with handlers.mask(mask=y > 0):
                numpyro.sample("y", dist.StudentT(4.0, 0.0, w), obs=y)
        numpyro.factor("penalty", -0.1 * w)
        numpyro.deterministic("square", w**2)

    def guide(y):
        numpyro.sample("w", dist.LogNormal(numpyro.param("loc", 0.2), 0.3))

    return Row(model, guide, (Y,))


def reparameterised_sites() -> Row:
    """Eight schools, non-centred by a handler."""

    def centred(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfNormal(2))
        with numpyro.plate("J", 4):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    model = handlers.reparam(centred, config={"theta": reparam.LocScaleReparam(0)})

    def guide(y):
        numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.1), 0.4))
        numpyro.sample("tau", dist.LogNormal(numpyro.param("t", -0.2), 0.3))
        with numpyro.plate("J", 4):
            numpyro.sample("theta_decentered", dist.Normal(numpyro.param("d", 0.1 * y), 0.7))

    return Row(model, guide, (Y,))


ROWS: dict[str, Callable[[], Row]] = {
    row.__name__: row
    for row in (
        beta_bernoulli,
        mixed_chain,
        renyi_with_local_latents,
        multi_sample_guide,
        tree_with_vindex,
        enumerated_poisson,
        auxiliary_site,
        partly_observed,
        branches,
        time_series,
        gp_classification,
        toy_mixture,
        mean_field,
        scaled_and_masked,
        reparameterised_sites,
    )
}
