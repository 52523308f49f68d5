"""The page "Is it unbiased?", from what the code declares of its estimators and objectives."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import ppgen
import ppgen.inference
from ppgen.claims import claim_of

HEAD = """# Is it unbiased?

Made from the code: from the claims of functions (`ppgen.claims`), and from the attributes `biased`
and `first_order` of estimators. `tests/test_claims.py` checks every claim on a program that can be
enumerated, or names the test that does; estimators are tested by the laws of `tests/laws`.

A bound or a loss is an expectation. Two questions are kept apart: how that expectation relates to
the quantity of interest (*value*), and whether derivatives by JAX are unbiased for the derivatives
of that expectation (*gradient*). So a bound with an unbiased gradient is optimised without bias,
and is still a bound.
"""


def is_objective(function: Any) -> bool:
    """Whether it builds a function of a program's arguments to a scalar."""
    if not inspect.isfunction(function):
        return False
    returns = str(function.__annotations__.get("return")).replace("'", '"')
    return returns == 'Callable[..., Float[Array, ""]]'


def public() -> Iterator[tuple[str, Any]]:
    """Everything that `ppgen` and `ppgen.inference` export, by full name."""
    for module in (ppgen, ppgen.inference):
        for name in sorted(dir(module), key=str.lower):
            value = getattr(module, name)
            if not name.startswith("_") and not inspect.ismodule(value):
                yield f"{module.__name__}.{name}", value


def estimators() -> dict[str, type[ppgen.AbstractEstimator]]:
    """The gradient estimators."""
    base = ppgen.AbstractEstimator
    return {
        name: value
        for name, value in public()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


def page() -> str:
    """The page, in MyST Markdown."""
    lines = [HEAD, "## Gradient estimators", "", "| estimator | derivatives |", "| --- | --- |"]
    lines += [f"| {{py:class}}`{n}` | {_derivatives(cls)} |" for n, cls in estimators().items()]
    claimed = {name: claim_of(value) for name, value in public()}
    objectives = {name for name, value in public() if is_objective(value)}
    for title, among in (
        ("Objectives", objectives),
        ("Estimates, programs and samplers", claimed.keys() - objectives),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| | value | of | gradient | but |",
            "| - | - | - | - | - |",
        ]
        for name, claim in claimed.items():
            if claim is not None and name in among:
                gradient = claim.gradient or "–"
                row = (f"{{py:func}}`{name}`", claim.value, claim.of, gradient, claim.but)
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _derivatives(cls: type[ppgen.AbstractEstimator]) -> str:
    if isinstance(inspect.getattr_static(cls, "biased"), property):
        return "those of the estimator that it is given"
    if cls.biased:
        return "*biased*: refused without `allow_biased=True`"
    return "unbiased, " + (
        "first ones only: a second is an error" if cls.first_order else "of every order"
    )
