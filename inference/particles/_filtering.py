"""Particle filters: sequential Monte Carlo over programs of one time step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

import ppgen
from ppgen._log_weights import normalized
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import SiteError
from ppgen.inference.particles._particle_filter import ParticleFilter, Trajectory
from ppgen.inference.particles._resampling import check_scheme, draw_ancestors


@claims(
    "unbiased",
    "the evidence, by the exponential of its logarithm",
    gradient="unbiased",
    but='with `gradient="biased"`, gradients leave the ancestors out',
)
def smc(
    step: Program,
    *,
    particles: int,
    proposal: Program | None = None,
    resampling: str = "systematic",
    threshold: float = 0.5,
    gradient: str = "score",
) -> Callable[..., ParticleFilter]:
    r"""A particle filter: sequential Monte Carlo with K = `particles` particles.

    `step(state, x, *args)` is a program of one time step: it draws latent sites, observes `x`, and
    returns the new state. With weights :math:`w_k` (normalised), particle k moves and gets

    .. math:: w_k \leftarrow w_k \frac{p(z_k, x_t \mid s_k)}{q(z_k \mid s_k, x_t)}, \qquad
              \hat Z \leftarrow \hat Z \sum_k w_k.

    Where their effective size is below `threshold` times K, particles are resampled before the next
    step. :math:`\hat Z` is an *unbiased* estimate of the evidence p(x_1, ..., x_T), for any
    proposal, scheme, threshold and K; also where the density of a program is itself estimated. Time
    is a `jax.lax.scan`, particles are vectorised: the compiled program grows with neither.

    Args:
        step: the program of one step. The state is any pytree of arrays.
        particles: K.
        proposal: `proposal(state, x, *args)` draws the same latent sites. By default they are drawn
            as `step` draws them, without regard to what it observes (the bootstrap filter).
        resampling: `"multinomial"`, `"systematic"` or `"residual"`; see `MultinomialResampling`,
            `SystematicResampling` and `ResidualResampling`.
        threshold: resample where the effective sample size is below this part of K: 0 never
            resamples, 1 resamples before every step except the first.
        gradient: how ancestors enter gradients: `"score"`, *unbiased*; or `"biased"`, which ignores
            them, and which `ppgen.expectation` refuses without `allow_biased=True`.

    Returns:
        A function `(initial, xs, *args) -> ParticleFilter`. `initial` is the state before the
        first step, or, if it is a function, a program `initial(*args)` that returns that state and
        may itself observe. `xs` is a pytree of arrays with time along axis 0, one element for each
        step (`jnp.arange(T)` if there is nothing to pass). It draws: call it within `ppgen.seed`,
        `ppgen.expectation` or a program.

    Raises:
        ValueError: fewer than one particle, a threshold outside of [0, 1], no such scheme.
        ChoiceMismatchError: step and proposal do not match.
        SiteError: a plate is subsampled; the proposal observes something; or there is none, and the
            observed sites of `step` cannot be separated from its latent ones.
        DiscontinuityError: on `ppgen.expectation`, where the particles are reparameterised and
            `threshold` is neither 0 nor 1: the decision to resample is discontinuous.

    References:
        Doucet, de Freitas, Gordon, *Sequential Monte Carlo Methods in Practice*, 2001. Del Moral,
        *Feynman-Kac Formulae*, 2004.

    Example:
        A random walk that is observed with noise; the evidence is known from the Kalman filter.

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import smc
        >>> def step(state, x):
        ...     z = numpyro.sample("z", dist.Normal(state, 1.0))
        ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
        ...     return z
        >>> run = jax.jit(ppgen.seed(smc(step, particles=1000)))
        >>> found = run(jax.random.key(0), 0.0, jnp.array([0.5, 1.0, -0.3]))
        >>> bool(abs(found.log_evidence + 4.4066) < 0.2), found.trajectories().choices["z"].shape
        (True, (3, 1000))
    """
    _check(particles, threshold, resampling, gradient)

    def run(initial: Any, xs: PyTree, *args: Any) -> ParticleFilter:
        def start() -> tuple[Any, dict[str, Array], Array]:
            if not callable(initial):
                return initial, {}, jnp.zeros(())
            return _propagate(initial, None, args)

        def move(states: Any, x: Any) -> tuple[Any, dict[str, Array], Array]:
            return jax.vmap(lambda s: _propagate(step, proposal, (s, x, *args)))(states)

        def select(log_weights: Array, flag: Array) -> Array:
            return draw_ancestors(log_weights, resampling, flag=flag, gradient=gradient)

        first = jax.vmap(lambda _: start())(jnp.arange(particles))
        weighted = callable(initial)
        return _filter(first, xs, move, select, threshold=threshold, weighted=weighted)

    return run


@claims(
    "unbiased",
    "the reciprocal of the evidence",
    gradient="unbiased",
    but="where the given path is a draw from the posterior; gradients as for `smc`",
)
def conditional_smc(
    step: Program,
    *,
    particles: int,
    proposal: Program | None = None,
    threshold: float = 0.5,
    gradient: str = "score",
) -> Callable[..., ParticleFilter]:
    r"""A particle filter in which one given path survives (conditional SMC).

    Like `smc` with multinomial resampling, except that particle 0 makes the choices of `retained`
    and is its own ancestor throughout. If `retained` is a draw from the posterior of the path, then
    :math:`1 / \hat Z` is *unbiased* for :math:`1 / Z`, so that the log evidence is bounded *from
    above* in expectation (and from below by `smc`); and `draw_trajectory` of the result is again a
    draw from the posterior (particle Gibbs). Densities of `step` must be exact.

    Args:
        step: the program of one step, as for `smc`.
        particles: K, the retained one included.
        proposal: as for `smc`.
        threshold: as for `smc`.
        gradient: as for `smc`.

    Returns:
        A function `(retained, initial, xs, *args) -> ParticleFilter`, with a `Trajectory` of one
        path (or a dict of the choices of its steps, each `(T, ...)`, where `initial` is a value)
        and then as for `smc`.

    Raises:
        ValueError: as for `smc`.
        ChoiceMismatchError: `retained` lacks a site, or has one too many.

    References:
        Andrieu, Doucet, Holenstein, *Particle Markov Chain Monte Carlo Methods*, JRSS B 2010.
        Grosse, Ghahramani, Adams, *Sandwiching the Marginal Likelihood Using Bidirectional Monte
        Carlo*, 2015.
    """
    _check(particles, threshold, "multinomial", gradient)

    def run(
        retained: Trajectory | dict[str, Array], initial: Any, xs: PyTree, *args: Any
    ) -> ParticleFilter:
        path = retained if isinstance(retained, Trajectory) else Trajectory({}, dict(retained))

        def start() -> tuple[Any, dict[str, Array], Array]:
            if not callable(initial):
                states = jax.tree.map(
                    lambda s: jnp.broadcast_to(s, (particles, *jnp.shape(s))), initial
                )
                return states, {}, jnp.zeros(particles)
            kept = _revisit(initial, None, path.initial, args)
            fresh = lambda _: _propagate(initial, None, args)  # noqa: E731
            return _with_first(kept, fresh, jnp.arange(particles))

        def move(states: Any, inputs: Any) -> tuple[Any, dict[str, Array], Array]:
            x, choices = inputs
            first = jax.tree.map(lambda s: s[0], states)
            kept = _revisit(step, proposal, choices, (first, x, *args))
            return _with_first(kept, lambda s: _propagate(step, proposal, (s, x, *args)), states)

        def select(log_weights: Array, flag: Array) -> Array:
            drawn = draw_ancestors(log_weights, "multinomial", flag=flag, gradient=gradient)
            return drawn.at[0].set(0)

        inputs, weighted = (xs, path.choices), callable(initial)
        return _filter(start(), inputs, move, select, threshold=threshold, weighted=weighted)

    return run


def _check(particles: int, threshold: float, resampling: str, gradient: str) -> None:
    check_scheme(resampling, gradient)
    if particles < 1:
        raise ValueError(f"a particle filter needs at least one particle, not {particles}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a part of the particles, in [0, 1], not {threshold}")


def _filter(
    first: tuple[Any, dict[str, Array], Array],
    xs: PyTree,
    move: Callable[[Any, Any], tuple[Any, dict[str, Array], Array]],
    select: Callable[[Array, Array], Array],
    *,
    threshold: float,
    weighted: bool,
) -> ParticleFilter:
    """Filter from the first states, choices and log weights on."""
    states, initial, log_weights = first
    states = jax.tree.map(jnp.asarray, states)
    particles = log_weights.shape[0]
    log_weights, log_first = normalized(log_weights - math.log(particles))
    own = jnp.arange(particles)

    def advance(carry: tuple[Any, Array], inputs: tuple[Array, Any]):
        (states, log_weights), (index, x) = carry, inputs
        parents = own
        if threshold > 0 and particles > 1:
            if threshold == 1:
                # Equal weights, before the first step, are not resampled.
                flag = jnp.maximum(jnp.minimum(index, 1).astype(float), float(weighted))
            else:
                # As a float, so that a pathwise value which decides on it is noticed.
                flag = (_ess(log_weights) < threshold * particles).astype(float)
            parents = select(log_weights, flag)
            states, log_weights = jax.tree.map(lambda s: s[parents], (states, log_weights))
            log_weights = _after_resampling(log_weights, flag)
        states, choices, increments = move(states, x)
        log_weights, log_increment = normalized(log_weights + increments)
        out = (choices, parents, log_increment, _ess(log_weights))
        return (states, log_weights), out

    length = jax.tree.leaves(xs)[0].shape[0]
    (states, log_weights), (choices, ancestors, log_increments, ess) = jax.lax.scan(
        advance, (states, log_weights), (jnp.arange(length), xs)
    )
    return ParticleFilter(
        log_evidence=log_first + jnp.sum(log_increments),
        log_increments=log_increments,
        states=states,
        log_weights=log_weights,
        ancestors=ancestors,
        ess=ess,
        steps=Trajectory(initial, choices),
    )


def _after_resampling(log_weights: Float[Array, " k"], flag: Array) -> Float[Array, " k"]:
    """Equal weights after resampling: the particles' multiplicities carry the weights."""
    return jnp.where(flag > 0, -math.log(log_weights.shape[0]), log_weights)


