"""The README's Python blocks run, one after the other, as a reader would run them."""

import re
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist

import ppgen
from ppgen.testing import assert_unbiased

README = Path(__file__).parent.parent / "README.md"


def test_code_blocks_run(capsys):
    """Every block, in one namespace; the estimator that they define is unbiased."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), scope)
    assert np.isfinite(scope["value"])
    assert np.isfinite(scope["fitted"].history).all()
    capsys.readouterr()

    def cube(theta):
        return ppgen.draw(dist.Normal(theta, 1.0), grad=scope["Mirrored"]()) ** 3

    assert_unbiased(cube, 1.0, order=1)


def test_first_block_is_the_elbo_of_a_conjugate_model():
    """At the posterior, each draw of the bound is the log evidence and its gradient is zero."""
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    scope: dict = {}
    exec(compile(block, str(README), "exec"), scope)
    theta = np.array([0.0, 0.5, np.log(0.5) / 2], np.float32)
    value = scope["bound"](jax.random.key(1), theta, 1.0)
    evidence = dist.Normal(0.0, 2.0**0.5).log_prob(1.0)
    np.testing.assert_allclose(value, evidence, rtol=1e-5)
