"""The progress bar of a fit: what it says, and which time it counts."""

import re
import time

import jax
import jax.numpy as jnp
import optax

from ppgen.inference import fit
from ppgen.inference.fitting._bar import Bar


def test_the_time_of_the_compiler_is_not_that_of_steps(capsys):
    with Bar(total=100, initial=0, shown=True) as bar:
        time.sleep(0.3)
        bar.update(10, "objective 1")
        inner = bar._bar
        assert (inner.n, inner.initial) == (10, 10)
        assert inner.format_dict["elapsed"] < 0.2
        bar.update(90, "objective 0.5")
        assert inner.n == 100
    shown = capsys.readouterr().err
    assert shown.startswith("\rcompiling:   0%")
    last = shown.rstrip().split("\r")[-1]
    assert "100/100" in last and "objective 0.5" in last and "compiling" not in last


def test_a_fit_shows_few_digits(capsys):
    fit(lambda p: (p - jnp.pi) ** 2, 0.0, optax.sgd(0.1), key=jax.random.key(0), steps=4, chunk=2,
        progress=True)  # fmt: skip
    shown = capsys.readouterr().err
    assert "compiling" in shown and "4/4" in shown
    numbers = re.findall(r"objective ([\d.e+-]+)", shown)
    assert numbers and all(len(number) <= 6 for number in numbers), numbers


def test_a_bar_that_is_not_shown_says_nothing(capsys):
    with Bar(total=2, initial=0, shown=False) as bar:
        bar.update(2, "objective 1")
    assert capsys.readouterr().err == ""
