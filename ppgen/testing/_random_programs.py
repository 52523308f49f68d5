"""Random small programs: choices in random control flow, and nonlinear costs of them."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# (NumPyro annotates what distributions return more widely than what they do return.)

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from hypothesis import strategies as st
from jax import Array
from numpyro.distributions import Distribution

from ppgen.estimators import AbstractEstimator, Reparameterize
from ppgen.testing._oracle import exact
from ppgen.testing._random_flows import FLOWS, Place
from ppgen.testing._random_parts import FAMILIES, FUNCTIONS, NODES
from ppgen.testing._strategies import sound_estimators

_TERMS = 32

# A distribution made from one number, and how many points the oracle gives it.
_FAMILIES: dict[str, tuple[Callable[[Array], Distribution], int]] = {
    "flip": (lambda x: dist.Bernoulli(logits=x), 2),
    "flip_probs": (lambda x: dist.Bernoulli(jax.nn.sigmoid(2 * x)), 2),
    "pick": (lambda x: dist.Categorical(logits=jnp.stack([0.0 * x, x, -x], axis=-1)), 3),
    "binomial": (lambda x: dist.Binomial(2, logits=x), 3),
    "count": (lambda x: dist.Poisson(jax.nn.sigmoid(x)), _TERMS),
    "normal": (lambda x: dist.Normal(x, 0.5), NODES),
    "scaled_normal": (lambda x: dist.Normal(0.3, 0.4 + jax.nn.sigmoid(x)), NODES),
    "logistic": (lambda x: dist.Logistic(x, 0.4), NODES),
}

_FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "sum": lambda x, y: x + 0.5 * y,
    "product": lambda x, y: (x + 0.3) * (y - 0.2),
    "square": lambda x, y: (x - 0.5 * y) ** 2,
    "sin": lambda x, y: jnp.sin(x + y),
    "tanh": lambda x, y: jnp.tanh(x) * y,
    "softplus": lambda x, y: jax.nn.softplus(x - y),
}

# How often a choice is made in each, which decides the size of its grid.
_FLOWS = {
    "none": 1, "jit": 1, "remat": 1, "site": 1, "cond": 1, "switch": 1,
    "scan": 2, "fori": 2, "vmap": 2, "map": 2, "plate": 2, "custom": 1,
}  # fmt: skip

_ALL_FAMILIES = _FAMILIES | FAMILIES
_ALL_FUNCTIONS = _FUNCTIONS | FUNCTIONS
_ALL_FLOWS = _FLOWS | {name: repeats for name, (_, repeats) in FLOWS.items()}


@dataclasses.dataclass(frozen=True)
class Choice:
    """One statement: a choice given an earlier variable, in some control flow.

    Attributes:
        family: which distribution.
        parent: the index of the variable that it depends on.
        flow: the control flow around it.
        selector: the index of the variable that a `cond` or `switch` looks at: a discrete one.
        estimator: its gradient estimator; `None` for the default.
        through: what its parameter is: a function of its parent and of another variable, or `None`
            for the parent itself.
    """

    family: str
    parent: int
    flow: str
    selector: int
    estimator: AbstractEstimator | None
    through: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class RandomProgram:
    """An objective `program(theta)`, as data, so that a counterexample can be read and shrunk.

    Variables 0 and 1 are `theta`; statement `i` makes variable `2 + i`. The cost is the sum of
    `costs`, each a function of two variables.

    Attributes:
        theta: where to evaluate it.
        choices: its statements.
        costs: names of functions, and the two variables that they take.
        draws: how many runs are averaged.
    """

    theta: tuple[float, float]
    choices: tuple[Choice, ...]
    costs: tuple[tuple[str, int, int], ...]
    draws: int = 1

    @property
    def args(self) -> tuple[Array]:
        """The arguments to test it at."""
        return (jnp.array(self.theta),)

    @property
    def order(self) -> int:
        """The highest order of derivatives to which its estimators are unbiased."""
        return 1 if any(c.estimator and c.estimator.first_order for c in self.choices) else 2

    @property
    def forward(self) -> bool:
        """Whether only forward mode differentiates it: it has a loop of unknown length."""
        return any("while" in c.flow for c in self.choices)

    @property
    def exact(self) -> Callable[..., Array]:
        """Its exact expectation, with grids of the size that the program was made for."""
        return exact(self, nodes=NODES, terms=_TERMS)

    def __call__(self, theta: Array) -> Array:
        """The cost of one run."""
        from ppgen import log_density

        return self._cost(theta, lambda program, values: log_density(program)(values))

    def oracle(self, theta: Array) -> Array:
        """The same, with NumPyro's densities."""
        from numpyro.infer.util import log_density

        return self._cost(theta, lambda program, values: log_density(program, (), {}, values)[0])

    def _cost(self, theta: Array, log_density: Callable[..., Array]) -> Array:
        env = [theta[0], theta[1]]
        for i, choice in enumerate(self.choices):
            env.append(_run(choice, env, f"z{i}", log_density))
        return sum(_ALL_FUNCTIONS[name](env[i], env[j]) for name, i, j in self.costs)


