"""Latent representations of the VAE: laws against enumeration and quadrature."""

from __future__ import annotations

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.special
from numpyro.distributions.kl import kl_divergence

import ppgen
from ppgen.inference import beta_elbo, dreg, elbo
from ppgen.models.parts.bounds import check_bounds
from ppgen.models.parts.data import Images
from ppgen.models.parts.distributions import VonMisesFisher
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.latents import CategoricalLatent, FlowLatent, HierarchicalLatent
from ppgen.models.parts.runs import fit_recipe
from ppgen.models.vae import VAE, observed, reconstruct, vae_guide, vae_model
from ppgen.models.vae.recipe import VAERecipe
from ppgen.testing import assert_unbiased, exact

X = jnp.array([0.0, 2.0])
KEY = jax.random.key(5)


class Frozen(ppgen.AbstractEstimator):
    """The planted bug: what is drawn does not move, and no score says so."""

    differentiable: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    biased: ClassVar[bool] = False
    first_order: ClassVar[bool] = False

    def misfit(self, dist):
        return None

    def __call__(self, key, dist):
        return ppgen.Points(dist.sample(key))


def tiny(latent, dimensions=2):
    """A VAE of two pixels with three levels, none of whose weights is special."""
    # A flow of wilder weights does not fit on the grid.
    spread = 0.2 if isinstance(latent, FlowLatent) else 0.4
    vae = VAE(
        pixels=2,
        levels=3,
        latent=latent,
        dimensions=dimensions,
        hidden=3,
        likelihood="logistic",
        key=jax.random.key(0),
    )
    leaves, treedef = jax.tree.flatten(eqx.filter(vae, eqx.is_inexact_array))
    keys = jax.random.split(KEY, len(leaves))
    moved = [x + spread * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, moved), vae)


def sphere(nodes=24):
    """Points on the unit sphere of R³, and the area that each stands for."""
    cosine, weight = np.polynomial.legendre.leggauss(nodes)
    turn = 2 * np.pi * (np.arange(2 * nodes) + 0.5) / (2 * nodes)
    sine = np.sqrt(1 - cosine**2)[:, None]
    z = [sine * np.cos(turn), sine * np.sin(turn), cosine[:, None] + 0 * turn]
    areas = np.repeat(weight * np.pi / nodes, 2 * nodes)
    return np.stack(z, -1).reshape(-1, 3), areas


def plane(reach=8.0, nodes=100):
    """Points of the plane, and the area that each stands for."""
    line = (np.arange(nodes) + 0.5) / nodes * 2 * reach - reach
    z = np.array(list(itertools.product(line, line)))
    return z, np.full(len(z), (2 * reach / nodes) ** 2)


def by_grid(grid, particles=1):
    """The exact ELBO, or bound of two particles, as sums over where z may be."""
    z, area = grid

    def bound(vae, x):
        def scores(z):
            choices = {"z": z.astype(float)}
            log_q = ppgen.log_density(vae_guide)(choices, vae, x)
            return log_q, ppgen.log_density(vae_model)(choices, vae, x)

        log_q, log_p = jax.vmap(scores)(jnp.asarray(z))
        mass, log_weight = area * jnp.exp(log_q), log_p - log_q
        if particles == 1:
            return jnp.sum(mass * log_weight)
        pairs = jnp.logaddexp(log_weight[:, None], log_weight) - jnp.log(2.0)
        return jnp.einsum("i,j,ij", mass, mass, pairs)

    return bound


def by_enumeration(objective=elbo):
    return exact(objective(vae_model, vae_guide))


CASES = {
    "gaussian": (("gaussian", 1), by_enumeration(), {}),
    "hierarchical": ((HierarchicalLatent(1, 2, key=KEY),), by_enumeration(), {}),
    "vmf": (("vmf", 3), by_grid(sphere()), {}),
    "flow": ((FlowLatent(2, 3, layers=2, context=1, key=KEY),), by_grid(plane()), {}),
    "binary": (("binary", 2), by_enumeration(), {"grad": "auto"}),
    "binary, antithetic": (("binary", 2), by_enumeration(), {"grad": ppgen.DisARM()}),
    "categorical": ((CategoricalLatent(2, 3),), by_enumeration(), {"grad": "auto"}),
    "categorical, leave one out": (
        (CategoricalLatent(2, 3),),
        by_enumeration(),
        {"grad": ppgen.ScoreFunction(), "draws": 4},
    ),
}
"""A latent representation, its exact ELBO, and how it is differentiated."""


