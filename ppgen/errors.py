"""Every error that ppgen raises on purpose.

Each names the site, the user's file and line, and what to write instead, because a gradient that
is silently wrong costs its user far more than a program that stops.
"""

from __future__ import annotations

import sys


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
        """The message, then what is known of the site, the place and the remedy, then the class.

        The class is given by its import path, which is also its anchor in the documentation, where
        a program that raises it is shown with its correction.
        """
        parts = [self.message]
        if self.site is not None:
            parts.append(f"  at site {self.site!r}")
        if self.where is not None:
            parts.append(f"  in {self.where}")
        if self.instead is not None:
            parts.append(f"  Write instead: {self.instead}")
        if (name := public_name(type(self))) is not None:
            parts.append(f"  See: {name}")
        return "\n".join(parts)


def public_name(kind: type[PpgenError]) -> str | None:
    """The import path under which an error class is documented; `None` if it is not documented.

    It is the outermost module that exports the class. The base class and users' own classes are not
    documented there.
    """
    parts = kind.__module__.split(".")
    if kind is PpgenError or parts[0] != "ppgen":
        return None
    for n in range(1, len(parts) + 1):
        if any(part.startswith("_") for part in parts[:n]):
            break
        module = ".".join(parts[:n])
        if getattr(sys.modules.get(module), kind.__name__, None) is kind:
            return f"{module}.{kind.__name__}"
    return None


def _rebuild(
    kind: type[PpgenError],
    message: str,
    site: str | None,
    where: str | None,
    instead: str | None,
) -> PpgenError:
    return kind(message, site=site, where=where, instead=instead)


class SiteError(PpgenError, ValueError):
    """A sample site is missing, drawn twice, has no value or cannot be drawn here.

    Example:
        Sites are identified by their names.

        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def steps():
        ...     first = numpyro.sample("step", dist.Normal(0.0, 1.0))
        ...     return first + numpyro.sample("step", dist.Normal(0.0, 1.0))
        >>> ppgen.seed(ppgen.simulate(steps))(jax.random.key(0))
        Traceback (most recent call last):
            ...
        ppgen.errors.SiteError: two sites of one program have the same name...
          at site 'step'
          in ...
          Write instead: a name of its own for each site, ...
          See: ppgen.errors.SiteError

        Give each site its own name:

        >>> def steps():
        ...     first = numpyro.sample("first", dist.Normal(0.0, 1.0))
        ...     return first + numpyro.sample("second", dist.Normal(0.0, 1.0))
        >>> sorted(ppgen.seed(ppgen.simulate(steps))(jax.random.key(0)).choices)
        ['first', 'second']
    """


class EstimatorError(PpgenError, TypeError):
    """A gradient estimator does not fit the distribution it was chosen for.

    Example:
        The values of a Normal variable cannot be summed over.

        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> def square(loc):
        ...     x = numpyro.sample("x", dist.Normal(loc, 1.0), infer={"grad": ppgen.Enumerate()})
        ...     return x**2
        >>> ppgen.expectation(square)(jax.random.key(0), 1.0)
        Traceback (most recent call last):
            ...
        ppgen.errors.EstimatorError: Enumerate() does not fit: Normal has no finite ...
          at site 'x'
          in ...
          Write instead: ScoreFunction(), which fits every distribution with a density
          See: ppgen.errors.EstimatorError

        Choose an estimator that fits, at the site or from outside (`ppgen.check` lists them):

        >>> square = ppgen.with_estimators(square, {"x": ppgen.ScoreFunction()})
        >>> value = ppgen.expectation(square)(jax.random.key(0), 1.0)
    """


