"""Interpretation of jaxprs: the one environment loop behind all interpreters.

The value of a variable may be an array, or only a fact about one, such as whether it is random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ppgen import _jax

T = TypeVar("T")

Rule = Callable[[_jax.Eqn, list[T]], Sequence[T]]
"""A function from an equation and the values of its operands to the values of its results."""


def _its_value(v: _jax.Literal) -> Any:
    return v.val


class Environment(Generic[T]):
    """Values of the variables of a jaxpr, for the equations interpreted so far.

    Attributes:
        values: the value of each variable.
    """

    def __init__(self, literal: Callable[[_jax.Literal], T] = _its_value) -> None:
        """An empty environment.

        Args:
            literal: gives the value of a literal; by default the literal's own value.
        """
        self.values: dict[_jax.Var, T] = {}
        self._literal = literal

    def write(self, variables: Iterable[_jax.Var], values: Iterable[T]) -> None:
        """Assign values to variables."""
        self.values.update(zip(variables, values, strict=True))

    def enter(self, jaxpr: _jax.Jaxpr, args: Iterable[T], consts: Iterable[T]) -> None:
        """Assign values to the inputs and the constants of an open jaxpr."""
        self.write(jaxpr.constvars, consts)
        self.write(jaxpr.invars, args)

    def __getitem__(self, atom: Any) -> T:
        """The value of a variable or literal."""
        return self._literal(atom) if isinstance(atom, _jax.Literal) else self.values[atom]

    def read(self, atoms: Iterable[Any]) -> list[T]:
        """The values of several variables and literals."""
        values, literal = self.values, self._literal  # the innermost loop of tracing
        return [literal(v) if isinstance(v, _jax.Literal) else values[v] for v in atoms]

    def run(self, eqns: Iterable[_jax.Eqn], rule: Rule[T]) -> None:
        """Interpret equations in order."""
        for eqn in eqns:
            self.write(eqn.outvars, rule(eqn, self.read(eqn.invars)))


def interpret(
    jaxpr: _jax.Jaxpr,
    args: Iterable[T],
    rule: Rule[T],
    *,
    consts: Iterable[T] | None = None,
    literal: Callable[[_jax.Literal], T] = _its_value,
) -> list[T]:
    """Interpret a jaxpr by a rule for its equations, and return its results.

    Args:
        jaxpr: the jaxpr, closed or open.
        args: the values of its inputs.
        rule: from an equation and its operands to its results.
        consts: the values of its constants; by default the constants that it holds.
        literal: what stands for a literal; by default its value.
    """
    jaxpr, own = _jax.open_jaxpr(jaxpr)
    env = Environment(literal)
    env.enter(jaxpr, args, own if consts is None else consts)
    env.run(jaxpr.eqns, rule)
    return env.read(jaxpr.outvars)


def follow(jaxpr: _jax.Jaxpr, facts: Iterable[T], rule: Rule[T], nothing: T) -> Environment[T]:
    """Propagate facts about the variables of a jaxpr, by a rule for its equations.

    Args:
        jaxpr: the jaxpr, closed or open.
        facts: the facts about its inputs.
        rule: from an equation and the facts about its operands to the facts about its results.
        nothing: the fact about literals and constants.
    """
    jaxpr, _ = _jax.open_jaxpr(jaxpr)
    env = Environment(lambda _: nothing)
    env.enter(jaxpr, facts, [nothing] * len(jaxpr.constvars))
    env.run(jaxpr.eqns, rule)
    return env


def variables_of(atoms: Iterable[Any]) -> list[_jax.Var]:
    """The variables among some variables and literals (literals cannot be hashed)."""
    return [v for v in atoms if not isinstance(v, _jax.Literal)]


class Reached(NamedTuple):
    """A part of a jaxpr.

    Attributes:
        variables: its variables.
        equations: ids of its top-level equations.
    """

    variables: set[_jax.Var]
    equations: frozenset[int]


def needed(jaxpr: _jax.Jaxpr, wanted: Iterable[Any], *, stop: Collection[str] = ()) -> Reached:
    """Everything that the `wanted` variables depend on, themselves included.

    Dependence through the first operand of a primitive of one of the names `stop` does not count.
    """
    found, eqns = set(variables_of(wanted)), set()
    for eqn in reversed(_jax.open_jaxpr(jaxpr)[0].eqns):
        if not found.isdisjoint(eqn.outvars):
            eqns.add(id(eqn))
            found.update(variables_of(eqn.invars[eqn.primitive.name in stop :]))
    return Reached(found, frozenset(eqns))


def dependent(jaxpr: _jax.Jaxpr, sources: Iterable[_jax.Var]) -> Reached:
    """Everything that depends on the variables `sources`, themselves included."""
    found, eqns = set(sources), set()
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        if not found.isdisjoint(variables_of(eqn.invars)):
            eqns.add(id(eqn))
            found.update(eqn.outvars)
    return Reached(found, frozenset(eqns))
