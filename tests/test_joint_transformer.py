"""Attention over two streams of tokens: what is tied, what is permuted, what is normalised."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import stirred

from ppgen.models.parts.networks import JointTransformer

KEY = jax.random.key(7)
keys = jax.random.split(jax.random.key(1), 3)
IMAGE, TEXT = jax.random.normal(keys[0], (5, 3)), jax.random.normal(keys[1], (4, 3))
FEATURES = jax.random.normal(keys[2], (2,))


def small(**options):
    sizes = {"features": 2, "width": 8, "depth": 2, "heads": 2} | options
    return JointTransformer(3, 3, 4, **sizes, key=jax.random.key(0))


def tied(net):
    """The text's weights are the image's: those that the last block lacks stay away."""

    def without_outputs(stream):
        return eqx.tree_at(lambda s: (s.project, s.perceptron), stream, replace=(None, None))

    blocks = [
        eqx.tree_at(
            lambda b: b.text, b, b.image if b.text.project is not None else without_outputs(b.image)
        )
        for b in net.blocks
    ]
    return eqx.tree_at(lambda n: (n.word, n.blocks), net, (net.first, blocks))


@pytest.mark.parametrize("normalised", [True, False])
def test_tied_streams_are_one_stream_of_all_tokens(normalised):
    net = stirred(small(normalised=normalised), KEY)
    run = lambda net, *parts: net(*parts, FEATURES)  # noqa: E731
    together = run(tied(net), jnp.concatenate([IMAGE, TEXT]), jnp.zeros((0, 3)))[:5]
    np.testing.assert_allclose(run(tied(net), IMAGE, TEXT), together, rtol=1e-4, atol=1e-5)
    # The power of it: streams that are not tied are not one.
    assert jnp.abs(run(net, IMAGE, TEXT) - together).max() > 1e-2


def test_words_without_places_may_be_permuted_and_are_all_seen():
    net = stirred(small(), KEY)
    run = eqx.filter_jit(lambda image, text: net(image, text, FEATURES))
    found = run(IMAGE, TEXT)
    np.testing.assert_allclose(run(IMAGE, TEXT[::-1]), found, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(IMAGE[::-1], TEXT)[::-1], found, rtol=1e-4, atol=1e-5)
    for i in range(4):
        assert (jnp.abs(run(IMAGE, TEXT.at[i].add(1.0)) - found).max(1) > 1e-4).all()
    assert run(IMAGE[:1], TEXT[:1]).shape == (1, 4)
    told = net(IMAGE, TEXT, FEATURES + 1)
    assert jnp.abs(told - found).max() > 1e-3


def scaled(net, factor):
    """Queries, or keys, of the first block's image, times a factor."""
    rows = jnp.where(jnp.arange(24) < 8, factor, 1.0)
    attend = net.blocks[0].image.attend
    attend = eqx.tree_at(
        lambda a: (a.weight, a.bias), attend, (attend.weight * rows[:, None], attend.bias * rows)
    )
    return eqx.tree_at(lambda n: n.blocks[0].image.attend, net, attend)


def test_the_size_of_queries_does_not_matter_where_they_are_normalised():
    for normalised in (True, False):
        net = stirred(small(normalised=normalised), KEY)
        gap = jnp.abs(scaled(net, 7.0)(IMAGE, TEXT, FEATURES) - net(IMAGE, TEXT, FEATURES)).max()
        assert (gap < 1e-4) == normalised


@pytest.mark.long
def test_it_begins_as_the_identity_and_computes_in_the_precision_of_its_weights():
    net = small()
    deep = small(depth=3)
    # Whatever the text and the features: the gates are closed.
    found = net(IMAGE, TEXT, FEATURES)
    np.testing.assert_array_equal(found, net(IMAGE, TEXT[:2] + 1, 0 * FEATURES))
    direct = jax.vmap(lambda x: net.last(net.norm(net.first(x))))(IMAGE)
    np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-6)
    assert deep.blocks[-1].text.project is None and deep.blocks[0].text.project is not None
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), stirred(net, KEY))
    assert half(IMAGE, TEXT, FEATURES).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda w: w.astype(jnp.float64), stirred(net, KEY))
        assert wide(IMAGE, TEXT, FEATURES).dtype == jnp.float64
    with pytest.raises(ValueError, match="multiple of 2 heads"):
        small(width=7)
