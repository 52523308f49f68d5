"""Comparisons of systems: their controls, their signs, and what their intervals cover."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

from ppgen.inference import Comparison, Estimate, EvaluationError, fit_rewards, head_to_head
from ppgen.inference.evaluation._comparison import resample

LETTERS = 4
PROMPTS = jnp.arange(24) % LETTERS


def letter(logits):
    return numpyro.sample("x", dist.Categorical(logits=logits))


class Told(eqx.Module):
    """A system that is told a letter, and listens."""

    sharpness: jax.Array

    def __call__(self, prompt):
        return letter(self.sharpness * jax.nn.one_hot(prompt, LETTERS))


def guess(prompt):
    return letter(jnp.zeros(LETTERS))


def right(drawn, prompt):
    return drawn == prompt


def compare(systems, score=right, *, seed=0, prompts=PROMPTS, per_prompt=20, **options):
    options = {"truth": lambda prompt: prompt} | options
    key = jax.random.key(seed)
    return head_to_head(systems, prompts, score, key=key, per_prompt=per_prompt, **options)


SYSTEMS = {"told": Told(jnp.array(2.0)), "guess": guess}


def test_scores_are_those_of_the_programs():
    found = compare(SYSTEMS, per_prompt=100)
    expected = math.exp(2) / (math.exp(2) + LETTERS - 1)
    for name, mean in (("told", expected), ("guess", 1 / LETTERS)):
        spread = math.sqrt(mean * (1 - mean) / 2400)
        assert abs(found.score(name).estimate - mean) < 4 * spread
    assert found.scores.shape == (2, 24) and found.swapped.mean == 0.0
    assert found.parameters == (1, None) and min(found.seconds) > 0
    text = found.table()
    assert "told" in text and "the truth scores 1, and that of other prompts 0.00 ± 0.00" in text
    assert found.difference("told", "told") == (0.0, 0.0, 0.0)


def test_swapping_systems_flips_every_sign():
    """The order of systems, their names, and the order of a difference: all to the last bit."""
    found = compare(SYSTEMS)
    renamed = compare({"told": SYSTEMS["guess"], "guess": SYSTEMS["told"]})
    reordered = compare(dict(reversed(SYSTEMS.items())))
    estimate, low, high = found.difference("told", "guess")
    assert low < estimate < high and estimate > 0.2
    assert found.difference("guess", "told") == (-estimate, -high, -low)
    assert renamed.difference("told", "guess") == (-estimate, -high, -low)
    assert reordered.difference("told", "guess") == (estimate, low, high)
    for name in SYSTEMS:
        assert found.score(name) == reordered.score(name)
    # Other keys give other draws.
    assert compare(SYSTEMS, seed=1).difference("told", "guess") != (estimate, low, high)


def test_pairing_by_prompt_takes_out_how_hard_prompts_are():
    """The interval of the difference is narrower than that of either score."""
    hard = np.random.default_rng(0).uniform(0.0, 0.8, 60)
    scores = np.stack([hard, hard + 0.1]) + np.random.default_rng(1).normal(size=(2, 60)) * 0.01
    found = comparison(scores, np.random.default_rng(2))
    widths = [x.high - x.low for x in (found.score("a"), found.difference("a", "b"))]
    assert widths[1] < 0.1 * widths[0]


def comparison(scores, rng):
    return Comparison(
        *(("a", "b"), scores, resample(scores, 1000, rng), Estimate(0.0, 0.0)),
        *((0.0, 0.0), (None, None)),
    )


@pytest.mark.parametrize("prompts", [12, 60])
def test_intervals_cover_a_known_difference(prompts):
    """In 500 repetitions 95 ± 3 %: prompts of different difficulty, four draws of each."""
    rng, hits = np.random.default_rng(3), []
    for _ in range(500):
        hard = rng.uniform(0.1, 0.7, prompts)
        scores = rng.binomial(4, np.stack([hard, hard + 0.2 * (hard > 0.4)])) / 4
        _, low, high = comparison(scores, rng).difference("b", "a")
        hits.append(low < 0.1 < high)
    assert abs(np.mean(hits) - 0.95) < 0.03, np.mean(hits)


def test_few_prompts_have_the_intervals_of_student():
    scores = np.random.default_rng(4).normal(size=(2, 8))
    weights = resample(scores, 20_000, np.random.default_rng(5))
    found = comparison(scores, np.random.default_rng(0))._replace(resampled=weights)
    _, low, high = found.difference("a", "b")
    gaps = scores[0] - scores[1]
    student = scipy.stats.t.interval(0.95, 7, gaps.mean(), gaps.std(ddof=1) / math.sqrt(8))
    # By how much the interval of the plain bootstrap would be too narrow: a quarter.
    np.testing.assert_allclose(high - low, np.diff(student)[0], rtol=0.12)


def test_votes_of_a_comparison():
    scores = np.array([[1.0, 0.5, 0.2, 0.7], [0.0, 0.5, 0.4, 0.1]])
    votes, ties = comparison(scores, np.random.default_rng(0)).votes()
    assert votes.tolist() == [[0, 1], [1, 0], [0, 1]] and ties.tolist() == [[0, 1]]
    assert fit_rewards(votes, ties=ties).rewards[0] > 0
    found = compare({**SYSTEMS, "other": guess}, per_prompt=5)
    votes, ties = found.votes()
    assert len(votes) + len(ties) == 3 * 24
    # The same keys: two equal systems draw the same.
    assert np.all(found.scores[1] == found.scores[2]) and [1, 2] in ties.tolist()


def test_prompts_may_be_any_tree():
    prompts = {"letter": PROMPTS, "noise": np.linspace(0.0, 1.0, 24)}
    found = compare(
        {"told": lambda prompt: Told(jnp.array(9.0))(prompt["letter"])},
        lambda drawn, prompt: drawn == prompt["letter"],
        prompts=prompts,
        truth=lambda prompt: prompt["letter"],
        chance=0.4,
        batch_size=5,
    )
    assert found.score("told").estimate > 0.95 and 0 <= found.swapped.mean < 0.5


IGNORES = {
    "the prompt": lambda drawn, prompt: 1.0,
    "half of the prompts": lambda drawn, prompt: drawn == prompt or prompt < 2,
    "what is asked, but for its parity": lambda drawn, prompt: (drawn - prompt) % 2 == 0,
}


@pytest.mark.parametrize("what", IGNORES)
def test_a_score_that_ignores_the_prompt_is_an_error(what):
    with pytest.raises(EvaluationError, match="the truth of other prompts scores"):
        compare(SYSTEMS, IGNORES[what])


def test_chance_may_be_stated():
    partly = lambda drawn, prompt: 1 - abs(int(drawn) - int(prompt)) / LETTERS  # noqa: E731
    with pytest.raises(EvaluationError, match=r"more than chance, 0\n.*`chance=0\.") as caught:
        compare(SYSTEMS, partly)
    chance = float(str(caught.value).split("`chance=")[1].split("`")[0])
    assert abs(compare(SYSTEMS, partly, chance=chance).swapped.mean - chance) < 0.02


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        (right, {"truth": guess}, r"the truth scores \S+ on prompt \d+, and not 1"),
        (lambda x, y: 0.9 * (x == y), {}, "the truth scores 0.9 on prompt 0"),
        (lambda x, y: np.nan, {}, "a score is not finite"),
        (right, {"prompts": jnp.zeros(5, int)}, "the prompts are all but the same"),
        (right, {"prompts": jnp.zeros(1, int)}, "two prompts"),
        (right, {"per_prompt": 0}, "two prompts, a system and a draw"),
        (right, {"systems": {}}, "two prompts, a system"),
    ],
)
def test_errors(score, options, message):
    with pytest.raises(ValueError, match=message):
        compare(**({"systems": SYSTEMS, "score": score} | options))


def test_a_name_that_is_not_there():
    with pytest.raises(EvaluationError, match="there is no system 'c'"):
        comparison(np.ones((2, 3)), np.random.default_rng(0)).score("c")
