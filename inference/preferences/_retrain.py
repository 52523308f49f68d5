"""Training of models on the preferred among their own draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

import ppgen
from ppgen.annotations import Program
from ppgen.inference.fitting._fit import fit

_AT_ONCE = 1024  # Number of draws made at the same time: memory grows with it.


class Round(NamedTuple):
    """The state of `retrain` after a round, which a callback receives.

    Attributes:
        number: Rounds so far, from one.
        params: The parameters now.
        curated: The curated draws of the previous parameters, with a leading axis of `size`.
        rewards: Their rewards.
        history: The objective at each step, as `fit` returns it.
    """

    number: int
    params: Any
    curated: Any
    rewards: Float[np.ndarray, " size"]
    history: Float[np.ndarray, " steps"]


class Retrained(NamedTuple):
    """What `retrain` returns.

    Attributes:
        params: The parameters after the last round.
        rewards: The mean reward of the curated draws of each round.
    """

    params: Any
    rewards: Float[np.ndarray, " rounds"]


def retrain(
    program: Program,
    reward: Callable[[Any], Any],
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    rounds: int,
    choices: int,
    size: int,
    steps: int,
    reference: PyTree | None = None,
    mix: float | int | None = None,
    objective: Callable[[Any, Any], Float[Array, ""]] | None = None,
    batch_size: int | None = None,
    callback: Callable[[Round], bool | None] | None = None,
) -> Retrained:
    r"""Train a model on its own curated draws, round after round.

    In each round it draws `size` data from the curated program (`ppgen.curate`), adds real data in
    the ratio 1 : λ of real to curated, and maximises the objective on both,

    .. math:: p_{t+1} = \arg\max_p \frac{1}{1 + \lambda} E_{ref}[\log p(x)]
              + \frac{\lambda}{1 + \lambda} E_{p_t H^K}[\log p(x)].

    With enough data, steps and capacity its law is that of `curated_law`, mixed with the reference:
    E[exp(r)] rises in every round by at least (K−1)/K Var(exp(r)) / max exp(r) without real data,
    until all mass is where the reward is largest; with λ(K−1) < 1 the divergence from the reference
    stays below −log(1 − λ(K−1)). With finite samples, steps and capacity it is a *heuristic* for
    that.

    Args:
        program: `program(params)` draws and returns a datum, a pytree of arrays.
        reward: A function of a datum, to a real scalar in nats. It is evaluated K times for each
            datum that is kept, and not differentiated, so it may be anything that `jax.vmap`
            supports: a classifier, `jax.pure_callback` with a `vmap_method`.
        params: Where to begin, as for `fit`.
        optimizer: From optax. Its state is initialised in each round.
        key: Everything random here follows from it.
        rounds: How many.
        choices: K.
        size: Curated data of a round.
        steps: Steps of a round.
        reference: Real data, a pytree like a datum with one leading axis. `round(size / mix)` of
            them are drawn in each round, all equally often up to one.
        mix: λ > 0.
        objective: `objective(params, batch)`, to be maximised, a mean over a batch of data. By
            default log p(x), for a program that takes the datum as a second argument and observes
            it: `log_density(program)({}, params, x)`.
        batch_size: As for `fit`; it takes from real and curated data alike.
        callback: Called after every round. If it returns True, the loop ends there.

    Returns:
        The parameters, and the mean reward of the curated draws of each round.

    Raises:
        FitError: The objective or its gradient is not finite at some step.
        ChoiceMismatchError: By default, if the program still draws when it is given a datum.
        ValueError: An argument is invalid, or one of `reference` and `mix` is given without the
            other.

    References:
        Ferbach, Bertrand, Bose, Gidel. Self-consuming generative models with curated data provably
        optimize human preferences. NeurIPS 2024.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax
        >>> from ppgen.inference import retrain
        >>> def program(logits, x=None):
        ...     return numpyro.sample("x", dist.Categorical(logits=logits), obs=x)
        >>> result = retrain(
        ...     program, lambda x: 1.0 * (x == 2), jnp.zeros(3), optax.adam(0.1),
        ...     key=jax.random.key(0), rounds=3, choices=4, size=1000, steps=100,
        ... )
        >>> bool(jax.nn.softmax(result.params)[2] > 0.8)
        True
    """
    if rounds < 1 or size < 1:
        raise ValueError(f"rounds and size must be positive, not {rounds} and {size}")
    if (reference is None) != (mix is None):
        raise ValueError("real data need a ratio, and the ratio needs real data: give both or none")
    if mix is not None and not mix > 0:
        raise ValueError(f"mix must be positive, not {mix}; without curated data there is fit(...)")
    maximized = objective if objective is not None else _log_likelihood(program)

    def rewarded(params: Any) -> tuple[Any, Any]:
        x = program(params)
        return x, reward(x)

    preferred = ppgen.seed(ppgen.curate(rewarded, lambda pair: pair[1], choices=choices))

    @eqx.filter_jit
    def draw(params: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        keys = jax.random.split(key, size)
        return jax.lax.map(lambda k: preferred(k, params), keys, batch_size=min(size, _AT_ONCE))

    means: list[float] = []
    for number in range(1, rounds + 1):
        key, draw_key, pick_key, fit_key = jax.random.split(key, 4)
        curated, rewards = draw(params, draw_key)
        data = curated
        if reference is not None and mix is not None:
            real = _rows(reference, round(size / mix), pick_key)
            data = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), curated, real)
        fitted = fit(
            maximized,
            params,
            optimizer,
            key=fit_key,
            steps=steps,
            data=data,
            batch_size=batch_size,
            maximize=True,
        )
        params = fitted.params
        means.append(float(jnp.mean(rewards)))
        now = Round(number, params, curated, np.asarray(rewards), fitted.history)
        if callback is not None and callback(now):
            break
    return Retrained(params, np.array(means))


def _log_likelihood(program: Program) -> Callable[[Any, Any], Float[Array, ""]]:
    score = ppgen.log_density(program)

    def objective(params: Any, batch: Any) -> Float[Array, ""]:
        return jnp.mean(jax.vmap(lambda x: score({}, params, x))(batch))

    return objective


def _rows(data: PyTree, count: int, key: Key[Array, ""]) -> PyTree:
    """`count` rows in random order: all of them as often as they fit, and then a random subset."""
    (rows,) = {len(x) for x in jax.tree.leaves(data)}
    copies = -(-count // rows)
    orders = [jax.random.permutation(k, rows) for k in jax.random.split(key, copies)]
    index = jnp.concatenate([*orders, jnp.zeros(0, int)])[:count]
    return jax.tree.map(lambda x: jnp.asarray(x)[index], data)
