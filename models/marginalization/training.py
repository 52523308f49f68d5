"""Training of marginalization models, by `ppgen.inference.fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jaxtyping import Array, Float, Int, Key, Num

import ppgen
from ppgen.inference import Progress, elbo, fit, per_batch
from ppgen.models.marginalization.model import (
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
from ppgen.models.marginalization.scores import ancestral
from ppgen.models.parts.networks import Paired

Callback = Callable[[Progress], bool | None]
EnergyObjective = Literal["importance", "published", "corrected", "elbo"]


class Chained(eqx.Module):
    """Parameters, and chains that follow them. Values are floats, since `fit` updates floats."""

    mam: MaM
    chains: Float[Array, "chains sites"]


class TwoStages(eqx.Module):
    """Two models of one structure: p_θ from the first, p_φ from the second."""

    marginals: MaM
    conditionals: MaM

    @property
    def mam(self) -> MaM:
        """Both as one model."""
        return paired(self.marginals, self.conditionals)


def fitted(params: MaM | Chained | TwoStages) -> MaM:
    """The model, without the state of its training."""
    return params if isinstance(params, MaM) else params.mam


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
    p_φ as it changes, so their states follow p_φ *approximately*.

    Args:
        optimizer: The optimiser of the model.
        mam: A model of the same structure.
        erased: Sites that a move draws: more of them mix faster and take more passes.
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
    """One move of every chain: the last `erased` sites of a random order are drawn anew from p_φ.

    Args:
        key: Draws the moves.
        mam: The model.
        chains: Their states.
        erased: Sites to draw.
        log_weight: log f, to accept a move by the rule of Metropolis and Hastings: it then leaves f
            invariant *exactly*, whatever p_φ is. With None all moves are accepted: they leave p_φ
            invariant if it is consistent.

    Returns:
        Their new states.
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


def paired(marginals: MaM, conditionals: MaM) -> MaM:
    """p_θ of one model with p_φ of another."""
    network = Paired(marginals.network, conditionals.network)
    return MaM(network, conditionals.sites, conditionals.values)


def mean_bound(mam: MaM, x: Int[Array, "batch sites"]) -> Float[Array, ""]:
    """The mean `any_order_bound` of a batch, in nats: the objective of the first stage."""
    return per_batch(any_order_bound)(mam, x)


def disagreement(
    conditionals: MaM,
) -> Callable[[MaM, Int[Array, "batch sites"]], Float[Array, ""]]:
    """The loss of the second stage: D times the `consistency` of p_θ with a fixed p_φ.

    Args:
        conditionals: The model that gives p_φ.

    Returns:
        A function of the model that gives p_θ and a batch, in nats², that draws.
    """

    def objective(marginals: MaM, x: Array) -> Array:
        errors = per_batch(consistency)(paired(marginals, conditionals), x)
        return conditionals.sites * errors

    return objective


def fit_likelihood(
    mam: MaM,
    data: Int[np.ndarray, "rows sites"],
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    key: Key[Array, ""],
    steps: tuple[int, int],
    batch_sizes: tuple[int, int],
    draws: int = 0,
    callback: Callback | None = None,
) -> MaM:
    """Maximum likelihood in two stages: p_φ on the data, then p_θ to agree with it.

    The first stage maximises `mean_bound`. The second minimises `disagreement` in p_θ alone,
    starting from a copy of the network of the first stage. The stages need different settings: p_φ
    can overfit the data, so weight decay helps; p_θ is trained on unlimited draws, and up to D
    errors of steps add up, so it needs precision.

    Args:
        mam: Where to start.
        data: Vectors of value numbers.
        optimizers: Those of the first and of the second stage.
        key: Everything random here follows from it.
        steps: Steps of each stage.
        batch_sizes: Rows in a step of each stage.
        draws: Vectors drawn from p_φ that are added to the data in the second stage, so that p_θ is
            right on more than the data.
        callback: As for `fit`, in both stages.

    Returns:
        The model, whose network is `Paired`.
    """
    keys = jax.random.split(key, 3)
    first = fit(
        mean_bound,
        mam,
        optimizers[0],
        key=keys[0],
        steps=steps[0],
        data=data,
        batch_size=batch_sizes[0],
        maximize=True,
        callback=callback,
    ).params
    second = fit(
        disagreement(first),
        first,
        optimizers[1],
        key=keys[1],
        steps=steps[1],
        data=joined(data, first, draws, key=keys[2]),
        batch_size=batch_sizes[1],
        callback=callback,
    ).params
    return paired(second, first)


def joined(
    data: Int[np.ndarray, "rows sites"], mam: MaM, draws: int, *, key: Key[Array, ""]
) -> Int[np.ndarray, "more sites"]:
    """Data and draws of p_φ, in one array."""
    if not draws:
        return data
    return np.concatenate([data, np.asarray(ancestral(mam, draws, key=key).x, data.dtype)])