@pytest.mark.sweep(of=4)
@pytest.mark.parametrize("name", CASES)
def test_the_elbo_and_its_gradient_are_unbiased(name):
    """In all weights of the networks. The planted bug is found."""
    latent, truth, how = CASES[name]
    vae = tiny(*latent)
    how = dict(how)
    estimator = how.pop("grad", None)
    guide = vae_guide
    if estimator is not None:
        guide = ppgen.with_estimators(vae_guide, {"z": estimator})

    with jax.enable_x64(True):
        value, slope = eqx.filter_jit(eqx.filter_value_and_grad(truth))(vae, X)

    def tangent(other, x):
        """What has this value and this gradient."""
        moved = jax.tree.map(
            lambda g, w: jnp.sum(g * (w - jax.lax.stop_gradient(w))),
            slope,
            eqx.filter(other, eqx.is_inexact_array),
        )
        return value + sum(jax.tree.leaves(moved))

    def check(guide, **options):
        bound = elbo(vae_model, guide)
        assert_unbiased(bound, vae, X, order=1, exact=tangent, samples=16_384, **options)

    check(guide, **how)
    with pytest.raises(AssertionError, match="biased"):
        check(ppgen.with_estimators(vae_guide, {"*": Frozen()}))


def test_dreg_is_unbiased_with_a_latent_direction():
    vae = tiny("vmf", 3)
    bound = dreg(vae_model, vae_guide, particles=2)
    assert_unbiased(bound, vae, X, order=1, exact=by_grid(sphere(14), 2), samples=8192)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(("name", "grid"), (("vmf", sphere()), ("flow", plane())))
def test_a_grid_holds_all_of_the_mass_and_the_evidence(name, grid):
    """The guide's densities sum to one, the model's to the mean weight of draws from the guide."""
    vae, (z, area) = tiny(*CASES[name][0]), grid

    @eqx.filter_jit
    def found(vae):
        def masses(z):
            programs = (vae_guide, vae_model)
            return [jnp.exp(ppgen.log_density(p)({"z": z}, vae, X)) for p in programs]

        sums = [area @ m for m in jax.vmap(masses)(jnp.asarray(z, float))]
        draw = ppgen.seed(ppgen.importance(vae_model, vae_guide, particles=20_000))
        return *sums, draw(KEY, vae, X).log_weights

    whole, evidence, log_weights = found(vae)
    np.testing.assert_allclose(whole, 1.0, rtol=1e-5)
    weights = np.exp(np.asarray(log_weights, np.float64))
    error = weights.std() / np.sqrt(len(weights))
    assert abs(weights.mean() - evidence) < 5 * error < 0.1 * evidence


def test_a_weight_of_the_divergence_counts_divergences():
    """It is β − 1 divergences below the ELBO."""
    vae = tiny("gaussian", 1)
    mean, log_variance = np.split(np.asarray(vae.encoder(X - 1)), 2)
    kl = float(0.5 * np.sum(mean**2 + np.exp(log_variance) - log_variance - 1))
    with jax.enable_x64(True):
        whole = float(by_enumeration()(vae, X))
        for beta in (0.5, 4.0):
            bound = beta_elbo(vae_model, vae_guide, beta=beta)
            assert abs(float(exact(bound)(vae, X)) - whole + (beta - 1) * kl) < 1e-5
    assert_unbiased(beta_elbo(vae_model, vae_guide, beta=4.0), vae, X, order=1, samples=8192)
    with pytest.raises(ValueError, match="negative"):
        beta_elbo(vae_model, vae_guide, beta=-1.0)


