"""Which guard finds which bug: rules that are made wrong on purpose, one of each kind.

    python benchmarks/planted_bugs.py                     # generated tests of rules, and audits
    python benchmarks/planted_bugs.py --pieces 2          # and random programs, 50 a piece

Of each kind of silent fault a bug is planted, by replacing a rule. Then the generated tests of
rules are asked (`tests/test_continuity.py` and its kin), `ppgen.audit` with an objective of that
kind, and random programs. The table goes to planted_bugs.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import ppgen
from ppgen import _derivatives
from ppgen._analysis import analyse, discontinuity, hidden_randomness, propagation
from ppgen._evaluation import deferred_sums
from ppgen._sampling import frozen_density

HERE = Path(__file__)
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "tests")]


class Bug(NamedTuple):
    """A kind of silent fault.

    Attributes:
        kind: in words.
        patches: `(object, attribute, replacement)`.
        program: an objective of one number that the bug makes wrong.
        at: that number.
        rules: whether the generated tests of rules find it; nothing where no table is concerned.
    """

    kind: str
    patches: list[tuple[Any, str, Any]]
    program: Callable[..., Any]
    at: float
    rules: Callable[[], bool] | None = None


# --- the programs ---------------------------------------------------------------------------------


def _rounded(t):
    return jnp.floor(ppgen.draw(dist.Normal(t, 1.0)))


def _indexed(t):
    return jnp.array([0.0, 2.0])[(ppgen.draw(dist.Normal(t, 1.0)) > 0).astype(int)]


def _supported(t):
    return ppgen.draw(dist.Uniform(0.0, t), grad=ppgen.ScoreFunction()) ** 2


def _by_hand(t):
    return 1.0 * jax.random.bernoulli(numpyro.prng_key(), t)


_inner = ppgen.expectation(lambda t: ppgen.draw(dist.Bernoulli(t)) * 1.0)


def _nested(t):
    return _inner(numpyro.prng_key(), t) ** 2


def _impossible(t):
    allowed = jnp.array([False, True, True])
    d = dist.Categorical(logits=jnp.where(allowed, t * jnp.arange(3.0), -jnp.inf))
    return -d.log_prob(ppgen.draw(d, grad=ppgen.Enumerate()))


def _joined(t):
    a, bias = ppgen.draw(dist.Bernoulli(jnp.full(3, t)), grad=ppgen.Enumerate()), jnp.stack([t, t])

    def with_bias(s):
        return jnp.concatenate([s[None], bias])

    return jnp.sum(with_bias(jnp.sum(2.0 * a)) + with_bias(jnp.sum(jnp.exp(1.0 * a))))


def _outside(t):
    def exponential(value):
        numpyro.sample("y", dist.Exponential(1.0), obs=value)

    return jnp.exp(ppgen.log_density(exponential)({}, ppgen.draw(dist.Normal(t, 1.0))))


def _backwards(t):
    a = ppgen.draw(dist.Bernoulli(jnp.full(3, t)), grad=ppgen.ScoreFunction()) * jnp.arange(
        1.0, 4.0
    )
    return jnp.sum(jax.lax.rev(a, (0,)) * jnp.array([1.0, 10.0, 100.0]) * jnp.cumsum(a))


# --- the bugs -------------------------------------------------------------------------------------


def _unsuspecting(eqn, ins, outs, *, jumps):
    found = discontinuity.settled(eqn, ins, outs, jumps=jumps)
    return [o._replace(suspect=0) for o in found]


def _all_steps(eqn, position, zeros):
    name = eqn.primitive.name
    return name in ("concatenate", "pad") or _is_linear_step(eqn, position, zeros)


_is_linear_step = deferred_sums.is_linear_step


def bugs() -> list[Bug]:
    """One of each kind."""
    import test_continuity
    import test_linearity
    import test_propagation

    jumps = {k: v for k, v in discontinuity._JUMPS.items() if k != "floor"}
    same = {**propagation.RULES, "rev": propagation._elementwise}
    return [
        Bug(
            "a jump that a random and moving value meets",
            [
                (discontinuity, "_JUMPS", jumps),
                (discontinuity, "CONTINUOUS", discontinuity.CONTINUOUS | {"floor"}),
            ],
            _rounded,
            0.3,
            lambda: test_continuity.said_continuous_but_jumps("floor", 16),
        ),
        Bug(
            "suspicion lost through integers and booleans",
            [(analyse, "settled", _unsuspecting)],
            _indexed,
            0.3,
            lambda: test_continuity.loses_suspicion("gt"),
        ),
        Bug(
            "influence on elements that a rule forgets",
            [(propagation, "RULES", same)],
            _backwards,
            0.4,
            lambda: bool(test_propagation.found_by("rev")),
        ),
        Bug(
            "a support that moves",
            [(frozen_density, "edges_move_with", lambda d: frozenset())],
            _supported,
            0.8,
        ),
        Bug(
            "randomness that is not seen",
            [(analyse, "check_hidden_randomness", lambda jaxpr: None)],
            _by_hand,
            0.3,
        ),
        Bug(
            "a nested expectation that is squared",
            [
                (
                    hidden_randomness._Walk,
                    "check_linear",
                    lambda self, eqn, ins: None,
                )
            ],
            _nested,
            0.3,
            lambda: any(test_linearity.wrong(n) for n in ("mul", "exp", "pow")),
        ),
        Bug(
            "a weight of zero times an infinite cost",
            [(_derivatives, "_expected", lambda x, w: x * w)],
            _impossible,
            0.4,
        ),
        Bug(
            "an affine step that is taken as linear",
            [(deferred_sums, "is_linear_step", _all_steps)],
            _joined,
            0.3,
            lambda: any(map(test_linearity.not_linear, test_linearity.calls("concatenate", 16))),
        ),
        Bug(
            "a density at the edge of its support",
            [(analyse, "inside", lambda value, support: True)],
            _outside,
            0.3,
        ),
    ]


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Within, a bug is there."""
    with contextlib.ExitStack() as stack:
        for where, name, new in bug.patches:
            stack.enter_context(mock.patch.object(where, name, new))
        yield