class BiasedEstimatorError(PpgenError):
    """A biased estimator was chosen without ``allow_biased=True``.

    Example:
        The straight-through estimator is biased for costs that are not linear.

        >>> import jax, numpyro.distributions as dist, ppgen
        >>> def cost(p):
        ...     flip = ppgen.draw(dist.Bernoulli(p), name="flip", grad=ppgen.StraightThrough())
        ...     return (flip - 0.4) ** 2
        >>> ppgen.expectation(cost)(jax.random.key(0), 0.5)
        Traceback (most recent call last):
            ...
        ppgen.errors.BiasedEstimatorError: StraightThrough is biased: ...
          at site 'flip'
          in ...
          Write instead: ppgen.expectation(f, allow_biased=True), or an unbiased estimator
          See: ppgen.errors.BiasedEstimatorError

        Allow the bias explicitly, or choose an unbiased estimator:

        >>> value = ppgen.expectation(cost, allow_biased=True)(jax.random.key(0), 0.5)
        >>> sound = ppgen.with_estimators(cost, {"flip": ppgen.Enumerate()})
        >>> print(f"{jax.grad(ppgen.expectation(sound), argnums=1)(jax.random.key(0), 0.5):.1f}")
        0.2
    """


class DiscontinuityError(PpgenError):
    """A reparameterised value reaches something that is not differentiable.

    Example:
        The derivative of `floor` is zero almost everywhere; that of its expectation is not.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def cost(loc):
        ...     return jnp.floor(ppgen.draw(dist.Normal(loc, 1.0), name="x"))
        >>> jax.grad(ppgen.expectation(cost), argnums=1)(jax.random.key(0), 0.5)
        Traceback (most recent call last):
            ...
        ppgen.errors.DiscontinuityError: the reparameterised value of 'x' reaches floor at ...
          at site 'x'
          in ...
          Write instead: ScoreFunction() or MeasureValued() at the site, or ...
          See: ppgen.errors.DiscontinuityError

        The score function needs no derivative of the cost:

        >>> cost = ppgen.with_estimators(cost, {"x": ppgen.ScoreFunction()})
        >>> g = jax.grad(ppgen.expectation(cost, draws=10_000), argnums=1)
        >>> print(f"{g(jax.random.key(0), 0.5):.1f}")
        1.0
    """


class ControlFlowError(PpgenError):
    """A random choice sits in control flow through which its estimator cannot pass.

    Example:
        With both values of the flip, the loop would have to end after two different numbers of
        steps.

        >>> import jax, numpyro.distributions as dist, ppgen
        >>> def waiting(p):
        ...     def again(n):
        ...         flip = ppgen.draw(dist.Bernoulli(p), name="flip", grad=ppgen.Enumerate())
        ...         return n + 1 + flip
        ...     return 1.0 * jax.lax.while_loop(lambda n: n < 3, again, 0)
        >>> ppgen.expectation(waiting)(jax.random.key(0), 0.5)
        Traceback (most recent call last):
            ...
        ppgen.errors.ControlFlowError: Enumerate() stands for several points, each of which may ...
          at site 'flip'
          in ...
          Write instead: ScoreFunction() at this site, or ...
          See: ppgen.errors.ControlFlowError

        An estimator that uses a single value is allowed inside the loop:

        >>> waiting = ppgen.with_estimators(waiting, {"flip": ppgen.ScoreFunction()})
        >>> value = ppgen.expectation(waiting)(jax.random.key(0), 0.5)
    """


class ChoiceMismatchError(PpgenError):
    """The choices given to a program are not the choices that it makes.

    Example:
        The guide does not draw the model's site `scale`.

        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import elbo
        >>> def model():
        ...     scale = numpyro.sample("scale", dist.Gamma(2.0, 1.0))
        ...     z = numpyro.sample("z", dist.Normal(0.0, scale))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.5)
        >>> def guide():
        ...     numpyro.sample("z", dist.Normal(0.3, 0.7))
        >>> ppgen.expectation(elbo(model, guide))(jax.random.key(0))
        Traceback (most recent call last):
            ...
        ppgen.errors.ChoiceMismatchError: a latent site has no value: nothing draws it
          at site 'scale'
          in ...
          Write instead: a site 'scale' in the guide, or an entry 'scale' in `choices`
          See: ppgen.errors.ChoiceMismatchError

        Add the site to the guide, or integrate it out of the model:

        >>> smaller = ppgen.marginal(model, keep=["z"], particles=10)
        >>> bound = ppgen.expectation(elbo(smaller, guide))(jax.random.key(0))
    """


