"""Which guard finds which bug: rules that are made wrong on purpose, one of each kind.

    python benchmarks/planted_bugs.py                        # all
    python benchmarks/planted_bugs.py --only counts          # one, and the page anew
    python benchmarks/planted_bugs.py --guards programs --programs 100

Of each kind of silent fault a bug is planted, by replacing a rule. Then the generated tests of
rules are asked (`tests/test_continuity.py` and its kin), random programs, one after the other until
one is wrong, `ppgen.audit` with an objective of that kind, and a law: that objective against an
answer that is computed without ppgen. The table goes to planted_bugs.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtr
from numpyro.contrib.control_flow import scan as numpyro_scan

import ppgen
from ppgen import _derivatives, densities
from ppgen._analysis import analyse, discontinuity, hidden_randomness, propagation
from ppgen._distributions import moving_ends, truncated
from ppgen._evaluation import constant_folding, constants, deferred_sums, make_choice, surrogate
from ppgen._programs import importance
from ppgen._sampling import frozen_density
from ppgen._staging import numpyro_control_flow, numpyro_effects
from ppgen._staging.primitives import SiteSpec
from ppgen.inference import elbo, iwelbo
from ppgen.testing._random_programs import random_program
from ppgen.testing._verdicts import judge

HERE = Path(__file__)
GUARDS = ["rules", "programs", "audit", "law"]
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "tests")]


class Bug(NamedTuple):
    """A kind of silent fault.

    Attributes:
        kind: in words.
        patches: `(object, attribute, replacement)`.
        program: an objective of one number that the bug makes wrong.
        at: that number.
        exact: its expectation, computed without ppgen.
        rules: whether the generated tests of rules find it; nothing where no table is concerned.
        draws: how many runs the estimate averages.
    """

    kind: str
    patches: list[tuple[Any, str, Any]]
    program: Callable[..., Any]
    at: float
    exact: Callable[..., Any]
    rules: Callable[[], bool] | None = None
    draws: int = 1


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


def _noise(t, f):
    """The mean of f of a Normal variable of mean t, by quadrature."""
    x = jnp.linspace(-9.0, 9.0, 20_002)  # not at zero; it is the density that moves
    return jnp.sum(f(x) * jax.scipy.stats.norm.pdf(x - t)) * (x[1] - x[0])


def _floor_mean(t):
    return jnp.sum(1 - ndtr(jnp.arange(1.0, 12.0) - t)) - jnp.sum(ndtr(jnp.arange(-11.0, 1.0) - t))


def _backwards_mean(t):
    total = 0.0
    for bits in itertools.product((0, 1), repeat=3):
        a = jnp.array(bits) * jnp.arange(1.0, 4.0)
        p = jnp.prod(jnp.where(jnp.array(bits) == 1, t, 1 - t))
        total += p * jnp.sum(a[::-1] * jnp.array([1.0, 10.0, 100.0]) * jnp.cumsum(a))
    return total


def _entropy(t):
    q = jax.nn.log_softmax(t * jnp.arange(1.0, 3.0))
    return -jnp.sum(jnp.exp(q) * q)


def _joined_mean(t):
    sums = jnp.array([6 * t, 3 * (t * jnp.e + 1 - t)])
    return jnp.sum(sums) + 4 * t


STEPS = jnp.array([0.3, -1.2, 0.8])


def _scaled_scan(t):
    def step(c, y):
        numpyro.sample("y", dist.Normal(t + c, 1.0), obs=y)
        return c + 1.0, None

    def program():
        with numpyro.handlers.scale(scale=3.0):
            numpyro_scan(step, 0.0, STEPS)

    return ppgen.log_density(program)({})


def _scaled_sum(t):
    return 3.0 * jnp.sum(jax.scipy.stats.norm.logpdf(STEPS, t + jnp.arange(3.0)))


def _minibatch(t):
    def program():
        with numpyro.plate("data", 3, subsample_size=2) as i:
            numpyro.sample("y", dist.Normal(t, 1.0), obs=STEPS[i])

    given = numpyro.handlers.substitute(program, data={"data": jnp.array([0, 2])})
    return ppgen.log_density(given)({})


def _minibatch_sum(t):
    return 1.5 * jnp.sum(jax.scipy.stats.norm.logpdf(STEPS[jnp.array([0, 2])], t))


def _tail(t):
    return ppgen.densities.log_prob(dist.TruncatedNormal(t, 1.0, low=30.0), 30.1)


def _tail_exact(t):
    return -0.5 * (30.1 - t) ** 2 - 0.5 * jnp.log(2 * jnp.pi) - log_ndtr(t - 30.0)


PRIOR = jnp.array([0.0, 0.4, 0.6])


def _weighted(t):
    def model():
        z = numpyro.sample("z", dist.Categorical(PRIOR))
        numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=0.7)

    def guide():
        logits = jnp.where(PRIOR > 0, t * jnp.arange(3.0), -jnp.inf)
        numpyro.sample("z", dist.Categorical(logits=logits), infer={"grad": ppgen.Enumerate()})

    return iwelbo(model, guide, particles=2)()


def _weighted_mean(t):
    log_q = jax.nn.log_softmax(t * jnp.arange(1.0, 3.0))
    log_w = jnp.log(PRIOR[1:]) + jax.scipy.stats.norm.logpdf(0.7, jnp.arange(1.0, 3.0)) - log_q
    pairs = jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)
    return jnp.exp(log_q) @ pairs @ jnp.exp(log_q)


def _after_a_score(t):
    first = ppgen.draw(dist.Bernoulli(t), grad=ppgen.ScoreFunction())
    return 1.0 * ppgen.draw(dist.Bernoulli(jnp.where(first == 1, 0.2, 0.8)), grad=ppgen.Enumerate())


def _counted(t):
    n = 1 + ppgen.draw(dist.Bernoulli(t), grad=ppgen.Enumerate())
    return ppgen.draw(dist.Binomial(n, 0.4), grad=ppgen.Enumerate()) ** 2


def _hidden_parameter(t):
    lost = jnp.array([0.0, jnp.nan])

    def program():
        with numpyro.handlers.mask(mask=jnp.isfinite(lost)):
            numpyro.sample("x", dist.Normal(0.0, jnp.exp(t) + lost), obs=jnp.array([0.5, 0.1]))

    return ppgen.log_density(program)({})


def _masked_latent(t):
    seen = jnp.array([True, False])

    def model():
        with numpyro.handlers.mask(mask=seen):
            numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0))

    def guide():
        numpyro.sample("z", dist.Normal(jnp.zeros(2), jnp.exp(t)))

    return elbo(model, guide)()


def _folded(t):
    k = ppgen.draw(dist.Categorical(jnp.array([0.2, 0.5, 0.3])), grad=ppgen.Enumerate())
    return (t - (-k)) ** 2


# --- the bugs -------------------------------------------------------------------------------------


def _unsuspecting(eqn, ins, outs, *, jumps):
    found = discontinuity.settled(eqn, ins, outs, jumps=jumps)
    return [o._replace(suspect=0) for o in found]


def _all_steps(eqn, position, zeros):
    name = eqn.primitive.name
    return name in ("concatenate", "pad") or _is_linear_step(eqn, position, zeros)


_is_linear_step = deferred_sums.is_linear_step


def _without_scale(handler, steps, msg):
    here = _handler_at(handler, steps, msg)
    return None if steps and isinstance(here, numpyro.handlers.scale) else here


_handler_at = numpyro_control_flow.handler_at


def _own_minibatch(self, msg, hidden):
    msg["value"] = None
    _process_plate(self, msg, hidden)


_process_plate = numpyro_effects._Bind.process_plate


def _without_mask(**fields):
    return SiteSpec(**(fields | {"masked": False}))


def bugs() -> dict[str, Bug]:
    """One of each kind, by a short name."""
    import test_continuity
    import test_linearity
    import test_propagation

    jumps = {k: v for k, v in discontinuity._JUMPS.items() if k != "floor"}
    same = {**propagation.RULES, "rev": propagation._elementwise}
    wrong_fold = {**constants.KNOWN, "neg": constants.KNOWN["copy"]}
    return {
        "jump": Bug(
            "a jump that a random and moving value meets",
            [
                (discontinuity, "_JUMPS", jumps),
                (discontinuity, "CONTINUOUS", discontinuity.CONTINUOUS | {"floor"}),
            ],
            _rounded,
            0.3,
            _floor_mean,
            lambda: test_continuity.said_continuous_but_jumps("floor", 16),
        ),
        "suspicion": Bug(
            "suspicion lost through integers and booleans",
            [(analyse, "settled", _unsuspecting)],
            _indexed,
            0.3,
            lambda t: 2 * ndtr(t),
            lambda: test_continuity.loses_suspicion("gt"),
        ),
        "influence": Bug(
            "influence on elements that a rule forgets",
            [(propagation, "RULES", same)],
            _backwards,
            0.4,
            _backwards_mean,
            lambda: bool(test_propagation.found_by("rev")),
        ),
        "support": Bug(
            "a support that moves",
            [
                (module, "edges_move_with", lambda d: frozenset())
                for module in (frozen_density, moving_ends)
            ],
            _supported,
            0.8,
            lambda t: t**2 / 3,
        ),
        "randomness": Bug(
            "randomness that is not seen",
            [(analyse, "check_hidden_randomness", lambda jaxpr: None)],
            _by_hand,
            0.3,
            lambda t: t,
        ),
        "nested": Bug(
            "a nested expectation that is squared",
            [(hidden_randomness._Walk, "check_linear", lambda self, eqn, ins: None)],
            _nested,
            0.3,
            lambda t: t,  # the square of a flip is the flip
            lambda: any(test_linearity.wrong(n) for n in ("mul", "exp", "pow")),
        ),
        "cost": Bug(
            "a weight of zero times an infinite cost",
            [(_derivatives, "_expected", lambda x, w: x * w)],
            _impossible,
            0.4,
            _entropy,
        ),
        "affine": Bug(
            "an affine step that is taken as linear",
            [(deferred_sums, "is_linear_step", _all_steps)],
            _joined,
            0.3,
            _joined_mean,
            lambda: any(map(test_linearity.not_linear, test_linearity.calls("concatenate", 16))),
        ),
        "edge": Bug(
            "a density at the edge of its support",
            [(analyse, "inside", lambda value, support: True)],
            _outside,
            0.3,
            lambda t: _noise(t, lambda x: jnp.where(x > 0, jnp.exp(-x), 0.0)),
        ),
        "effects": Bug(
            "a handler around NumPyro's control flow that is lost",
            [(numpyro_control_flow, "handler_at", _without_scale)],
            _scaled_scan,
            0.4,
            _scaled_sum,
        ),
        "minibatch": Bug(
            "a minibatch that is given, and another one drawn",
            [(numpyro_effects._Bind, "process_plate", _own_minibatch)],
            _minibatch,
            0.4,
            _minibatch_sum,
        ),
        "numerics": Bug(
            "a density far out in a tail",
            [(truncated, "TRUNCATED", ())],
            _tail,
            0.4,
            _tail_exact,
        ),
        "importance": Bug(
            "an impossible draw that has an importance weight",
            [(importance, "log_weight_of_drawn", lambda p, q: p - q)],
            _weighted,
            0.4,
            _weighted_mean,
        ),
        "baseline": Bug(
            "a baseline for each point that is summed over",
            [(surrogate._Weigher, "weights_depend_on", lambda *_: False)],
            _after_a_score,
            0.3,
            lambda t: 0.2 * t + 0.8 * (1 - t),
            draws=4,
        ),
        "counts": Bug(
            "an enumeration that ends with the first count",
            [(make_choice, "values_between", lambda dists: _values_between(dists[:1]))],
            _counted,
            0.3,
            lambda t: (1 - t) * 0.4 + t * (0.48 + 4 * 0.16),
        ),
        "parameter": Bug(
            "a parameter that a mask does not hide",
            [(densities, "without_hidden_parameters", lambda d, mask: d)],
            _hidden_parameter,
            0.3,
            lambda t: jax.scipy.stats.norm.logpdf(0.5, 0.0, jnp.exp(t)),
        ),
        "mask": Bug(
            "a latent that is masked in the model only",
            [(numpyro_effects, "SiteSpec", _without_mask)],
            _masked_latent,
            1.5,
            lambda t: 0.5 + t - jnp.exp(2 * t) / 2,  # with the mask on both sides
        ),
        "folding": Bug(
            "a constant that is folded into another",
            [(constant_folding, "KNOWN", wrong_fold)],
            _folded,
            0.3,
            lambda t: 0.2 * t**2 + 0.5 * (t + 1) ** 2 + 0.3 * (t + 2) ** 2,
            lambda: any(map(test_linearity.folded_otherwise, test_linearity.calls("neg", 8))),
        ),
    }


_values_between = make_choice.values_between


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Within, a bug is there."""
    with contextlib.ExitStack() as stack:
        for where, name, new in bug.patches:
            stack.enter_context(mock.patch.object(where, name, new))
        yield


