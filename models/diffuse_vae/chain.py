"""Which levels of a schedule the chain of a DiffuseVAE visits, on `ppgen.inference.paths`.

A schedule is as `linear_schedule` makes it; a sampler visits levels 0 = t_0 < t_1 < ... < t_n of
it, from the last to the first, by the steps of `ppgen.inference.ancestral`: η = 1 is the posterior
of the forward chain (DDPM), η = 0 is deterministic (DDIM). The time of the path is log ᾱ.

References:
    Ho, Jain, Abbeel. Denoising diffusion probabilistic models. NeurIPS 2020.
    Song, Meng, Ermon. Denoising diffusion implicit models. ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from ppgen.inference import (
    Chain,
    Decoder,
    ScheduleError,
    ancestral,
    clipped,
    decode,
    variance_preserving,
)


class Move(NamedTuple):
    """One step of a chain, from level t down to level s < t; or several, stacked.

    Attributes:
        time: t / T, in (0, 1], the time input of networks.
        before: log ᾱ_t.
        after: log ᾱ_s.
    """

    time: Float[Array, "..."]
    before: Float[Array, "..."]
    after: Float[Array, "..."]

    def noised(
        self, x: Float[Array, " pixels"]
    ) -> tuple[Float[Array, " pixels"], Float[Array, ""]]:
        """Mean and scale of q(x_t | x_0)."""
        return jnp.exp(self.before / 2) * x, jnp.sqrt(-jnp.expm1(self.before))

    def posterior(
        self, x_t: Float[Array, " pixels"], x: Float[Array, " pixels"], *, eta: float = 1.0
    ) -> tuple[Float[Array, " pixels"], Any]:
        """Mean and scale of q_η(x_s | x_t, x_0), the step given x_0."""
        known = decode(lambda x_t, t: x, path_like(x), given="x1")
        step = ancestral(known, eta)(x_t, self.before, self.after)
        return step.mean, step.std


def path_like(x: Float[Array, " pixels"]) -> Callable[[], Array]:
    """The path between noise and images of one size."""
    return variance_preserving(dist.Normal(jnp.zeros_like(x), 1.0).to_event(1))


class Sampler(eqx.Module):
    """The levels that a reverse chain visits, and the steps between them.

    Attributes:
        moves: From t_1 to t_0 = 0 first, from t_n to t_{n−1} last: a sampler starts with the last.
        eta: 1 for the posterior of the forward chain (DDPM), 0 for no noise (DDIM).
        large: Whether the variance of a move is that of the forward chain, 1 − ᾱ_t / ᾱ_s, in place
            of σ². Both are optimal, for data of unit variance and for a single datum.
        clip: Predictions of x_0 are clipped to [−clip, clip]; None for no clipping.
        guidance: w of classifier-free guidance, which moves by (1 + w) ε(condition) − w ε(none).
            0 is the condition alone, −1 none at all.
    """

    moves: Move
    eta: float = eqx.field(static=True)
    large: bool = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    guidance: float = eqx.field(static=True)

    def __init__(
        self,
        schedule: Float[Array, " levels"],
        times: Int[np.ndarray, " n"] | None = None,
        *,
        eta: float = 1.0,
        large: bool = False,
        clip: float | None = 1.0,
        guidance: float = 0.0,
    ) -> None:
        """Makes a sampler.

        Args:
            schedule: log ᾱ_0 = 0, ..., log ᾱ_T.
            times: Levels to visit, increasing, from 1 to T; all of them if None.
            eta: See the attributes.
            large: See the attributes; only with `eta=1`.
            clip: See the attributes.
            guidance: See the attributes.

        Raises:
            ScheduleError: The times are not increasing, or not levels of the schedule; or `eta` is
                not between 0 and 1, or not 1 with `large=True`.
        """
        last = len(schedule) - 1
        times = np.arange(1, last + 1) if times is None else np.asarray(times)
        visited = np.concatenate([[0], times])
        if len(times) == 0 or (np.diff(visited) < 1).any() or visited[-1] > last:
            raise ScheduleError(f"times must increase, from 1 to at most {last}: not {times}")
        if not 0 <= eta <= 1 or (large and eta != 1):
            raise ScheduleError(f"eta must be between 0 and 1, and 1 if large, not {eta}")
        levels = schedule[visited]
        time = jnp.asarray(times / last, levels.dtype)
        self.moves = Move(time, levels[1:], levels[:-1])
        self.eta, self.large, self.clip, self.guidance = eta, large, clip, guidance

    @property
    def deterministic(self) -> bool:
        """Whether the first point determines the whole chain."""
        return self.eta == 0

    def move(self, i: int | Int[Array, ""]) -> Move:
        """The move number `i` of `moves`."""
        return Move(*(leaf[i] for leaf in self.moves))

    @property
    def times(self) -> Float[Array, " n"]:
        """The times of the chain but the last, from the noisiest: log ᾱ_t."""
        return self.moves.before[::-1]

    def clock(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """The time of a level in (0, 1], which is what networks read, from its log ᾱ_t."""
        return jnp.interp(t, self.times, self.moves.time[::-1])

    def decoder(self, noise: Callable[[Array, Array], Array], like: Array) -> Decoder:
        """All predictions from that of the noise, with images clipped."""
        found = decode(noise, path_like(like), given="x0")
        return found if self.clip is None else clipped(found, -self.clip, self.clip)

    def chain(self, decoder: Decoder, like: Array) -> Chain:
        """The reverse chain from noise to the first level, by what is predicted."""
        start = dist.Normal(jnp.zeros_like(like), 1.0).to_event(1)
        return Chain(start, ancestral(decoder, self.eta, large=self.large), self.times)

    @property
    def last_scale(self) -> Float[Array, ""]:
        """Scale of p(x_0 | x_1), whose mean is the prediction of x_0: that of q(x_1 | x_0).

        The posterior of the forward chain has none here, and a density needs one.
        """
        return jnp.sqrt(-jnp.expm1(self.moves.before[0]))