def _propagate(
    program: Program, proposal: Program | None, args: tuple[Any, ...]
) -> tuple[Any, dict[str, Array], Array]:
    """Propose for one particle: its new state, its choices, and its log weight."""
    drawn = ppgen.simulate(program if proposal is None else proposal)(*args)
    if proposal is None:
        _whole(drawn)
        return drawn.value, drawn.choices, _observed(drawn)
    _check_proposal(drawn)
    scored = ppgen.assess(program)(drawn, *args)
    _whole(drawn, scored)
    return scored.value, scored.choices, scored.log_density - drawn.log_density


def propagate(
    program: Program, proposal: Program | None, args: tuple[Any, ...]
) -> tuple[Any, Array]:
    """One particle, without the choices that it makes: its new state and its log weight."""
    state, _, log_weight = _propagate(program, proposal, args)
    return state, log_weight


def _revisit(
    program: Program, proposal: Program | None, choices: dict[str, Array], args: tuple[Any, ...]
) -> tuple[Any, dict[str, Array], Array]:
    """As `_propagate`, for given choices."""
    scored = ppgen.assess(program)(choices, *args)
    _whole(scored)
    if proposal is None:
        return scored.value, scored.choices, _observed(scored)
    proposed = ppgen.assess(proposal)(choices, *args)
    _whole(proposed)
    _check_proposal(proposed)
    return scored.value, scored.choices, scored.log_density - proposed.log_density