# --- the guards -----------------------------------------------------------------------------------


def audited(bug: Bug, seconds: float) -> str:
    """What an audit says of the program of a bug: its verdict, or why it is refused."""
    try:
        report = ppgen.audit(
            bug.program,
            effect=0.3,
            draws=bug.draws,
            progress=False,
            seconds=seconds,
            max_draws=200_000,
        )
        return report(jax.random.key(0), bug.at).verdict
    except ppgen.PpgenError as error:
        return f"refused ({type(error).__name__})"


def by_law(bug: Bug) -> str:
    """Whether value and slope are the exact ones, within six standard errors."""
    run = jax.value_and_grad(ppgen.expectation(bug.program, draws=bug.draws), 1)
    try:
        found = jax.jit(jax.vmap(run, (0, None)))(jax.random.split(jax.random.key(1), 4096), bug.at)
    except ppgen.PpgenError as error:
        return f"refused ({type(error).__name__})"
    for got, wanted in zip(found, jax.value_and_grad(bug.exact)(bug.at), strict=True):
        x = np.asarray(got, np.float64)
        error = x.std() / len(x) ** 0.5 + 1e-4 * (1 + abs(float(wanted)))
        if not abs(x.mean() - float(wanted)) <= 6 * error:
            return "found"
    return "agrees"


