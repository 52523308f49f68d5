"""Which random choices influence which values, element by element.

For every value of a lowered program: the choices that influence it, and how the batch axes of each
choice lie in the value's axes. An axis of a choice is *aligned* with axis `k` of a value where
element `i` along `k` depends on element `i` of the choice only (`=`), on elements up to `i` (`<`,
as after a `cumsum` or along the time axis of a `scan`) or from `i` on (`>`); else it is *mixed*:
any element may depend on any. Mixed is always sound; alignment is what Rao-Blackwellization and
enumeration in plates gain from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ppgen._analysis.ranges import ANYWHERE, Range, hull

Alignment = tuple[int, str] | None


class Influence(NamedTuple):
    """The influences on a value.

    Attributes:
        mixed: bit set of choices all of whose axes are mixed.
        aligned: for the other choices, the alignment of each of their axes.
        pathwise: bit set of the reparameterised choices whose derivative flows into the value.
        frozen: bit set of the other choices with a density that it depends on continuously.
        moving: whether a derivative flows into it that comes through no choice: from an argument.
        atoms: whether it may equal some number with positive probability, or be NaN.
        within: its range, as far as known: see `ranges`.
        suspect: of an integer or boolean, the `suspicion` of what it jumps with.
        driven: whether a derivative by an argument flows into it, through choices too.
        nan_of: of a boolean that says whether a value is not a number, the influence on the value.
    """

    mixed: int = 0
    aligned: dict[int, tuple[Alignment, ...]] = {}
    pathwise: int = 0
    frozen: int = 0
    moving: bool = False
    suspect: int = 0
    within: Range = ANYWHERE
    atoms: bool = False
    nan_of: Influence | None = None
    driven: bool = False

    def suspicion(self) -> int:
        """The choices whose derivative a jump of the value would miss; zero if there are none.

        Bit zero says whether it moves with more than its choices, those above are the choices.
        """
        if not (self.pathwise or (self.frozen and self.moving)):
            return 0
        return (self.pathwise | self.frozen) << 1 | self.moving

    def choices(self) -> set[int]:
        """Every choice that influences the value."""
        return set(bits(self.mixed)) | set(self.aligned)

    def all_mixed(self) -> Influence:
        """The same choices, with all axes mixed."""
        if not self.aligned:
            return self
        return self._replace(mixed=self.mixed | _set_of(self.aligned), aligned={})

    def jumbled(self) -> Influence:
        """The influence on what may depend on any element; the steps of loops around stay apart."""
        return self.move(lambda axis, mode: (axis, mode) if axis < 0 else None)

    def move(
        self,
        axis: Callable[[int, str], Alignment],
        special: Collection[int] = (),
        special_axis: Callable[[int, str], Alignment] | None = None,
    ) -> Influence:
        """The influence after a permutation of the aligned axes.

        Args:
            axis: where an axis goes.
            special: choices whose axes go where `special_axis` says instead.
            special_axis: where those go.
        """
        if not self.aligned:
            return self
        mixed, aligned = self.mixed, {}
        for choice, places in self.aligned.items():
            to = special_axis if special_axis is not None and choice in special else axis
            new = tuple(None if p is None else to(*p) for p in places)
            if any(new):
                aligned[choice] = new
            else:
                mixed |= 1 << choice
        return self._replace(mixed=mixed, aligned=aligned)


def bits(mask: int) -> list[int]:
    """The elements of a bit set."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _set_of(elements: Any) -> int:
    mask = 0
    for e in elements:
        mask |= 1 << e
    return mask


NONE = Influence()
MOVING = Influence(moving=True, driven=True)


def join(*influences: Influence) -> Influence:
    """The influences on a value that depends elementwise on several others."""
    influences = tuple(i for i in influences if i is not NONE)
    if not influences:
        return NONE
    first = influences[0]
    if all(i is first for i in influences):
        return first
    mixed = pathwise = frozen = suspect = 0
    moving, atoms, driven, within = False, False, False, first.within
    for i in influences:
        mixed |= i.mixed
        pathwise |= i.pathwise
        frozen |= i.frozen
        moving = moving or i.moving
        suspect |= i.suspect
        atoms = atoms or i.atoms
        driven = driven or i.driven
        within = within if i.within == within else hull(within, i.within)
    aligned: dict[int, tuple[Alignment, ...]] = {}
    for i in influences:
        for choice, places in i.aligned.items():
            if mixed >> choice & 1:
                continue
            if choice in aligned:
                places = tuple(map(_agree, aligned[choice], places))
                if not any(places):
                    mixed |= 1 << choice
                    del aligned[choice]
                    continue
            aligned[choice] = places
    return Influence(
        mixed, aligned, pathwise, frozen, moving, suspect, within, atoms, driven=driven
    )


def _agree(a: Alignment, b: Alignment) -> Alignment:
    if a is None or b is None or a[0] != b[0]:
        return None
    if a[1] == b[1]:
        return a
    return None if {a[1], b[1]} == {"<", ">"} else (a[0], a[1] if a[1] != "=" else b[1])
