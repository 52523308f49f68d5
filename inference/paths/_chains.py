"""Samplers as programs: chains of Gaussian steps, with a site for the noise of each."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float

from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._steps import Segment, Step, draw_noise, segments


class Chain(eqx.Module):
    r"""A sampler: an initial distribution, a schedule, and a rule for its steps. Final.

    It is a program. Its sites are `"x0"`, where it begins, and, in a `jax.lax.scan`, `"noise"`, the
    standard normal noise of each step; it returns the last point. So it can be scored, tilted,
    guided, filtered, or run again with the same noise.

    Attributes:
        initial: the distribution of the first point.
        stepper: `(x, t, next) -> Step`: `euler_maruyama`, `ancestral`, `noising`, or another. Also
            an `AbstractStepper`, such as `heun` and `multistep`; `phases` of steppers; or a tuple
            of them, which run in turn within every interval, with noise sites `"noise0"`,
            `"noise1"`, and so on: a predictor and its correctors.
        times: the schedule, `(T + 1,)`.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import Chain, Fields, euler_maruyama
        >>> stepper = euler_maruyama(lambda x, t: Fields(0 * x, -x), epsilon=1.0)  # Langevin's
        >>> chain = Chain(dist.Normal(3.0, 0.1), stepper, jnp.linspace(0.0, 5.0, 51))
        >>> x = ppgen.seed(lambda: jax.vmap(lambda _: chain())(jnp.arange(2000)))(jax.random.key(0))
        >>> bool(abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1)
        True
    """

    initial: Any
    stepper: Any
    times: Float[Array, " n"]

    def intervals(self) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        """Where each step begins and ends."""
        times = jnp.asarray(self.times)
        return times[:-1], times[1:]

    def segments(self) -> list[Segment]:
        """The intervals by what runs in them: one for each of the `phases`."""
        return segments(self.stepper, len(self.times) - 1)

    @property
    def evaluations(self) -> int:
        """How often a run evaluates the field.

        Raises:
            PathError: a stepper is a function without an attribute `evaluations`.
        """
        parts = self.segments()
        return sum(s.evaluations(b) for s, b in zip(parts, [None, *parts], strict=False))

    def start(self) -> Float[Array, "..."]:
        """The first point, as a program."""
        return jnp.asarray(numpyro.sample("x0", self.initial))

    def move(self, x: Float[Array, "..."], t: Any, after: Any) -> Float[Array, "..."]:
        """One interval on its own, as a program. A memory begins anew."""
        (segment,) = segments(self.stepper, 1)
        return segment.advance(x, (t, after), segment.begin(x, t, None), draw_noise)[0]

    def __call__(self) -> Float[Array, "..."]:
        """Run the chain: the last point. It draws."""
        return self._run(keep=False)[0]

    def path(self) -> Float[Array, "n ..."]:
        """Run the chain: all points, the first included. It draws."""
        return jnp.concatenate(self._run(keep=True)[1])

    def _run(self, *, keep: bool) -> tuple[Array, list[Any]]:
        x = self.start()
        points, before = [x[None]], None
        for segment in self.segments():

            def body(carry: Any, ts: Any, segment: Segment = segment) -> tuple[Any, Any]:
                x, memories = carry
                x, memories = segment.advance(x, ts, memories, draw_noise)
                return (x, memories), (x if keep else None)

            memories = segment.begin(x, self._time(segment), before)
            (x, memories), kept = jax.lax.scan(body, (x, memories), self._intervals_of(segment))
            points.append(kept)
            before = segment, memories
        return x, points

    def _time(self, segment: Segment) -> Array:
        return jnp.asarray(self.times)[segment.start]

    def _intervals_of(self, segment: Segment) -> tuple[Array, Array]:
        begin, end = self.intervals()
        part = slice(segment.start, segment.start + segment.steps)
        return begin[part], end[part]

    def abduct(self, path: Float[Array, "n ..."]) -> dict[str, Array]:
        r"""The choices that make the chain follow a given path: its noise, solved for.

        :math:`z_k = (x_{k+1} - \text{mean}(x_k)) / \text{std}(x_k)`, *exact*. Of a path from data,
        by a chain of `noising` steps, it is the encoding of the data; scored with another chain's
        stepper, `ppgen.assess(other)(choices).value` is the replay. The last kernel of an interval
        is the one with noise.

        Args:
            path: points at the times of the chain.

        Returns:
            The choices `x0` and `noise`, the latter `(T, ...)`, to run `ppgen.assess(chain)` on;
            of phases and tuples, under the names of their sites.

        Raises:
            PathError: the steps have no noise, or several in an interval have. Where the standard
                deviation is zero at some times only, the noise there is not finite.

        References:
            Wu, De la Torre. A latent space of stochastic diffusion models for zero-shot image
            editing and guidance. ICCV 2023.
        """
        choices, before = {"x0": path[0]}, None
        for segment in self.segments():
            last = segment.names[-1]

            def body(
                memories: Any, row: Any, segment: Segment = segment, last: str = last
            ) -> tuple[Any, Array]:
                x, after, ts = row
                found: list[Array] = []

                def solve(name: str, _: Array, step: Step) -> Array:
                    if name != last:
                        raise PathError(
                            "a path does not tell the noise of several kernels, or of one before "
                            "others, in an interval",
                            site=name,
                            instead="a chain in which the last kernel alone has noise",
                        )
                    found.append((after - step.mean) / step.std)
                    return found[0]

                _, memories = segment.advance(x, ts, memories, solve)
                if not found:
                    raise PathError(
                        "a chain without noise cannot follow a given path",
                        instead="a chain with epsilon > 0; or only the first point, by solve(..., "
                        "times[::-1])",
                    )
                return memories, found[0]

            part = slice(segment.start, segment.start + segment.steps)
            rows = (path[:-1][part], path[1:][part], self._intervals_of(segment))
            memories = segment.begin(path[segment.start], self._time(segment), before)
            memories, choices[last] = jax.lax.scan(body, memories, rows)
            before = segment, memories
        return choices
