"""Annealed importance sampling against known evidences, on constrained spaces too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from monte_carlo import count_equations

import ppgen
from ppgen.inference import HamiltonianMonteCarlo, RandomWalk, ais
from ppgen.inference.posteriors._unconstrained import Unconstrained

KEYS = 4000
# Every comparison is within 5 standard errors: a false alarm has probability below 6e-7.
SIGMAS = 5.0
KERNELS = {"walk": RandomWalk(0.7, 2), "hmc": HamiltonianMonteCarlo(0.4, 3)}
BETAS = jnp.linspace(0, 1, 6)[1:]

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def gaussian(x):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def wide(x):
    numpyro.sample("z", dist.Normal(0.3, 1.4).expand([2]).to_event(1))


def mixture():
    """Unnormalised: two modes, of total mass 3."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    modes = dist.Normal(jnp.array([-2.0, 1.5]), jnp.array([0.5, 0.8])).log_prob(z)
    target = jax.nn.logsumexp(modes + jnp.log(jnp.array([2.0, 1.0])))
    numpyro.factor("f", target - dist.Normal(0.0, 1.0).log_prob(z))


def broad():
    numpyro.sample("z", dist.Normal(0.0, 2.5))


def gamma_poisson(count):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    numpyro.sample("count", dist.Poisson(rate), obs=count)


def exponential(count):
    numpyro.sample("rate", dist.Exponential(0.5))


def beta_binomial(successes):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    numpyro.sample("n", dist.Binomial(10, p), obs=successes)


def uniform(successes):
    numpyro.sample("p", dist.Uniform(0.0, 1.0))


X = jnp.array([1.1, -0.7])
CASES = {
    "gaussian": (gaussian, wide, (X,), dist.Normal(0.0, 1.25**0.5).log_prob(X).sum()),
    "mixture": (mixture, broad, (), jnp.log(3.0)),
    "gamma-poisson": (gamma_poisson, exponential, (4,), dist.GammaPoisson(3.0, 2.0).log_prob(4)),
    "beta-binomial": (
        beta_binomial,
        uniform,
        (7,),
        dist.BetaBinomial(2.0, 3.0, 10).log_prob(7),
    ),
}


def estimates(run, args, keys=KEYS):
    f = jax.jit(jax.vmap(lambda key: ppgen.seed(lambda: run(*args).log_evidence)(key)))
    return np.asarray(f(jax.random.split(jax.random.key(5), keys)), np.float64)


def deviation(log_estimates, log_exact):
    ratios = np.exp(log_estimates - float(log_exact))
    error = ratios.std(ddof=1) / len(ratios) ** 0.5
    found = (ratios.mean() - 1) / error
    assert error < 0.02 or abs(found) > SIGMAS, "the test would not see a bias of a tenth"
    return found


@each_kernel
@pytest.mark.parametrize("case", CASES)
def test_the_evidence_is_unbiased(case, kernel):
    program, proposal, args, log_exact = CASES[case]
    run = ais(program, proposal, temperatures=BETAS, kernel=KERNELS[kernel], particles=3)
    assert abs(deviation(estimates(run, args), log_exact)) < SIGMAS


@pytest.mark.long
@each_kernel
def test_a_kernel_that_accepts_everything_is_found(monkeypatch, kernel):
    """The power of the test above."""
    from ppgen.inference.particles import _kernels as kernels

    monkeypatch.setattr(kernels, "_accept", lambda log_ratio: jnp.ones_like(log_ratio))
    coarse = {"walk": RandomWalk(0.7, 2), "hmc": HamiltonianMonteCarlo(0.9, 2)}[kernel]
    run = ais(gaussian, wide, temperatures=BETAS, kernel=coarse, particles=3)
    assert abs(deviation(estimates(run, (X,)), CASES["gaussian"][3])) > 2 * SIGMAS


@pytest.mark.long
def test_a_bijection_whose_stretch_is_forgotten_is_found(monkeypatch):
    """On a constrained site, what the kernel leaves as it is would be another density."""

    def forgetful(self, program, *args):
        return lambda u: ppgen.log_density(program)(self.constrain(u), *args)

    monkeypatch.setattr(Unconstrained, "log_density", forgetful)
    program, proposal, args, log_exact = CASES["gamma-poisson"]
    run = ais(program, proposal, temperatures=BETAS, kernel=KERNELS["walk"], particles=3)
    assert abs(deviation(estimates(run, args), log_exact)) > 2 * SIGMAS


@each_kernel
def test_annealing_lowers_the_variance(kernel):
    few, many = (
        ais(
            gaussian,
            wide,
            temperatures=jnp.linspace(0, 1, n + 1)[1:],
            kernel=KERNELS[kernel],
            particles=1,
        )
        for n in (1, 20)
    )
    assert estimates(many, (X,), 1000).std() < 0.6 * estimates(few, (X,), 1000).std()


@each_kernel
def test_weighted_samples_have_the_moments_of_the_posterior(kernel):
    betas = jnp.linspace(0, 1, 31)[1:]
    run = ais(gaussian, wide, temperatures=betas, kernel=KERNELS[kernel], particles=8000)
    found = jax.jit(ppgen.seed(run))(jax.random.key(0), X)
    weights = jnp.exp(found.log_weights)
    mean = weights @ found.choices["z"]
    np.testing.assert_allclose(mean, X * 0.8, atol=0.05)
    np.testing.assert_allclose(weights @ (found.choices["z"] - mean) ** 2, 0.2, atol=0.03)
    assert found.ess > 3000
    assert found.acceptance.shape == (30,)
    assert 0.3 < found.acceptance.min() and found.acceptance.max() <= 1


def test_the_size_of_what_is_compiled_depends_on_neither_temperatures_nor_particles():
    def size(n, particles):
        betas = jnp.linspace(0, 1, n + 1)[1:]
        run = ais(gaussian, wide, temperatures=betas, kernel=RandomWalk(0.5), particles=particles)
        return count_equations(jax.make_jaxpr(ppgen.seed(run))(jax.random.key(0), X))

    assert size(3, 4) == size(300, 4) == size(3, 200)


def test_gradients_through_acceptances_are_refused():
    run = ais(gaussian, wide, temperatures=BETAS, kernel=RandomWalk(0.5), particles=2)
    with pytest.raises(ppgen.PpgenError, match="indicator"):
        ppgen.expectation(lambda x: run(x).log_evidence)(jax.random.key(0), X)


def test_what_cannot_be_annealed():
    def discrete():
        numpyro.sample("z", dist.Poisson(3.0))

    def moving():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Uniform(a, a + 1))

    options = {"temperatures": BETAS, "kernel": RandomWalk(0.5), "particles": 2}
    for program, message in (
        (discrete, "discrete"),
        (moving, "bounds"),
        (ppgen.marginal(gaussian_pair, ["x"], particles=2), "itself an estimate"),
    ):
        with pytest.raises(ppgen.PpgenError, match=message):
            ppgen.seed(ais(program, program, **options))(jax.random.key(0))
    for betas in ([0.5, 0.4, 1.0], [0.5, 0.9], [0.0, 1.0], []):
        with pytest.raises(ValueError, match="temperatures"):
            ais(gaussian, wide, temperatures=betas, kernel=RandomWalk(0.5), particles=2)


def gaussian_pair():
    u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(u, 1.0))
