"""The expectation of a program, as a plain JAX function with unbiased derivatives of any order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppgen import _jax
from ppgen._analysis.analyse import Analysis, analyse
from ppgen._analysis.cost_terms import Terms
from ppgen._evaluation.evaluate import Run
from ppgen._evaluation.make_choice import make
from ppgen._evaluation.surrogate import joint_axes, surrogates
from ppgen._keys import first_key
from ppgen._lowering.lower import lower, needs_lowering
from ppgen._lowering.scan_fusion import fuse
from ppgen._lowering.scan_structure import asks_for_paths
from ppgen._settings import settings
from ppgen._staging.primitives import mark
from ppgen._staging.stage import Staged, is_staging, stage
from ppgen._tracebacks import boundary
from ppgen.claims import claims
from ppgen.errors import BiasedEstimatorError, ControlFlowError, CostError, EstimatorError
from ppgen.estimators._automatic import EVALUATIONS, Automatic

_names = itertools.count()


@claims(
    "unbiased",
    "the expectation of the objective",
    gradient="unbiased",
    but="to the order of its estimators",
)
def expectation(
    f: Callable[..., Any],
    *,
    draws: int = 1,
    has_aux: bool = False,
    allow_biased: bool = False,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[..., Any]:
    """Estimate the expectation of `f` and, by differentiation, its derivatives.

    The result `g` is a plain JAX function: `E_key[g(key, θ)] = E[f(θ)]` and, for every order `k` to
    which the estimators of the choices are unbiased (all, for `Reparameterize`, `ScoreFunction` and
    `Enumerate`), `E_key[∂ᵏg/∂θᵏ] = ∂ᵏE[f(θ)]`. So `jax.grad(g, argnums=1)`, `jax.hessian`,
    `jax.vmap`, `jax.jit`, `jax.lax.scan` and every optimiser apply to it as to any function.

    *Unbiased*. The score of a choice multiplies only those additive terms of the cost that the
    choice influences, per element of a plate or `vmap` where the terms are elementwise.

    Args:
        f: `f(*args) -> scalar`. It may draw (`ppgen.draw`, NumPyro sites), simulate programs and
            score them. Closed-over and passed arrays are differentiated alike.
        draws: how many independent runs to average, vectorised. Score-function choices for which no
            baseline is given then use the mean cost of the other draws as their baseline.
        has_aux: whether `f`, and so `g`, returns `(scalar, aux)`. `aux` carries no derivatives, and
            floats in it that depend on an enumerated choice are averaged over the values of that
            choice. With `draws > 1` every array of it has a leading axis of that length.
        allow_biased: accept estimators that are biased by design.
        sharding: how the axis of the draws is divided over devices, for `jit` over a mesh. It
            changes where the draws are computed, not their values.

    Returns:
        `g(key, *args, **kwargs)`, with a typed or an old-style key.

    Raises:
        CostError: the cost is not a real scalar.
        RandomKeyError: `g` was not given a key first.
        DiscontinuityError: a reparameterised value reaches something discontinuous.
        BiasedEstimatorError: a biased estimator without `allow_biased`.
        EstimatorError: an estimator that does not fit, or whose joint support is too large.
        ControlFlowError: a choice inside control flow that its estimator does not support.

    References:
        Lew et al., *ADEV: Sound Automatic Differentiation of Expected Values of Probabilistic
        Programs*, POPL 2023. Schulman et al., *Gradient Estimation Using Stochastic Computation
        Graphs*, NeurIPS 2015.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> def f(theta):
        ...     x = numpyro.sample("x", dist.Normal(theta, 1.0))
        ...     return x**2
        >>> g = ppgen.expectation(f, draws=20_000)
        >>> gradient = jax.grad(g, argnums=1)(jax.random.key(0), 3.0)
        >>> bool(abs(gradient - 6.0) < 0.1)
        True
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")

    @boundary
    def g(key: Array, *args: Any, **kwargs: Any) -> Any:
        key = first_key(key, args, kwargs)
        with _jax.varying_like(key):
            prepared = prepare(
                lambda: f(*args, **kwargs), has_aux=has_aux, allow_biased=allow_biased, draws=draws
            )
        nested = f"expectation {next(_names)}" if is_staging() and prepared.analysis.choices else ""
        if nested:
            key = mark(key, "key of an expectation", nested, "")
        if draws == 1:
            cost, *aux = prepared.run(key, None)
        else:
            axis = f"ppgen draws {next(_names)}"
            keys = jax.random.split(key, draws)
            if sharding is not None:
                keys = jax.lax.with_sharding_constraint(keys, sharding)
            cost, *aux = jax.vmap(lambda key: prepared.run(key, (axis, draws)), axis_name=axis)(
                keys
            )
            cost = jnp.mean(cost)
        if nested:
            # Its derivative is right only in expectation, so the enclosing objective must be linear
            # in it.
            cost = mark(cost, "surrogate", nested, "")
        if not has_aux:
            return cost
        return cost, prepared.staged.unflatten([cost, *map(jax.lax.stop_gradient, aux)])[1]

    return g


