"""The outcome of a comparison of systems, prompt by prompt."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from ppgen._reports.table import table
from ppgen.errors import PpgenError
from ppgen.inference.metrics import Estimate
from ppgen.inference.preferences._votes import Interval


class EvaluationError(PpgenError, ValueError):
    """A comparison that means nothing, because the score fails a control.

    Example:
        A score that only looks at how good a draw is, and not at what was asked for:

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import head_to_head
        >>> def guess(prompt):
        ...     return numpyro.sample("x", dist.Categorical(logits=jnp.zeros(4)))
        >>> def truth(prompt):
        ...     return prompt
        >>> given = dict(truth=truth, key=jax.random.key(0), per_prompt=5)
        >>> head_to_head({"guess": guess}, jnp.arange(4), lambda x, prompt: x >= 0, **given)
        Traceback (most recent call last):
            ...
        ppgen.inference.EvaluationError: the truth of other prompts scores 1.000 ± 0.000, ...
          Write instead: a score that compares the draw with the prompt, or `chance=1`
          See: ppgen.inference.EvaluationError

        Compare them:

        >>> found = head_to_head({"guess": guess}, jnp.arange(4), lambda x, y: x == y, **given)
        >>> float(found.scores.mean()) < 1
        True
    """

    # Where its users see it: what messages and pickles say.
    __module__ = "ppgen.inference"


class Comparison(NamedTuple):
    """Scores of systems on the same prompts.

    Intervals are for other prompts like these, and other draws: the bootstrap over prompts, the
    same ones for all systems. In large samples they are exact; in small ones they are widened as
    Student's are.

    Attributes:
        names: Of the systems.
        scores: The mean score over the draws of each prompt.
        resampled: The mean score of each system over prompts drawn with replacement.
        swapped: The control: what the truth of other prompts scores.
        seconds: Time of a draw of each system, compilation aside.
        parameters: How many numbers each system has learned, or None where it is a plain function.

    References:
        Hesterberg. What teachers should know about the bootstrap. The American Statistician 69,
        2015.
    """

    names: tuple[str, ...]
    scores: Float[np.ndarray, "systems prompts"]
    resampled: Float[np.ndarray, "resamples systems"]
    swapped: Estimate
    seconds: tuple[float, ...]
    parameters: tuple[int | None, ...]

    def score(self, name: str, *, level: float = 0.95) -> Interval:
        """The mean score of a system, with an interval."""
        weights = np.zeros(len(self.names))
        weights[self._place(name)] = 1.0
        return self._interval(weights, level)

    def difference(self, one: str, other: str, *, level: float = 0.95) -> Interval:
        """The mean score of one system less that of another, paired by prompt.

        Args:
            one: A name.
            other: Another one; the other way around all signs change.
            level: The coverage probability of the interval, in large samples.
        """
        weights = np.zeros(len(self.names))
        weights[self._place(one)] += 1.0
        weights[self._place(other)] -= 1.0
        return self._interval(weights, level)

    def votes(self) -> tuple[Int[np.ndarray, "votes 2"], Int[np.ndarray, "ties 2"]]:
        """For each prompt and pair of systems, which one is better: votes for `fit_rewards`.

        Votes on one prompt depend on each other, which the errors of `fit_rewards` do not know:
        intervals are those of `difference`.

        Returns:
            The numbers of the better and of the worse one, and the pairs that are equal.
        """
        one, other = np.triu_indices(len(self.names), 1)
        gaps = (self.scores[one] - self.scores[other]).ravel()
        pairs = np.repeat(np.stack([one, other], axis=1), self.scores.shape[1], axis=0)
        pairs[gaps < 0] = pairs[gaps < 0][:, ::-1]
        return pairs[gaps != 0], pairs[gaps == 0]

    def table(self, *, level: float = 0.95) -> str:
        """Scores with intervals, time and size, for a terminal."""
        rows = []
        for i, name in enumerate(self.names):
            estimate, low, high = self.score(name, level=level)
            size = self.parameters[i]
            rows.append(
                [
                    f"{estimate:.3f}",
                    f"{low:.3f}–{high:.3f}",
                    f"{1000 * self.seconds[i]:.3g}",
                    "–" if size is None else f"{size:,}",
                    name,
                ]
            )
        header = ["score", f"{100 * level:g} %", "ms a draw", "parameters", "system"]
        lines = table(header, rows, what="systems", right=range(4), whole=True)
        control = f"the truth scores 1, and that of other prompts {self.swapped}"
        return "\n".join([*lines, control])

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise EvaluationError(f"there is no system {name!r}; there are {list(self.names)}")
        return self.names.index(name)

    def _interval(self, weights: np.ndarray, level: float) -> Interval:
        estimate = float(weights @ self.scores.mean(1))
        draws, number = self.resampled @ weights, self.scores.shape[1]
        # Of n data, a resample spreads by sqrt((n − 1) / n) too little, and as if it were known
        # how much: a normal quantile for Student's.
        student = scipy.special.stdtrit(number - 1, (1 + level) / 2)
        tail = statistics.NormalDist().cdf(-math.sqrt(number / (number - 1)) * student)
        # From each end, so that it is the same the other way around.
        low, high = np.quantile(draws, tail), -np.quantile(-draws, tail)
        return Interval(estimate, float(low), float(high))


def resample(
    scores: Float[np.ndarray, "systems prompts"], number: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples systems"]:
    """Means over prompts drawn with replacement, the same ones for all systems."""
    prompts = scores.shape[1]
    counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=number)
    return counts @ scores.T / prompts
