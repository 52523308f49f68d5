"""Steppers that remember, phases and tuples of them: what a chain of them is, and costs."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppgen
from ppgen.inference import (
    AbstractStepper,
    Chain,
    Fields,
    Learned,
    PathError,
    PlugIn,
    Step,
    euler_maruyama,
    guide,
    guide_approximately,
    heun,
    langevin,
    multistep,
    noising,
    phases,
)
from ppgen.inference.paths import _multistep

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def grid(steps, end=1.0):
    return jnp.linspace(0.0, end, steps + 1)


def ends(stepper, steps, x):
    """Where a chain of ODE steps ends, from each of the points."""
    chain = Chain(dist.Delta(x[0], event_dim=x[0].ndim), stepper, grid(steps))
    return jax.jit(jax.vmap(lambda x: ppgen.assess(chain)({"x0": x}).value))(x)


# --- A1: the same chain in other words ------------------------------------------------------------


class Remembering(AbstractStepper):
    """Another step, as a stepper, with a counter that it does not use."""

    step: object
    evaluations: ClassVar[int] = 1

    def begin(self, x, t):
        return {"count": jnp.zeros((), int)}

    def __call__(self, x, t, after, memory):
        return self.step(x, t, after), {"count": memory["count"] + 1}


def test_the_same_chain_in_other_words_is_the_same_bit_for_bit():
    noisy = euler_maruyama(lambda x, t: Fields(-x * t, -x), epsilon=0.3)
    remembering = Remembering(noisy)
    ways = {
        "plain": noisy,
        "remembering": remembering,
        "one phase": phases((noisy, 6)),
        "two phases": phases((noisy, 2), (noisy, 4)),
        "an empty phase": phases((noisy, 0), (noisy, 6), (heun(lambda x, t: x), 0)),
        "two phases that remember": phases((remembering, 5), (remembering, 1)),
    }
    found = {}
    for name, stepper in ways.items():
        chain = Chain(dist.Normal(jnp.zeros(3), 1.0).to_event(1), stepper, grid(6))
        runs = [ppgen.seed(program) for program in (chain.path, chain)]
        found[name] = jax.jit(lambda key, runs=runs: [run(key) for run in runs])(KEY)
        assert chain.evaluations == 6
    for name, (path, end) in found.items():
        np.testing.assert_array_equal(path, found["plain"][0], name)
        np.testing.assert_array_equal(end, found["plain"][1], name)
        assert path.shape == (7, 3)


def test_one_interval_on_its_own():
    for stepper in (heun(lambda x, t: x), multistep(lambda x, t: x), Remembering(euler_of(1.0))):
        chain = Chain(dist.Delta(1.0), stepper, grid(2))
        once = ppgen.seed(chain.move)(KEY, jnp.ones(()), 0.0, 0.5)
        np.testing.assert_allclose(once, ppgen.seed(chain.path)(KEY)[1], rtol=1e-12)


def euler_of(slope):
    return euler_maruyama(lambda x, t: Fields(slope * x))


def test_a_chain_of_no_steps_and_of_one():
    for stepper in (heun(lambda x, t: x), phases(), (langevin(lambda x, t: Fields(x, -x), 0.1),)):
        chain = Chain(dist.Delta(jnp.ones(2), event_dim=1), stepper, jnp.zeros(1))
        np.testing.assert_array_equal(ppgen.seed(chain.path)(KEY), np.ones((1, 2)))
        assert chain.evaluations == 0
    np.testing.assert_allclose(ends(heun(lambda x, t: x), 1, jnp.ones(1)), [2.5])


# --- A2, A3: orders, refiners ---------------------------------------------------------------------


def curved(x, t):
    """The velocity from a normal to two smoothed modes, along straight lines: in closed form."""
    alpha, variance = t, 0.3**2 * t**2 + (1 - t) ** 2
    weight = jax.nn.sigmoid(2 * alpha * 1.5 * x / variance)
    mean = 1.5 * (2 * weight - 1)
    x1 = mean + 0.3**2 * t / variance * (x - t * mean)
    return x1 - (x - t * x1) / (1 - t)


def early(x, t):
    """The same, up to t = .9."""
    return 0.9 * curved(x, 0.9 * t)


FIELDS = {"linear": lambda x, t: -1.5 * x + t, "two modes": early}


def error(stepper, field, steps):
    x = jnp.linspace(-1.2, 1.4, 7)
    fine = ends(heun(field), 4096, x)
    return float(jnp.sqrt(jnp.mean((ends(stepper, steps, x) - fine) ** 2)))


@pytest.mark.parametrize("name", FIELDS)
def test_the_order_of_each_solver(name):
    field = FIELDS[name]
    solvers = {
        "euler": (euler_maruyama(lambda x, t: Fields(field(x, t))), 1.8, 2.3),
        "heun": (heun(field), 3.5, 4.6),
        "multistep": (multistep(field), 3.5, 4.6),
        "fields with a name": (multistep(lambda x, t: Fields(field(x, t))), 3.5, 4.6),
    }
    for solver, (stepper, least, most) in solvers.items():
        ratio = error(stepper, field, 64) / error(stepper, field, 128)
        assert least < ratio < most, (solver, ratio)


def test_the_order_finds_a_memory_of_the_wrong_velocity():
    """The power of it: a multistep method that remembers d instead of d'."""

    class Wrong(_multistep._Multistep):
        def __call__(self, x, t, after, memory):
            return super().__call__(x, t, after, memory)[0], memory

    assert error(Wrong(early), early, 64) / error(Wrong(early), early, 128) < 2.5


