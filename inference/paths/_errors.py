"""Errors of paths, and of the noise levels that a chain visits."""

from __future__ import annotations

from ppgen.errors import PpgenError


class PathError(PpgenError, ValueError):
    """A program is not a path, or has no score, time or coefficient where one is needed.

    Example:
        For uniform noise, the score is not a linear function of the prediction.

        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import decode
        >>> def bridge(noise):
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) * numpyro.sample("x0", noise)
        >>> field, at = lambda x, t: 0.5 * x, (jnp.array(0.3), 0.25)
        >>> decode(field, bridge, given="x1", args=(dist.Uniform(-1.0, 1.0),))(*at).score
        Traceback (most recent call last):
            ...
        ppgen.inference.PathError: the score is a linear function of ...
          at site 'x0'
          Write instead: numpyro.sample("x0", dist.Normal(...).to_event()); ...
          See: ppgen.inference.PathError

        For normal noise it is:

        >>> decoded = decode(field, bridge, given="x1", args=(dist.Normal(0.0, 1.0),))(*at)
        >>> print(f"{decoded.score:.2f}")
        -0.47
    """

    # Where its users see it: what messages and pickles say.
    __module__ = "ppgen.inference"


class ScheduleError(PpgenError, ValueError):
    """Noise levels, or steps between them, that do not form a chain. The message says which.

    Example:
        A step cannot remove more variance than there is.

        >>> from ppgen.inference import linear_schedule
        >>> linear_schedule(10)
        Traceback (most recent call last):
            ...
        ppgen.inference.ScheduleError: 10 levels make β from 0.01 to 2, ...
          See: ppgen.inference.ScheduleError

        With fewer levels, use less noise:

        >>> len(linear_schedule(10, last=8.0))
        11
    """

    # Where its users see it: what messages and pickles say.
    __module__ = "ppgen.inference"
