"""Guidance of chains by an energy, with importance weights that correct it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float

from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.guidance._lookaheads import AbstractLookahead, Energy
from ppgen.inference.particles._filtering import propagate, smc
from ppgen.inference.paths import AbstractStepper, Chain, PathError, Step
from ppgen.inference.paths._steps import (
    Segment,
    Stepper,
    draw_noise,
    is_silent,
    map_steppers,
    noise_law,
)


class GuidedSamples(eqx.Module):
    """Weighted samples for the law p(x) exp(−E(x)) / Z of a guided chain, K of them.

    Attributes:
        x: the points, with a leading axis of K.
        log_weights: normalised log weights, `(K,)`.
        log_evidence: an estimate of log Z in nats, where Z is the mean of exp(−E) under the chain
            without guidance; its exponential is *unbiased*.
        ess: effective sample sizes after each step, between 1 and K. *Heuristic*.
    """

    x: Float[Array, "k ..."]
    log_weights: Float[Array, " k"]
    log_evidence: Float[Array, ""]
    ess: Float[Array, " t"]

    def mean(self, f: Callable[[Array], Array] = lambda x: x) -> Array:
        """The weighted mean of a function of one point: *consistent*, as K grows."""
        return jnp.tensordot(jnp.exp(self.log_weights), jax.vmap(f)(self.x), axes=1)


class _State(NamedTuple):
    x: Array
    log_h: Array
    push: Array
    memories: Any


class Guided(eqx.Module):
    """A chain under guidance: see `guide`. Final.

    Attributes:
        chain: the chain without guidance, whose tilted law is sought.
        energy: in nats, of the last point.
        lookahead: the approximation of log h that guides.
    """

    chain: Chain
    energy: Energy
    lookahead: AbstractLookahead

    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        """One run: the last point, and its log weight in nats, unnormalised. It draws.

        The mean of weight times f(x) over runs is *unbiased* for :math:`E_p[e^{-E(x)} f(x)]`, p the
        law of the chain without guidance. `jax.vmap` it for many.
        """
        initial, step, proposal, xs = self._programs()
        state, log_weight = propagate(initial, None, ())

        def move(carry: tuple[_State, Array], x: Any) -> tuple[tuple[_State, Array], None]:
            state, log_weight = propagate(step, proposal, (carry[0], x))
            return (state, carry[1] + log_weight), None

        # Not a filter of one particle: the draws are those of the chain, key by key.
        (state, log_weight), _ = jax.lax.scan(move, (state, log_weight), xs)
        return state.x, log_weight

    def smc(
        self, *, particles: int, threshold: float = 0.5, resampling: str = "systematic"
    ) -> Callable[[], GuidedSamples]:
        """Run K chains together, with resampling by their weights (twisted SMC).

        *Asymptotically exact* as K grows, for any lookahead: the weighted samples approximate the
        tilted law of the chain. The exponential of the log evidence is *unbiased* at any K.

        Args:
            particles: K.
            threshold: as for `smc`; at 0 weights only accumulate.
            resampling: as for `smc`.

        Returns:
            A function without arguments. It draws: call it within `ppgen.seed` or a program.

        References:
            Wu, Trippe, Naesseth, Blei, Cunningham. Practical and asymptotically exact conditional
            sampling in diffusion models. NeurIPS 2023.
        """
        initial, step, proposal, xs = self._programs()
        run = smc(
            step,
            particles=particles,
            proposal=proposal,
            threshold=threshold,
            resampling=resampling,
        )

        def samples() -> GuidedSamples:
            found = run(initial, xs)
            return GuidedSamples(found.states.x, found.log_weights, found.log_evidence, found.ess)

        return samples

    def _programs(self) -> tuple[Program, Program, Program, Any]:
        """Where a run begins, a step of it, how its noise is proposed, and the times."""
        begin, end = self.chain.intervals()
        last = jnp.arange(len(end)) == len(end) - 1
        segment = _only_segment(self.chain)

        def initial() -> _State:
            x = self.chain.start()
            return self._enter(x, segment.begin(x, begin[0], None), begin[0], None, 0.0)

        def step(state: _State, xs: Any) -> _State:
            t, after, last = xs
            x, memories = _stochastic(segment, state, (t, after), draw_noise)
            return self._enter(x, memories, after, last, state.log_h)

        def proposal(state: _State, xs: Any) -> None:
            def shifted(name: str, x: Array, step: Step) -> Array:
                law = noise_law(x, _shift(step, state.push))
                return jnp.asarray(numpyro.sample(name, law))

            _stochastic(segment, state, xs[:2], shifted)

        return initial, step, proposal, (begin, end, last)

    def _enter(self, x: Array, memories: Any, t: Array, last: Any, before: Any) -> _State:
        """Enter a new point: weigh it by its log h less that of the previous point."""
        log_h, push = self.lookahead.look(self.energy, x, t)
        assert log_h is not None, "guide() refuses lookaheads without weights"
        if last is not None:
            # At the end, log h is the negative energy, exactly.
            log_h = jnp.where(last, -self.energy(x), log_h)
        numpyro.factor("lookahead", log_h - before)
        return _State(x, log_h, push, memories)


def _only_segment(chain: Chain) -> Segment:
    if len(parts := chain.segments()) != 1:
        raise PathError(
            "guidance with weights is of one phase, whose steps are all alike",
            instead="one stepper, or a tuple of them; or guide_approximately(...)",
        )
    return parts[0]


def _stochastic(
    segment: Segment, state: _State, ts: Any, noise: Callable[[str, Array, Step], Array]
) -> tuple[Array, Any]:
    """One interval, with noise in it."""
    sites: list[str] = []

    def each(name: str, x: Array, step: Step) -> Array:
        sites.append(name)
        return noise(name, x, step)

    moved = segment.advance(state.x, ts, state.memories, each)
    if not sites:
        raise PathError(
            "guidance of a chain without noise has no weights",
            instead="steps with epsilon > 0 (or eta > 0); or guide_approximately(...)",
        )
    return moved


def _pull(step: Step) -> Any:
    """The default pull of a step: that of Doob's transform for short steps."""
    return step.std**2 if step.pull is None else step.pull


