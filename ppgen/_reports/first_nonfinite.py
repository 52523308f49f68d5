"""`first_nonfinite`: the first operation with a result that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppgen import _jax
from ppgen._interpret import interpret
from ppgen._lowering.lower import CUSTOM, REMATS
from ppgen._staging.primitives import (
    CALLS,
    DENSITY_SCOPE,
    OWN_DENSITY_SCOPE,
    OWN_SAMPLER_SCOPE,
    SAMPLER_SCOPE,
    SITE_SCOPE,
)
from ppgen._tracebacks import boundary
from ppgen._user_lines import is_library

_INLINED = CALLS | CUSTOM | REMATS


class NonFinite(NamedTuple):
    """An operation on finite numbers whose result is not finite; or an argument that is not.

    Attributes:
        operation: JAX's name of the operation; "argument" for an argument, "constant" for an array
            that the function closes over.
        result: "nan", "inf" or "-inf".
        site: the name of the site whose draw or density it is part of, where there is one.
        part: "draw" or "density" of the site, else "".
        where: the user's file and line, if known; or the path of an argument.
        source: the source code there.
        operands: the smallest and the largest number in each floating-point operand.
        step: for an operation in a loop, in which of its iterations; loops within loops have one
            number each.
        outputs: paths of the outputs of the function that are not finite.
        then: for an infinity that later becomes `nan`, the operation that makes it so.
    """

    operation: str
    result: str
    site: str | None
    part: str
    where: str
    source: str
    operands: tuple[tuple[float, float], ...]
    step: tuple[int, ...]
    outputs: tuple[str, ...]
    then: NonFinite | None

    def __str__(self) -> str:
        """One sentence, and another one where there is a sequel."""
        if self.operation in ("argument", "constant"):
            said = f"{self.operation} {self.where}".strip() + f" holds {self.result}"
        else:
            ranges = " and ".join(f"[{low:.4g}, {high:.4g}]" for low, high in self.operands)
            said = f"{self.operation} of values in {ranges} gives {self.result}"
            if self.source:
                said += f", at `{self.source}`"
            if self.part:
                said += f", in the {self.part} of site {self.site!r}"
            if self.step:
                said += f", in iteration {', '.join(map(str, self.step))} of a loop"
        return said if self.then is None else f"{said}; then {self.then}"


def first_nonfinite(f: Callable[..., Any]) -> Callable[..., NonFinite | None]:
    """Find the operation that first makes a result infinite or NaN.

    The function is run operation by operation, which is slow. Infinities that do not reach a
    result, as behind a `jnp.where`, are ignored.

    Args:
        f: any JAX function, such as `jax.grad(ppgen.expectation(objective), argnums=1)`.

    Returns:
        `(*args) -> NonFinite`, or `None` if all results are finite. It names the first operation
        whose operands are finite and whose result is not, among those that the result
        depends on. A compiled function may round differently, so the result may also be `None` if a
        number is close to overflow.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> def model(scale):
        ...     numpyro.sample("x", dist.Normal(0.0, jnp.exp(scale)), obs=1.0)
        >>> def cost(scale):
        ...     return ppgen.log_density(model)({}, scale)
        >>> found = ppgen.first_nonfinite(ppgen.expectation(cost))(jax.random.key(0), -200.0)
        >>> found.operation, found.result, found.site, found.part, found.operands
        ('log', '-inf', 'x', 'density', ((0.0, 0.0),))
        >>> found.then.operation, found.then.result
        ('sub', 'nan')
    """

    @boundary
    def run(*args: Any) -> NonFinite | None:
        jaxpr, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        tape = _Tape()
        inputs = [tape.new(x) for x in jax.tree.leaves(args)]
        outs = tape.run(jaxpr, inputs)
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)]
        bad = [path for i, path in zip(outs, paths, strict=True) if tape.kind(i)]
        found = tape.search(outs)
        if found is None:
            return None
        if found.operation == "argument":
            names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(args)]
            found = found._replace(where=names[int(found.where)])
        return found._replace(outputs=tuple(bad))

    return run


class _Entry(NamedTuple):
    eqn: _jax.Eqn
    ins: list[int]
    outs: list[int]
    scopes: tuple[str, ...]
    line: _jax.Eqn  # whose line is the user's


class _Tape:
    """A record of a computation: values by number, and the equations between them."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.made_by: dict[int, _Entry] = {}
        self.literals: set[int] = set()
        self._kinds: dict[int, str] = {}

    def new(self, value: Any) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def literal(self, value: Any) -> int:
        i = self.new(value)
        self.literals.add(i)
        return i

    def run(
        self,
        jaxpr: Any,
        inputs: Sequence[int],
        scopes: tuple[str, ...] = (),
        caller: _jax.Eqn | None = None,
    ) -> list[int]:
        """Evaluate a jaxpr, calls inlined; lines are the `caller`'s, if there is one."""

        def equation(eqn: _jax.Eqn, ins: list[int]) -> list[int]:
            within = (*scopes, *_jax.scopes(eqn))
            name = eqn.primitive.name
            if name in _INLINED:
                # What is kept and called again has the lines of its first caller.
                line = caller or (eqn if _jax.calls_jax(eqn) else None)
                return self.run(_jax.subjaxprs(eqn)[0], ins, within, line)
            if name == "cond":
                branch = eqn.params["branches"][int(self.values[ins[0]])]
                return self.run(branch, ins[1:], within, caller)
            outs = [self.new(x) for x in _jax.bind(eqn, [self.values[i] for i in ins])]
            self.made_by.update(dict.fromkeys(outs, _Entry(eqn, ins, outs, within, caller or eqn)))
            return outs

        consts = map(self.literal, _jax.open_jaxpr(jaxpr)[1])
        return interpret(
            jaxpr, inputs, equation, consts=consts, literal=lambda v: self.literal(v.val)
        )

    def kind(self, i: int) -> str:
        """The kind of a value: "nan", else "inf" or "-inf", else ""."""
        if i not in self._kinds:
            self._kinds[i] = _kind(self.values[i])
        return self._kinds[i]

    def search(self, outs: Sequence[int]) -> NonFinite | None:
        """The origin of the values in `outs` that are not finite; `None` if all are finite."""
        nan = self._birth(outs, ("nan",))
        if nan is None:
            infinite = self._birth(outs, _INFINITE)
            return None if infinite is None else self._report(infinite, _INFINITE)
        report = self._report(nan, ("nan",))
        # The operation that turns an infinity into `nan` is often correct: 0 * inf, inf - inf.
        made = self.made_by.get(nan)
        infinite = None if made is None else self._birth(made.ins, _INFINITE)
        if infinite is None or report.then is not None:
            return report
        return self._report(infinite, _INFINITE)._replace(then=report)

    def _birth(self, ends: Sequence[int], kinds: Sequence[str]) -> int | None:
        """The first value that is not finite in one of these ways, while its operands are not so.

        Only what the values `ends` depend on counts, and no literal or constant that is infinite.
        """
        pending = [i for i in ends if self.kind(i) in kinds]
        seen, births = set(pending), []
        while pending:
            i = pending.pop()
            causes = [j for j in self._operands(i, kinds) if self.kind(j) in kinds]
            if not causes:
                births.append(i)
            pending += [j for j in causes if j not in seen]
            seen.update(causes)
        return min((i for i in births if not self._innocent(i)), default=None)

    def _innocent(self, i: int) -> bool:
        return i in self.literals and self.kind(i) in _INFINITE

    def _operands(self, i: int, kinds: Sequence[str]) -> Iterator[int]:
        """The operands of what made a value that can have made it so."""
        entry = self.made_by.get(i)
        if entry is None:
            return
        for position, j in enumerate(entry.ins):
            if self._innocent(j):
                continue
            if entry.eqn.primitive.name == "select_n" and position:
                chosen = np.asarray(self.values[entry.ins[0]]).astype(int) == position - 1
                if _kind(np.where(chosen, np.asarray(self.values[j]), 0)) not in kinds:
                    continue
            yield j

    def _report(self, i: int, kinds: Sequence[str]) -> NonFinite:
        entry = self.made_by.get(i)
        if entry is None:
            known = i in self.literals
            return NonFinite(
                operation="constant" if known else "argument",
                result=self.kind(i),
                site=None,
                part="",
                where="" if known else str(i),
                source="",
                operands=(),
                step=(),
                outputs=(),
                then=None,
            )
        operands = [self.values[j] for j in entry.ins]
        if entry.eqn.primitive.name in _LOOPS:
            found = _in_loop(entry.eqn, operands, kinds)
            if found is not None:
                return found
        where, source = _jax.user_source(entry.line, is_library)
        sites = [s.removeprefix(SITE_SCOPE) for s in entry.scopes if s.startswith(SITE_SCOPE)]
        parts = [_PARTS[s] for s in entry.scopes if s in _PARTS]
        return NonFinite(
            operation=entry.eqn.primitive.name,
            result=self.kind(i),
            site=sites[-1] if sites else None,
            part=parts[-1] if parts and sites else "",
            where=where,
            source=source,
            operands=tuple(_range(x) for x in operands if _is_inexact(x)),
            step=(),
            outputs=(),
            then=None,
        )


