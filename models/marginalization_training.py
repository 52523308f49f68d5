"""Training of marginalization models, by `ppgen.inference.fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jaxtyping import Array, Float, Int, Key, Num

import ppgen
from ppgen.inference import Progress, elbo, fit
from ppgen.models.marginalization import (
    LogWeight,
    MaM,
    any_order,
    any_order_bound,
    consistency,
    importance_weighted_kl,
    published_kl,
    target,
    target_loss,
)
from ppgen.models.networks import Paired

Callback = Callable[[Progress], bool | None]


class Chained(eqx.Module):
    """Parameters, and chains that follow them. Values are floats, as all that `fit` updates."""

    mam: MaM
    chains: Float[Array, "chains sites"]


def persistent_chains(
    optimizer: optax.GradientTransformation,
    mam: MaM,
    *,
    erased: int,
    key: Key[Array, ""],
    log_weight: LogWeight | None = None,
) -> optax.GradientTransformation:
    """An optimiser of `Chained`: gradient steps of the model, block-Gibbs moves of its chains.

    A move erases the last sites of a random order and draws them again from p_φ. The chains follow
    p_φ as it changes, so what is drawn from them is *approximately* of p_φ.

    Args:
        optimizer: What takes the steps of the model.
        mam: A model of the same structure.
        erased: Sites that a move draws: a trade of passes for mixing.
        key: Draws the moves.
        log_weight: log f, to follow f instead, as `block_gibbs` does with it.

    Returns:
        The transformation, for `fit`.
    """
    fixed = eqx.partition(mam, eqx.is_inexact_array)[1]

    def init(params: Any) -> tuple[Any, Key[Array, ""]]:
        return optimizer.init(params.mam), key

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("persistent_chains moves the parameters, so its update needs them")
        inner, key = state
        steps: Any
        steps, inner = optimizer.update(updates.mam, inner, params.mam)
        key, move_key = jax.random.split(key)
        held = eqx.combine(params.mam, fixed)
        moved = block_gibbs(move_key, held, params.chains, erased=erased, log_weight=log_weight)
        return Chained(steps, moved - params.chains), (inner, key)

    return optax.GradientTransformation(init, update)


def block_gibbs(
    key: Key[Array, ""],
    mam: MaM,
    chains: Num[Array, "chains sites"],
    *,
    erased: int,
    log_weight: LogWeight | None = None,
) -> Num[Array, "chains sites"]:
    """One move of every chain: the last `erased` sites of a random order, anew from p_φ.

    Args:
        key: Draws the moves.
        mam: The model.
        chains: Where they are.
        erased: Sites to draw.
        log_weight: log f, to accept a move by the rule of Metropolis and Hastings: it then leaves f
            invariant *exactly*, whatever p_φ is. With None all moves are accepted: they leave
            invariant what a consistent p_φ stands for.

    Returns:
        Where they are then.
    """

    def move(mam: MaM, x: Array) -> Array:
        there = ppgen.simulate(any_order)(mam, start=x, erased=erased)
        if log_weight is None:
            return there.value
        back = {"order": there["order"], "values": x[there["order"][mam.sites - erased :]]}
        log_ratio = log_weight(there.value) - log_weight(x) - there.log_density
        log_ratio += ppgen.log_density(any_order)(back, mam, start=x, erased=erased)
        accept = ppgen.draw(dist.Bernoulli(jnp.exp(jnp.minimum(log_ratio, 0.0))), name="accept")
        return jnp.where(accept == 1, there.value, x)

    keys = jax.random.split(key, len(chains))
    moved = jax.vmap(ppgen.seed(move), (0, None, 0))(keys, mam, chains.astype(int))
    return moved.astype(chains.dtype)


def sample(key: Key[Array, ""], mam: MaM, draws: int) -> Int[Array, "draws sites"]:
    """Any-order ancestral draws of p_φ: D passes in a row for all of them."""
    return jax.vmap(ppgen.seed(any_order), (0, None))(jax.random.split(key, draws), mam)


def fit_likelihood(
    mam: MaM,
    data: Int[np.ndarray, "rows sites"],
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: tuple[int, int],
    batch_size: int,
    draws: int = 0,
    callback: Callback | None = None,
) -> MaM:
    """Maximum likelihood in two stages: p_φ on the data, then p_θ to agree with it.

    The first stage maximises `any_order_bound`. The second minimises D `consistency` in p_θ alone,
    for which a copy of the network as the first stage left it is trained further, so that p_φ stays
    what it is.

    Args:
        mam: Where to start.
        data: Vectors of value numbers.
        optimizer: For either stage, begun anew.
        key: Everything random here follows from it.
        steps: Of the first stage and of the second.
        batch_size: Rows in a step.
        draws: Vectors of p_φ to join the data in the second stage, for p_θ to be right on more than
            the data.
        callback: As for `fit`, in both stages.

    Returns:
        The model, whose network is `Paired`.
    """
    first_key, second_key, draw_key = jax.random.split(key, 3)

    def bound(mam: MaM, x: Array) -> Array:
        return jnp.mean(jax.vmap(any_order_bound, (None, 0))(mam, x))

    def disagreement(marginals: Any, x: Array) -> Array:
        mam = MaM(Paired(marginals, frozen), sites, values)
        return sites * jnp.mean(jax.vmap(consistency, (None, 0))(mam, x))

    sites, values = mam.sites, mam.values
    common: dict[str, Any] = {"batch_size": batch_size, "callback": callback}
    fitted = fit(
        bound, mam, optimizer, key=first_key, steps=steps[0], data=data, maximize=True, **common
    )
    frozen = fitted.params.network
    if draws:
        more = eqx.filter_jit(sample)(draw_key, fitted.params, draws)
        data = np.concatenate([data, np.asarray(more)])
    again = fit(
        disagreement, frozen, optimizer, key=second_key, steps=steps[1], data=data, **common
    )
    return MaM(Paired(again.params, frozen), sites, values)


def fit_energy(
    mam: MaM,
    log_weight: LogWeight,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    objective: Literal["importance", "published", "corrected", "elbo"] = "published",
    draws: int = 512,
    erased: int | None = None,
    penalty: float | None = None,
    callback: Callback | None = None,
) -> MaM:
    """Trains a model towards an unnormalised target f.

    Args:
        mam: Where to start.
        log_weight: log f.
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Gradient steps.
        objective: "importance" is `importance_weighted_kl`, *unbiased*; "published" the *heuristic*
            `published_kl`; "corrected" is `target_loss`, on chains that are corrected to follow f;
            "elbo" is *unbiased* too, for p_φ alone, by the score function through ancestral draws:
            nothing ties p_θ to it.
        draws: Vectors in a step.
        erased: Draw from persistent chains, whose moves erase that many sites, for "published" and
            "corrected"; by ancestral sampling if None.
        penalty: λ, the weight of `consistency`; D if None, so that it is the sum over an order.
        callback: As for `fit`.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such objective, or it does not go with `erased`.
    """
    fit_key, chain_key, start_key = jax.random.split(key, 3)
    if objective in ("importance", "elbo") and erased is not None:
        raise ValueError(f"{objective!r} draws by ancestral sampling, not from chains: erased=None")
    if objective == "corrected" and erased is None:
        raise ValueError("'corrected' draws from chains: how many sites is a move to erase?")
    penalty = float(mam.sites) if penalty is None else penalty
    common: dict[str, Any] = {"key": fit_key, "steps": steps, "callback": callback}

    if objective == "importance":

        def divergence(mam: MaM) -> Array:
            return importance_weighted_kl(mam, log_weight, draws=draws, penalty=penalty)

        return fit(divergence, mam, optimizer, **common).params
    if objective == "elbo":
        bound = elbo(lambda mam: target(mam, log_weight), any_order)
        return fit(bound, mam, optimizer, draws=draws, maximize=True, **common).params
    if objective not in ("published", "corrected"):
        raise ValueError(f"no objective {objective!r}: importance, published, corrected or elbo")
    if erased is None:

        def ancestral(mam: MaM) -> Array:
            held = jax.lax.stop_gradient(mam)
            x = jax.vmap(lambda _: any_order(held))(jnp.arange(draws))
            return published_kl(mam, log_weight, x, penalty=penalty)

        return fit(ancestral, mam, optimizer, **common).params

    loss, followed = published_kl, None
    if objective == "corrected":
        loss, followed = target_loss, log_weight

    def chained(params: Chained) -> Array:
        x = jax.lax.stop_gradient(params.chains).astype(int)
        return loss(params.mam, log_weight, x, penalty=penalty)

    start = jax.random.randint(start_key, (draws, mam.sites), 0, mam.values).astype(float)
    moving = persistent_chains(optimizer, mam, erased=erased, key=chain_key, log_weight=followed)
    return fit(chained, Chained(mam, start), moving, **common).params.mam
