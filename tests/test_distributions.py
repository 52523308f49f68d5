"""Taking distributions apart and putting them together again."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import zoo
from numpyro.distributions import constraints, transforms
from numpyro.distributions.flows import InverseAutoregressiveTransform

from ppgen._distributions.rebuild import flatten
from ppgen._distributions.wrappers import split_event, split_mask, without_masks


@pytest.mark.parametrize("name", sorted(zoo.ALL))
def test_flatten_and_build(name):
    """Everything traced is a leaf, and what is built of the leaves computes the same."""
    make, theta = zoo.ALL[name]
    value = make(*theta).support.feasible_like(jnp.zeros(make(*theta).shape()))
    kept = []

    def through(*theta):
        d = make(*theta)
        leaves, structure = flatten(d)
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        assert len({id(leaf) for leaf in leaves}) == len(leaves)
        kept.append(structure)
        built = structure.build(leaves)
        assert type(built) is type(d)
        assert (built.batch_shape, built.event_shape) == (d.batch_shape, d.event_shape)
        return leaves, built.log_prob(value)

    def direct(*theta):
        d = make(*theta)
        return flatten(d)[0], d.log_prob(value)

    args = [jnp.asarray(t) for t in theta]
    assert str(jax.make_jaxpr(through)(*args)) == str(jax.make_jaxpr(direct)(*args))
    # No tracer is left in the structure: it works after the trace has ended, and in another one.
    leaves, _ = jax.eval_shape(direct, *args)
    jax.eval_shape(lambda leaves: kept[0].build(leaves).log_prob(value), leaves)


def test_what_must_be_static_stays():
    """Python scalars, NumPy arrays and declared total counts are no leaves."""
    leaves, structure = flatten(dist.Normal(0.0, jnp.ones(3)))
    assert len(leaves) == 1
    assert isinstance(structure.build(leaves).loc, np.ndarray)  # NumPyro reshapes it
    d = dist.Multinomial(jnp.array(3), probs=jnp.array([0.5, 0.5]))
    leaves, structure = flatten(d)
    assert len(leaves) == 1
    assert (
        jax.jit(lambda leaves: structure.build(leaves).sample(jax.random.key(0)))(leaves).sum() == 3
    )
    leaves, structure = flatten(dist.Binomial(3, probs=jnp.full(2, 0.5)))
    support = jax.jit(lambda leaves: structure.build(leaves).enumerate_support())(leaves)
    assert support.shape == (4, 2)


def test_leaves_are_unique():
    """A parameter that a distribution holds several times is one operand."""
    assert len(flatten(dist.LogNormal(jnp.zeros(2), jnp.ones(2)))[0]) == 2


def test_cached_values_are_not_kept():
    """Nothing computed from the old parameters survives in a distribution with new ones."""
    d = dist.BernoulliLogits(jnp.zeros(()))
    assert d.probs == 0.5  # NumPyro caches it on the instance
    leaves, structure = flatten(d)
    assert len(leaves) == 1
    np.testing.assert_allclose(structure.build([jnp.array(np.log(3.0))]).probs, 0.75, rtol=1e-6)


class Undeclared(dist.Distribution):
    """A user's distribution that tells NumPyro nothing of itself."""

    support = constraints.real

    def __init__(self, net, data):
        self.net, self.data = net, data
        super().__init__((), ())

    def sample(self, key, sample_shape=()):
        loc = self.net(self.data["x"])
        return loc + jax.random.normal(key, sample_shape)

    def log_prob(self, value):
        return dist.Normal(self.net(self.data["x"]), 1.0).log_prob(value)


class Net(eqx.Module):
    """A module with a static part."""

    weight: jax.Array
    name: str = eqx.field(static=True, default="net")

    def __call__(self, x):
        return self.weight * x


def scale(weight, x):
    """For partial application."""
    return weight * x


def nets(w):
    """Ways of holding a parameter."""

    def defaults(x, w=w):
        return w * x

    def keyword_defaults(x, *, w=w):
        return w * x

    def recursive(x, depth=2):
        return w * x if depth == 0 else recursive(x, depth - 1)

    return {
        "module": Net(w),
        "partial": functools.partial(scale, w),
        "keyword": functools.partial(lambda x, weight: weight * x, weight=w),
        "jax_partial": jax.tree_util.Partial(scale, w),
        "closure": lambda x: w * x,
        "nested_closure": lambda x: (lambda y: Net(w)(y))(x),
        "defaults": defaults,
        "keyword_defaults": keyword_defaults,
        "method": Net(w).__call__,
        "recursive": recursive,
    }


