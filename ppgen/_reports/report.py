"""The report that `check` prints."""

from __future__ import annotations

import dataclasses

from ppgen._reports.table import abbreviated, file_and_line, joined, shape_text, table, wrapped


@dataclasses.dataclass(frozen=True)
class ChoiceRow:
    """A random choice of an objective.

    Attributes:
        name: the site's name, or the name given to `draw`.
        family: the class of its distribution.
        batch: its batch shape: loops, `vmap` lanes and plates included.
        event: its event shape.
        estimator: the class of its gradient estimator.
        default: whether that estimator is the default.
        where: the user's file and line.
        together: whether a branch or loop makes it, so that it is weighted together with others.
    """

    name: str
    family: str
    batch: tuple[int, ...]
    event: tuple[int, ...]
    estimator: str
    default: bool
    where: str
    together: bool = False


@dataclasses.dataclass(frozen=True)
class TermRow:
    """An additive term of a cost.

    Attributes:
        sign: "+", "-", or "±" where it enters with both.
        name: `log p(site)`, or the source line that computes it.
        where: the user's file and line.
        shape: its shape, before it is summed.
        reached_by: the choices that influence it, as `z`, or `z[i, :]` where element `i` of the
            term depends on elements `z[i, :]` only.
    """

    sign: str
    name: str
    where: str
    shape: tuple[int, ...]
    reached_by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of `check`; printing it shows the tables.

    Attributes:
        title: the objective's name, file and line.
        choices: its random choices, in the order in which they are made.
        terms: the additive terms of its cost.
        discontinuities: the discontinuities that reparameterised choices reach, in words.
        verdict: what holds for its derivatives, in one line.
        ok: whether `expectation` accepts it.
        picks: what "auto" picked, and why, in words.
    """

    title: str
    choices: tuple[ChoiceRow, ...]
    terms: tuple[TermRow, ...]
    discontinuities: tuple[str, ...]
    verdict: str
    ok: bool
    picks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"ppgen.check  {self.title}", ""]
        if self.choices:
            lines += table(
                ["random choice", "distribution", "batch", "event", "gradient", "drawn at"],
                [
                    [
                        abbreviated(c.name),
                        c.family,
                        shape_text(c.batch),
                        shape_text(c.event),
                        c.estimator + (" (default)" if c.default else ""),
                        file_and_line(c.where),
                    ]
                    for c in self.choices
                ],
                what="choices",
            )
        else:
            lines.append("no random choices")
        if self.terms:
            lines += ["", *self._term_table()]
        if self.picks:
            lines += ["", "picked automatically"]
            for text in self.picks:
                lines += wrapped(text, first="  ", rest="    ")
        if self.discontinuities:
            lines += ["", f"discontinuities ({len(self.discontinuities)})"]
            for text in self.discontinuities:
                lines += wrapped(text, first="  ! ", rest="    ")
        lines += ["", *wrapped(self.verdict, first="verdict  ", rest="         ")]
        return "\n".join(lines)

    def _term_table(self) -> list[str]:
        lines = table(
            ["cost term", "shape", "computed at", "reached by"],
            [
                [
                    f"{t.sign} {t.name}",
                    shape_text(t.shape),
                    file_and_line(t.where),
                    joined([abbreviated(name) for name in t.reached_by]) or "none",
                ]
                for t in self.terms
            ],
            what="terms",
        )
        if any("[" in name for t in self.terms for name in t.reached_by):
            lines += wrapped(
                "z[i]: each element of the term is weighted by its own elements of z only",
                first="  ",
                rest="  ",
            )
        return lines