def _shift(step: Step, push: Array) -> Array:
    """The shift of the noise by guidance: zero where there is no noise."""
    moves = jnp.broadcast_to(step.std, push.shape) > 0
    return jnp.where(moves, _pull(step) * push / jnp.where(moves, step.std, 1.0), 0.0)


@claims(
    "unbiased",
    "expectations under the tilted law times its normaliser, by weights",
    but="samples with normalised weights are biased by O(1/particles)",
)
def guide(chain: Chain, energy: Energy, lookahead: AbstractLookahead) -> Guided:
    r"""Guide a sampler to the law :math:`p(x)\, e^{-E(x)} / Z`, with importance weights.

    At each step :math:`\nabla \log h` of the lookahead is added to the score, which shifts the
    noise; the weight is multiplied by the ratio of the densities of that noise in the chain and in
    the guided chain, and by the ratio of h at the new point and at the old one:

    .. math:: w \leftarrow w\, \frac{p(z_k)}{q(z_k)} \frac{h(x_{k+1}, t_{k+1})}{h(x_k, t_k)}, \qquad
              h(\cdot, 1) = e^{-E}.

    So weight times a function of the sample is *unbiased* for Z times its mean under the tilted law
    *of the chain as it is discretised*, for any lookahead; a better one lowers the variance of the
    weights. Classifier guidance, inpainting and linear inverse problems can be written as energies,
    also of the output of a decoder. The zero energy changes nothing, and has weights of exactly
    one.

    Args:
        chain: a sampler with noise. Steps whose noise vanishes (the last one, for example) are not
            changed.
        energy: a function of the last point, to a scalar in nats.
        lookahead: `Exact`, `PlugIn`, `Learned`, or another `AbstractLookahead`.

    Returns:
        A `Guided`: called, one weighted sample; its method `smc` runs many, with resampling.

    Raises:
        PathError: the lookahead has no weights; or, on a run, the chain has no noise.

    References:
        Doob's h-transform; Wu, Trippe, Naesseth, Blei, Cunningham. Practical and asymptotically
        exact conditional sampling in diffusion models. NeurIPS 2023.

    Example:
        A normal, tilted by the energy (x − 1)²/2, is N(1/2, 1/2), with log Z = −(log 2)/2 − 1/4.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import Chain, Fields, PlugIn, euler_maruyama, guide
        >>> stepper = euler_maruyama(lambda x, t: Fields(0 * x, -x), epsilon=1.0)
        >>> chain = Chain(dist.Normal(0.0, 1.0), stepper, jnp.linspace(0.0, 1.0, 51))
        >>> energy = lambda x: 0.5 * (x - 1) ** 2
        >>> lookahead = PlugIn(lambda x, t: x * jnp.exp(t - 1))  # Langevin's mean at the end
        >>> samples = ppgen.seed(guide(chain, energy, lookahead).smc(particles=4000))
        >>> found = samples(jax.random.key(0))
        >>> print(f"{found.mean():.1f}, {found.log_evidence:.1f}")  # 0.5, -0.597
        0.5, -0.6
    """
    if not lookahead.weighted:
        raise PathError(
            f"{type(lookahead).__name__} has no weights, so the law of the samples is unknown",
            instead="guide_approximately(...); or Exact, PlugIn or Learned",
        )
    return Guided(chain, energy, lookahead)


