"""Steps of a chain: what one is, steppers that remember something, and how they are combined."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppgen.inference.paths._errors import PathError


class Step(NamedTuple):
    """One step of a chain: the next point is `mean + std * noise`.

    Attributes:
        mean: of the next point, of its shape.
        std: its standard deviation, a scalar or of its shape. The Python number 0.0 says that
            there is no noise, and no site for it.
        pull: the derivative of the mean with respect to the score, for guidance; `None` if unknown.
    """

    mean: Float[Array, "..."]
    std: Any
    pull: Any


Stepper = Callable[[Array, Array, Array], Step]


class AbstractStepper(eqx.Module):
    """A step of a chain that remembers something: the last velocity, a recurrent state, a cache.

    A subclass defines `evaluations`, as an attribute or a property, `begin` and `__call__`. (A step
    that remembers nothing is a function `(x, t, next) -> Step`.) The memory is a pytree of arrays,
    and is carried along by everything that runs a chain.

    Attributes:
        opening: how often `begin` evaluates the field.
        memory: the type of the memory, if the next of several `phases` may take it over: where both
            have the same type, `begin` is not called.
        noiseless: whether the memory is of a point, so that noise added in the same interval would
            make it that of another one: such chains are refused.

    Example:
        Momentum is the memory of a heavy ball, on a slope.

        >>> import jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import AbstractStepper, Chain, Step
        >>> class HeavyBall(AbstractStepper):
        ...     evaluations = 1
        ...     def begin(self, x, t):
        ...         return 0 * x
        ...     def __call__(self, x, t, after, momentum):
        ...         momentum = 0.5 * momentum + 1.0
        ...         return Step(x + (after - t) * momentum, 0.0, None), momentum
        >>> chain = Chain(dist.Delta(0.0), HeavyBall(), jnp.arange(4.0))
        >>> print(ppgen.assess(chain)({"x0": 0.0}).value, chain.evaluations)  # 1 + 1.5 + 1.75
        4.25 3
    """

    opening: ClassVar[int] = 0
    memory: ClassVar[type | None] = None
    noiseless: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """How often a step evaluates the field, a Python number."""

    @abc.abstractmethod
    def begin(self, x: Float[Array, "..."], t: Any) -> Any:
        """The memory before the first step; `()` if there is none."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "..."], t: Any, after: Any, memory: Any) -> tuple[Step, Any]:
        """The step from `t` to `after`, and the memory after it."""


class Counted(eqx.Module):
    """A step without memory that says how often it evaluates its field. Final."""

    step: Stepper
    evaluations: int = eqx.field(static=True)

    def __call__(self, x: Array, t: Any, after: Any) -> Step:
        return self.step(x, t, after)


class _Memoryless(AbstractStepper):
    """A function as an `AbstractStepper`. Final."""

    step: Stepper

    @property
    def evaluations(self) -> int:
        if (count := getattr(self.step, "evaluations", None)) is None:
            raise PathError(
                "this stepper does not say how often it evaluates its field",
                instead="an AbstractStepper, or an attribute `evaluations` of the function",
            )
        return count

    def begin(self, x: Array, t: Any) -> tuple:
        return ()

    def __call__(self, x: Array, t: Any, after: Any, memory: Any) -> tuple[Step, tuple]:
        return self.step(x, t, after), ()


class Phases(eqx.Module):
    """Steppers one after the other: see `phases`. Final."""

    steppers: tuple[Any, ...]
    counts: tuple[int, ...] = eqx.field(static=True)


def phases(*pairs: tuple[Any, int]) -> Phases:
    """Steppers for one part of a chain after the other.

    The memory of a phase is handed on to the next one where both are single steppers, not tuples,
    that remember the same thing: the last velocity of `heun` and `multistep`, say. Noise sites of
    the phase number i are called `"phase{i}/noise"`, if there is more than one phase. Neighbours
    that are the same object are one phase.

    Args:
        pairs: steppers, or tuples of steppers, and how many steps they run; together as many as the
            chain has.

    Returns:
        A stepper for `Chain`: one `jax.lax.scan` for each phase.

    Raises:
        PathError: phases within phases, or a negative number of steps; on a run, another number of
            steps than the chain has.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> from ppgen.inference import Chain, heun, multistep, phases
        >>> velocity = lambda x, t: -x
        >>> stepper = phases((heun(velocity), 1), (multistep(velocity), 9))
        >>> Chain(dist.Normal(), stepper, jnp.linspace(0.0, 1.0, 11)).evaluations  # 2 + 9
        11
    """
    parts: list[tuple[Any, int]] = []
    for stepper, steps in pairs:
        if any(isinstance(s, Phases) for s in as_tuple(stepper)):
            raise PathError("phases within phases", instead="one flat list of them")
        if steps < 0:
            raise PathError(f"a phase of {steps} steps", instead="zero or more steps")
        if parts and _same(parts[-1][0], stepper):
            parts[-1] = (stepper, parts[-1][1] + steps)
        elif steps:
            parts.append((stepper, steps))
    return Phases(tuple(s for s, _ in parts), tuple(n for _, n in parts))