def _whole(*traces: ppgen.Trace) -> None:
    for trace in traces:
        trace.refuse_subsampled(
            "its exponential is not an unbiased weight of a particle", instead="the whole plate"
        )


def _with_first(kept: Any, fresh: Callable[[Any], Any], over: Any) -> Any:
    """`kept` for particle 0, and `fresh` of every other element of `over`."""
    if jax.tree.leaves(over)[0].shape[0] == 1:
        return jax.tree.map(lambda k: jnp.asarray(k)[None], kept)
    others = jax.vmap(fresh)(jax.tree.map(lambda s: s[1:], over))
    return jax.tree.map(lambda k, o: jnp.concatenate([jnp.asarray(k)[None], o]), kept, others)


def _parts(trace: ppgen.Trace, name: str) -> set[bool]:
    """Whether the sites of a term of the log density are latent: one or both of the answers."""
    if name in trace.choices:
        return {True}
    # Sites that only have a density together have one under their joined names.
    return {part in trace.choices for part in name.split("|")}


def _observed(trace: ppgen.Trace) -> Array:
    """The log density of what is observed: the log weight if the program itself proposes."""
    total = jnp.zeros(())
    for name, log_prob in trace.log_probs.items():
        if len(found := _parts(trace, name)) > 1:
            raise SiteError(
                "latent and observed sites have a density together only, so that the latent ones "
                "cannot be proposed and weighted by the observed ones",
                site=name,
                instead="a proposal of its own: smc(step, proposal=...)",
            )
        if found == {False}:
            total = total + jnp.sum(log_prob)
    return total