def audited(bug: Bug, seconds: float) -> str:
    """What an audit says of the program of a bug: its verdict, or why it is refused."""
    try:
        report = ppgen.audit(bug.program, effect=0.3, progress=False, seconds=seconds)
        return report(jax.random.key(0), bug.at).verdict
    except ppgen.PpgenError as error:
        return f"refused ({type(error).__name__})"


def analysed(bug: Bug) -> str:
    """Whether the program of a bug is accepted."""
    try:
        jax.eval_shape(jax.grad(ppgen.expectation(bug.program), 1), jax.random.key(0), bug.at)
    except ppgen.PpgenError as error:
        return f"refused ({type(error).__name__})"
    return "right"


def by_programs(pieces: int) -> str:
    """How many of random programs are wrong."""
    import random_programs

    done = [r for number in range(pieces) for r in random_programs.piece(0, number)]
    wrong = sum(r["verdict"] == "wrong" for r in done)
    return f"{wrong} of {len(done)}"


def main() -> None:
    """Plant, ask, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of an audit")
    parser.add_argument("--pieces", type=int, default=0, help="of random programs, 50 each")
    options = parser.parse_args()
    began, lines = time.time(), []
    for bug in bugs():
        without = analysed(bug)
        with planted(bug):
            rules = "no table" if bug.rules is None else "found" if bug.rules() else "missed"
            with_it = audited(bug, options.seconds)
            some = by_programs(options.pieces) if options.pieces else "not run"
        lines.append(f"| {bug.kind} | {without} | {rules} | {with_it} | {some} |")
        print(lines[-1], flush=True)
    head = "| bug | without it | tests of rules | audit | random programs |"
    text = [
        "# Which guard finds which bug",
        "",
        "One bug of each kind, planted by `benchmarks/planted_bugs.py`: what the generated tests",
        "of rules say, what becomes of an objective of that kind without the bug, what",
        "`ppgen.audit` says of it with the bug, and how many random programs are wrong.",
        '"no table" is a rule about distributions or programs, not about primitives.',
        "",
        head,
        "| --- | --- | --- | --- | --- |",
        *lines,
        "",
        f"{time.time() - began:.0f} s, jax {jax.__version__}, {jax.default_backend()}.",
    ]
    HERE.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
