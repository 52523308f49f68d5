"""Programs written for NumPyro run unmodified, and say what NumPyro says where it is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import SVI
from numpyro.infer.util import log_density as numpyro_log_density
from numpyro_autoguides import ROWS as AUTOGUIDES
from numpyro_modules import ROWS as MODULES
from numpyro_programs import ROWS as PROGRAMS

import ppgen

ROWS = PROGRAMS | AUTOGUIDES | MODULES
KEY = jax.random.key(7)


@pytest.fixture(scope="module", params=ROWS)
def prepared(request):
    """A row, NumPyro's machinery for it, and its own initialisation, moved a little.

    Where things start, too much is symmetric.
    """
    row = ROWS[request.param]()
    svi = SVI(row.model, row.guide, numpyro.optim.Adam(1e-2), loss=row.loss)
    state = svi.init(KEY, *row.args)
    params = svi.optim.get_params(state.optim_state)
    leaves, treedef = jax.tree.flatten(params)
    normal = np.random.default_rng(8).standard_normal
    moved = [jnp.asarray(x + 0.05 * normal(np.shape(x)), jnp.asarray(x).dtype) for x in leaves]
    return row, svi, jax.tree.unflatten(treedef, moved), state.mutable_state or {}


def ours(row):
    """`(key, params, state) -> (bound, new state)`."""
    model, guide = ppgen.functional(row.to_ours(row.model)), ppgen.functional(row.guide)
    estimate = ppgen.expectation(ppgen.with_state(row.objective(model, guide)), has_aux=True)
    return lambda params, state, key: estimate(key, params | state, *row.args)


def theirs(row, svi):
    """The same, computed by NumPyro."""

    def estimate(params, state, key):
        values = svi.constrain_fn(params) | state
        found = row.loss.loss_with_mutable_state if state else row.loss.loss
        out = found(key, values, row.model, row.guide, *row.args)
        return (-out["loss"], out["mutable_state"]) if state else (-out, {})

    return estimate


def draws(estimate, params, state, number):
    """Values, gradients and new states (its numbers) of many runs, one row for each."""

    def run(key):
        (value, new), gradient = jax.value_and_grad(estimate, has_aux=True)(params, state, key)
        new = [x for x in jax.tree.leaves(new) if jnp.issubdtype(x.dtype, jnp.floating)]
        return {"value": value, "gradient": gradient, "state": new}

    return jax.jit(jax.vmap(run))(jax.random.split(KEY, number))


def assert_same_mean(one, other, what):
    """Within five standard errors of the difference."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    assert np.all(np.isfinite(one)), f"{what}: not finite"
    error = np.sqrt(one.var(0) / len(one) + other.var(0) / len(other))
    gap = np.abs(one.mean(0) - other.mean(0))
    allowed = 5 * error + 1e-4 * (1 + np.abs(other.mean(0)))
    assert np.all(gap <= allowed), f"{what}: {one.mean(0)} and NumPyro {other.mean(0)}, ±{error}"


@pytest.mark.sweep(of=8)
@pytest.mark.filterwarnings("ignore")  # NumPyro's and flax's own
def test_agrees_with_numpyro(prepared):
    """Value, gradient and state of the objective agree in mean."""
    row, svi, params, state = prepared
    mine = draws(ours(row), params, state, row.draws)
    other = draws(theirs(row, svi), params, state, row.draws)
    assert jax.tree.structure(mine) == jax.tree.structure(other)
    kinds = ["value", "state", *(["gradient"] if row.gradient else [])]
    for kind in kinds:
        paths = jax.tree_util.tree_leaves_with_path(mine[kind])
        for (path, x), y in zip(paths, jax.tree.leaves(other[kind]), strict=True):
            assert_same_mean(x, y, f"{kind}{jax.tree_util.keystr(path)}")
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(mine["gradient"]))


@pytest.mark.sweep(of=8)
@pytest.mark.filterwarnings("ignore")
def test_same_densities_of_the_same_choices(prepared):
    """Model and guide have the log densities that NumPyro gives the choices that we drew."""
    row, svi, params, _ = prepared
    if not row.replay:
        pytest.skip("the program draws with keys of its own")
    model, guide = row.to_ours(row.model), row.guide

    def run(values):
        drawn = ppgen.simulate(ppgen.functional(guide))(values, *row.args)
        return drawn, ppgen.log_density(ppgen.functional(model))(drawn, values, *row.args)

    drawn, log_p = jax.jit(ppgen.seed(run))(KEY, params)
    values = jax.jit(svi.constrain_fn)(params)
    # A point mass is where the parameters and the other choices put it, to the last bit.
    given = {n: v for n, v in drawn.choices.items() if n not in _point_masses(guide, values, row)}
    with handlers.seed(rng_seed=0):
        log_q, _ = numpyro_log_density(guide, row.args, {}, {**values, **given})
        expected, _ = numpyro_log_density(model, row.args, {}, {**values, **drawn.choices})
    np.testing.assert_allclose(drawn.log_density, log_q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_p, expected, rtol=1e-4, atol=1e-4)


def _point_masses(guide, values, row):
    with handlers.seed(rng_seed=0), handlers.substitute(data=values):
        trace = handlers.trace(guide).get_trace(*row.args)
    found = set()
    for name, site in trace.items():
        inner = site["fn"] if site["type"] == "sample" else None
        while hasattr(inner, "base_dist") and not isinstance(inner, dist.Delta):
            inner = inner.base_dist
        if isinstance(inner, dist.Delta):
            found.add(name)
    return found
