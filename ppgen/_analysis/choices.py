"""The random choices that a lowered program makes, in the order in which it makes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ppgen import _jax
from ppgen._lowering.lower import choice_specs
from ppgen._staging.primitives import CALLS, ChoiceSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A random choice of a lowered program, or several that a branch or loop makes together.

    Attributes:
        specs: the choices; one, unless they are made together.
        shape: its batch shape: scan lengths, lanes, the distribution's batch shape.
        looped: how many of the leading axes are lengths of scans.
        together: whether a branch or loop makes it, perhaps with others.
    """

    specs: tuple[ChoiceSpec, ...]
    shape: tuple[int, ...]
    looped: int = 0
    together: bool = False

    @property
    def name(self) -> str:
        """Site names, for messages."""
        return "|".join(dict.fromkeys(spec.name for spec in self.specs))

    @property
    def controlled(self) -> bool:
        """Whether control terms come with it."""
        return any(s.template.controlled for s in self.specs)

    @property
    def leave_one_out(self) -> bool:
        """Whether other draws may serve as its baseline."""
        return any(s.template.leave_one_out for s in self.specs)

    @property
    def coupled(self) -> bool:
        """Whether other draws depend on it."""
        return any(s.template.coupled for s in self.specs)


def choices_of(jaxpr: Any) -> list[Choice]:
    """The choices that a lowered jaxpr makes, in the order in which evaluation makes them."""
    found = []
    if _jax.primitives_in(jaxpr).isdisjoint({"random_choice", "sample_site"}):
        return found
    for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
        found += choices_of_equation(eqn)
    return found


def choices_of_equation(eqn: _jax.Eqn) -> list[Choice]:
    """The choices that one equation makes, in order."""
    name = eqn.primitive.name
    if name == "random_choice":
        return [Choice((eqn.params["spec"],), eqn.params["lanes"] + eqn.params["spec"].batch)]
    if name == "scan":
        length = eqn.params["length"]
        return [
            Choice(c.specs, (length, *c.shape), c.looped + 1, c.together)
            for c in choices_of(eqn.params["jaxpr"])
        ]
    if name in CALLS:
        return choices_of(_jax.subjaxprs(eqn)[0])
    specs = [s for jaxpr in _jax.subjaxprs(eqn) for s in choice_specs(jaxpr)]
    return [Choice(tuple(specs), (), together=True)] if specs else []
