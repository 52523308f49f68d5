"""Networks that predict noise, and scores of images."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from ppgen.models.parts.metrics.baselines import gaussian_denoising_error
from ppgen.models.parts.metrics.distances import frechet_distance, neighbour_accuracy
from ppgen.models.parts.networks import DenoisingMLP, DenoisingUNet, sinusoidal_features


@pytest.mark.parametrize(
    "net",
    [
        DenoisingMLP(64, features=4, hidden=16, key=jax.random.key(0)),
        DenoisingUNet((8, 8), features=4, channels=8, key=jax.random.key(0)),
    ],
    ids=["mlp", "unet"],
)
def test_networks_read_everything_in_the_precision_of_their_weights(net):
    # The U-Net starts at zero: move its weights, to see what they read.
    net = jax.tree.map(lambda a: a + 0.03 if eqx.is_inexact_array(a) else a, net)
    x, image = jax.random.normal(jax.random.key(1), (2, 64))
    inputs = (x, jnp.array(0.3), image, jnp.arange(4.0))
    run = eqx.filter_jit(lambda net, *inputs: net(*inputs))
    out = run(net, *inputs)
    assert out.shape == (64,) and out.dtype == jnp.float32
    for i, changed in enumerate([x[::-1], jnp.array(0.301), image[::-1], jnp.ones(4)]):
        other = run(net, *inputs[:i], changed, *inputs[i + 1 :])
        assert np.abs(other - out).max() > 1e-5
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, net)
    low = run(half, *inputs)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), out, atol=0.1 * np.abs(out).max())


def test_the_unet_halves_what_can_be_halved():
    with pytest.raises(ValueError, match="multiples of 4"):
        DenoisingUNet((10, 8), key=jax.random.key(0))
    with pytest.raises(ValueError, match="multiple of 8"):
        DenoisingUNet((8, 8), channels=12, key=jax.random.key(0))
    net = eqx.filter_eval_shape(lambda key: DenoisingUNet((28, 28), key=key), jax.random.key(0))
    flat = jax.ShapeDtypeStruct((784,), jnp.float32)
    time, features = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((), (1,)))
    assert eqx.filter_eval_shape(net, flat, time, flat, features).shape == (784,)


def test_time_features_tell_neighbouring_levels_apart():
    rows = jax.vmap(lambda t: sinusoidal_features(t, 16))(jnp.arange(1, 1001) / 1000)
    gaps = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    assert rows.shape == (1000, 32) and gaps.min() > 0.5
    low = sinusoidal_features(jnp.array(0.999, jnp.bfloat16), 4)
    assert low.dtype == jnp.float32


def test_the_frechet_distance_is_the_formula_and_sees_two_moments_only():
    random = np.random.RandomState(0)
    a, b = random.normal(size=(500, 3)), random.normal(size=(400, 3)) @ random.normal(size=(3, 3))
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    x = random.choice([-1.0, 1.0], size=(800, 2))
    y = random.normal(size=(800, 2))
    assert frechet_distance(x, y) < 0.02 and neighbour_accuracy(x + 0.01 * y, y) > 0.8
    with pytest.raises(ValueError, match="of one size"):
        neighbour_accuracy(a, b)


def test_the_error_of_a_gaussian_denoiser_is_that_of_its_draws():
    random = np.random.RandomState(0)
    train, images = random.normal(size=(50, 3)) @ random.normal(size=(3, 3)), np.ones((2, 3))
    logs, draws = np.log([0.9, 0.2]), 50_000
    mean, covariance = train.mean(0), np.cov(train.T)
    total, error = np.zeros(2), np.zeros(2)
    for kept in np.exp(logs):
        noise = random.normal(size=(draws, 2, 3))
        x_t = np.sqrt(kept) * images + np.sqrt(1 - kept) * noise
        matrix = np.sqrt(1 - kept) * np.linalg.inv(kept * covariance + (1 - kept) * np.eye(3))
        losses = ((noise - (x_t - np.sqrt(kept) * mean) @ matrix) ** 2).sum(-1)
        total, error = total + losses.mean(0) / 2, error + losses.var(0) / draws / 4
    found = gaussian_denoising_error(train, images, logs)
    assert (np.abs(found - total) < 5 * np.sqrt(error)).all()
    # Zeros have one for each pixel.
    assert gaussian_denoising_error(train, train, logs).mean() < 3
