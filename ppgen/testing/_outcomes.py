"""The outcomes of one choice and their weights, by NumPy and SciPy, without NumPyro's densities."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
import scipy.special as special

from ppgen._distributions.wrappers import plain
from ppgen._sampling.log_scale import OnLogScale
from ppgen._staging.subsample import GivenIndices, SubsampleIndices
from ppgen.testing._lanes import Unsupported

# How far out, in standard normal quantiles, a continuous choice is followed.
_REACH = 7.0


class Continuous(NamedTuple):
    """A continuous family.

    Attributes:
        quantile: of the mass below, and of the mass above, with the parameters behind.
        log_density: at values, with the parameters behind; `None` where the support moves.
        mass: below values; where the support moves.
        parameters: names of the parameters.
    """

    quantile: Callable[..., np.ndarray]
    log_density: Callable[..., np.ndarray] | None
    mass: Callable[..., np.ndarray] | None
    parameters: tuple[str, ...]


def _logistic(z: Any) -> Any:
    return -np.abs(z) - 2 * np.log1p(np.exp(-np.abs(z)))


CONTINUOUS: dict[type, Continuous] = {
    dist.Normal: Continuous(
        lambda p, q, m, s: m + s * np.where(p < 0.5, special.ndtri(p), -special.ndtri(q)),
        lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - np.log(s),
        None,
        ("loc", "scale"),
    ),
    dist.Logistic: Continuous(
        lambda p, q, m, s: m + s * (np.log(p) - np.log(q)),
        lambda x, m, s: _logistic((x - m) / s) - np.log(s),
        None,
        ("loc", "scale"),
    ),
    dist.Gumbel: Continuous(
        lambda p, q, m, s: m - s * np.log(np.where(p < 0.5, -np.log(p), -np.log1p(-q))),
        lambda x, m, s: -(x - m) / s - np.exp(-(x - m) / s) - np.log(s),
        None,
        ("loc", "scale"),
    ),
    dist.LogNormal: Continuous(
        lambda p, q, m, s: np.exp(m + s * np.where(p < 0.5, special.ndtri(p), -special.ndtri(q))),
        lambda x, m, s: -0.5 * ((np.log(x) - m) / s) ** 2 - np.log(s) - np.log(x),
        None,
        ("loc", "scale"),
    ),
    dist.Exponential: Continuous(
        lambda p, q, r: -np.where(p < 0.5, np.log1p(-p), np.log(q)) / r,
        lambda x, r: np.log(r) - r * x,
        None,
        ("rate",),
    ),
    dist.Gamma: Continuous(
        lambda p, q, a, r: (
            np.where(p < 0.5, special.gammaincinv(a, p), special.gammainccinv(a, q)) / r
        ),
        lambda x, a, r: a * np.log(r) - special.gammaln(a) + (a - 1) * np.log(x) - r * x,
        None,
        ("concentration", "rate"),
    ),
    dist.Beta: Continuous(
        lambda p, q, a, b: np.clip(special.betaincinv(a, b, p), 1e-300, 1 - 1e-16),
        lambda x, a, b: special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b),
        None,
        ("concentration1", "concentration0"),
    ),
    dist.Uniform: Continuous(
        lambda p, q, a, b: a + (b - a) * p,
        None,
        lambda x, a, b: np.clip((x - a) / (b - a), 0, 1),
        ("low", "high"),
    ),
}
"""Families whose values are integrated out."""


def _located(p: Any, q: Any, m: Any, s: Any, a: Any, b: Any) -> Any:
    return a + b * (m + s * np.where(p < 0.5, special.ndtri(p), -special.ndtri(q)))


_LOCATED: dict[type, tuple[Continuous, tuple[str, ...]]] = {
    dist.Normal: (
        Continuous(
            _located,
            lambda x, m, s, a, b: -0.5 * (((x - a) / b - m) / s) ** 2 - np.log(s * b),
            None,
            (),
        ),
        ("loc", "scale"),
    ),
    dist.Uniform: (
        Continuous(
            lambda p, q, low, high, a, b: a + b * (low + (high - low) * p),
            None,
            lambda x, low, high, a, b: np.clip(((x - a) / b - low) / (high - low), 0, 1),
            (),
        ),
        ("low", "high"),
    ),
    dist.Exponential: (
        Continuous(
            # The cells of what moves end somewhere: there is less than 1e-9 beyond.
            lambda p, q, r, a, b: a - b * np.log(np.maximum(q, 1e-9)) / r,
            None,
            lambda x, r, a, b: -np.expm1(-r * np.maximum((x - a) / b, 0)),
            (),
        ),
        ("rate",),
    ),
}
"""The same behind an affine transform of loc and scale."""


class Outcomes(NamedTuple):
    """Outcomes `(S, *lanes, *batch, *event)`, and weights `(S, *lanes, *batch)` by broadcasting."""

    values: np.ndarray
    weights: np.ndarray


class Family:
    """A distribution whose parameters have lanes, as NumPy sees it.

    Args:
        built: the distribution, built from `leaves`.
        leaves: the arrays in it that have lanes; the others have none.
        mapped: over how many axes the choice is mapped: each of `leaves` has them.
        batch: how many axes its batch has.
    """

    def __init__(self, built: Any, leaves: list[Any], mapped: int, batch: int) -> None:
        self.dist, self.own, self.batch = plain(built), batch, mapped + batch
        self._ids = {id(x) for x in leaves}

    def parameter(self, name: str, event: int = 0) -> Any:
        """A parameter, with all of the axes of the batch where it has lanes."""
        x = getattr(self.dist, name)
        if id(x) not in self._ids:
            return np.asarray(x, np.float64)
        own = len(self.dist.batch_shape) + event
        lanes, missing = x.ndim - own, self.own + event - own
        return x.reshape((*x.shape[:lanes], *(1,) * missing, *x.shape[lanes:])).astype(np.float64)

    def outcomes(self, nodes: int, terms: int) -> Outcomes:
        """Its outcomes and weights."""
        if type(self.dist) is dist.TransformedDistribution:
            return self._transformed(nodes)
        if isinstance(self.dist, OnLogScale):
            return self._on_log_scale(nodes, terms)
        if isinstance(self.dist, (SubsampleIndices, GivenIndices)):
            return self._indices()
        if isinstance(self.dist, dist.Delta):
            return Outcomes(self.parameter("v")[None], np.ones(1))
        kind = next((k for k in CONTINUOUS if type(self.dist) is k), None)
        if kind is not None:
            family = CONTINUOUS[kind]
            moving = [self.parameter(name) for name in family.parameters]
            return self._continuous(family, nodes, moving)
        found = self._masses(terms)
        if found is None:
            raise Unsupported(f"the outcomes of a {type(self.dist).__name__}")
        return found

    def _on_log_scale(self, nodes: int, terms: int) -> Outcomes:
        """The outcomes of the value that is drawn by its log, or by its logit."""
        inner = copy.copy(self)
        inner.dist = plain(self.dist.base)
        values, weights = inner.outcomes(nodes, terms)
        finfo = np.finfo(np.float64)
        values = np.maximum(values, finfo.tiny)
        if isinstance(inner.dist, dist.Beta):
            return Outcomes(special.logit(np.minimum(values, 1 - finfo.epsneg)), weights)
        return Outcomes(np.log(values), weights)

    def _transformed(self, nodes: int) -> Outcomes:
        """Location and scale of a family that is known: it is one of another name."""
        base, transforms = self.dist.base_dist, self.dist.transforms
        found = _LOCATED.get(type(plain(base)))
        if len(transforms) != 1 or type(transforms[0]) is not dist.transforms.AffineTransform:
            found = None
        if found is None:
            raise Unsupported("a transformed distribution")
        family, parameters = found
        own = [self._of(plain(base), name) for name in parameters]
        move = [self._of(transforms[0], name) for name in ("loc", "scale")]
        return self._continuous(family, nodes, [*own, *move])

    def _of(self, holder: Any, name: str) -> Any:
        x = getattr(holder, name)
        if id(x) not in self._ids:
            return np.asarray(x, np.float64)
        if self.own:
            raise Unsupported("a batch of transformed distributions")
        return x.astype(np.float64)

    def _indices(self) -> Outcomes:
        if isinstance(self.dist, GivenIndices):
            raise Unsupported("given indices as a choice")
        size, some = self.dist.size, self.dist.subsample_size
        values = np.array(list(itertools.permutations(range(size), some)))
        values = values.reshape((len(values), *(1,) * self.batch, some))
        return Outcomes(values, np.full((len(values), *(1,) * self.batch), 1 / len(values)))

    def _flips(self, logits: bool) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities of one and of zero; of `probs`, if not of `logits`."""
        if logits:
            z = self.parameter("logits")
            return np.asarray(special.expit(z)), np.asarray(special.expit(-z))
        p = self.parameter("probs")
        return p, np.asarray(1 - p)

    def _masses(self, terms: int) -> Outcomes | None:
        d = self.dist
        if isinstance(d, (dist.BernoulliLogits, dist.BernoulliProbs)):
            p, q = self._flips(isinstance(d, dist.BernoulliLogits))
            x = _axis(np.arange(2), p)
            return Outcomes(x, np.where(x == 1, p, q))
        if isinstance(d, (dist.CategoricalLogits, dist.CategoricalProbs)):
            if isinstance(d, dist.CategoricalLogits):
                p = special.softmax(self.parameter("logits", 1), axis=-1)
            else:
                p = self.parameter("probs", 1)
                p = p / p.sum(-1, keepdims=True)
            return Outcomes(_axis(np.arange(p.shape[-1]), p[..., 0]), np.moveaxis(p, -1, 0))
        if isinstance(d, (dist.BinomialLogits, dist.BinomialProbs)):
            n = int(np.max(np.asarray(d.total_count)))
            if np.any(np.asarray(d.total_count) != n):
                raise Unsupported("counts that differ")
            p, q = self._flips(isinstance(d, dist.BinomialLogits))
            x = _axis(np.arange(n + 1), p)
            return Outcomes(x, special.comb(n, x) * p**x * q ** (n - x))
        if isinstance(d, dist.Poisson):
            rate = self.parameter("rate")
            x = _axis(np.arange(terms), rate)
            return Outcomes(x, np.exp(special.xlogy(x, rate) - rate - special.gammaln(x + 1)))
        if isinstance(d, dist.GeometricProbs):
            p = self.parameter("probs")
            x = _axis(np.arange(terms), p)
            return Outcomes(x, p * (1 - p) ** x)
        if isinstance(d, dist.GeometricLogits):
            z = self.parameter("logits")
            x = _axis(np.arange(terms), z)
            return Outcomes(x, special.expit(z) * special.expit(-z) ** x)
        return None

    def _continuous(self, family: Continuous, nodes: int, moving: list[Any]) -> Outcomes:
        still = [_at_centre(x, self.batch) for x in moving]
        lanes = max(x.ndim for x in still)
        step = 2 * _REACH / nodes

        def axis(z: Any) -> Any:
            return z.reshape((len(z), *(1,) * lanes))

        z = axis(-_REACH + step * (np.arange(nodes) + 0.5))
        x = family.quantile(special.ndtr(z), special.ndtr(-z), *still)
        if family.log_density is not None:
            ratio = np.exp(family.log_density(x, *moving) - family.log_density(x, *still))
            return Outcomes(x, step * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * ratio)
        # Cells that stay where they are, also where the support moves past them.
        low, high = family.quantile(0.0, 1.0, *still), family.quantile(1.0, 0.0, *still)
        reach = (high - low) / 8
        edges = axis(np.linspace(0.0, 1.0, nodes + 1)) * (high - low + 2 * reach) + low - reach
        assert family.mass is not None
        below = family.mass(edges, *moving)
        middle = (below[1:] + below[:-1]) / 2
        return Outcomes(family.quantile(middle, 1 - middle, *moving), below[1:] - below[:-1])


def _axis(x: Any, beside: Any) -> Any:
    """Outcomes in front of all axes of a parameter."""
    return x.reshape((len(x), *(1,) * beside.ndim))


def _at_centre(x: Any, batch: int) -> Any:
    """A parameter at the first of the points at which a program is evaluated: their axis of lanes.

    It is the last one before the axes of the batch.
    """
    lanes = x.ndim - batch
    return np.take(x, [0], axis=lanes - 1) if lanes > 0 else x