def as_tuple(stepper: Any) -> tuple:
    """The kernels of an interval."""
    return stepper if isinstance(stepper, tuple) else (stepper,)


def _same(one: Any, other: Any) -> bool:
    """Whether two steppers are the same objects."""
    a, b = as_tuple(one), as_tuple(other)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def map_steppers(f: Callable[[Any], Any], stepper: Any) -> Any:
    """A function of every stepper in a stepper."""
    if isinstance(stepper, Phases):
        return Phases(tuple(map_steppers(f, s) for s in stepper.steppers), stepper.counts)
    return tuple(map(f, stepper)) if isinstance(stepper, tuple) else f(stepper)


class Segment(NamedTuple):
    """Consecutive intervals of a chain in which the same kernels run.

    Attributes:
        kernels: the steppers that run in each interval, in turn.
        names: those of their noise sites.
        start: the number of the first interval.
        steps: the number of intervals.
    """

    kernels: tuple[AbstractStepper, ...]
    names: tuple[str, ...]
    start: int
    steps: int

    def handed(self, before: Segment | None) -> list[bool]:
        """Which kernels take the memory of the segment before.

        None does after a tuple: a memory may be of a point before another kernel's noise.
        """
        if before is None or not len(before.kernels) == len(self.kernels) == 1:
            return [False] * len(self.kernels)
        pairs = zip(self.kernels, before.kernels, strict=True)
        return [k.memory is not None and k.memory is b.memory for k, b in pairs]

    def begin(self, x: Array, t: Any, before: tuple[Segment, Any] | None) -> tuple:
        """The memories before the first step."""
        segment, memories = (None, self.kernels) if before is None else before
        if not any(handed := self.handed(segment)):
            return tuple(kernel.begin(x, t) for kernel in self.kernels)
        rows = zip(self.kernels, handed, memories, strict=True)
        return tuple(m if taken else kernel.begin(x, t) for kernel, taken, m in rows)

    def evaluations(self, before: Segment | None) -> int:
        """How often fields are evaluated."""
        rows = zip(self.kernels, self.handed(before), strict=True)
        return sum(k.evaluations * self.steps + (0 if h else k.opening) for k, h in rows)

    def advance(
        self,
        x: Array,
        ts: tuple[Any, Any],
        memories: Any,
        noise: Callable[[str, Array, Step], Array],
    ) -> tuple[Array, tuple]:
        """One interval: the next point and the memories; `noise` is called with each noisy step."""
        t, after = ts
        kept, noisy = [], False
        for kernel, name, memory in zip(self.kernels, self.names, memories, strict=True):
            step, memory = kernel(x, t, after, memory)
            kept.append(memory)
            if is_silent(step):
                x = step.mean
            else:
                noisy = True
                x = step.mean + step.std * noise(name, x, step)
        if noisy and any(kernel.noiseless for kernel in self.kernels):
            raise PathError(
                "a kernel remembers the velocity of a point to which another one adds noise in the "
                "same interval",
                instead="heun(fields), which evaluates it anew, or a step without memory",
            )
        return x, tuple(kept)


def segments(stepper: Any, steps: int) -> list[Segment]:
    """The segments of a chain of so many steps.

    Raises:
        PathError: the phases have another number of steps.
    """
    parts, counts = (stepper,), (steps,)
    if isinstance(stepper, Phases):
        parts, counts = stepper.steppers, stepper.counts
    if sum(counts) != steps:
        raise PathError(f"the phases have {sum(counts)} steps, and the chain has {steps}")
    found, start = [], 0
    for i, (each, count) in enumerate(zip(parts, counts, strict=True)):
        kernels = as_tuple(each)
        if any(isinstance(k, Phases) for k in kernels):
            raise PathError("phases within a tuple", instead="phases of tuples")
        place = f"phase{i}/" if len(parts) > 1 else ""
        names = [f"{place}noise{k if len(kernels) > 1 else ''}" for k in range(len(kernels))]
        made = tuple(k if isinstance(k, AbstractStepper) else _Memoryless(k) for k in kernels)
        found.append(Segment(made, tuple(names), start, count))
        start += count
    return found


def is_silent(step: Step) -> bool:
    """Whether a step declares that it has no noise."""
    return isinstance(step.std, (int, float)) and step.std == 0


def noise_law(x: Float[Array, "..."], shift: Any = 0.0) -> dist.Distribution:
    """Normal noise of unit variance and the shape of `x`, as one event."""
    loc = jnp.broadcast_to(jnp.asarray(shift, x.dtype), x.shape)
    return dist.Normal(loc, 1.0).to_event(x.ndim)


def draw_noise(name: str, x: Array, step: Step) -> Array:
    """The noise of a step, as a site."""
    return jnp.asarray(numpyro.sample(name, noise_law(x)))