def _run(choice: Choice, env: list[Array], name: str, log_density: Callable[..., Array]) -> Array:
    from ppgen import draw

    make, _ = _ALL_FAMILIES[choice.family]
    x = env[choice.parent]
    infer = None if choice.estimator is None else {"grad": choice.estimator}
    if choice.through is not None:
        through, other = choice.through
        x = jnp.tanh(_ALL_FUNCTIONS[through](x, env[other])) * 1.5

    def once(x: Array) -> Array:
        value = draw(make(x), name=name, grad=choice.estimator)
        return value.astype(x.dtype)

    def raw(name: str, x: Array) -> Array:
        return numpyro.sample(name, make(x), infer=infer)

    def site(name: str, x: Array) -> Array:
        return raw(name, x).astype(x.dtype)

    if choice.flow in FLOWS:
        return FLOWS[choice.flow][0](Place(once, site, raw, x, name, log_density))
    match choice.flow:
        case "none":
            return once(x)
        case "jit":
            return jax.jit(once)(x)
        case "remat":
            return jax.checkpoint(once)(x)
        case "custom":
            # Behind functions with derivative rules of their own.
            return jax.nn.relu(once(x) + 1.0) + jax.scipy.special.xlogy(1.0, 1.0 + x**2)
        case "site":
            return site(name, x)
        case "cond":
            return jax.lax.cond(env[choice.selector] > 0.5, once, jnp.sin, x)
        case "switch":
            branches = [once, lambda x: x**2, lambda x: jnp.cos(once(-x))]
            index = jnp.clip(env[choice.selector], 0, 2).astype(int)
            return jax.lax.switch(index, branches, x)
        case "scan":
            steps = jnp.array([1.0, -0.5])
            last, seen = jax.lax.scan(lambda c, a: (jnp.tanh(once(c) - a), c * a), x, steps)
            return last + jnp.sum(seen)
        case "fori":
            return jax.lax.fori_loop(0, 2, lambda _, c: 0.5 * c + jnp.sin(once(c)), x)
        case "vmap":
            z = jax.vmap(once)(x * jnp.array([1.0, -0.5]))
            return jnp.sum(jnp.sin(z + x))
        case "map":
            return jnp.sum(jax.lax.map(once, x * jnp.array([1.0, -0.5])) ** 2)
        case "plate":
            with numpyro.plate(f"{name}_plate", 2):
                z = site(name, x * jnp.array([1.0, -0.5]))
            return jnp.sum((z - jnp.array([0.5, 1.0])) ** 2) + z[0] * z[1]
    raise ValueError(f"unknown control flow {choice.flow!r}")


Pick = Callable[[Sequence[Any]], Any]
"""Picks one of several: Hypothesis, or a generator of random numbers."""


