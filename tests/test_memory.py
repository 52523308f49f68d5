"""A worker of the tests gives back what it has compiled."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import memory
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say")
def test_what_was_compiled_is_dropped_above_the_limit_and_only_there(monkeypatch):
    monkeypatch.setattr(memory, "_left", -1.0)
    traced = []

    @jax.jit
    def f(x):
        traced.append(x)
        return x + 1

    f(jnp.array(1.0))
    assert not memory.keep_below(1000.0)
    f(jnp.array(1.0))
    assert len(traced) == 1
    assert memory.keep_below(0.0)
    f(jnp.array(1.0))
    assert len(traced) == 2
    assert not memory.keep_below(0.0)  # what is left would be left again