def test_a_refiner_that_is_exact_and_one_that_does_nothing():
    x = jnp.linspace(-1.0, 1.0, 5)
    opening = (heun(early), 1)
    right = ends(phases(opening, (multistep(early), 7)), 8, x)
    exact = lambda x, t, d: d + (early(x, t) - d)  # noqa: E731
    np.testing.assert_allclose(ends(phases(opening, (multistep(exact), 7)), 8, x), right, 1e-12)
    # A straight line, with the second velocity of Heun's step.
    held = ends(phases(opening, (multistep(lambda x, t, d: d), 7)), 8, x)
    first = early(x, 0.0)
    second = early(x + first / 8, 1 / 8)
    np.testing.assert_allclose(held, x + (first + second) / 16 + 7 / 8 * second, rtol=1e-12)
    with pytest.raises(PathError, match="a velocity to refine"):
        ends(multistep(exact), 8, x)
    # A velocity that is not handed on is evaluated anew: the phase between does not know it.
    euler = euler_maruyama(lambda x, t: Fields(early(x, t)))
    with pytest.raises(PathError, match="a velocity to refine"):
        ends(phases(opening, (euler, 1), (multistep(exact), 6)), 8, x)


# --- A4: evaluations ------------------------------------------------------------------------------


def test_evaluations_are_what_a_field_counts():
    count = []

    def field(x, t, *d):
        jax.debug.callback(lambda: count.append(1))
        return -x

    def fields(x, t):
        return Fields(field(x, t), -x)

    two, three = (lambda x, t: field(x, t)), (lambda x, t, d: field(x, t))
    noisy, correct = euler_maruyama(fields, 0.1), langevin(fields, snr=0.1)
    chains = {
        "heun": (heun(two), 10),
        "multistep": (multistep(two), 6),
        "euler": (noisy, 5),
        "handed on": (phases((heun(two), 1), (multistep(two), 2), (multistep(three), 2)), 6),
        "forgotten": (phases((heun(two), 1), (noisy, 2), (multistep(two), 2)), 7),
        "correctors": ((noisy, correct, correct), 15),
        "phases of tuples": (phases(((noisy, correct), 3), (heun(two), 2)), 10),
        "alike in memory, not in kind": (phases((Remembering(noisy), 2), (heun(two), 3)), 8),
    }
    for name, (stepper, right) in chains.items():
        count.clear()
        chain = Chain(dist.Normal(jnp.zeros(2), 1.0).to_event(1), stepper, grid(5))
        jax.block_until_ready(jax.jit(ppgen.seed(chain))(KEY))
        jax.effects_barrier()
        assert chain.evaluations == right == len(count), name
    unknown = Chain(dist.Normal(), lambda x, t, s: Step(x, 0.0, None), grid(2))
    with pytest.raises(PathError, match="how often"):
        _ = unknown.evaluations
    assert Chain(dist.Normal(), noising(lambda: None), grid(2)).evaluations == 0


# --- A5: laws of compositions ---------------------------------------------------------------------

A = np.array([[-0.5, 0.3], [0.1, -0.8]])
PRECISION = np.array([[1.5, 0.2], [0.2, 0.7]])


def linear_fields(x, t):
    return Fields(A @ x + t, -PRECISION @ x)