class EnergyFit(NamedTuple):
    """Arguments of `ppgen.inference.fit`.

    Attributes:
        objective: A function of `params`.
        params: A `MaM`, or one with its chains.
        optimizer: Moves the chains too.
        draws: Draws of the objective in a step.
        maximize: Whether it is a bound.
    """

    objective: Callable[..., Float[Array, ""]]
    params: MaM | Chained
    optimizer: optax.GradientTransformation
    draws: int = 1
    maximize: bool = False


def energy_fit(
    mam: MaM,
    log_weight: LogWeight,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    objective: EnergyObjective = "published",
    draws: int = 512,
    erased: int | None = None,
    penalty: float | None = None,
) -> EnergyFit:
    """Arguments of `fit` that train a model towards an unnormalised target f.

    Args:
        mam: Where to start.
        log_weight: log f.
        optimizer: From optax.
        key: Draws the chains.
        objective: "importance" is `importance_weighted_kl`, *unbiased*; "published" the *heuristic*
            `published_kl`; "corrected" is `target_loss`, on chains that are corrected to follow f;
            "elbo" is *unbiased* too, for p_φ alone, by the score function through ancestral draws:
            nothing ties p_θ to it.
        draws: Vectors in a step.
        erased: Draw from persistent chains, whose moves erase that many sites, for "published" and
            "corrected"; by ancestral sampling if None.
        penalty: λ, the weight of `consistency`; D if None, so that it is the sum over an order.

    Returns:
        Arguments of `fit`.

    Raises:
        ValueError: If there is no such objective, or it does not go with `erased`.
    """
    chain_key, start_key = jax.random.split(key)
    if objective in ("importance", "elbo") and erased is not None:
        raise ValueError(f"{objective!r} draws by ancestral sampling, not from chains: erased=None")
    if objective == "corrected" and erased is None:
        raise ValueError("'corrected' draws from chains: how many sites is a move to erase?")
    penalty = float(mam.sites) if penalty is None else penalty

    if objective == "importance":

        def divergence(mam: MaM) -> Array:
            return importance_weighted_kl(mam, log_weight, draws=draws, penalty=penalty)

        return EnergyFit(divergence, mam, optimizer)
    if objective == "elbo":
        bound = elbo(lambda mam: target(mam, log_weight), any_order)
        return EnergyFit(bound, mam, optimizer, draws=draws, maximize=True)
    if objective not in ("published", "corrected"):
        raise ValueError(f"no objective {objective!r}: importance, published, corrected or elbo")
    if erased is None:

        def anew(mam: MaM) -> Array:
            held = jax.lax.stop_gradient(mam)
            x = jax.vmap(lambda _: any_order(held))(jnp.arange(draws))
            return published_kl(mam, log_weight, x, penalty=penalty)

        return EnergyFit(anew, mam, optimizer)

    loss, followed = published_kl, None
    if objective == "corrected":
        loss, followed = target_loss, log_weight

    def chained(params: Chained) -> Array:
        x = jax.lax.stop_gradient(params.chains).astype(int)
        return loss(params.mam, log_weight, x, penalty=penalty)

    start = jax.random.randint(start_key, (draws, mam.sites), 0, mam.values).astype(float)
    moving = persistent_chains(optimizer, mam, erased=erased, key=chain_key, log_weight=followed)
    return EnergyFit(chained, Chained(mam, start), moving)


def fit_energy(
    mam: MaM,
    log_weight: LogWeight,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    objective: EnergyObjective = "published",
    draws: int = 512,
    erased: int | None = None,
    penalty: float | None = None,
    callback: Callback | None = None,
) -> MaM:
    """Trains a model towards an unnormalised target f, as `energy_fit` says.

    Args:
        mam: Where to start.
        log_weight: log f.
        optimizer: From optax.
        key: Everything random here follows from it.
        steps: Gradient steps.
        objective: As for `energy_fit`; so are `draws`, `erased` and `penalty`.
        draws: Vectors in a step.
        erased: Sites that a move of a persistent chain draws, or None.
        penalty: λ, or None.
        callback: As for `fit`.

    Returns:
        The model.

    Raises:
        ValueError: As `energy_fit`.
    """
    fit_key, chain_key = jax.random.split(key)
    objective_, params, optimizer, copies, maximize = energy_fit(
        mam,
        log_weight,
        optimizer,
        key=chain_key,
        objective=objective,
        draws=draws,
        erased=erased,
        penalty=penalty,
    )
    fitted = fit(
        objective_,
        params,
        optimizer,
        key=fit_key,
        steps=steps,
        draws=copies,
        maximize=maximize,
        callback=callback,
    ).params
    return fitted.mam if isinstance(fitted, Chained) else fitted
