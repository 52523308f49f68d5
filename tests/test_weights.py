"""Weights: of zero, some or all of them; and of minibatches, whose exponentials are not weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.errors import SiteError
from ppgen.inference import (
    conditional_smc,
    cubo,
    dpo,
    draw_ancestors,
    elbo,
    f_divergence,
    fivo,
    forward_kl,
    importance_sampling,
    iwelbo,
    renyi,
    reweighted_wake_sleep,
    sir,
    smc,
    sticking_the_landing,
    tvo,
    vimco,
)  # fmt: skip

KEY = jax.random.key(0)
DATA = jnp.array([0.5, -1.0, 2.0, 0.3])
PARTICLES = 4

BOUNDS = {
    "iwelbo": lambda m, g: iwelbo(m, g, particles=PARTICLES),
    "vimco": lambda m, g: vimco(m, g, particles=PARTICLES),
    "renyi": lambda m, g: renyi(m, g, alpha=0.5, particles=PARTICLES),
    "renyi above one": lambda m, g: renyi(m, g, alpha=2.0, particles=PARTICLES),
    "cubo": lambda m, g: cubo(m, g, particles=PARTICLES),
    "tvo": lambda m, g: tvo(m, g, particles=PARTICLES),
    "forward_kl": lambda m, g: forward_kl(m, g, particles=PARTICLES),
    "reweighted_wake_sleep": lambda m, g: reweighted_wake_sleep(m, g, particles=PARTICLES),
}


def possible(share):
    """A model in which one of three values is impossible, or all are."""

    def model(p):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.array([0.5, 0.5, 0.0])))
        there = jnp.array([0.0, 0.0, -jnp.inf]) if share else jnp.full(3, -jnp.inf)
        numpyro.factor("x", there[z] - 0.5 * z)

    return model


def guess(p):
    numpyro.sample("z", dist.Categorical(logits=p), infer={"grad": ppgen.ScoreFunction()})


@pytest.mark.sweep(of=2)
@pytest.mark.parametrize("share", [True, False], ids=["some", "all"])
@pytest.mark.parametrize("name", BOUNDS)
def test_weights_of_zero_leave_no_number_undefined(name, share):
    f = ppgen.expectation(BOUNDS[name](possible(share), guess))
    run = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=1), (0, None)))
    values, slopes = run(jax.random.split(KEY, 100), jnp.array([0.1, 0.2, -0.3]))
    assert not np.isnan(values).any()
    if share and name in ("iwelbo", "vimco", "renyi", "cubo", "reweighted_wake_sleep"):
        dead = np.isneginf(values)  # all of a few draws were impossible
        assert dead.mean() < 0.1
        assert np.isfinite(slopes[~dead]).all()
    if name == "vimco":
        assert np.isfinite(slopes).all()


def test_vimco_is_unbiased_with_weights_of_zero():
    def model(p):
        z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        numpyro.factor("x", jnp.array([0.0, 1.0, -30.0])[z])

    def zero(p):  # as above, with a weight that is zero instead of e^-30
        z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)))
        numpyro.factor("x", jnp.array([0.0, 1.0, -jnp.inf])[z])

    p, keys = jnp.array([0.1, 0.2, -3.0]), jax.random.split(KEY, 4000)

    def means(model, alive_only):
        f = ppgen.expectation(vimco(model, guess, particles=3))
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(f, argnums=1), (0, None)))(keys, p)
        keep = np.asarray(values) > -20
        return np.asarray(slopes)[keep].std(0), keep.mean()

    (spread, _), (tiny, share) = means(zero, True), means(model, True)
    assert share > 0.99
    # The baseline of a zero weight is no worse than that of one that is nearly zero.
    assert (spread <= 1.2 * tiny).all()


@pytest.mark.parametrize("scheme", ["multinomial", "systematic", "residual"])
def test_resamplers_take_weights_of_zero(scheme):
    log_weights = jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf])
    drawn = ppgen.seed(lambda: draw_ancestors(log_weights, scheme))(KEY)
    assert set(np.asarray(drawn).tolist()) <= {0, 2}


def test_samplers_with_all_weights_zero_say_that_the_evidence_is_zero():
    found = ppgen.seed(importance_sampling(possible(False), guess, particles=4))(KEY, jnp.zeros(3))
    assert np.isneginf(found.log_evidence)
    assert np.isfinite(found.log_weights).all()


def model_of(size):
    def model(*args):
        z = numpyro.sample("z", dist.Normal(0, 1))
        with numpyro.plate("n", 4, subsample_size=size) as i:
            numpyro.sample("x", dist.Normal(z, 1), obs=DATA[i])
        return z

    return model


def proposal(*args):
    numpyro.sample("z", dist.Normal(0.3, 0.6))


def step_of(size):
    def step(state, x):
        z = numpyro.sample("z", dist.Normal(0.3 * state, 1))
        with numpyro.plate("n", 4, subsample_size=size) as i:
            numpyro.sample("x", dist.Normal(z, 1), obs=x[i])
        return z

    return step


SERIES = (0.0, jnp.stack([DATA, DATA[::-1]]))
CHOICE = {"z": jnp.array(0.2)}
NOT_LINEAR = {
    **{name: lambda s, make=make: make(model_of(s), proposal)() for name, make in BOUNDS.items()},
    "importance_sampling": lambda s: (
        importance_sampling(model_of(s), proposal, particles=1)().log_evidence
    ),
    "sir": lambda s: sir(model_of(s), proposal, particles=1, samples=2)()["z"].sum(),
    "f_divergence": lambda s: f_divergence(model_of(s), proposal, lambda r: jnp.exp(r))(),
    "smc": lambda s: smc(step_of(s), particles=2)(*SERIES).log_evidence,
    "smc of one": lambda s: smc(step_of(s), particles=1)(*SERIES).log_evidence,
    "fivo": lambda s: fivo(step_of(s), particles=2)(*SERIES),
    "conditional_smc": lambda s: (
        conditional_smc(step_of(s), particles=2)({"z": jnp.zeros(2)}, *SERIES).log_evidence
    ),
    "dpo": lambda s: dpo(model_of(s), proposal, beta=1.0)(CHOICE, CHOICE),
    "normalize": lambda s: ppgen.simulate(ppgen.normalize(model_of(s), particles=2))().log_density,
}
LINEAR = {
    "elbo": lambda s: elbo(model_of(s), proposal)(),
    "sticking_the_landing": lambda s: sticking_the_landing(model_of(s), proposal)(),
}


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_refuses_a_subsampled_plate(name):
    assert np.isfinite(ppgen.seed(NOT_LINEAR[name])(KEY, 4)).all()
    with pytest.raises(SiteError, match="subsampl"):
        ppgen.seed(NOT_LINEAR[name])(KEY, 2)


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_takes_a_subsampled_plate(name):
    keys = jax.random.split(KEY, 4000)
    whole, part = (jax.vmap(ppgen.seed(lambda: LINEAR[name](s)))(keys) for s in (4, 2))  # noqa: B023
    error = np.hypot(whole.std(), part.std()) / len(keys) ** 0.5
    assert abs(whole.mean() - part.mean()) < 5 * error