def gaussian_law(kernels, steps, mean, cov):
    """Mean and covariance of a chain of affine steps, by products of matrices."""
    h, eye = 1.0 / steps, jnp.eye(2)
    for k in range(steps):
        t = k * h
        for kernel, size in kernels:
            if kernel == "heun":
                matrix = eye + h * A + h**2 / 2 * A @ A
                shift = h * (t + t + h) / 2 * jnp.ones(2) + h**2 / 2 * A @ (t * jnp.ones(2))
                noise = 0.0
            elif kernel == "euler":
                matrix = eye + h * (A - size * PRECISION)
                shift, noise = h * t * jnp.ones(2), 2 * size * h
            else:
                matrix, shift, noise = eye - size * PRECISION, jnp.zeros(2), 2 * size
            mean, cov = matrix @ mean + shift, matrix @ cov @ matrix.T + noise * eye
    return mean, cov


TUPLES = {
    "predictor and corrector": (("heun", 0.0), ("langevin", 0.05)),
    "three kernels": (("euler", 0.2), ("langevin", 0.05), ("langevin", 0.1)),
    "noise first": (("langevin", 0.05), ("heun", 0.0)),
}


def kernels_of(kinds):
    made = {
        "heun": lambda s: heun(linear_fields),
        "euler": lambda s: euler_maruyama(linear_fields, s),
        "langevin": lambda s: langevin(linear_fields, s),
    }
    return tuple(made[kind](size) for kind, size in kinds)


def law_of(chain):
    """Mean and covariance of the last point of an affine chain: by running it on unit noise."""
    names = {n: s.steps for s in chain.segments() for n in s.names}
    sites = ppgen.seed(ppgen.simulate(chain))(KEY).choices
    names = {n: k for n, k in names.items() if n in sites}
    zero = {"x0": jnp.zeros(2)} | {n: jnp.zeros((k, 2)) for n, k in names.items()}
    run = lambda choices: ppgen.assess(chain)(choices).value  # noqa: E731
    jacobians = jax.jacobian(run)(zero)
    mean = run(zero) + jacobians["x0"] @ chain.initial.mean
    cov = jacobians["x0"] @ jnp.diag(chain.initial.variance) @ jacobians["x0"].T
    for n in names:
        j = jacobians[n].reshape(2, -1)
        cov = cov + j @ j.T
    return mean, cov


@pytest.mark.parametrize("name", TUPLES)
def test_a_tuple_has_the_law_of_the_composition(name):
    begin = dist.Normal(jnp.array([1.0, -0.5]), 0.7).to_event(1)
    chain = Chain(begin, kernels_of(TUPLES[name]), grid(4))
    right = gaussian_law(TUPLES[name], 4, begin.mean, jnp.diag(begin.variance))
    for found, known in zip(law_of(chain), right, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-10)
    # The power of it: the order of kernels matters.
    back = gaussian_law(TUPLES[name][::-1], 4, begin.mean, jnp.diag(begin.variance))
    assert jnp.max(jnp.abs(back[1] - right[1])) > 1e-4
    # Phases, one of them of a tuple, are run in their order.
    mixed = Chain(begin, phases((chain.stepper, 2), (heun(linear_fields), 2)), grid(4))
    assert sorted(ppgen.seed(ppgen.simulate(mixed))(KEY).choices)[0].startswith("phase0/noise")
    draws = jax.vmap(ppgen.seed(chain))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(draws.mean(0), right[0], atol=0.1)


class Damped(AbstractStepper):
    """Noisy, with a momentum that is remembered."""

    evaluations: ClassVar[int] = 1

    def begin(self, x, t):
        return 0.1 * x

    def __call__(self, x, t, after, memory):
        memory = 0.5 * memory - 0.3 * x
        return Step(x + memory, 0.4, 0.16), memory


def damped(steps=4):
    return Chain(dist.Normal(0.5, 0.8), Damped(), grid(steps))