def _check_proposal(trace: ppgen.Trace) -> None:
    for name in trace.log_probs:
        if _parts(trace, name) != {True}:
            raise SiteError(
                "a proposal with observed sites or factors has no normalised density",
                site=name,
                instead="ppgen.normalize(proposal, ...)",
            )


def _ess(log_weights: Float[Array, " k"]) -> Float[Array, ""]:
    return jnp.exp(-jax.nn.logsumexp(2 * log_weights))


@claims(
    "lower bound",
    "the log evidence",
    gradient="unbiased",
    but='with `gradient="biased"`, gradients leave the ancestors out',
)
def fivo(
    step: Program,
    proposal: Program | None = None,
    *,
    particles: int,
    resampling: str = "multinomial",
    threshold: float = 1.0,
    gradient: str = "score",
) -> Callable[..., Float[Array, ""]]:
    r"""The filtering variational objective: the expected log evidence estimate of `smc`.

    .. math:: \mathrm{FIVO}_K = E\Big[\log \prod_t \sum_k w_{t-1}^k
              \frac{p(z_t^k, x_t \mid s^k)}{q(z_t^k \mid s^k, x_t)}\Big] \le \log p(x_{1:T}).

    *A lower bound* on the log evidence. The value and the gradients that `ppgen.expectation` makes
    of it are *unbiased* for the bound, through the ancestors too; their score has a large variance,
    which `draws=...` lowers. With `threshold=0`, it is the IWELBO of K whole paths.

    Args:
        step: the program of one step, as for `smc`.
        proposal: as for `smc`.
        particles: K.
        resampling: as for `smc`. The expectation is smooth in the parameters under multinomial
            resampling only.
        threshold: as for `smc`; 1, resampling before every step, is unbiased for all choices.
            Between 0 and 1, a reparameterised particle is refused: the decision to resample is
            discontinuous.
        gradient: as for `smc`.

    Returns:
        A function `(initial, xs, *args) -> scalar`, as for `smc`: one draw of the bound, in nats.

    Raises:
        ValueError: as for `smc`.

    References:
        Maddison et al., *Filtering Variational Objectives*, NeurIPS 2017. Le et al., *Auto-Encoding
        Sequential Monte Carlo*, ICLR 2018. Naesseth et al., *Variational Sequential Monte Carlo*,
        AISTATS 2018.
    """
    run = smc(
        step,
        particles=particles,
        proposal=proposal,
        resampling=resampling,
        threshold=threshold,
        gradient=gradient,
    )
    return lambda initial, xs, *args: run(initial, xs, *args).log_evidence