@pytest.mark.parametrize("kind", nets(1.0))
def test_undeclared_attributes(kind):
    """Whatever a distribution holds its parameters in."""

    @jax.jit
    def through(w, x):
        leaves, structure = flatten(Undeclared(nets(w)[kind], {"x": x, "label": "a"}))
        assert len(leaves) == 2
        hidden = structure.build([2 * leaf for leaf in leaves])
        assert hidden.data["label"] == "a"
        return hidden.log_prob(7.0)

    np.testing.assert_allclose(through(1.5, 2.0), dist.Normal(12.0, 1.0).log_prob(7.0), rtol=1e-6)


def test_flows_and_inverses():
    """The networks of flows, and transforms that refer to their inverse."""

    def make(w):
        def network(x):
            return jnp.zeros_like(x), w * jnp.ones_like(x)

        base = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        return dist.TransformedDistribution(
            base,
            [
                transforms.AffineTransform(w, 1.0).inv,
                InverseAutoregressiveTransform(network),
            ],
        )

    value = jnp.array([0.1, 0.2])

    def through(w):
        leaves, structure = flatten(make(w))
        return structure.build(leaves).log_prob(value)

    assert jax.jit(through)(0.3) == jax.jit(lambda w: make(w).log_prob(value))(0.3)
    gradient = jax.grad(through)(0.3)
    np.testing.assert_allclose(gradient, jax.grad(lambda w: make(w).log_prob(value))(0.3))
    assert gradient != 0


def test_structures_are_hashable():
    """By identity, so that they can be parameters of a primitive."""
    a, b = (flatten(dist.Normal(np.zeros(2), jnp.ones(2)))[1] for _ in range(2))
    assert hash(a) == hash(a) and a == a and a != b
    assert repr(a) == "Structure(Normal)"


def test_keys_are_leaves():
    """A key in a distribution is an array like others."""
    leaves, structure = flatten(Undeclared(Net(jnp.ones(())), {"x": jax.random.key(0)}))
    assert any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)


def test_split_mask():
    """Masks around a distribution, through expansion, and their conjunction."""
    a, b = jnp.array([True, False]), jnp.array([True, True])
    d = dist.Normal(jnp.zeros(2), 1.0)
    assert split_mask(d) == (d, None)
    bare, mask = split_mask(d.mask(a))
    assert bare is d and mask is not None
    np.testing.assert_array_equal(split_mask(d.mask(a).mask(b))[1], a & b)
    bare, mask = split_mask(d.mask(a).expand([3, 2]))
    assert bare.batch_shape == (3, 2) and not isinstance(bare, dist.MaskedDistribution)
    assert jnp.broadcast_shapes(mask.shape, bare.batch_shape) == (3, 2)
    assert split_mask(d.mask(False).mask(a))[1] is False
    np.testing.assert_array_equal(split_mask(d.mask(True).mask(a))[1], a)


def test_split_mask_within_event():
    """A mask of elements of an event cannot be told per batch element: it stays."""
    d = dist.Normal(jnp.zeros((3, 2)), 1.0)
    masked = d.mask(jnp.array([True, False])).to_event(1)
    assert split_mask(masked) == (masked, None)
    bare, mask = split_mask(d.mask(False).to_event(1))
    assert mask is False and bare.event_shape == (2,)
    assert isinstance(bare.base_dist, dist.Normal)
    bare = without_masks(masked)
    assert isinstance(bare.base_dist, dist.Normal) and bare.event_shape == (2,)
    assert without_masks(d) is d
    assert isinstance(without_masks(d.mask(True).expand([4, 3, 2])).base_dist, dist.Normal)


def test_split_event():
    """Nested, and under an expansion."""
    d = dist.Normal(jnp.zeros((2, 3, 4)), 1.0)
    assert split_event(d) == (d, 0)
    assert split_event(d.to_event(1).to_event(1)) == (d, 2)
    elementwise, n = split_event(dist.ExpandedDistribution(d.to_event(2), (5, 2)))
    assert n == 2 and elementwise.batch_shape == (5, 2, 3, 4)
    d = dist.MultivariateNormal(jnp.zeros((2, 3)), jnp.eye(3)).to_event(1)
    elementwise, n = split_event(d)
    assert n == 1 and elementwise.event_shape == (3,)
