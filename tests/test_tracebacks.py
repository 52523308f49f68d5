"""Errors in users' programs: the site, the line, and a traceback of the user's own frames."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen._keys import first_key
from ppgen.errors import CostError, RandomKeyError
from ppgen.inference import elbo, fit, iwelbo, per_datum

KEY = jax.random.key(0)
ROOT = Path(ppgen.__file__).parent


class NoDensity(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) + jnp.zeros(5) @ jnp.zeros(4)


class NoDraws(dist.Normal):
    def sample(self, key, sample_shape=()):
        raise RuntimeError("no draws")


def mistaken(kind, p):
    """A program with one mistake in line `LINES[kind]` of this function."""
    z = numpyro.sample("z", dist.Normal(p, 1.0))
    if kind == "observation":
        numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0), obs=jnp.zeros(2))
    if kind == "density":
        numpyro.sample("x", NoDensity(z, 1.0), obs=0.3)
    if kind == "draw":
        numpyro.sample("x", NoDraws(z, 1.0))
    if kind == "plate":
        with numpyro.plate("N", 4):
            numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0))
    if kind == "own":
        return z + jnp.zeros(3) @ jnp.zeros(2)
    return z


LINES = {"observation": 4, "density": 6, "draw": 8, "plate": 11, "own": 13}
FIRST = mistaken.__code__.co_firstlineno


def guide(kind, p):
    numpyro.sample("z", dist.Normal(p, 1.0))


def caught(call):
    with pytest.raises(Exception) as info:
        call()
    return info.value


def objective(kind):
    return lambda p: elbo(lambda p: mistaken(kind, p), lambda p: guide(kind, p))(p)


CALLS = {
    "expectation": lambda kind: ppgen.expectation(objective(kind))(KEY, 0.5),
    "gradient": lambda kind: jax.grad(ppgen.expectation(objective(kind)), 1)(KEY, 0.5),
    "jit": lambda kind: jax.jit(ppgen.expectation(objective(kind), draws=2))(KEY, 0.5),
    "density": lambda kind: ppgen.log_density(lambda p: mistaken(kind, p))({"z": 0.1}, 0.5),
    "iwelbo": lambda kind: ppgen.seed(
        iwelbo(lambda p: mistaken(kind, p), lambda p: guide(kind, p), particles=2)
    )(KEY, 0.5),
    "fit": lambda kind: fit(objective(kind), 0.5, optax.sgd(0.1), key=KEY, steps=2),
    "check": lambda kind: ppgen.check(objective(kind))(0.5),
    "per_datum": lambda kind: per_datum(
        lambda p, x: objective(kind)(p), 0.5, np.zeros(3), key=KEY
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["observation", "density", "draw", "plate"])
@pytest.mark.parametrize("call", CALLS)
def test_an_error_in_a_distribution_names_site_and_line(kind, call):
    error = caught(lambda: CALLS[call](kind))
    notes = "\n".join(error.__notes__)
    assert "at site 'x'" in notes
    assert f"{__file__}:{FIRST + LINES[kind]}" in notes, notes
    assert notes.count("at site") == 1
    # Its class is what it was.
    assert isinstance(error, RuntimeError if kind == "draw" else (TypeError, ValueError))


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("call", CALLS)
def test_a_traceback_has_no_frames_of_ppgens_own(kind, call):
    error = caught(lambda: CALLS[call](kind))
    while error is not None:
        for frame in traceback.extract_tb(error.__traceback__):
            path = Path(frame.filename)
            own = ROOT in path.parents or ROOT.parent / "inference" in path.parents
            assert not own, frame
            assert path.name not in ("primitives.py", "handlers.py"), frame
        error = error.__cause__ or error.__context__


def test_the_line_of_the_user_is_in_the_traceback():
    for kind in ("draw", "plate", "own"):
        error = caught(lambda kind=kind: ppgen.expectation(objective(kind))(KEY, 0.5))
        lines = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        assert (__file__, FIRST + LINES[kind]) in lines
    # An error that is in no site names none.
    assert not any("at site" in note for note in error.__notes__)


def test_errors_of_ppgens_own_are_as_they_were_and_their_frames_are_hidden():
    error = caught(lambda: ppgen.expectation(lambda p: jnp.zeros(2) * p)(KEY, 0.5))
    assert isinstance(error, CostError)
    assert {f.filename for f in traceback.extract_tb(error.__traceback__)} == {__file__}
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_the_option_of_jax_brings_all_frames_back():
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        error = caught(lambda: ppgen.expectation(objective("draw"))(KEY, 0.5))
    finally:
        jax.config.update("jax_traceback_filtering", before)
    files = [Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    assert any(ROOT in path.parents for path in files)
    assert "at site 'x'" in error.__notes__[0]


# --- keys -----------------------------------------------------------------------------------------


def noisy(p):
    return ppgen.draw(dist.Normal(p, 1.0)) ** 2


def program(p):
    return numpyro.sample("x", dist.Normal(p, 1.0))


TAKES_KEY = {
    "expectation": ppgen.expectation(noisy),
    "draws": ppgen.expectation(noisy, draws=2),
    "gradient": jax.grad(ppgen.expectation(noisy), argnums=1),
    "jit": jax.jit(ppgen.expectation(noisy)),
    "seed": ppgen.seed(ppgen.simulate(program)),
    "baseline_loss": ppgen.baseline_loss(noisy),
    "variance": ppgen.variance(noisy, [None]),
    "audit": ppgen.audit(noisy, progress=False),
    "init_params": ppgen.init_params(program),
}


@pytest.mark.parametrize("name", TAKES_KEY)
def test_a_missing_key_is_said(name):
    for args in ((jnp.array(0.5), 0.5), (jnp.zeros(2), 0.5), (jnp.array([1, 2, 3], "uint32"), 0.5)):
        error = caught(lambda args=args: TAKES_KEY[name](*args))
        assert isinstance(error, RandomKeyError), error
        assert "takes a key first" in str(error) and "(jax.random.key(0), ...)" in error.instead
        assert error.where.startswith(__file__)


@pytest.mark.parametrize("name", [name for name in TAKES_KEY if name not in ("gradient", "jit")])
def test_a_misplaced_key_is_said(name):
    error = caught(lambda: TAKES_KEY[name](0.5, KEY))
    assert isinstance(error, RandomKeyError)
    assert "the key was given after it" in str(error) and error.instead.endswith("(key, ...)")


def test_several_keys_are_for_vmap():
    keys = jax.random.split(KEY, 3)
    g = TAKES_KEY["expectation"]
    error = caught(lambda: g(keys, 0.5))
    assert isinstance(error, RandomKeyError) and "jax.vmap(g, in_axes=(0, None))" in str(error)
    assert jax.vmap(g, in_axes=(0, None))(keys, 0.5).shape == (3,)


def test_keys_of_both_styles_are_taken():
    g = TAKES_KEY["expectation"]
    old = jax.random.PRNGKey(0)
    assert g(old, 0.5) == g(KEY, 0.5) == g(np.asarray(old), 0.5) == jax.jit(g)(old, 0.5)
    with jax.default_prng_impl("rbg"):
        assert jnp.isfinite(g(jax.random.PRNGKey(0), 0.5))


def test_what_is_no_key_has_the_name_of_what_takes_one():
    """As `fit` does; the types of its arguments are checked before, in these tests."""
    error = caught(lambda: first_key(0, name="f(..., key=...)"))
    assert isinstance(error, RandomKeyError) and str(error).startswith(
        "f(..., key=...) takes a key: "
    )
    assert error.instead == "f(..., key=jax.random.key(0))"