def by_programs(count: int) -> str:
    """The first of some random programs that is wrong."""
    for i in range(count):
        program = random_program(np.random.default_rng([16, i]))
        if judge(program, program.theta, draws=program.draws).verdict in ("wrong", "not a number"):
            return f"found by the {i + 1}."
    return f"none of {count}"


def asked(bug: Bug, guards: list[str], seconds: float, programs: int) -> dict[str, str]:
    """What guards say of a bug."""
    found = {}
    if "law" in guards:
        found["without"] = by_law(bug)
    jax.clear_caches()
    with planted(bug):
        if "rules" in guards:
            found["rules"] = "no table" if bug.rules is None else _seen(bug.rules())
        if "programs" in guards:
            found["programs"] = by_programs(programs)
        if "audit" in guards:
            said = audited(bug, seconds)
            found["audit"] = {"disagrees": "found", "agrees": "missed"}.get(said, said)
        if "law" in guards:
            said = by_law(bug)
            found["law"] = "missed" if said == "agrees" else said
    jax.clear_caches()
    return found


def _seen(found: bool) -> str:
    return "found" if found else "missed"


def main() -> None:
    """Plant, ask, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="of an audit, at most")
    parser.add_argument("--programs", type=int, default=10, help="random ones of a bug, at most")
    parser.add_argument("--only", nargs="*", default=[], help="short names of bugs")
    parser.add_argument("--guards", nargs="*", default=GUARDS, choices=GUARDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/planted_bugs"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, bug in bugs().items():
        file = options.folder / f"{name}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if not options.only or name in options.only:
            began = time.process_time()
            known |= asked(bug, options.guards, options.seconds, options.programs)
            known["seconds"] = known.get("seconds", 0.0) + time.process_time() - began
            file.write_text(json.dumps(known))
            print(name, known, flush=True)
        lines.append((bug.kind, known))
    write(lines)


def write(lines: list[tuple[str, dict]]) -> None:
    """Write the page."""
    columns = ("without", "rules", "programs", "audit", "law")
    rows = [
        f"| {kind} | " + " | ".join(known.get(c, "not asked") for c in columns) + " |"
        for kind, known in lines
    ]
    seconds = sum(known.get("seconds", 0.0) for _, known in lines)
    text = [
        "# Which guard finds which bug",
        "",
        "One bug of each kind, planted by `benchmarks/planted_bugs.py`: what becomes of an",
        "objective of that kind without the bug; and with it, what the generated tests of rules",
        "say, whether one of some random programs is wrong (the first one counts), what",
        "`ppgen.audit` says of the objective (40 s and 200,000 draws at most, to see a difference",
        "of 0.3), and whether it differs from an answer that is computed without ppgen (a law).",
        '"no table" is a rule about distributions or programs, not about primitives. An audit',
        "cannot see what is as wrong in the value as in its slope: a handler, a minibatch, a mask.",
        "",
        "| bug | without it | tests of rules | random programs | audit | law |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"{seconds:.0f} s of one core, jax {jax.__version__}, {jax.default_backend()}.",
    ]
    HERE.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
