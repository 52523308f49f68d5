"""Solvers of the probability-flow ODE that remember a velocity."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._steps import AbstractStepper, Step


class Velocity(NamedTuple):
    """What `heun` and `multistep` remember: the velocity at the end of the last step, predicted."""

    velocity: Float[Array, "..."]


def heun(fields: Callable[[Array, Any], Any]) -> AbstractStepper:
    r"""Heun's method for the ODE: two evaluations for each step, of second order.

    .. math:: \tilde x = x + h v(x, t), \qquad x \leftarrow x + \tfrac h2 \big(v(x, t) +
              v(\tilde x, t + h)\big)

    It remembers the second velocity, for `multistep` after it. The field is evaluated at the end of
    each interval too: where it has no value at the end of the path, the last steps are another
    stepper's, as in `phases((heun(v), 9), (euler_maruyama(v), 1))`.

    Args:
        fields: of a point and a time, as for `solve`, or velocities.

    Returns:
        A stepper for `Chain`. Times may increase or decrease.
    """
    return _Heun(fields)


def multistep(fields: Callable[..., Any]) -> AbstractStepper:
    r"""A multistep method for the ODE: one evaluation for each step, of second order.

    .. math:: \tilde x = x + h d, \qquad d' = v(\tilde x, t + h), \qquad
              x \leftarrow x + \tfrac h2 (d + d')

    It remembers :math:`d'`, which the next step takes for its d. The first d is evaluated, unless a
    phase before, of `heun` or `multistep`, hands it on. As d is the velocity of the point where the
    last step ended, no other kernel may add noise to it.

    Args:
        fields: of a point and a time, as for `heun`. If it takes a third argument, that is d: a
            velocity refiner is `lambda x, t, d: d + r(x, t, d)`, with a network r that is smaller
            than that of the velocity.

    Returns:
        A stepper for `Chain`. Times may increase or decrease.

    Raises:
        PathError: on a run, another kernel is noisy; or there is no velocity to refine yet.

    References:
        Zhao, Shi, Yu, Zhou, Lu. FlowTurbo: Towards real-time flow-based image generation with
        velocity refiner. NeurIPS 2024.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import Chain, multistep
        >>> chain = Chain(dist.Delta(1.0), multistep(lambda x, t: x), jnp.linspace(0.0, 1.0, 101))
        >>> print(f"{ppgen.assess(chain)({'x0': 1.0}).value:.3f}", chain.evaluations)  # e
        2.718 101
    """
    return _Refining(fields) if _arguments(fields) > 2 else _Multistep(fields)


def _velocity(found: Any, x: Array) -> Array:
    return jnp.asarray(getattr(found, "velocity", found), x.dtype)


def _pull(length: Any, *found: Any) -> Any:
    """The derivative of the mean with respect to the score, where the fields know it."""
    parts: list[Any] = [getattr(f, "exchange", None) for f in found]
    return None if any(p is None for p in parts) else length * sum(parts) / len(parts)


def _arguments(f: Callable[..., Any]) -> int:
    """The number of arguments that a function has to be given by position."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


class _Heun(AbstractStepper):
    """See `heun`. Final."""

    fields: Callable[..., Any]
    evaluations: ClassVar[int] = 2
    memory: ClassVar = Velocity

    def begin(self, x: Array, t: Any) -> Velocity:
        # Never read: a step has to have somewhere to put its second velocity.
        return Velocity(jnp.zeros_like(x))

    def __call__(self, x: Array, t: Any, after: Any, memory: Velocity) -> tuple[Step, Velocity]:
        length, first = after - t, self.fields(x, t)
        d = _velocity(first, x)
        second = self.fields(x + length * d, after)
        e = _velocity(second, x)
        return Step(x + length * (d + e) / 2, 0.0, _pull(length, first, second)), Velocity(e)


def _corrected(x: Array, length: Any, d: Array, found: Any) -> tuple[Step, Velocity]:
    e = _velocity(found, x)
    return Step(x + length * (d + e) / 2, 0.0, _pull(length, found)), Velocity(e)


class _Multistep(AbstractStepper):
    """See `multistep`. Final."""

    fields: Callable[..., Any]
    evaluations: ClassVar[int] = 1
    opening: ClassVar[int] = 1
    memory: ClassVar = Velocity
    noiseless: ClassVar[bool] = True

    def begin(self, x: Array, t: Any) -> Velocity:
        return Velocity(_velocity(self.fields(x, t), x))

    def __call__(self, x: Array, t: Any, after: Any, memory: Velocity) -> tuple[Step, Velocity]:
        length, d = after - t, memory.velocity
        return _corrected(x, length, d, self.fields(x + length * d, after))


class _Refining(AbstractStepper):
    """See `multistep`: with a field that is told the last velocity. Final."""

    fields: Callable[..., Any]
    evaluations: ClassVar[int] = 1
    memory: ClassVar = Velocity
    noiseless: ClassVar[bool] = True

    def begin(self, x: Array, t: Any) -> Velocity:
        raise PathError(
            "a refiner needs a velocity to refine, and there is none at the first step",
            instead="phases((heun(velocity), 1), (multistep(refiner), steps - 1))",
        )

    def __call__(self, x: Array, t: Any, after: Any, memory: Velocity) -> tuple[Step, Velocity]:
        length, d = after - t, memory.velocity
        return _corrected(x, length, d, self.fields(x + length * d, after, d))