@pytest.mark.parametrize("latent", ("flow", "gaussian"))
def test_a_representation_draws_and_encodes_in_half_precision(latent):
    """About the same bound as in single precision, and gradients that are numbers."""
    vae = VAE(
        pixels=64,
        levels=17,
        latent=latent,
        dimensions=4,
        network="conv" if latent == "gaussian" else "mlp",
        shape=(8, 8),
        hidden=8,
        key=KEY,
    )
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, vae)
    image = jnp.asarray(np.random.RandomState(0).randint(0, 17, 64), float)
    bound = ppgen.expectation(elbo(vae_model, vae_guide))

    @eqx.filter_jit
    def both(vae):
        value, slope = eqx.filter_value_and_grad(lambda v: bound(KEY, v, observed(v, image)))(vae)
        return (
            value,
            slope,
            ppgen.seed(vae_model)(KEY, vae),
            ppgen.seed(reconstruct)(KEY, vae, image),
        )

    values = []
    for v in (vae, half):
        value, slope, drawn, rebuilt = both(v)
        values.append(value)
        norms = [float(jnp.abs(g).max()) for g in jax.tree.leaves(slope.encoder)]
        assert np.isfinite(norms).all() and max(norms) > 0
        assert drawn.shape == rebuilt.shape == (64,)
        assert 0 <= drawn.min() and drawn.max() <= 16
    assert abs(values[0] - values[1]) < 0.05 * abs(values[0])


@pytest.mark.sweep(of=5)
@pytest.mark.parametrize(
    "options",
    (
        {"network": "conv", "posterior": "flow"},
        {"latent": "vmf", "objective": "dreg"},
        {"latent": "binary", "objective": "vimco"},
        {"latent": "categorical", "classes": 3, "likelihood": "gaussian"},
        {"latent": "hierarchical", "beta": 2.0},
    ),
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_the_recipe_fits_and_scores(options):
    train = np.random.RandomState(0).randint(0, 5, (12, 16)).astype(np.float32)
    data = Images(train, train[:4], (4, 4), 5)
    recipe = VAERecipe(hidden=8, dimensions=2, **options)
    run = fit_recipe(recipe, data=data, steps=2, batch_size=4)
    table = run.figures(particles=2).table()
    assert "IWELBO-2" in table and "nan" not in table


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"latent": "vmf", "posterior": "flow"}, "--posterior flow needs --latent gaussian"),
        ({"latent": "binary", "objective": "dreg"}, "--objective dreg needs a latent vector that"),
        ({"beta": 2.0, "objective": "iwelbo"}, "--beta needs --objective elbo"),
        ({"beta": -1.0}, "--beta must be at least 0"),
        ({"latent": "vmf", "dimensions": 1}, "--dimensions must be at least 2"),
        ({"posterior": "flow", "dimensions": 1}, "--dimensions must be at least 2"),
        ({"latent": "categorical", "classes": 1}, "--classes must be at least 2"),
        ({"objective": "vimco", "particles": 1}, "--particles must be at least 2"),
    ),
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(CommandError, match=message):
        check_bounds(VAERecipe(**options))  # as the command does, of all options
        VAERecipe(**options).check()


def test_images_that_cannot_be_halved_are_refused_before_anything_is_fitted(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(30 * 12).reshape(30, 4, 3) % 5)
    with pytest.raises(CommandError, match="multiples of four, not 4x3"):
        VAERecipe(network="conv", data=tmp_path / "x.npy").load()


def test_convolutions_fit_28_pixels_and_refuse_what_cannot_be_halved():
    vae = VAE(pixels=784, levels=2, network="conv", shape=(28, 28), hidden=16, key=KEY)
    assert ppgen.seed(vae_model)(KEY, vae).shape == (784,)
    for shape, match in (((7, 4), "multiples of 4"), (None, "need the shape"), ((8, 8), "28")):
        with pytest.raises(ValueError, match=match):
            VAE(pixels=28, levels=2, network="conv", shape=shape, key=KEY)


def test_sizes_that_mean_nothing_are_refused():
    for latent, match in (("vmf", "two coordinates"), ("flow", "two dimensions")):
        with pytest.raises(ValueError, match=match):
            VAE(pixels=4, levels=2, latent=latent, dimensions=1, key=KEY)
    with pytest.raises(ValueError, match="two classes"):
        CategoricalLatent(3, 1)