@claims("heuristic", "draws from the tilted law")
def guide_approximately(chain: Chain, energy: Energy | None, lookahead: AbstractLookahead) -> Chain:
    r"""Guide a sampler without weights: its law is *not* the tilted law, only close to it.

    The mean of each step moves by `pull` times :math:`\nabla \log h`. It is meant for steps without
    noise, which have no weights (guided ODEs), and for `Project`. It is a *heuristic* because of
    the lookahead and of the step size; with `Exact` and small steps it approaches the tilted law.

    Classifier-free guidance is not done here but by `classifier_free`, which combines two fields,
    and is approximate as well.

    Args:
        chain: a sampler. Its steps must have a `pull`, as those of `ancestral` have, and of
            `euler_maruyama` for fields with an `exchange`.
        energy: as for `guide`; `None` for `Project`.
        lookahead: any.

    Returns:
        A chain: another program of the same sites.

    Raises:
        PathError: on a run, if a step without noise has no `pull`.
    """
    silent: Energy = (lambda x: jnp.zeros(())) if energy is None else energy

    def pushed(step: Step, x: Array, t: Array) -> Step:
        if step.pull is None and is_silent(step):
            raise PathError(
                "the derivative of a step with respect to the score is unknown",
                instead="fields with an exchange, as decode makes them of paths with normal noise",
            )
        _, push = lookahead.look(silent, x, t)
        return Step(step.mean + _pull(step) * push, step.std, step.pull)

    def wrap(stepper: Any) -> Any:
        if isinstance(stepper, AbstractStepper):
            return _Pushed(stepper, pushed)
        return _PushedStep(stepper, pushed)

    return Chain(chain.initial, map_steppers(wrap, chain.stepper), chain.times)


class _PushedStep(eqx.Module):
    """A step without memory whose mean is moved. Final."""

    step: Stepper
    push: Callable[[Step, Array, Array], Step]

    def __call__(self, x: Array, t: Any, after: Any) -> Step:
        return self.push(self.step(x, t, after), x, t)

    @property
    def evaluations(self) -> int:
        return self.step.evaluations  # pyright: ignore  (of a function: its error says what to do)


class _Pushed(AbstractStepper):
    """A stepper whose means are moved. Final."""

    step: AbstractStepper
    push: Callable[[Step, Array, Array], Step]
    evaluations = property(lambda self: self.step.evaluations)
    opening = property(lambda self: self.step.opening)  # pyright: ignore  (of another stepper)
    memory = property(lambda self: self.step.memory)  # pyright: ignore  (of another stepper)
    noiseless = property(lambda self: self.step.noiseless)  # pyright: ignore  (of another stepper)

    def begin(self, x: Array, t: Any) -> Any:
        return self.step.begin(x, t)

    def __call__(self, x: Array, t: Any, after: Any, memory: Any) -> tuple[Step, Any]:
        step, memory = self.step(x, t, after, memory)
        return self.push(step, x, t), memory