def test_the_memory_is_carried_by_paths_abduction_and_phases():
    """Followed by hand, in numpy."""
    path = np.asarray(ppgen.seed(damped().path)(KEY))
    choices = damped().abduct(jnp.asarray(path))
    x, memory = path[0], 0.1 * path[0]
    for k, z in enumerate(np.asarray(choices["noise"])):
        memory = 0.5 * memory - 0.3 * x
        x = x + memory + 0.4 * z
        np.testing.assert_allclose(x, path[k + 1], rtol=1e-12)
    replayed = jax.jit(ppgen.assess(damped().path))(choices).value
    np.testing.assert_allclose(replayed, path, rtol=1e-12)
    # By the tuple's names, with a silent kernel before; and not where several have noise.
    predict = Chain(dist.Normal(0.5, 0.8), (heun(lambda x, t: -x), Damped()), grid(4))
    path = ppgen.seed(predict.path)(KEY)
    choices = predict.abduct(path)
    assert sorted(choices) == ["noise1", "x0"]
    np.testing.assert_allclose(ppgen.assess(predict.path)(choices).value, path, rtol=1e-12)
    mixed = Chain(dist.Normal(0.5, 0.8), phases((Damped(), 1), (predict.stepper, 3)), grid(4))
    path = ppgen.seed(mixed.path)(KEY)
    choices = mixed.abduct(path)
    assert sorted(choices) == ["phase0/noise", "phase1/noise1", "x0"]
    np.testing.assert_allclose(ppgen.assess(mixed.path)(choices).value, path, rtol=1e-12)
    for stepper, message in (
        ((Damped(), Damped()), "several kernels"),
        ((Damped(), heun(lambda x, t: x)), "several kernels"),
        (heun(lambda x, t: x), "without noise"),
        (phases((Damped(), 2), (multistep(lambda x, t: x), 2)), "without noise"),
    ):
        with pytest.raises(PathError, match=message):
            Chain(dist.Normal(), stepper, grid(4)).abduct(path)


def energy(x):
    return 0.5 * ((x - 1.0) / 0.7) ** 2


LINEAR = {
    "memory": damped(),
    "tuple": Chain(
        dist.Normal(0.5, 0.8),
        (heun(lambda x, t: -x), langevin(lambda x, t: Fields(-x, -x), 0.2), Damped()),
        grid(3),
    ),
}


def normaliser(chain):
    """E[exp(-energy)] of an affine chain in one dimension, in closed form."""
    sites = ppgen.seed(ppgen.simulate(chain))(KEY).choices
    zero = {name: jnp.zeros_like(value) for name, value in sites.items()}
    run = lambda choices: ppgen.assess(chain)(choices).value  # noqa: E731
    slopes = jax.grad(run)(zero)
    mean = run(zero) + 0.5 * slopes["x0"]
    variance = (0.8 * slopes["x0"]) ** 2
    variance += sum(jnp.sum(s**2) for n, s in slopes.items() if n != "x0")
    total = variance + 0.7**2
    z = jnp.sqrt(0.7**2 / total) * jnp.exp(-0.5 * (mean - 1.0) ** 2 / total)
    return float(z), float(mean + variance / total * (1.0 - mean))


@pytest.mark.parametrize("name", LINEAR)
def test_guidance_carries_the_memory_and_its_weights_are_right(name):
    chain = LINEAR[name]
    z, mean = normaliser(chain)
    guided = guide(chain, energy, Learned(lambda x, t: -0.3 * (x - 1.2) ** 2))
    run = jax.jit(jax.vmap(ppgen.seed(guided)))
    x, log_weights = run(jax.random.split(KEY, 20_000))
    weights = np.exp(np.asarray(log_weights))
    assert weights.std() / len(weights) ** 0.5 < 0.02 * z
    assert abs(weights.mean() - z) < 5 * weights.std() / len(weights) ** 0.5
    moved = weights * (x - mean)
    assert abs(moved.mean()) < 5 * moved.std() / len(weights) ** 0.5
    assert abs(np.mean(x) - mean) > 0.05  # without their weights they are of another law
    samples = guided.smc(particles=2000)
    found = jax.jit(ppgen.seed(samples))(KEY)
    assert abs(np.exp(found.log_evidence) - z) < 0.15 * z
    assert abs(found.mean() - mean) < 0.1


def test_guidance_without_weights_pushes_every_kernel():
    exchange = lambda x, t: Fields(-x, -x, jnp.ones(()))  # noqa: E731
    lookahead = PlugIn(lambda x, t: x)
    plain = {"heun": heun(exchange), "multistep": multistep(exchange)}
    plain["phases"] = phases((heun(exchange), 2), (euler_maruyama(exchange), 3))
    plain["tuple"] = (heun(exchange), langevin(exchange, 0.1))
    for stepper in plain.values():
        chain = Chain(dist.Delta(0.3), stepper, grid(5))
        pushed = guide_approximately(chain, energy, lookahead)
        assert pushed.evaluations == chain.evaluations
        a, b = (float(jax.jit(ppgen.seed(c))(KEY)) for c in (chain, pushed))
        assert a + 0.1 < b < 3.0
        # No energy, no push.
        still = guide_approximately(chain, lambda x: 0.0 * x, lookahead)
        np.testing.assert_allclose(jax.jit(ppgen.seed(still))(KEY), a, rtol=1e-12)
    unknown = guide_approximately(
        Chain(dist.Delta(0.3), heun(lambda x, t: -x), grid(5)), energy, lookahead
    )
    with pytest.raises(PathError, match="unknown"):
        ppgen.seed(unknown)(KEY)


