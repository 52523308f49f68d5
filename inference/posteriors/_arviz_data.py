"""Uses of ArviZ: diagnostics of importance weights, and its container of samples."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

import ppgen


class ParetoSmoothed(NamedTuple):
    """Importance weights, the largest replaced by quantiles of a fitted Pareto tail.

    Attributes:
        log_weights: the smoothed log weights, normalised, in nats.
        k_hat: the shape of the tail. *Heuristic*: below 0.5 estimates converge as usual, up to 0.7
            they are useful, beyond that they are unreliable.
    """

    log_weights: Float[np.ndarray, " k"]
    k_hat: float


def pareto_smoothed(log_weights: Float[Array, " k"]) -> ParetoSmoothed:
    """Smooth the tail of importance weights (PSIS), outside of JAX's transformations.

    Args:
        log_weights: in nats; they need not be normalised. Independent of each other.

    Raises:
        ImportError: ArviZ is not installed.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, *Pareto Smoothed Importance Sampling*, JMLR 2024.

    Example:
        Weights with a Pareto tail of shape 0.4:

        >>> import jax
        >>> from ppgen.inference import pareto_smoothed
        >>> log_weights = 0.4 * jax.random.exponential(jax.random.key(0), (10_000,))
        >>> print(f"{pareto_smoothed(log_weights).k_hat:.1f}")
        0.4
    """
    raw = np.array(log_weights, np.float64)
    arviz = _arviz()
    if hasattr(arviz, "psislw"):
        smoothed, k_hat = arviz.psislw(raw)
    else:  # ArviZ 1.0 and later
        # It takes log likelihoods that are left out, whose weights are the reciprocals.
        stats = importlib.import_module("arviz_stats.base").array_stats
        smoothed, k_hat = stats.psislw(-raw)
    smoothed = np.asarray(smoothed)
    return ParetoSmoothed(smoothed - np.logaddexp.reduce(smoothed), float(k_hat))


def to_arviz(
    samples: ppgen.Trace | Mapping[str, Any] | Any, *, observed: Mapping[str, Any] | None = None
) -> Any:
    """Convert samples to ArviZ, for its diagnostics, summaries and plots.

    Args:
        samples: what `posterior` returns; a dict by site, with a leading axis of the draws; a
            `ppgen.Trace` of several runs (`jax.vmap` of `ppgen.simulate`), likewise; or what
            `importance_sampling` returns, whose log weights and their k-hat are kept beside the
            draws: resample it first (`.resample(n)`) for draws that need no weights.
        observed: data by site.

    Returns:
        An `arviz.InferenceData`, from ArviZ 1.0 on an `xarray.DataTree`: the group `posterior`,
        and `sample_stats` and `observed_data` where there are any.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: no draws, or different numbers of them.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppgen
        >>> from ppgen.inference import to_arviz
        >>> def program():
        ...     numpyro.sample("x", dist.Normal(0.0, 1.0))
        >>> draw = jax.vmap(lambda key: ppgen.seed(ppgen.simulate(program))(key))
        >>> data = to_arviz(draw(jax.random.split(jax.random.key(0), 100)))
        >>> data.posterior["x"].shape  # chains, draws
        (1, 100)
    """
    stats: dict[str, Any] = {}
    chains = False
    if isinstance(samples, ppgen.Trace):
        values, stats = samples.choices, {"lp": samples.log_density}
    elif isinstance(samples, Mapping):
        values = samples
    else:
        # Results of this package that describe their own layout.
        values, stats, chains = samples.for_arviz()
    groups = {"posterior": values, "sample_stats": stats}
    if any(np.ndim(x) < 1 + chains for group in groups.values() for x in group.values()):
        raise ValueError("to_arviz needs draws along axis 0: this is one run, without such an axis")
    shaped = {
        name: {site: np.asarray(x) if chains else np.asarray(x)[None] for site, x in group.items()}
        for name, group in groups.items()
        if group
    }
    if len({x.shape[:2] for group in shaped.values() for x in group.values()}) != 1:
        raise ValueError("to_arviz needs draws, and as many of every site, along axis 0")
    if observed:
        shaped["observed_data"] = jax.tree.map(np.asarray, dict(observed))
    arviz = _arviz()
    with warnings.catch_warnings():
        # Sites whose first axis is as long as there are chains make it ask for a transposition.
        warnings.simplefilter("ignore", UserWarning)
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict(shaped)
        return arviz.from_dict(**shaped)


def _arviz() -> Any:
    if importlib.util.find_spec("arviz") is None:
        raise ImportError("ArviZ is not installed. Write instead: pip install arviz")
    with warnings.catch_warnings():
        # Version 0.23 announces the next one whenever it is imported.
        warnings.simplefilter("ignore")
        return importlib.import_module("arviz")
