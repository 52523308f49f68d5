"""`check`: the choices, cost terms and problems of an objective."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ppgen import _jax
from ppgen._analysis.analyse import Analysis, analyse
from ppgen._analysis.choices import Choice
from ppgen._analysis.influence import bits
from ppgen._expectation import prepare
from ppgen._interpret import follow
from ppgen._lowering.lower import lower
from ppgen._reports.cost_tree import CostTerm, cost_terms
from ppgen._reports.report import ChoiceRow, Report, TermRow
from ppgen._reports.table import file_and_line, joined
from ppgen._staging.primitives import ChoiceSpec
from ppgen._tracebacks import boundary
from ppgen._user_lines import is_library
from ppgen.errors import PpgenError


def check(f: Callable[..., Any], *, draws: int = 1, has_aux: bool = False) -> Callable[..., Report]:
    """Report what `expectation` will do with an objective, without running anything.

    It lists the random choices and their gradient estimators, the additive terms of the cost, the
    choices on which each term depends (only their scores multiply it), the discontinuities that
    reparameterised choices reach, and to which order derivatives are unbiased.

    Args:
        f: the objective, as `expectation` takes it.
        draws: as `expectation` takes it.
        has_aux: as `expectation` takes it.

    Returns:
        `(*args, **kwargs) -> Report`, which prints the report too. The arguments may be arrays or
        `jax.ShapeDtypeStruct` objects.

    Example:
        >>> import ppgen, numpyro.distributions as dist
        >>> def f(p):
        ...     b = ppgen.draw(dist.Bernoulli(p), name="b")
        ...     x = ppgen.draw(dist.Normal(b, 1.0), name="x", grad=ppgen.MeasureValued())
        ...     return (x - 1.0) ** 2 + 0.1 * b
        >>> report = ppgen.check(f)(0.3)  # doctest: +ELLIPSIS
        ppgen.check  f ...
        <BLANKLINE>
        random choice  distribution ...
        ...
        verdict  first derivatives only (MeasureValued at 'x')
        >>> sorted(term.reached_by for term in report.terms)
        [('b',), ('b', 'x')]
    """

    @boundary
    def run(*args: Any, **kwargs: Any) -> Report:
        report = _report(f, args, kwargs, draws, has_aux)
        print(report)
        return report

    return run


def _report(f: Callable, args: tuple, kwargs: dict, draws: int, has_aux: bool) -> Report:
    title = _title(f)
    found: list[Report] = []

    def abstractly(*args: Any) -> Any:
        prepared = prepare(
            lambda: f(*args, **kwargs),
            has_aux=has_aux,
            allow_biased=True,
            draws=draws,
            strict=False,
        )
        jaxpr = lower(prepared.jaxpr)
        analysis = analyse(jaxpr, allow_biased=True, strict=False)
        jaxpr, _ = _jax.open_jaxpr(jaxpr)
        rows, reach = _choices(jaxpr, analysis)
        terms = tuple(_terms(jaxpr, analysis, rows, reach))
        jumps = tuple(
            f"{joined([s.name for s in d.sites])} reaches {d.what} at {file_and_line(d.where)}"
            for d in analysis.discontinuities
        )
        picks = tuple(
            f"{name}: {type(p.estimator).__name__}, because {p.reason}"
            for name, p in prepared.automatic.picks.items()
        )
        found.append(Report(title, tuple(rows), terms, jumps, "", True, picks))
        if not jumps:
            # Errors that only the evaluation finds: joint supports too large, estimators that fail.
            key = jax.eval_shape(lambda: jax.random.key(0))
            jax.eval_shape(lambda key: prepared.run(key, None), key)
        verdict, ok = _verdict(analysis, rows, jumps)
        found.append(dataclasses.replace(found[0], verdict=verdict, ok=ok))

    try:
        jax.eval_shape(abstractly, *args)
    except PpgenError as error:
        partial = found[0] if found else Report(title, (), (), (), "", False)
        place = f" (site {error.site!r})" if error.site is not None else ""
        place += f" in {file_and_line(error.where)}" if error.where else ""
        remedy = f". Write instead: {error.instead}" if error.instead else ""
        verdict = f"error: {error.message}{place}{remedy}"
        return dataclasses.replace(partial, verdict=verdict, ok=False)
    return found[-1]


def _title(f: Callable) -> str:
    f = inspect.unwrap(f)
    name = getattr(f, "__qualname__", type(f).__name__).replace("<locals>.", "")
    code = getattr(f, "__code__", None)
    if code is None:
        return name
    return f"{name}  {os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def _choices(jaxpr: Any, analysis: Analysis) -> tuple[list[ChoiceRow], dict[_jax.Var, int]]:
    """The choices, in the analysis's numbering (weighted ones first), and what depends on which.

    Returns:
        The rows, and for each top-level variable the bit set of rows that it depends on.
    """
    rows: list[ChoiceRow] = []

    def equation(eqn: _jax.Eqn, masks: list[int]) -> list[int]:
        own = list(_rows(eqn, ()))
        masks = [*masks, *(1 << len(rows) + i for i in range(len(own)))]
        rows.extend(own)
        return [functools.reduce(operator.or_, masks, 0)] * len(eqn.outvars)

    env = follow(jaxpr, [], equation, nothing=0)
    return rows, {v: mask for v, mask in env.values.items() if mask}


def _rows(eqn: _jax.Eqn, loops: tuple[int, ...], together: bool = False) -> Iterator[ChoiceRow]:
    name = eqn.primitive.name
    if name == "random_choice":
        spec: ChoiceSpec = eqn.params["spec"]
        shape = loops + eqn.params["lanes"] + spec.shape
        yield _row(
            spec.name,
            spec.family,
            shape,
            spec.event,
            type(spec.template).__name__,
            spec.default,
            spec.where,
            together,
        )
    elif name == "marker" and eqn.params["kind"] == "pathwise":
        d, operand = dict(eqn.params["details"]), eqn.invars[0]
        estimator = d["estimator"] + ("(assume_smooth=True)" if d["smooth"] else "")
        estimator = "(no parameters)" if d["exogenous"] else estimator
        shape = loops + getattr(operand.aval, "shape", ())
        default = d["default"] and not d["exogenous"]
        p = eqn.params
        yield _row(
            p["name"], d["dist"], shape, d["event"], estimator, default, p["where"], together
        )
    else:
        if name == "scan":
            loops = (*loops, eqn.params["length"])
        together = together or name in ("cond", "while")
        for inner in _jax.subjaxprs(eqn):
            for e in _jax.open_jaxpr(inner)[0].eqns:
                yield from _rows(e, loops, together)


def _row(name, family, shape, event, estimator, default, where, together) -> ChoiceRow:
    split = len(shape) - event
    return ChoiceRow(
        name, family, shape[:split], shape[split:], estimator, default, where, together
    )


def _terms(jaxpr: Any, analysis: Analysis, rows: list[ChoiceRow], reach: dict) -> list[TermRow]:
    """The terms; parts that come from one expression of the user share a row."""
    merged: dict[tuple, TermRow] = {}
    for term in cost_terms(jaxpr, analysis, reach):
        row = _term(term, analysis, rows, reach)
        key = (row.sign, row.name, row.where, row.shape)
        if known := merged.get(key):
            reached = tuple(dict.fromkeys((*known.reached_by, *row.reached_by)))
            row = dataclasses.replace(row, reached_by=reached)
        merged[key] = row
    return list(merged.values())


def _term(term: CostTerm, analysis: Analysis, rows: list[ChoiceRow], reach: dict) -> TermRow:
    influence = analysis.of(term.variable)
    aligned = {}
    for i, places in influence.aligned.items():
        choice: Choice = analysis.choices[i]
        if not choice.together:
            aligned[choice.specs[0].name, choice.specs[0].where] = _indices(places)
    names = []
    for i in bits(reach.get(term.variable, 0)):
        row = rows[i]
        names.append(row.name + aligned.get((row.name, row.where), ""))
    name, where = term.name, term.where
    if not name:
        where, source = _jax.user_source(term.equation, is_library)
        name = source.removeprefix("return ") or "a cost"
        if term.inside:
            name += f"  (of {joined(term.inside, limit=3)})"
    return TermRow(term.sign, name, where, term.shape, tuple(dict.fromkeys(names)))


def _indices(places: Any) -> str:
    letters = "ijklmnopqrstuvw"
    mark = {"=": "", "<": "≤", ">": "≥"}
    return f"[{', '.join(':' if p is None else mark[p[1]] + letters[p[0]] for p in places)}]"


def _verdict(analysis: Analysis, rows: list[ChoiceRow], jumps: tuple) -> tuple[str, bool]:
    if jumps:
        return (
            f"error: {jumps[0]}, which the gradient would silently miss. Write instead: "
            + analysis.discontinuities[0].instead,
            False,
        )
    specs = [spec for choice in analysis.choices for spec in choice.specs]
    biased = [(type(s.template).__name__, s.name) for s in specs if s.template.biased]
    biased += [
        (p.details["estimator"], p.name) for p in analysis.pathwise if p.details.get("biased")
    ]
    if biased:
        return f"biased: {_named(biased)}; expectation wants allow_biased=True", False
    first = [(type(s.template).__name__, s.name) for s in specs if s.template.first_order]
    if first:
        return f"first derivatives only ({_named(first)})", True
    smooth = [r.name for r in rows if "assume_smooth" in r.estimator]
    if smooth:
        names = joined([repr(name) for name in smooth])
        return f"unbiased to every order, if no jump matters that {names} passes over", True
    return "unbiased to every order" if rows else "nothing is random: the cost itself", True


def _named(found: list[tuple[str, str]]) -> str:
    by_estimator: dict[str, list[str]] = {}
    for estimator, name in dict.fromkeys(found):
        by_estimator.setdefault(estimator, []).append(repr(name))
    return "; ".join(f"{e} at {joined(names, limit=3)}" for e, names in by_estimator.items())