def test_a_fresh_flow_is_the_diagonal_posterior():
    flow = FlowLatent(3, 4, key=KEY)
    h = jax.random.normal(KEY, (flow.statistics,))
    z = jnp.array([0.3, -1.0, 0.5])
    there = ppgen.log_density(flow.posterior)({"z": z}, h)
    scale = jnp.exp(0.5 * h[3:6])
    np.testing.assert_allclose(there, dist.Normal(h[:3], scale).log_prob(z).sum(), rtol=1e-5)


def test_dreg_refuses_flips():
    with pytest.raises(ppgen.PpgenError, match="pathwise"):
        ppgen.expectation(dreg(vae_model, vae_guide, particles=2))(KEY, tiny("binary"), X)


# --- the von Mises-Fisher distribution ------------------------------------------------------------

DIRECTION = np.array([0.36, -0.48, 0.8])


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("size", (2, 3, 16, 64))
def test_the_normaliser_is_a_bessel_function(size):
    at, order = np.array([0.5, 10.0, 300.0, 1e4]), size / 2 - 1
    bessel = scipy.special.ive(order, at)
    log_peak = order * np.log(at) - size / 2 * np.log(2 * np.pi) - np.log(bessel)
    ratio = scipy.special.ive(order + 1, at) / bessel

    @jax.jit
    @jax.vmap
    def found(k):
        pole = jnp.eye(size)[1]
        d = VonMisesFisher(pole, k)
        slope = jax.grad(lambda k: VonMisesFisher(pole, k).log_prob(pole))(k)
        return d.log_prob(pole), d.mean_cosine, d.entropy(), slope

    with jax.enable_x64(True):
        peak, cosine, entropy, slope = found(jnp.asarray(at))
    np.testing.assert_allclose(peak, log_peak, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cosine, ratio, rtol=1e-12)
    np.testing.assert_allclose(entropy, -log_peak + at * (1 - ratio), rtol=1e-9)
    np.testing.assert_allclose(slope, 1 - ratio, rtol=1e-7)
    single = found(jnp.asarray(at, jnp.float32))[0]
    np.testing.assert_allclose(single, log_peak, rtol=1e-5, atol=1e-5)


def test_a_concentration_of_zero_is_uniform():
    for size in (2, 3, 16):
        area = 2 * np.pi ** (size / 2) / scipy.special.gamma(size / 2)
        d = VonMisesFisher(jnp.eye(size)[0], 0.0)
        np.testing.assert_allclose(d.log_prob(jnp.eye(size)[1]), -np.log(area), rtol=1e-6)
        slope = jax.jit(jax.grad(lambda k, m=size: VonMisesFisher(jnp.eye(m)[0], k).entropy()))
        np.testing.assert_allclose(slope(0.0), 0.0, atol=1e-6)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize(("size", "concentration"), ((2, 1.0), (3, 0.0), (16, 30.0)))
def test_directions_are_drawn_as_they_are_scored(size, concentration):
    """The cosine has the distribution that is scored, and what is across it no direction."""
    n = 20_000
    pole = np.ones(size) / np.sqrt(size)
    d = VonMisesFisher(jnp.asarray(pole), concentration)
    z = np.asarray(jax.jit(lambda: d.sample(KEY, (n,)))(), np.float64)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
    cosine = np.linspace(-1, 1, 20_001)[1:-1]
    density = np.exp(concentration * (cosine - 1)) * (1 - cosine**2) ** ((size - 3) / 2)
    mass = np.cumsum(density) / density.sum()
    rank = np.interp(z @ pole, cosine, mass)
    # Kolmogorov and Smirnov: beyond 2.4 / √n with a probability of 2e-5; .005 of the sum above.
    assert np.abs(np.sort(rank) - (np.arange(n) + 0.5) / n).max() < 2.4 / np.sqrt(n) + 0.005
    across = z - (z @ pole)[:, None] * pole
    moments = across.mean(0)
    assert (np.abs(moments) < 5 * across.std(0) / np.sqrt(n) + 1e-6).all()