@functools.cache
def _sound(family: str) -> tuple[AbstractEstimator, ...]:
    make, _ = _ALL_FAMILIES[family]
    found = sound_estimators(make(jnp.zeros(()))).values()
    if family == "point":
        return tuple(e for e in found if type(e) is Reparameterize)
    # Programs branch on values, which must not lie between those of the choice.
    return tuple(e for e in found if not e.relaxed)


def _generate(pick: Pick, max_choices: int, max_points: int, whole: bool) -> RandomProgram:
    families = _ALL_FAMILIES if whole else _FAMILIES
    functions = sorted(_ALL_FUNCTIONS if whole else _FUNCTIONS)
    known = _ALL_FLOWS if whole else _FLOWS
    # Apart from where costs jump or have a kink.
    tenths = [i / 10 + (0.0137 if whole else 0.0) for i in range(-10, 11)]
    theta = (pick(tenths), pick(tenths))
    choices: list[Choice] = []
    discrete: list[int] = []
    points = 1
    for _ in range(pick(range(min(2, max_choices), max_choices + 1))):
        flow = pick([f for f in known if discrete or f not in ("cond", "switch")])
        repeats = 2 if flow == "switch" else known[flow]
        fitting = [f for f, (_, n) in families.items() if points * n**repeats <= max_points]
        if not fitting:
            break
        family = pick(fitting)
        size = families[family][1]
        points *= size**repeats
        index = 2 + len(choices)
        parent = pick(range(index))
        selector = pick(discrete) if discrete else 0
        estimator, through = pick(_sound(family)), None
        if whole:
            estimator = pick([estimator] * 9 + [None])
            through = (pick(functions), pick(range(index))) if pick(range(3)) == 0 else None
        choices.append(Choice(family, parent, flow, selector, estimator, through))
        if flow in ("none", "jit", "remat", "site") and size != NODES:
            discrete.append(index)
    variables = range(2 + len(choices))
    costs = [(pick(functions), pick(variables), pick(variables)) for _ in range(pick(range(1, 4)))]
    # The cost always depends on the last variable.
    last = (pick(functions), 1 + len(choices), pick(variables))
    draws = pick((1, 1, 1, 1, 1, 2, 3)) if whole else 1
    return RandomProgram(theta, tuple(choices), (*costs, last), draws)


def random_program(
    rng: np.random.Generator, *, max_choices: int = 2, max_points: int = 5000
) -> RandomProgram:
    """A random program from the whole language, as `programs(whole=True)`, in microseconds."""
    return _generate(lambda xs: xs[int(rng.integers(len(xs)))], max_choices, max_points, True)


@st.composite
def programs(
    draw: Any, *, max_choices: int = 3, max_points: int = 10_000, whole: bool = False
) -> RandomProgram:
    """A random objective of two numbers, small enough for `ppgen.testing.exact`.

    It chains two to `max_choices` choices (discrete and continuous, with any sound estimator each)
    in `jit`, `cond`, `switch`, `scan`, `fori_loop`, `map`, `vmap`, `remat`, plates and functions
    with their own derivatives, and adds up nonlinear costs of them.

    Args:
        draw: given by Hypothesis.
        max_choices: the largest number of statements.
        max_points: the largest number of points at which the oracle evaluates it.
        whole: use the whole language, including programs that `expectation` refuses for some
            estimators: costs along axes (reductions, sorts, `top_k`, `argsort`), `concatenate`,
            `pad`, updates, `where` with constants and indicators, impossible values, control flow
            in control flow.

    Returns:
        A strategy for objectives; see `RandomProgram` for their `args`, `order` and `exact`.

    Example:
        >>> from hypothesis import given
        >>> from ppgen.testing import assert_unbiased, programs
        >>> @given(programs())
        ... def test_it(p):
        ...     assert_unbiased(p, *p.args, order=p.order, exact=p.exact, detect=1.0)
    """
    return _generate(lambda xs: draw(st.sampled_from(list(xs))), max_choices, max_points, whole)