class CostError(PpgenError):
    """An objective does not return a real scalar, or a new state of the same structure.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> def costs(loc):
        ...     return ppgen.draw(dist.Normal(loc, jnp.ones(3))) ** 2
        >>> ppgen.expectation(costs)(jax.random.key(0), 0.0)
        Traceback (most recent call last):
            ...
        ppgen.errors.CostError: the cost must be a real scalar, got ...
          Write instead: return jnp.sum(...) or jnp.mean(...) of it
          See: ppgen.errors.CostError

        Return a single number:

        >>> value = ppgen.expectation(lambda loc: costs(loc).sum())(jax.random.key(0), 0.0)
    """


class DensityError(PpgenError):
    """A density is NaN, or does not exist.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import elbo
        >>> def model(variance):
        ...     z = numpyro.sample("z", dist.Normal(0.0, jnp.sqrt(variance)))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=0.5)
        >>> def guide(variance):
        ...     numpyro.sample("z", dist.Normal(0.3, 0.7))
        >>> bound = ppgen.expectation(elbo(model, guide))
        >>> bound(jax.random.key(0), -1.0)
        Traceback (most recent call last):
            ...
        ppgen.errors.DensityError: the log density is not a number
          at site 'z'
          in ...
          Write instead: parameters within the distribution's constraints, ...
          See: ppgen.errors.DensityError

        Map a learned parameter into the range of valid values:

        >>> bool(jnp.isfinite(bound(jax.random.key(0), jnp.exp(-1.0))))
        True
    """


class RandomKeyError(PpgenError, TypeError):
    """What draws takes a key first, and was given something else, or several keys.

    Example:
        >>> import jax, numpyro.distributions as dist, ppgen
        >>> g = ppgen.expectation(lambda loc: ppgen.draw(dist.Normal(loc, 1.0)) ** 2)
        >>> g(0.5)
        Traceback (most recent call last):
            ...
        ppgen.errors.RandomKeyError: g takes a key first: what was given there is 0.5
          in ...
          Write instead: g(jax.random.key(0), ...)
          See: ppgen.errors.RandomKeyError

        Everything random follows from it:

        >>> bool(g(jax.random.key(0), 0.5) == g(jax.random.key(0), 0.5))
        True
    """


class DerivativeError(PpgenError):
    """A derivative is taken that an estimator does not have (a second one, for example).

    Example:
        >>> import jax, numpyro.distributions as dist, ppgen
        >>> def cost(p):
        ...     return ppgen.draw(dist.Bernoulli(p), name="x", grad=ppgen.MeasureValued()) * p
        >>> jax.hessian(ppgen.expectation(cost), argnums=1)(jax.random.key(0), 0.3)
        Traceback (most recent call last):
            ...
        ppgen.errors.DerivativeError: a second derivative was taken through an estimator ...
          Write instead: Enumerate(), ScoreFunction() or Reparameterize() at the sites ...
          See: ppgen.errors.DerivativeError

        Use an estimator that is unbiased to every order. The second derivative of p² is 2:

        >>> cost = ppgen.with_estimators(cost, {"x": ppgen.Enumerate()})
        >>> print(f"{jax.hessian(ppgen.expectation(cost), argnums=1)(jax.random.key(0), 0.3):.1f}")
        2.0
    """


# Tracebacks, messages and documentation name them as they are imported.
for _kind in PpgenError.__subclasses__():
    _kind.__module__ = "ppgen.errors"