def test_what_is_not_finite_is_drawn_all_the_same():
    """Else a fit that diverges would wait for an acceptance for ever, rather than say so."""
    pole = jnp.array([0.0, 0.0, 1.0])
    draw = jax.jit(lambda k: VonMisesFisher(pole, k).sample(KEY))
    np.testing.assert_array_equal(draw(jnp.inf), pole)
    assert np.isnan(draw(jnp.nan)).all()
    mixed = jax.jit(jax.vmap(draw))(jnp.array([jnp.nan, 3.0]))
    assert np.isnan(mixed[0]).all() and np.isfinite(mixed[1]).all()


def test_the_distribution_function_stays_where_a_direction_was_drawn():
    """The implicit derivative of the angle: quantiles are held, from both sides of the mode."""
    pole = jnp.array([0.0, 0.0, 1.0])

    def angle(k):
        z = VonMisesFisher(pole, k).sample(KEY, (200,))
        return jnp.arccos(jnp.clip(z @ pole, -1, 1))

    with jax.enable_x64(True):
        pole = pole.astype(float)
        value, moved = jax.jit(lambda *a: jax.jvp(angle, *a))(
            (jnp.asarray(3.0),), (jnp.asarray(1.0),)
        )
        # For size 3 the mass below an angle is (1 - exp(κ (cos θ - 1))) / (1 - exp(-2κ)).

        def mass(t, k):
            return -jnp.expm1(k * (jnp.cos(t) - 1)) / -jnp.expm1(-2 * k)

        by_angle, by_k = jax.vmap(jax.grad(mass, (0, 1)), (0, None))(value, 3.0)
        np.testing.assert_allclose(moved, -by_k / by_angle, rtol=1e-7)


def cost_of_direction(parameters):
    mean, concentration = parameters[:3], parameters[3]
    z = ppgen.draw(VonMisesFisher(mean / jnp.linalg.norm(mean), concentration), name="z")
    return jnp.exp(z @ jnp.array([0.5, -1.0, 0.3])) + z[0] * z[1]


def test_gradients_and_hessians_of_directions_are_unbiased():
    z, area = sphere()

    def truth(parameters):
        mean = parameters[:3] / jnp.linalg.norm(parameters[:3])
        mass = jnp.exp(VonMisesFisher(mean, parameters[3]).log_prob(jnp.asarray(z))) * area
        cost = jnp.exp(z @ jnp.array([0.5, -1.0, 0.3])) + z[:, 0] * z[:, 1]
        return jnp.sum(mass * cost)

    at = jnp.array([*1.3 * DIRECTION, 2.5])
    assert_unbiased(cost_of_direction, at, exact=truth, samples=20_000)
    frozen = ppgen.with_estimators(cost_of_direction, {"z": Frozen()})
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(frozen, at, exact=truth, order=1)


def test_the_divergence_of_directions_is_in_closed_form():
    z, area = sphere()
    p = VonMisesFisher(jnp.asarray(DIRECTION), 3.0)
    q = VonMisesFisher(jnp.array([0.0, 1.0, 0.0]), 0.7)
    log_p, log_q = p.log_prob(jnp.asarray(z)), q.log_prob(jnp.asarray(z))
    np.testing.assert_allclose(
        kl_divergence(p, q), jnp.sum(area * jnp.exp(log_p) * (log_p - log_q)), rtol=1e-4
    )

    def model():
        numpyro.sample("z", q)

    def guide():
        numpyro.sample("z", p)

    bound = ppgen.expectation(elbo(model, guide, analytic_kl=True))(KEY)
    np.testing.assert_allclose(bound, -kl_divergence(p, q), rtol=1e-6)


def test_directions_come_in_batches():
    mean = jnp.stack([jnp.eye(3)[0], jnp.eye(3)[1]])
    d = VonMisesFisher(mean, jnp.array([[1.0], [50.0], [200.0]]))
    assert d.batch_shape == (3, 2) and d.event_shape == (3,)
    z = jax.jit(lambda: d.sample(KEY, (4,)))()
    assert z.shape == (4, 3, 2, 3) and d.log_prob(z).shape == (4, 3, 2)
    draw = jax.jit(jax.vmap(lambda k: VonMisesFisher(mean[0], k).sample(KEY)))
    one = draw(jnp.array([1.0, 9.0]))
    assert one.shape == (2, 3)
    with pytest.raises(ValueError, match="two coordinates"):
        VonMisesFisher(jnp.ones(1), 1.0)
