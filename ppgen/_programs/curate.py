"""Curated programs: the preferred one of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppgen._programs.candidates import Candidate, bind_resampled
from ppgen._programs.estimated import inner, total
from ppgen._staging.sites import check_determined
from ppgen._user_lines import user_line
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.errors import CostError, SiteError


@claims(
    "unbiased",
    "the density, where values are given",
    gradient="unbiased",
    but="where they are drawn, it is the reciprocal of the density",
)
def curate(program: Program, reward: Callable[[Any], Any], *, choices: int) -> Program:
    r"""The program that runs another several times, and keeps the run that is preferred.

    Of K = `choices` i.i.d. runs it keeps one by the K-wise Bradley-Terry rule (Luce's), so that its
    law is

    .. math:: p(x)\, H^K(x), \qquad H^K(x) = E_{x_1, \dots, x_{K-1} \sim p}
              \Big[\frac{K e^{r(x)}}{e^{r(x)} + \sum_k e^{r(x_k)}}\Big],
              \qquad P(\text{run } k \text{ is kept}) = \mathrm{softmax}(r)_k.

    With K = 1, or a constant reward, it is the law of the program; as K grows it approaches
    that of p(x) exp(r(x)), normalised. At any K it is `normalize(tilt(program, lambda x:
    -reward(x)), particles=K)`, except that programs whose density is itself estimated can be
    curated as well.

    `log_density` gives the logarithm of an *unbiased* estimate of it, for which the other runs are
    drawn anew; `simulate` one whose reciprocal is *unbiased* for the reciprocal. Runs are
    vectorised.

    Which run is kept is a random choice, named `"x | index"` after the sites, whose estimator can
    be set by `with_estimators`. By default it is the score function; `Enumerate()` sums over the
    runs, so that the objective log p(x) of a kept x has the Rao-Blackwellised gradient Σₖ
    softmax(r)ₖ ∇ log p(xₖ).

    Args:
        program: any program with latent sites and without observed ones. It may have an estimated
            density itself (`marginal`, `normalize`, `curate`), of what it returns as well.
        reward: of what the program returns, a real scalar in nats. Only differences count. It may
            draw (`ppgen.draw`), to model raters who differ. Where the program is reparameterised,
            its derivative is used; for a reward that has none, see `black_box`.
        choices: K.

    Returns:
        A program of the same arguments, sites and return value.

    Raises:
        CostError: the reward is not a real scalar, or the program returns nothing.
        SiteError: the program has no latent site, or an observed one or a factor; a subsampled
            plate inside; a plate, mask or scale around it; or its return value depends on what it
            integrates out.
        ValueError: fewer than one choice.

    References:
        Ferbach, Bertrand, Bose, Gidel, *Self-Consuming Generative Models with Curated Data Provably
        Optimize Human Preferences*, NeurIPS 2024. Luce, *Individual Choice Behavior*, 1959.

    Example:
        Of two fair flips, the one with the larger reward is kept with probability σ(1) where they
        differ:

        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppgen
        >>> def flip():
        ...     return numpyro.sample("x", dist.Bernoulli(0.5))
        >>> preferred = ppgen.curate(flip, lambda x: 1.0 * x, choices=2)
        >>> mean = ppgen.expectation(preferred, draws=10_000)(jax.random.key(0))
        >>> bool(abs(mean - (0.25 + 0.5 * jax.nn.sigmoid(1.0))) < 0.02)
        True
    """
    if choices < 1:
        raise ValueError(f"curate keeps one of at least one run, not of {choices}")

    def run(*args: Any, **kwargs: Any) -> Any:
        where = user_line()

        def rewarded() -> tuple[Any, Array]:
            value = program(*args, **kwargs)
            return value, _reward(reward, value, where)

        # Staged together, so that what the reward closes over is an operand as well.
        joint = inner(rewarded)
        if not joint.latent:
            raise SiteError(
                "a program without latent sites has nothing to be curated",
                where=where,
                instead="numpyro.sample for what is to be chosen from",
            )
        if joint.observed:
            raise SiteError(
                "a program with observed sites or factors is drawn from without regard to them, "
                "and so would be what is curated",
                site=next(iter(joint.latent)),
                where=where,
                instead="ppgen.curate(ppgen.normalize(program, ...), ...)",
            )
        # Where it was drawn, what is integrated out would have a value, and the reward with it.
        jax.eval_shape(lambda v: _checked(joint.run(joint.operands, v)[0], joint), joint.values)

        def candidate(operands: Sequence[Any], known: dict[str, Any]) -> Candidate:
            outs, sites = joint.run(operands, known)
            log_weight = joint.unflatten(outs)[1]
            return Candidate(sites.choices, outs, log_weight, total(sites) + log_weight)

        value, _ = bind_resampled(
            "curate", joint, joint.operands, choices, lambda ops: candidate(ops, {}), candidate
        )
        return value

    return run


def _checked(outs: list[Any], joint: Any) -> list[Any]:
    check_determined(outs, joint.jaxpr)
    return outs


def _reward(reward: Callable[[Any], Any], value: Any, where: str) -> Array:
    if value is None:
        raise CostError(
            "a program that returns nothing has no reward",
            where=where,
            instead="return what the reward is a function of",
        )
    found = jnp.asarray(reward(value))
    if found.shape != () or jnp.iscomplexobj(found):
        raise CostError(
            f"the reward must be a real scalar, got {jax.typeof(found)}",
            where=where,
            instead="a reward of one run: ppgen.curate draws the others itself",
        )
    return found if jnp.issubdtype(found.dtype, jnp.floating) else found.astype(float)