class Prepared:
    """A staged, lowered and analysed cost: everything that does not depend on the key."""

    def __init__(
        self, staged: Staged, jaxpr: Any, analysis: Analysis, automatic: Automatic
    ) -> None:
        self.staged, self.jaxpr, self.analysis = staged, jaxpr, analysis
        self.automatic = automatic
        self.terms = Terms(_jax.open_jaxpr(jaxpr)[0], analysis)
        self.joint = joint_axes(analysis, self.terms)

    def size(self) -> int:
        """Number of array elements that a run computes, loops included: compares estimators.

        Raises:
            EstimatorError: a joint support that is too large for any machine.
        """

        def numbers(jaxpr: Any) -> int:
            total = 0
            for eqn in _jax.open_jaxpr(jaxpr)[0].eqns:
                inner = sum(map(numbers, _jax.subjaxprs(eqn)))
                own = sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
                total += inner * eqn.params.get("length", 1) if inner else own
            return total

        return numbers(jax.make_jaxpr(lambda key: self.run(key, None))(jax.random.key(0)))

    def run(self, key: Array, draws: tuple[str, int] | None) -> list[Any]:
        """One run: the surrogate of the cost, and the auxiliary outputs."""
        run = self.evaluate(key, draws)
        return surrogates(self.jaxpr, self.analysis, self.terms, run, draws)

    def evaluate(self, key: Array, draws: tuple[str, int] | None) -> Run:
        """One pass, up to the terms of the cost."""
        run = Run(
            key,
            make,
            first=self.analysis.first,
            joint=self.joint,
            live=self.terms.needed,
            influence=self.analysis.of,
        )
        with settings(draws=draws):
            run(self.jaxpr, [])
        return run


def prepare(
    thunk: Callable[[], Any],
    *,
    has_aux: bool = False,
    allow_biased: bool = False,
    draws: int = 1,
    strict: bool = True,
) -> Prepared:
    """Stage, lower and analyse `thunk()`, which returns a cost, or a cost and auxiliary outputs."""

    def cost_first() -> Any:
        out = thunk()
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise CostError(
                f"with has_aux=True the function must return (cost, aux), it returned {type(out)}",
                instead="return cost, aux",
            )
        cost, aux = out if has_aux else (out, None)
        return (_checked(cost), aux) if has_aux else _checked(cost)

    automatic = Automatic()
    prepared = _analysed(cost_first, automatic, allow_biased, draws, strict, first=True)
    if not automatic.facts:
        return prepared
    automatic.pick(prepared, draws)
    budget = EVALUATIONS * prepared.size()
    while True:
        prepared = _analysed(cost_first, automatic, allow_biased, draws, strict, first=False)
        try:
            if prepared.size() <= budget:
                return prepared
        except (EstimatorError, ControlFlowError):
            if not automatic.demote(draws):
                raise
        else:
            if not automatic.demote(draws):
                return prepared


def _analysed(
    thunk: Callable[[], Any],
    automatic: Automatic,
    allow_biased: bool,
    draws: int,
    strict: bool,
    *,
    first: bool,
) -> Prepared:
    with settings(automatic=automatic):
        staged = stage(thunk)
    # Sites with an automatic estimator start with one that may be unsound: the analysis says where.
    strict = strict and not (first and automatic.facts)
    prepared = None
    for unroll in (False, True):
        jaxpr = staged.jaxpr
        if needs_lowering(jaxpr):
            jaxpr = lower(jaxpr, unroll=unroll)
            jaxpr = jaxpr if unroll else fuse(jaxpr)
        analysis = analyse(jaxpr, allow_biased=allow_biased, strict=strict)
        _check_estimators(analysis, allow_biased, draws)
        prepared = Prepared(staged, jaxpr, analysis, automatic)
        if unroll or not asks_for_paths(jaxpr, analysis, prepared.terms, prepared.joint):
            break
    return prepared


def _check_estimators(analysis: Analysis, allow_biased: bool, draws: int) -> None:
    from ppgen.estimators import LeaveOneOut

    for choice in analysis.choices:
        for spec in choice.specs:
            if spec.template.biased and not allow_biased:
                raise BiasedEstimatorError(
                    f"{type(spec.template).__name__} is biased: its gradient is not that of the "
                    "expectation",
                    site=spec.name,
                    where=spec.where,
                    instead="ppgen.expectation(f, allow_biased=True), or an unbiased estimator",
                )
            if isinstance(getattr(spec.template, "baseline", None), LeaveOneOut) and draws == 1:
                raise EstimatorError(
                    "the leave-one-out baseline needs other draws",
                    site=spec.name,
                    where=spec.where,
                    instead="ppgen.expectation(f, draws=2) or more",
                )


def _checked(cost: Any) -> Array:
    known = isinstance(cost, (jax.Array, np.ndarray, np.generic, float, int))
    if not known or jnp.shape(cost) != () or not _is_real(cost):
        raise CostError(
            f"the cost must be a real scalar, got {cost!r}",
            instead="return jnp.sum(...) or jnp.mean(...) of it",
        )
    cost = jnp.asarray(cost)
    if not jnp.issubdtype(cost.dtype, jnp.floating):
        return cost.astype(float)
    # Scores multiply it, and draws are averaged.
    return cost.astype(jnp.promote_types(cost.dtype, jnp.float32))


def _is_real(cost: Any) -> bool:
    dtype = jnp.result_type(cost)
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
