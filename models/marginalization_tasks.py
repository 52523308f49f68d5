"""Marginalization models of digits, Ising models and molecules, by one call each."""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Int

from ppgen.models.datasets import Ising, Molecules, load_digits
from ppgen.models.marginalization import MaM
from ppgen.models.marginalization_training import Callback, fit_energy, fit_likelihood
from ppgen.models.networks import DualMLP, Paired

INK = 8
"""The grey level, of 0 to 16, from which on a binary pixel is on."""


@dataclasses.dataclass(frozen=True)
class MarginalizationOptions:
    """What to train, and how."""

    task: Literal["digits", "ising", "molecules"] = "digits"
    """Binary digits of 8x8 pixels, by maximum likelihood; an Ising model on a torus, or molecules
    of up to five atoms, by their energy."""
    side: int = 4
    """Height and width of the torus."""
    objective: Literal["published", "importance", "corrected", "elbo"] = "published"
    """Of an energy: `ppgen.models.marginalization_training.fit_energy` says what they are."""
    erased: int | None = None
    """Sites that a move of a persistent chain draws, for "published" and "corrected"; None for
    ancestral draws."""
    penalty: float | None = None
    """Weight of the consistency penalty of an energy; None for the number of sites."""
    hidden: int = 256
    """Width of the network."""
    depth: int = 1
    """Residual blocks of the network."""
    steps: int = 1500
    """Gradient steps; of maximum likelihood, of either stage."""
    batch_size: int = 256
    """Vectors in a step."""
    learning_rate: float = 2e-3
    """Highest learning rate of Adam; it falls to zero along a cosine."""
    weight_decay: float = 0.1
    """Decoupled weight decay of maximum likelihood, against fitting the training images only."""
    seed: int = 0
    """Seed of everything random, the choice of the held-out images apart."""


def untrained_marginalization(options: MarginalizationOptions) -> MaM:
    """The model that training starts from, with fresh weights.

    Args:
        options: The task and the sizes.

    Returns:
        The model. Maximum likelihood ends with a `Paired` network, of two like this one's.

    Examples:
        >>> from ppgen.models.marginalization_tasks import *
        >>> mam = untrained_marginalization(MarginalizationOptions(task="ising", side=4))
        >>> mam.sites, mam.values
        (16, 2)
    """
    if options.task == "digits":
        sites, values = load_digits().pixels, 2
    else:
        target = _target(options)
        sites, values = target.sites, target.values
    key = jax.random.key(options.seed)
    return MaM(DualMLP(sites, values, options.hidden, options.depth, key=key), sites, values)


def train_marginalization(
    options: MarginalizationOptions, *, callback: Callback | None = None
) -> MaM:
    """Trains one.

    Args:
        options: The task, the objective and the sizes.
        callback: As for `ppgen.inference.fit`; called in both stages of maximum likelihood.

    Returns:
        The model.
    """
    rate = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    mam = untrained_marginalization(options)
    key = jax.random.fold_in(jax.random.key(options.seed), 1)
    if options.task == "digits":
        return fit_likelihood(
            mam,
            binary_digits()[0],
            optax.adamw(rate, weight_decay=options.weight_decay),
            key=key,
            steps=(options.steps, options.steps),
            batch_size=options.batch_size,
            draws=20_000,
            callback=callback,
        )
    return fit_energy(
        mam,
        _target(options).log_weight,
        optax.adam(rate),
        key=key,
        steps=options.steps,
        objective=options.objective,
        draws=options.batch_size,
        erased=options.erased,
        penalty=options.penalty,
        callback=callback,
    )


def _target(options: MarginalizationOptions) -> Ising | Molecules:
    return Ising(options.side) if options.task == "ising" else Molecules()


def marginalization_like(options: MarginalizationOptions) -> MaM:
    """What `train_marginalization` returns, with shapes in place of arrays: for checkpoints."""
    like = eqx.filter_eval_shape(untrained_marginalization, options)
    if options.task != "digits":
        return like
    return MaM(Paired(like.network, like.network), like.sites, like.values)


def binary_digits() -> tuple[Int[np.ndarray, "train 64"], Int[np.ndarray, "held_out 64"]]:
    """The digits of `load_digits`, a pixel on if it is at least half as dark as possible.

    Examples:
        >>> from ppgen.models.marginalization_tasks import binary_digits
        >>> [part.shape for part in binary_digits()]
        [(1500, 64), (297, 64)]
    """
    digits = load_digits()
    return (digits.train >= INK).astype(np.int32), (digits.held_out >= INK).astype(np.int32)