_INFINITE = ("inf", "-inf")
_LOOPS = ("scan", "while")
_PARTS = {
    DENSITY_SCOPE: "density",
    OWN_DENSITY_SCOPE: "density",
    SAMPLER_SCOPE: "draw",
    OWN_SAMPLER_SCOPE: "draw",
}


def _in_loop(eqn: _jax.Eqn, operands: Sequence[Any], kinds: Sequence[str]) -> NonFinite | None:
    """The same within a loop, which is run step by step up to the first one that makes it so."""
    iterations = _scan_steps if eqn.primitive.name == "scan" else _while_steps
    for t, (body, inputs, outs) in enumerate(iterations(eqn, operands)):
        if any(_kind(x) in kinds for x in outs):
            tape = _Tape()
            found = tape.search(tape.run(body, [tape.new(x) for x in inputs]))
            if found is not None and found.operation == "argument":
                found = found.then  # an infinity from outside, with which the loop makes `nan`
            return None if found is None else found._replace(step=(t, *found.step))
    return None


def _scan_steps(eqn: _jax.Eqn, operands: Sequence[Any]) -> Iterator[tuple[Any, list, list]]:
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    run = jax.jit(_jax.as_function(body))
    consts, carries = _jax.scan_counts(eqn)
    fixed, carry = list(operands[:consts]), list(operands[consts : consts + carries])
    xs = operands[consts + carries :]
    for t in reversed(range(length)) if eqn.params["reverse"] else range(length):
        inputs = [*fixed, *carry, *(x[t] for x in xs)]
        outs = run(*inputs)
        yield body, inputs, outs
        carry = outs[:carries]


