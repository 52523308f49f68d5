"""What the search for discontinuities must not find, and what must not hide them from it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import ppgen
from ppgen.inference import elbo


def test_a_result_that_nobody_uses():
    """`logsumexp` computes a sign in passing."""

    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0).expand([3]), name="x")
        jnp.floor(x)
        return jax.nn.logsumexp(x)

    gradient = jax.grad(ppgen.expectation(f), argnums=1)(jax.random.key(0), 0.3)
    assert jnp.allclose(gradient, 1.0)


def test_the_support_of_a_density():
    """A uniform density is an indicator, in a function that JAX compiles of its own."""

    def model(theta):
        numpyro.sample("u", dist.Uniform(0.0, 5.0))

    def guide(theta):
        numpyro.sample("u", dist.Uniform(0.0, jnp.asarray(theta)))

    g = ppgen.expectation(elbo(model, guide))
    assert jnp.allclose(g(jax.random.key(0), 0.5), jnp.log(0.5 / 5))
    assert jnp.allclose(jax.grad(g, argnums=1)(jax.random.key(0), 0.5), 2.0)


@pytest.mark.parametrize("scope", ["sample", "log_prob", "resample"])
def test_a_scope_of_the_user(scope):
    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        with jax.named_scope(scope):
            return jnp.floor(x)

    with pytest.raises(ppgen.PpgenError, match="floor"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


def test_the_line_of_what_jax_compiles_of_its_own():
    """JAX keeps no line inside of its functions: the line of the call is named."""

    def f(theta):
        b = ppgen.draw(dist.Bernoulli(theta), name="b")
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        return b * jnp.where(x > 0, 1.0, 0.0)

    with pytest.raises(ppgen.PpgenError, match=r"at .*test_discontinuity\.py:\d+:"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


@pytest.mark.parametrize(
    ("jump", "what"),
    [
        (lambda x: jnp.arctan2(x - 1.0, x - 2.0), "branch cut"),
        (lambda x: jax.lax.rem(5.0, x), "a remainder"),
    ],
)
def test_jumps_of_either_operand(jump, what):
    """Pathwise, E[angle] would miss the jump where the second coordinate is negative."""

    def f(theta):
        return jump(ppgen.draw(dist.Normal(theta, 1.0), name="x"))

    with pytest.raises(ppgen.PpgenError, match=what):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


# --- random and moving ----------------------------------------------------------------------------

KEY = jax.random.key(0)


def normal(loc, grad=None, shape=()):
    return ppgen.draw(dist.Normal(loc * jnp.ones(shape), 1.0), name="x", grad=grad)


REFUSED = {
    "one_hot": lambda t: jax.nn.one_hot((normal(t) > 0).astype(int), 2)[1],
    "count": lambda t: jnp.where(jnp.sum(normal(t, shape=(2,)) > 0) == 2, 1.0, 0.0),
    "largest": lambda t: (lambda v: (v == v.max())[1] * 1.0)(normal(t, shape=(2,))),
    "top_k": lambda t: jax.lax.top_k(normal(t, shape=(2,)), 1)[1][0] * 1.0,
    "any": lambda t: jnp.any(normal(t, shape=(2,)) > 0) * 1.0,
    "atom": lambda t: jnp.where(jax.nn.relu(normal(t)) == 0, 1.0, 0.0),
    "finite": lambda t: jnp.where(jnp.isfinite(jnp.log(normal(t))), 1.0, 0.0),
    "update": lambda t: jnp.zeros(2).at[(normal(t) > 0).astype(int)].set(1.0)[1],
    "key": lambda t: jax.random.normal(
        jax.random.fold_in(jax.random.key(0), (normal(t) > 0).astype(int))
    ),
    "parameter": lambda t: jnp.sum(ppgen.draw(dist.Bernoulli((normal(t) > 0) * 0.5))),
    "unknown_primitive": lambda t: jax.lax.nextafter(normal(t), 1.0),
    "in_a_density": lambda t: ppgen.log_density(
        lambda v: numpyro.sample("b", dist.Bernoulli(0.3), obs=v)
    )({}, normal(t) > 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_suspect_numbers(name):
    with pytest.raises(ppgen.errors.DiscontinuityError):
        ppgen.expectation(REFUSED[name])(KEY, 0.3)


FROZEN = [ppgen.ScoreFunction(), ppgen.MeasureValued()]


@pytest.mark.parametrize("grad", FROZEN)
def test_a_frozen_value_meets_a_parameter(grad):
    """Freezing the choice is no remedy where the jump moves; the message says what is."""

    def f(theta):
        return jnp.where(normal(0.0, grad) < theta, 1.0, 0.0)

    with pytest.raises(ppgen.errors.DiscontinuityError, match="probability") as info:
        jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3)
    assert "assume_continuous" in info.value.instead and ".cdf(theta)" in info.value.instead
    with pytest.raises(ppgen.errors.DiscontinuityError, match="probability"):
        jax.grad(ppgen.expectation(lambda t: (normal(t) < 2 * t) * 1.0), argnums=1)(KEY, 0.3)


def slope(f, theta, **options):
    g = jax.grad(ppgen.expectation(f, draws=20_000, **options), argnums=1)
    return float(g(KEY, theta))


@pytest.mark.parametrize("grad", FROZEN)
def test_the_advice_is_right(grad):
    """What the messages recommend has the slope of the closed form, the density of a normal."""
    exact = float(jnp.exp(dist.Normal(0.0, 1.0).log_prob(0.3)))
    advised = {
        "at the site": lambda t: jnp.where(normal(t, grad) > 0, 1.0, 0.0),
        "a count": lambda t: jnp.where(jnp.sum(normal(t, grad, (1,)) > 0) == 1, 1.0, 0.0),
        "an index": lambda t: jnp.zeros(2).at[(normal(t, grad) > 0).astype(int)].set(1.0)[1],
        "in the distribution": lambda t: jnp.where(normal(0.0 - t, grad) < 0, 1.0, 0.0),
        "a probability": lambda t: dist.Normal(0.0, 1.0).cdf(t),
    }
    for name, f in advised.items():
        assert abs(slope(f, 0.3) - exact) < 0.03, name


def pair(t, grad):
    return ppgen.draw(dist.Normal(jnp.array([0.0, 1.0]) * t, 1.0), grad=grad)


def largest(v):
    # (Not `v == v.max()`: a compiler may compute `v` twice, with two roundings.)
    return (jnp.argmax(v) == 1) * 1.0


# A jump of each kind that a pathwise choice must not reach: the objective, given the choice's
# estimator, and its mean.
KINDS = {
    "one_hot": (lambda t, e: jax.nn.one_hot((normal(t, e) > 0).astype(int), 2)[1], norm.cdf),
    "atom": (
        lambda t, e: jnp.where(jax.nn.relu(normal(t, e)) == 0, 1.0, 0.0),
        lambda t: norm.cdf(-t),
    ),
    "finite": (lambda t, e: jnp.where(jnp.isfinite(jnp.log(normal(t, e))), 1.0, 0.0), norm.cdf),
    "count": (
        lambda t, e: jnp.where(jnp.sum(normal(t, e, (2,)) > 0) == 2, 1.0, 0.0),
        lambda t: norm.cdf(t) ** 2,
    ),
    "largest": (lambda t, e: largest(pair(t, e)), lambda t: norm.cdf(t / 2**0.5)),
    "position": (
        lambda t, e: jax.nn.one_hot(jax.lax.top_k(pair(t, e), 1)[1][0], 2)[1],
        lambda t: norm.cdf(t / 2**0.5),
    ),
    "support": (
        lambda t, e: jnp.exp(scored(dist.Exponential(1.0, validate_args=True), normal(t, e))),
        lambda t: jnp.exp(0.5 - t) * norm.cdf(t - 1),
    ),
}


@pytest.mark.parametrize("advised", FROZEN)
def test_the_advice_for_each_kind_is_right(advised):
    """Each is refused by default, names what is advised, and is right with that."""
    for f, _ in KINDS.values():
        with pytest.raises(ppgen.errors.DiscontinuityError) as info:
            ppgen.expectation(lambda t: f(t, None))(KEY, 0.3)  # noqa: B023
        assert f"{type(advised).__name__}() " in info.value.instead

    def slopes(key, t):
        each = [ppgen.expectation(lambda t, f=f: f(t, advised)) for f, _ in KINDS.values()]
        return jnp.stack([jax.grad(g, argnums=1)(key, t) for g in each])

    compiled = jax.jit(jax.vmap(slopes, (0, None)))
    draws = np.asarray(compiled(jax.random.split(KEY, 20_000), 0.3))
    exact = np.array([jax.grad(mean)(0.3) for _, mean in KINDS.values()])
    z = (draws.mean(0) - exact) / (draws.std(0) / 20_000**0.5)
    assert (abs(z) < 4.5).all(), dict(zip(KINDS, z, strict=True))


@pytest.mark.parametrize(
    "f",
    [
        lambda t: jnp.floor(t) + t,
        lambda t: jnp.where(normal(0.3, ppgen.ScoreFunction()) > 0, t, 2 * t),
        lambda t: jnp.where(ppgen.draw(dist.Bernoulli(0.3)) == 1, t, 2 * t),
        lambda t: (ppgen.draw(dist.Poisson(2.0)) < t) * t,
        lambda t: jnp.maximum(normal(0.0, ppgen.ScoreFunction()), t),
        lambda t: (lambda x: jnp.where(x > 0, x, 0.0) + jax.nn.softplus(x))(normal(t)),
        lambda t: jnp.sum(jnp.sort(normal(t, shape=(3,)))[:2]),
        lambda t: ppgen.assume_continuous(jnp.sign(normal(t))) * normal(t),
        lambda t: jnp.where(ppgen.assume_continuous(normal(t) > 0), 1.0, 2.0),
    ],
)
def test_what_is_not_random_and_moving_may_jump(f):
    assert jnp.isfinite(jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3))


@pytest.mark.parametrize(
    "waiting", [lambda t: dist.Geometric(0.4 + 0.2 * t), lambda t: dist.Geometric(logits=t)]
)
def test_counts_that_are_floating_point_numbers_have_no_density(waiting):
    """NumPyro gives waiting times as floats: they meet a parameter at single points only."""

    def cost(z, t):
        return jnp.floor(0.37 * z + t) * (1.0 + t) + (z > t) * z

    def program(t):
        return cost(ppgen.draw(waiting(t), grad=ppgen.ScoreFunction()), t)

    def exact(t):
        z = jnp.arange(200.0)
        return jnp.sum(jnp.exp(waiting(t).log_prob(z)) * cost(z, t))

    gradient = jax.grad(ppgen.expectation(program), argnums=1)
    draws = jax.jit(jax.vmap(gradient, (0, None)))(jax.random.split(KEY, 20_000), 0.3)
    error = draws.std() / 20_000**0.5
    assert abs(draws.mean() - jax.grad(exact)(0.3)) < 4.5 * error


# --- poles and functions of JAX that jump ---------------------------------------------------------


def _pair(x):
    return jnp.stack([x, 1.0 + x * x, 0.5])


def _forward(f):
    """`f` with the derivative of the identity, in forward mode."""
    g = jax.custom_jvp(f)
    g.defjvp(lambda x, t: (f(x[0]), t[0]))
    return g


def _reverse(f):
    """`f` with the derivative of the identity, in reverse mode."""
    g = jax.custom_vjp(f)
    g.defvjp(lambda x: (f(x), None), lambda _, ct: (ct,))
    return g


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x / jnp.abs(x),
        lambda x: x / jnp.sqrt(x * x),
        lambda x: x / jnp.linalg.norm(x[None]),
        lambda x: x * jax.lax.rsqrt(x**2),
        lambda x: x * jnp.abs(x) ** -1.0,
        lambda x: jnp.abs(x) * x**-1,
        lambda x: jnp.arctan(1.0 / x),
        lambda x: jnp.arctan(jnp.tan(x)),
        lambda x: jnp.tanh(jax.scipy.special.digamma(x)),
        lambda x: jnp.heaviside(x, 0.5),
        lambda x: jnp.heaviside(jax.nn.relu(x) - 0.2, 0.5),
        lambda x: jnp.frexp(x)[0],
        lambda x: jnp.linalg.slogdet(x[None, None])[0],
        lambda x: jnp.linalg.slogdet(jnp.diag(_pair(x)))[0],
    ],
)
def test_a_pole_and_a_function_of_jax_that_jumps(f):
    with pytest.raises(ppgen.errors.DiscontinuityError):
        jax.grad(ppgen.expectation(lambda t: f(normal(t))), argnums=1)(KEY, 0.3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x / (1.0 + x * x) + x / jnp.cosh(x) + 1.0 / jax.nn.sigmoid(x),
        lambda x: x / jax.nn.softplus(x) + jax.nn.gelu(x) + jax.nn.relu6(x) + jax.nn.silu(x),
        lambda x: _pair(x)[0] / jnp.linalg.norm(_pair(x)),
        lambda x: jnp.sum(_pair(x)) / jnp.sqrt((lambda v: v @ v)(_pair(x))),
        lambda x: ((_pair(x) - _pair(x).mean()) / jnp.sqrt(_pair(x).var() + 1e-5))[0],
        lambda x: jax.nn.softmax(_pair(x))[0] + jax.nn.standardize(_pair(x))[0],
        lambda x: jnp.exp(_pair(x))[0] / jnp.sum(jnp.exp(_pair(x))),
        lambda x: jnp.linalg.slogdet(jnp.diag(_pair(x)))[1],
        lambda x: jnp.linalg.slogdet(jnp.eye(2) * (1 + x))[1] + jnp.linalg.det(jnp.eye(5) * x),
        lambda x: jnp.sum(jax.scipy.linalg.expm(jnp.eye(3) * x)),
        lambda x: jnp.sum(jnp.linalg.pinv(jnp.diag(_pair(x)))),
    ],
)
def test_what_divides_by_what_is_not_zero(f):
    assert jnp.isfinite(jax.grad(ppgen.expectation(lambda t: f(normal(t))), argnums=1)(KEY, 0.3))


STRAIGHT_THROUGH = {
    "round": lambda x: jnp.round(x),
    "sign": jnp.sign,
    "compared": lambda x: (x > 0) * 1.0,
    "chosen": lambda x: jnp.where(x > 0, 1.0, -1.0),
    "branch": lambda x: jax.lax.cond(x > 0, lambda: 1.0, lambda: -1.0),
    "class": lambda x: jax.nn.one_hot(jnp.argmax(jnp.stack([x, -x])), 2)[0],
    "integer": lambda x: x.astype(int).astype(float),
    "in a loop": lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jnp.floor(y), x),
    "few digits": lambda x: jax.lax.reduce_precision(x, 8, 2),
}


@pytest.mark.parametrize("derived", [_forward, _reverse])
@pytest.mark.parametrize("name", STRAIGHT_THROUGH)
def test_a_derivative_of_ones_own_does_not_hide_jumps(name, derived):
    f = derived(STRAIGHT_THROUGH[name])
    with pytest.raises(ppgen.errors.DiscontinuityError, match=r"test_discontinuity\.py:\d+"):
        jax.grad(ppgen.expectation(lambda t: f(normal(t))), argnums=1)(KEY, 0.3)
    # Noise from a key is no other.
    with pytest.raises(ppgen.errors.DiscontinuityError):
        jax.grad(
            ppgen.expectation(lambda t, k: f(t + jax.random.normal(k)) + 0 * normal(t)), argnums=1
        )(KEY, 0.3, jax.random.key(1))
    # The advice: a frozen value, or the word of the author.
    scored = ppgen.with_estimators(normal, {"x": ppgen.ScoreFunction()})
    jax.grad(ppgen.expectation(lambda t: f(scored(t))), argnums=1)(KEY, 0.3)
    trusted = ppgen.expectation(lambda t: ppgen.assume_continuous(f(normal(t))))
    assert jax.grad(trusted, argnums=1)(KEY, 0.3) == 1.0


@jax.custom_jvp
def _root(a):
    """The solution of y**3 + y = a."""
    return jax.lax.while_loop(
        lambda y: jnp.abs(y**3 + y - a) > 1e-5, lambda y: y - (y**3 + y - a) / (3 * y**2 + 1), a / 2
    )


@_root.defjvp
def _slope_of_root(a, t):
    y = _root(*a)
    return y, t[0] / (3 * y**2 + 1)


@jax.custom_jvp
def _on_the_host(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@_on_the_host.defjvp
def _slope_on_the_host(x, t):
    return _on_the_host(*x), jnp.cos(x[0]) * t[0]


@pytest.mark.parametrize("f", [_root, _on_the_host, _forward(lambda x: x / jnp.abs(x) * abs(x))])
def test_a_derivative_of_ones_own_is_what_is_there_for(f):
    """The solution of an equation, what only the host can compute, what JAX would divide by."""
    assert jnp.isfinite(jax.grad(ppgen.expectation(lambda t: f(normal(t))), argnums=1)(KEY, 0.3))
    noisy = ppgen.expectation(lambda t, k: f(t + jax.random.normal(k)) + 0 * normal(t))
    assert jnp.isfinite(jax.grad(noisy, argnums=1)(KEY, 0.3, jax.random.key(1)))


@pytest.mark.parametrize(
    "d", [dist.Gamma(2.0, 1.0), dist.Beta(2.0, 3.0), dist.Uniform(0.0, 1.0), dist.LogNormal()]
)
def test_a_variable_does_not_reach_the_ends_of_its_support(d):
    """Dividing by a time, or by what is left of it."""

    def f(t):
        x = ppgen.draw(d)
        return t / x**0.25 + (
            t / (1.0 - x) ** 0.25 if getattr(d.support, "upper_bound", 0) == 1 else t
        )

    assert jnp.isfinite(jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3))


# --- supports -------------------------------------------------------------------------------------

T = dist.transforms
STANDARD = dist.Normal(0.0, 1.0)
MOVES = {
    "shifted": lambda t: dist.TransformedDistribution(
        dist.Exponential(1.0), T.AffineTransform(t, 1.0)
    ),
    "scaled": lambda t: dist.TransformedDistribution(
        dist.Uniform(0.0, 1.0), T.AffineTransform(0.0, t)
    ),
    "squashed": lambda t: dist.TransformedDistribution(
        STANDARD, [T.SigmoidTransform(), T.AffineTransform(0.0, t)]
    ),
    "derived": lambda t: dist.Uniform(0.0, 2 * t).expand([1]).to_event(1),
}
STAYS = {
    "affine": lambda t: dist.TransformedDistribution(STANDARD, T.AffineTransform(t, t)),
    "lognormal": lambda t: dist.LogNormal(t, 1.0),
    "scaled": lambda t: dist.TransformedDistribution(
        dist.Exponential(1.0), T.AffineTransform(0.0, t)
    ),
}


# The mean of the sum of the elements.
MEANS = {
    "shifted": lambda t: t + 1.0,
    "scaled": lambda t: 0.5 * t,
    "squashed": lambda t: 0.5 * t,
    "derived": lambda t: t,
}


@pytest.mark.parametrize("name", MOVES)
def test_a_frozen_value_moves_with_its_support(name):
    """(See `test_moving_ends.py`, for other distributions, costs and derivatives.)"""
    for grad in (ppgen.ScoreFunction(), None):
        g = ppgen.expectation(lambda t: jnp.sum(ppgen.draw(MOVES[name](t), grad=grad)), draws=4000)  # noqa: B023
        value, slope = jax.value_and_grad(g, argnums=1)(KEY, 0.5)
        assert abs(value - MEANS[name](0.5)) < 0.1
        assert abs(slope - jax.grad(MEANS[name])(0.5)) < 0.1


def test_a_support_that_moves_inside_of_a_mixture():
    """Samples jump over the end of one component inside of another; the advice is right."""
    half = dist.Categorical(jnp.array([0.5, 0.5]))
    parts = lambda t: [dist.Uniform(0.0, t), dist.Uniform(0.0, 2.0)]  # noqa: E731

    def mixture(t):
        d = dist.MixtureGeneral(half, parts(t), support=dist.constraints.interval(0.0, 2.0))
        return ppgen.draw(d, grad=ppgen.ScoreFunction())

    with pytest.raises(ppgen.errors.DerivativeError, match="component as a choice") as info:
        jax.grad(ppgen.expectation(mixture), argnums=1)(KEY, 0.5)
    assert "Reparameterize() at this" not in info.value.instead

    def advised(t):
        first, second = map(ppgen.draw, parts(t))
        return jnp.where(ppgen.draw(half) == 0, first, second)

    assert abs(slope(advised, 0.5) - 0.25) < 0.02


@pytest.mark.parametrize("name", STAYS)
def test_a_frozen_support_that_stays(name):
    def f(t):
        return ppgen.draw(STAYS[name](t), grad=ppgen.ScoreFunction())

    assert jnp.isfinite(jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.5))


def test_a_mixture_with_a_point_mass_that_is_scored():
    """It has no density: refused where one is asked for, and the advice is right."""
    half = jnp.array([0.5, 0.5])

    def guide(t):
        parts = [dist.Delta(0.0), dist.Normal(t, 1.0)]
        d = dist.MixtureGeneral(dist.Categorical(half), parts, support=dist.constraints.real)
        return numpyro.sample("x", d)

    with pytest.raises(ppgen.errors.EstimatorError, match="site of its own"):
        ppgen.expectation(lambda t: ppgen.simulate(guide)(t).value ** 2)(KEY, 0.8)
    assert abs(slope(lambda t: guide(t) ** 2, 0.8) - 0.8) < 0.1

    def advised(t):
        z = numpyro.sample("z", dist.Categorical(half))
        return jnp.where(z == 0, 0.0, numpyro.sample("x", dist.Normal(t, 1.0)))

    assert abs(slope(lambda t: ppgen.simulate(advised)(t).value ** 2, 0.8) - 0.8) < 0.05


def scored(d, value):
    return ppgen.log_density(lambda v: numpyro.sample("y", d, obs=v))({}, value)


def test_a_density_outside_of_its_support():
    def f(t, grad=None):
        return jnp.exp(scored(dist.Exponential(1.0), normal(t, grad)))

    with pytest.raises(ppgen.errors.DiscontinuityError, match="end of the support of 'y'"):
        ppgen.expectation(f)(KEY, 0.3)


@pytest.mark.parametrize("inside", [jnp.exp, jnp.square, jnp.abs, jax.nn.softplus, jax.nn.sigmoid])
def test_a_density_inside_of_its_support(inside):
    g = ppgen.expectation(lambda t: scored(dist.Exponential(1.0), inside(normal(t))))
    assert jnp.isfinite(g(KEY, 0.3))


@pytest.mark.parametrize("grad", [None, ppgen.ScoreFunction()])
def test_what_adds_up_in_a_loop_has_no_bound(grad):
    """Bounded from below, but further down with each step: the analysis comes to an end."""

    def scanned(t):
        step = lambda c, _: (c + jnp.tanh(normal(t, grad)) + jnp.exp(normal(t, grad)), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, None, length=3)[0]

    def looped(t):
        step = lambda c: (c[0] + 1, c[1] + jnp.tanh(normal(t, grad)) + jnp.exp(normal(t, grad)))  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < 3, step, (0, 0.0))[1]

    for f in (scanned, looped):
        assert jnp.isfinite(jax.jit(ppgen.expectation(f))(KEY, 0.3))


@pytest.mark.parametrize("first", ["known", "random"])
def test_a_function_that_is_called_twice(first):
    """All calls of a compiled function share what it computes, not what reaches it."""
    steps = jax.jit(lambda x: jnp.floor(x) + jnp.sum(jnp.zeros(2)))

    def f(theta):
        x = ppgen.draw(dist.Normal(theta, 1.0), name="x")
        values = {"known": jnp.arange(3.0)[1], "random": x}
        order = sorted(values, key=lambda name: name != first)
        return sum(steps(values[name]) for name in order)

    with pytest.raises(ppgen.errors.DiscontinuityError, match="floor"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)


def test_functions_that_nothing_reaches_may_have_choices_of_their_own():
    """Each call of a compiled function draws anew, and each draw is followed."""
    draw = jax.jit(lambda: ppgen.draw(dist.Normal(0.0, 1.0), name="x"))

    def f(theta):
        return jnp.floor(theta * draw()) + theta * draw()

    with pytest.raises(ppgen.errors.DiscontinuityError, match="floor"):
        ppgen.expectation(f)(jax.random.key(0), 0.3)

    def g(theta):
        return theta * (draw() - draw()) ** 2

    slopes = jax.vmap(jax.grad(ppgen.expectation(g), 1), (0, None))(
        jax.random.split(jax.random.key(0), 4000), 0.3
    )
    assert abs(jnp.mean(slopes) - 2.0) < 0.3


# --- users' classes -------------------------------------------------------------------------------


class _Own(dist.Distribution):
    """Uniform between 0 and `high`, in the way of a user."""

    arg_constraints = {"high": dist.constraints.positive}
    support = dist.constraints.real
    reparametrized_params = ("high",)

    def __init__(self, high):
        self.high = high
        super().__init__(jnp.shape(high), ())

    def sample(self, key, sample_shape=()):
        return self.high * jax.random.uniform(key, sample_shape + self.batch_shape)

    def log_prob(self, value):
        inside = (value >= 0) & (value <= self.high)
        return jnp.where(inside, -jnp.log(self.high), -jnp.inf)


class _Decaying(_Own):
    """The same, with a density that depends on the value, too."""

    reparametrized_params = ("high",)

    def sample(self, key, sample_shape=()):
        u = jax.random.uniform(key, sample_shape + self.batch_shape)
        return -jnp.log1p(u * jnp.expm1(-self.high))

    def log_prob(self, value):
        inside = (value >= 0) & (value <= self.high)
        return jnp.where(inside, -value - jnp.log(-jnp.expm1(-self.high)), -jnp.inf)


class _Step(_Own):
    """One with a sampler that jumps, whatever it declares."""

    reparametrized_params = ("high",)

    def sample(self, key, sample_shape=()):
        return jnp.floor(jax.random.uniform(key, sample_shape + self.batch_shape) + self.high)


class _Count(_Step):
    reparametrized_params = ("high",)

    def sample(self, key, sample_shape=()):
        return super().sample(key, sample_shape).astype(int)


class _Waiting(_Own):
    """Exponential, with a density that is checked where it is evaluated."""

    support = dist.constraints.positive
    reparametrized_params = ("high",)

    def sample(self, key, sample_shape=()):
        return self.high * jax.random.exponential(key, sample_shape + self.batch_shape)

    def log_prob(self, value):
        return jnp.where(value > 0, -value / self.high - jnp.log(self.high), -jnp.inf)


WRAPPED = {
    "itself": lambda d: d,
    "expanded": lambda d: d.expand([2]),
    "an event": lambda d: d.expand([2]).to_event(1),
    "transformed": lambda d: dist.TransformedDistribution(d, dist.transforms.AffineTransform(1, 2)),
}


def _mean(d, grad):
    return lambda t: jnp.sum(ppgen.draw(d(jnp.exp(t)), name="x", grad=grad) ** 2)


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("kind", [_Own, _Decaying])
def test_the_density_of_a_users_class_jumps_where_a_parameter_says(kind, wrapped):
    """At an end that its support does not tell: no score sees that it moves."""
    f = _mean(lambda high: WRAPPED[wrapped](kind(high)), ppgen.ScoreFunction())
    with pytest.raises(ppgen.errors.DiscontinuityError, match="infinite on one side") as e:
        jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3)
    assert e.value.site == "x"


def test_the_density_of_a_users_class_in_a_model():
    def model(theta):
        numpyro.sample("x", _Own(jnp.exp(theta)))

    def guide(theta):
        numpyro.sample("x", dist.Normal(theta, 1.0))

    with pytest.raises(ppgen.errors.DiscontinuityError, match="infinite on one side"):
        jax.grad(ppgen.expectation(elbo(model, guide)), argnums=1)(KEY, 0.3)


@pytest.mark.parametrize("kind", [_Step, _Count])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_the_sampler_of_a_users_class_jumps_although_it_is_declared_to_move(kind, wrapped):
    f = _mean(lambda high: WRAPPED[wrapped](kind(high)), None)
    with pytest.raises(ppgen.errors.DiscontinuityError, match="sampler of 'x'") as e:
        jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3)
    assert e.value.site == "x"


@pytest.mark.parametrize("grad", [None, ppgen.ScoreFunction()])
@pytest.mark.parametrize("kind", [_Waiting, _Own, _Decaying])
def test_a_users_class_that_is_right(kind, grad):
    if grad is not None and kind is not _Waiting:
        return  # refused, above
    f = _mean(kind, grad)
    draws = jax.vmap(jax.grad(ppgen.expectation(f), argnums=1), (0, None))
    got = np.asarray(draws(jax.random.split(KEY, 20_000), 0.3))
    m, h = np.exp(0.3), 1e-5

    def exact(m):
        grid = (np.arange(100_000) + 0.5) / 100_000
        if kind is _Waiting:
            return 2 * m**2
        x = m * grid if kind is _Own else -np.log1p(grid * np.expm1(-m))
        return np.mean(x**2)

    slope = m * (exact(m + h) - exact(m - h)) / (2 * h)
    assert abs(got.mean() - slope) < 5 * got.std() / len(got) ** 0.5


class _Gap(dist.transforms.Transform):
    """It leaves a gap around `at`."""

    domain = codomain = dist.constraints.real

    def __init__(self, at):
        self.at = at

    def __call__(self, x):
        return x + jnp.where(x > self.at, 1.0, -1.0)

    def _inverse(self, y):
        return y - jnp.where(y > self.at, 1.0, -1.0)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.zeros_like(x)

    def tree_flatten(self):
        return (self.at,), (("at",), {})


class _Cubed(_Gap):
    def __call__(self, x):
        return self.at * x**3

    def _inverse(self, y):
        return jnp.cbrt(y / self.at)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.log(3 * self.at * x**2)


def _through(*transforms):
    return lambda t: dist.TransformedDistribution(dist.Normal(t, 1.0), [f(t) for f in transforms])


THROUGH = {
    "alone": _through(lambda t: _Gap(0.3)),
    "before tanh": _through(lambda t: _Gap(0.3), lambda t: dist.transforms.SigmoidTransform()),
    "composed": _through(lambda t: dist.transforms.ComposeTransform([_Gap(0.3), _Cubed(1.0)])),
    "inverse": _through(lambda t: _Gap(0.3).inv),
}


@pytest.mark.parametrize("name", THROUGH)
def test_a_users_transform_that_jumps(name):
    with pytest.raises(ppgen.errors.DiscontinuityError) as e:
        jax.grad(ppgen.expectation(_mean(lambda t: THROUGH[name](jnp.log(t)), None)), argnums=1)(
            KEY, 0.3
        )
    assert e.value.site == "x"


def test_a_users_transform_with_a_gap_that_moves():
    def f(t):
        d = dist.TransformedDistribution(dist.Normal(0.0, 1.0), _Gap(t))
        return jnp.sin(ppgen.draw(d, name="x", grad=ppgen.ScoreFunction()))

    with pytest.raises(ppgen.errors.DiscontinuityError):
        jax.grad(ppgen.expectation(f), argnums=1)(KEY, 0.3)


@pytest.mark.parametrize("grad", [None, ppgen.ScoreFunction()])
def test_a_users_transform_that_is_right(grad):
    """The mean of (a x³)² is a² E[x⁶], the latter of a normal variable with mean t."""

    def f(t):
        d = dist.TransformedDistribution(dist.Normal(t, 1.0), _Cubed(jnp.exp(t)))
        return ppgen.draw(d, name="x", grad=grad) ** 2 / 100

    draws = jax.jit(jax.vmap(jax.grad(ppgen.expectation(f), argnums=1), (0, None)))
    got = np.asarray(draws(jax.random.split(KEY, 200_000), 0.3), np.float64)
    t = 0.3
    sixth = t**6 + 15 * t**4 + 45 * t**2 + 15
    slope = np.exp(2 * t) * (2 * sixth + 6 * t**5 + 60 * t**3 + 90 * t) / 100
    assert abs(got.mean() - slope) < 5 * got.std() / len(got) ** 0.5
