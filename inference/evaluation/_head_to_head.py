"""A harness that compares systems on the same prompts, and first checks the score itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

import ppgen
from ppgen._tracebacks import boundary
from ppgen.annotations import Program
from ppgen.inference.evaluation._comparison import Comparison, EvaluationError, resample
from ppgen.inference.fitting._batches import leading_axis
from ppgen.inference.metrics import Estimate, mean_over_data

_ABOVE_CHANCE = 0.02  # which is more than any score of another prompt should be
_RESAMPLES = 4000


@boundary
def head_to_head(
    systems: Mapping[str, Program],
    prompts: PyTree,
    score: Callable[[Any, Any], Any],
    *,
    truth: Program,
    key: Key[Array, ""],
    per_prompt: int,
    chance: float = 0.0,
    batch_size: int = 16,
) -> Comparison:
    """Compares systems on the same prompts by a score, after two controls of the score.

    The truth must score 1 on each prompt, and on *another* prompt no more than chance: a score
    that looks at the draw only, and not at the prompt, is an error, and not a comparison. All
    systems get the same keys, so that neither their order nor their names matter.

    Args:
        systems: Programs of a prompt, by name. Draws are as they come: the best of several, chosen
            by the score, is another system.
        prompts: An array, or any pytree of arrays with one leading axis in common.
        score: `score(draw, prompt)`, a number that is 1 for what was asked for, of NumPy arrays.
        truth: A program of a prompt that returns what was asked for.
        key: For draws, the control, and the bootstrap.
        per_prompt: Draws of each system for each prompt.
        chance: What the truth of another prompt scores on average, at most.
        batch_size: Prompts computed at the same time.

    Returns:
        Scores with paired intervals, and the cost of each system.

    Raises:
        EvaluationError: The truth does not score 1, or it scores more than `chance` (by .02, and by
            three standard errors) on other prompts; or a score is not finite.
        ValueError: There are fewer than two prompts, or no systems.

    Examples:
        Two systems that are told a letter, of which one does not listen well:

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import head_to_head
        >>> def system(sharpness):
        ...     def program(letter):
        ...         logits = sharpness * jax.nn.one_hot(letter, 5)
        ...         return numpyro.sample("x", dist.Categorical(logits=logits))
        ...     return program
        >>> found = head_to_head(
        ...     {"good": system(4.0), "poor": system(1.0)},
        ...     jnp.arange(60) % 5,
        ...     lambda drawn, letter: drawn == letter,
        ...     truth=lambda letter: letter,
        ...     key=jax.random.key(0),
        ...     per_prompt=10,
        ... )
        >>> print("{:.2f} ({:.2f}, {:.2f})".format(*found.difference("good", "poor")))  # .53
        0.53 (0.49, 0.57)
    """
    number = leading_axis(prompts)
    if number < 2 or not systems or per_prompt < 1:
        raise ValueError(
            "two prompts, a system and a draw are needed at least, and there are "
            f"{number}, {len(systems)} and {per_prompt}"
        )
    draw_key, swap_key, boot_key = jax.random.split(key, 3)
    keys = jax.random.split(draw_key, (number, per_prompt))
    on_device = jax.tree.map(jnp.asarray, prompts)
    asked = _rows(prompts, number)

    def scores_of(draws: Any, places: np.ndarray) -> Float[np.ndarray, "prompts draws"]:
        """The score of each draw, with the prompt of a place that is given for it."""
        found = np.empty((number, per_prompt))
        for i, drawn in enumerate(_rows(draws, number)):
            for j, one in enumerate(_rows(drawn, per_prompt)):
                found[i, j] = np.asarray(score(one, asked[places[i, j]]), np.float64)
        if not np.all(np.isfinite(found)):
            raise EvaluationError("a score is not finite")
        return found

    own = np.tile(np.arange(number)[:, None], per_prompt)
    right, _ = _drawn(truth, keys, on_device, batch_size)
    swapped = _controls(scores_of, right, asked, own, _generator(swap_key), chance)
    scores, seconds, sizes = [], [], []
    for system in systems.values():
        draws, took = _drawn(system, keys, on_device, batch_size)
        scores.append(scores_of(draws, own).mean(1))
        seconds.append(took / keys.size)
        learned = [leaf.size for leaf in jax.tree.leaves(system) if eqx.is_inexact_array(leaf)]
        sizes.append(sum(learned) if learned else None)
    table = np.stack(scores)
    return Comparison(
        tuple(systems),
        table,
        resample(table, _RESAMPLES, _generator(boot_key)),
        swapped,
        tuple(seconds),
        tuple(sizes),
    )


def _controls(
    scores_of: Callable[[Any, np.ndarray], np.ndarray],
    right: Any,
    asked: list[Any],
    own: np.ndarray,
    rng: np.random.Generator,
    chance: float,
) -> Estimate:
    """What the truth of other prompts scores; an error where a control fails."""
    found = scores_of(right, own)
    if np.abs(found - 1).max() > 1e-6:
        worst = int(np.abs(found - 1).max(1).argmax())
        raise EvaluationError(
            f"the truth scores {found[worst].mean():.3g} on prompt {worst}, and not 1",
            instead="a score that is 1 for what was asked for, or a `truth` that is it",
        )
    # Each draw with another prompt, and as often with each prompt.
    others = np.empty_like(own)
    for column in others.T:
        order = rng.permutation(len(asked))
        column[order] = np.roll(order, 1)
    differ = np.array(
        [[not _equal(asked[i], asked[j]) for j in row] for i, row in enumerate(others)]
    )
    counts = differ.sum(1)
    if np.sum(counts > 0) < 2:
        raise EvaluationError("the prompts are all but the same", instead="different prompts")
    sums = np.where(differ, scores_of(right, others), 0.0).sum(1)
    swapped = mean_over_data(sums[counts > 0] / counts[counts > 0])
    if swapped.mean - 3 * swapped.standard_error > chance + _ABOVE_CHANCE:
        raise EvaluationError(
            f"the truth of other prompts scores {swapped.mean:.3f} ± {swapped.standard_error:.3f}, "
            f"more than chance, {chance:g}",
            instead="a score that compares the draw with the prompt, or "
            f"`chance={math.ceil(100 * swapped.mean) / 100:g}`",
        )
    return swapped


def _drawn(
    system: Any, keys: Key[Array, "prompts draws"], prompts: Any, batch_size: int
) -> tuple[Any, float]:
    """Draws for all prompts, and the time that they took without compilation."""

    def of_prompt(system: Any, keys: Any, prompt: Any) -> Any:
        return jax.vmap(lambda key: ppgen.seed(system)(key, prompt))(keys)

    def run(system: Any, keys: Any, prompts: Any) -> Any:
        return jax.lax.map(
            lambda pair: of_prompt(system, *pair), (keys, prompts), batch_size=batch_size
        )

    compiled = eqx.filter_jit(run).lower(system, keys, prompts).compile()
    began = time.perf_counter()
    draws = jax.block_until_ready(compiled(system, keys, prompts))
    took = time.perf_counter() - began
    return jax.tree.map(np.asarray, draws), took


def _rows(tree: Any, number: int) -> list[Any]:
    arrays = jax.tree.map(np.asarray, tree)
    return [jax.tree.map(lambda x, i=i: x[i], arrays) for i in range(number)]


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def _generator(key: Key[Array, ""]) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