# --- Langevin's steps, and refusals ---------------------------------------------------------------


def test_langevin_by_norms_is_of_the_point_alone():
    """In float32 too, and at the mode, where the score vanishes."""
    stepper = langevin(lambda x, t: Fields(x, -3 * x), snr=0.2)
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.array([1.0, -2.0, 0.5], dtype)
        step = stepper(x, jnp.array(0.0, dtype), jnp.array(1.0, dtype))
        size = 2 * 0.2**2 * 3 / (9 * 5.25)
        np.testing.assert_allclose(step.mean, x - 3 * size * x, rtol=1e-6)
        np.testing.assert_allclose(step.std, np.sqrt(2 * size), rtol=1e-6)
        assert step.mean.dtype == dtype == step.std.dtype
    flat = stepper(jnp.zeros(3), jnp.zeros(()), jnp.ones(()))
    assert np.isfinite(flat.mean).all() and flat.std == 0
    two = jax.vmap(lambda x: stepper(x, 0.0, 1.0))(jnp.array([[1.0, 0, 0], [50.0, 0, 0]]))
    np.testing.assert_array_equal(two.mean[0], stepper(jnp.array([1.0, 0, 0]), 0.0, 1.0).mean)
    # Its own law is left as it is, to first order in the size: at the time where it ends.
    wide = lambda x, t: Fields(x, -x / t**2)  # noqa: E731
    chain = Chain(dist.Normal(0.0, 2.0), langevin(wide, lambda t: 0.2 * t**2), grid(60, 0.5))
    x = jax.vmap(ppgen.seed(chain))(jax.random.split(KEY, 4000))
    assert abs(x.std() - 0.5) < 0.05
    for options in ({}, {"size": 0.1, "snr": 0.1}):
        with pytest.raises(PathError, match="size"):
            langevin(wide, **options)
    with pytest.raises(PathError, match="score"):
        langevin(lambda x, t: Fields(x), 0.1)(x, 0.0, 1.0)


def test_what_chains_refuse():
    ode = lambda x, t: -x  # noqa: E731
    correct = langevin(lambda x, t: Fields(x, -x), 0.1)

    def run(stepper, steps=4):
        return ppgen.seed(Chain(dist.Normal(), stepper, grid(steps)))(KEY)

    for order in ((correct, multistep(ode)), (multistep(ode), correct)):
        with pytest.raises(PathError, match="remembers the velocity"):
            run(order)
        with pytest.raises(PathError, match="remembers the velocity"):
            run(phases((heun(ode), 1), (order, 3)))
    run((heun(ode), correct))
    # A velocity from before the noise of a corrector is not handed on, but evaluated anew.
    stale = phases(((heun(ode), correct), 2), ((multistep(ode), heun(ode)), 2))
    assert Chain(dist.Normal(), stale, grid(4)).evaluations == 6 + 1 + 2 + 4
    run(stale)
    run(phases((correct, 2), (multistep(ode), 2)))
    with pytest.raises(PathError, match="5 steps, and the chain has 4"):
        run(phases((heun(ode), 2), (multistep(ode), 3)))
    with pytest.raises(PathError, match="zero or more"):
        phases((heun(ode), -1))
    with pytest.raises(PathError, match="phases within"):
        phases((phases((heun(ode), 2)), 2))
    with pytest.raises(PathError, match="phases within"):
        run((phases((heun(ode), 4)), correct))
    two = Chain(dist.Normal(), phases((correct, 2), ((correct, correct), 2)), grid(4))
    with pytest.raises(PathError, match="one phase"):
        ppgen.seed(guide(two, energy, Learned(lambda x, t: 0.0 * x)))(KEY)
    silent = Chain(dist.Normal(), (heun(ode), heun(ode)), grid(4))
    with pytest.raises(PathError, match="without noise"):
        ppgen.seed(guide(silent, energy, Learned(lambda x, t: 0.0 * x)))(KEY)


def test_a_chain_with_memory_is_differentiated_and_runs_over_a_batch():
    def end(a, x):
        chain = Chain(dist.Delta(x), multistep(lambda x, t: a * x), grid(50))
        return ppgen.assess(chain)({"x0": x}).value

    np.testing.assert_allclose(jax.grad(end)(0.7, 2.0), 2 * np.exp(0.7), rtol=1e-3)
    batch = jax.jit(jax.vmap(end, (None, 0)))(0.7, jnp.ones((3, 2)))
    np.testing.assert_allclose(batch, np.full((3, 2), np.exp(0.7)), rtol=1e-3)
