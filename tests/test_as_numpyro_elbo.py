"""ppgen's objectives inside of NumPyro's `SVI`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO
from numpyro_modules import linen_state_and_dropout

import ppgen
from ppgen.inference import as_numpyro_elbo, dreg, elbo, forward_kl, iwelbo, vimco

KEY = jax.random.key(2)


def model(x, *, noise=1.0):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, noise), obs=x)


def guide(x, *, noise=1.0):
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    numpyro.sample("z", dist.Normal(loc, scale))


@pytest.mark.parametrize("loss", [as_numpyro_elbo(elbo, draws=4), Trace_ELBO(num_particles=4)])
def test_existing_code_changes_one_argument(loss):
    """Whatever the loss, the loop and the posterior are the same: N(x/2, 1/2)."""
    svi = SVI(model, guide, numpyro.optim.Adam(0.03), loss=loss)
    result = svi.run(KEY, 600, 1.0, progress_bar=False)
    np.testing.assert_allclose(result.params["loc"], 0.5, atol=0.1)
    np.testing.assert_allclose(result.params["scale"], 0.5**0.5, atol=0.1)
    draws = Predictive(guide, params=result.params, num_samples=2000)(KEY, 1.0)
    assert abs(draws["z"].mean() - 0.5) < 0.15


@pytest.mark.parametrize(
    ("builder", "options", "maximize"),
    [
        (iwelbo, {"particles": 5}, True),
        (vimco, {"particles": 5}, True),
        (dreg, {"particles": 5}, True),
        (forward_kl, {"particles": 50}, False),
    ],
)
def test_every_objective_trains(builder, options, maximize):
    """Those too that hold a program's parameters fixed in one place and not in another."""
    loss = as_numpyro_elbo(builder, maximize=maximize, **options)
    svi = SVI(model, guide, numpyro.optim.Adam(0.05), loss=loss)
    result = svi.run(KEY, 400, 1.0, progress_bar=False)
    np.testing.assert_allclose(result.params["loc"], 0.5, atol=0.2)


def test_is_the_bound_at_constrained_parameters():
    """The same number as NumPyro's for many particles, and keyword arguments reach the programs."""
    values = {"loc": jnp.array(0.3), "scale": jnp.array(0.7)}
    mine = as_numpyro_elbo(iwelbo, particles=3, draws=20_000)
    other = RenyiELBO(alpha=0, num_particles=3)
    got = mine.loss(KEY, values, model, guide, 1.0, noise=0.5)
    keys = jax.random.split(KEY, 20_000)
    losses = jax.vmap(lambda k: other.loss(k, values, model, guide, 1.0, noise=0.5))(keys)
    assert abs(got - losses.mean()) < 8 * losses.std() / 20_000**0.5


def test_update_evaluate_and_typed_keys():
    svi = SVI(model, guide, numpyro.optim.Adam(0.05), loss=as_numpyro_elbo(iwelbo, particles=2))
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        state = svi.init(key, 1.0)
        state, loss = jax.jit(svi.update)(state, 1.0)
        assert jnp.isfinite(loss) and jnp.isfinite(svi.evaluate(state, 1.0))
        _, loss = svi.update(state, 1.0, forward_mode_differentiation=True)
        assert jnp.isfinite(loss)


def test_discrete_latents_do_not_warn():
    """The suite turns NumPyro's warning into an error."""

    def coin(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)

    def coin_guide(x):
        numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", 0.0)))

    loss = as_numpyro_elbo(elbo, draws=8)
    result = SVI(coin, coin_guide, numpyro.optim.Adam(0.1), loss=loss).run(
        KEY, 400, 1.5, progress_bar=False
    )
    # The posterior: log odds 1.5² / 2 − (1.5 − 2)² / 2.
    assert abs(result.params["logits"] - 1.0) < 0.4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("draws", [1, 3])
def test_batch_norm_keeps_running_statistics(draws):
    """Mutable state goes from step to step, as with NumPyro's own loss."""
    pytest.importorskip("flax")
    row = linen_state_and_dropout()
    loss = as_numpyro_elbo(iwelbo, particles=2, draws=draws)
    svi = SVI(row.model, row.guide, numpyro.optim.Adam(0.01), loss=loss)
    result = svi.run(KEY, 20, *row.args, progress_bar=False)
    (mean, _) = jax.tree.leaves(result.state.mutable_state)
    assert mean.shape == (4,) and jnp.all(mean != 0)
    assert jnp.isfinite(result.losses).all()


def test_numpyros_own_loss_is_not_a_builder():
    for wrong in (Trace_ELBO, Trace_ELBO(), "elbo"):
        with pytest.raises(TypeError, match=r"as_numpyro_elbo\(ppgen.inference.elbo\)"):
            as_numpyro_elbo(wrong)


def test_a_missing_parameter_is_named():
    with pytest.raises(ppgen.errors.SiteError, match="scale"):
        as_numpyro_elbo(elbo).loss(KEY, {"loc": jnp.zeros(())}, model, guide, 1.0)
