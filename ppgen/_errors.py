"""Every error that ppgen raises on purpose.

Each names the site, the user's file and line, and what to write instead, because a gradient that
is silently wrong costs its user far more than a program that stops.
"""

from __future__ import annotations


class PpgenError(Exception):
    """Base class of the errors that ppgen raises.

    Attributes:
        message: what is wrong, in one sentence.
        site: the name of the sample site, where there is one.
        where: the user's file and line, as ``file.py:12``.
        instead: what to write instead.
    """

    def __init__(
        self,
        message: str,
        *,
        site: str | None = None,
        where: str | None = None,
        instead: str | None = None,
    ) -> None:
        """Keep the parts apart, so that an outer layer can fill in what an inner one lacks."""
        # All parts go to `args`, so that `repr` and equality in tests see them.
        super().__init__(message, site, where, instead)
        self.message = message
        self.site = site
        self.where = where
        self.instead = instead

    def __reduce__(self) -> tuple:
        """Survive pickling (and so process pools), although the constructor takes keywords."""
        return _rebuild, (type(self), self.message, self.site, self.where, self.instead)

    def __str__(self) -> str:
        """The message, then whatever is known of the site, the place and the remedy."""
        parts = [self.message]
        if self.site is not None:
            parts.append(f"  at site {self.site!r}")
        if self.where is not None:
            parts.append(f"  in {self.where}")
        if self.instead is not None:
            parts.append(f"  Write instead: {self.instead}")
        return "\n".join(parts)


def _rebuild(
    kind: type[PpgenError],
    message: str,
    site: str | None,
    where: str | None,
    instead: str | None,
) -> PpgenError:
    return kind(message, site=site, where=where, instead=instead)


class SiteError(PpgenError, ValueError):
    """A sample site is missing, drawn twice, has no value or cannot be drawn here."""


class EstimatorError(PpgenError, TypeError):
    """A gradient estimator does not fit the distribution it was chosen for."""


class BiasedEstimatorError(PpgenError):
    """A biased estimator was chosen without ``allow_biased=True``."""


class DiscontinuityError(PpgenError):
    """A reparameterised value reaches something that is not differentiable."""


class ControlFlowError(PpgenError):
    """A random choice sits in control flow through which its estimator cannot pass."""


class ChoiceMismatchError(PpgenError):
    """The choices given to a program are not the choices that it makes."""


class CostError(PpgenError):
    """An objective does not return the real scalar that an expectation needs."""


class DensityError(PpgenError):
    """A density is NaN, or does not exist."""


class DerivativeError(PpgenError):
    """A derivative was asked for that an estimator does not have (a higher order, say)."""