def _while_steps(eqn: _jax.Eqn, operands: Sequence[Any]) -> Iterator[tuple[Any, list, list]]:
    body = eqn.params["body_jaxpr"]
    run = jax.jit(_jax.as_function(body))
    go_on = jax.jit(_jax.as_function(eqn.params["cond_jaxpr"]))
    tests, fixed = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carry = list(operands[tests + fixed :])
    while go_on(*operands[:tests], *carry)[0]:
        inputs = [*operands[tests : tests + fixed], *carry]
        carry = run(*inputs)
        yield body, inputs, carry


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _kind(x: Any) -> str:
    """The kind of an array: "nan", else "inf" or "-inf", else ""."""
    if not _is_inexact(x):
        return ""
    x = np.asarray(x)
    if np.isnan(x).any():
        return "nan"
    if not np.isinf(x).any():
        return ""
    return "inf" if np.isposinf(x.real).any() else "-inf"


def _range(x: Any) -> tuple[float, float]:
    """The smallest and the largest number in an array, in magnitude if they are complex."""
    x = np.asarray(x)
    x = np.abs(x) if np.iscomplexobj(x) else x.astype(np.float64)
    x = x[~np.isnan(x)]
    return (float(x.min()), float(x.max())) if x.size else (np.nan, np.nan)
