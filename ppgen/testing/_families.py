"""Families of distributions by name, and their parameters as functions of plain numbers."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportReturnType=false
# (NumPyro annotates what distributions take more narrowly than what they do take.)

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution


def _triangular(scale: Array) -> Array:
    eye = jnp.eye(scale.shape[-1])
    return scale[..., None] * eye + 0.3 * jnp.tril(jnp.ones_like(eye), -1)


def _with_classes(x: Array) -> Array:
    """Logits of one class more, so that no direction leaves the probabilities where they are."""
    return jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1)


DISTRIBUTIONS: dict[str, tuple[Callable[..., Distribution], dict[str, str]]] = {
    # Discrete.
    "BernoulliProbs": (dist.BernoulliProbs, {"probs": "unit"}),
    "BernoulliLogits": (dist.BernoulliLogits, {"logits": "real"}),
    "CategoricalProbs": (dist.CategoricalProbs, {"probs": "simplex"}),
    "CategoricalLogits": (dist.CategoricalLogits, {"logits": "logits"}),
    "OrderedLogistic": (
        lambda predictor, gaps: dist.OrderedLogistic(predictor, jnp.cumsum(gaps, -1) - 1.0),
        {"predictor": "real", "gaps": "positives"},
    ),
    "OneHotProbs": (lambda probs: dist.MultinomialProbs(probs, 1), {"probs": "simplex"}),
    "OneHotLogits": (lambda logits: dist.MultinomialLogits(logits, 1), {"logits": "logits"}),
    "BinomialProbs": (lambda probs: dist.BinomialProbs(probs, 3), {"probs": "unit"}),
    "BinomialLogits": (lambda logits: dist.BinomialLogits(logits, 3), {"logits": "real"}),
    "Poisson": (dist.Poisson, {"rate": "positive"}),
    "ZeroInflatedPoisson": (dist.ZeroInflatedPoisson, {"gate": "unit", "rate": "positive"}),
    "GeometricProbs": (dist.GeometricProbs, {"probs": "unit"}),
    "GeometricLogits": (dist.GeometricLogits, {"logits": "real"}),
    "NegativeBinomialProbs": (
        dist.NegativeBinomialProbs,
        {"total_count": "large", "probs": "unit"},
    ),
    # Continuous.
    "Normal": (dist.Normal, {"loc": "real", "scale": "positive"}),
    "LogNormal": (
        lambda loc, scale: dist.LogNormal(loc, scale / 4),
        {"loc": "real", "scale": "positive"},
    ),
    "HalfNormal": (dist.HalfNormal, {"scale": "positive"}),
    "Laplace": (dist.Laplace, {"loc": "real", "scale": "positive"}),
    "Logistic": (dist.Logistic, {"loc": "real", "scale": "positive"}),
    "Gumbel": (dist.Gumbel, {"loc": "real", "scale": "positive"}),
    "Cauchy": (dist.Cauchy, {"loc": "real", "scale": "positive"}),
    "StudentT": (dist.StudentT, {"df": "large", "loc": "real", "scale": "positive"}),
    "Exponential": (dist.Exponential, {"rate": "positive"}),
    "Gamma": (dist.Gamma, {"concentration": "positive", "rate": "positive"}),
    "InverseGamma": (dist.InverseGamma, {"concentration": "large", "rate": "positive"}),
    "Weibull": (dist.Weibull, {"scale": "positive", "concentration": "large"}),
    "Pareto": (dist.Pareto, {"scale": "positive", "alpha": "large"}),
    "Beta": (dist.Beta, {"concentration1": "positive", "concentration0": "positive"}),
    "Uniform": (
        lambda low, width: dist.Uniform(low, low + width),
        {"low": "real", "width": "positive"},
    ),
    "VonMises": (dist.VonMises, {"loc": "real", "concentration": "positive"}),
    "Dirichlet": (dist.Dirichlet, {"concentration": "positives"}),
    "MultivariateNormal": (
        lambda loc, scale: dist.MultivariateNormal(loc, scale_tril=_triangular(scale)),
        {"loc": "reals", "scale": "positives"},
    ),
    "MixtureSameFamily": (
        lambda probs, loc: dist.MixtureSameFamily(
            dist.Categorical(probs), dist.Normal(loc, jnp.ones_like(loc))
        ),
        {"probs": "simplex", "loc": "reals"},
    ),
}
"""Families by name: a constructor, and the parameters. New rows are tested automatically."""

KINDS: Mapping[str, Callable[[Array], Array]] = {
    "real": lambda x: x,
    "positive": jnp.exp,
    "large": lambda x: 2.0 + jnp.exp(x),
    "unit": jax.nn.sigmoid,
    "logits": lambda x: x,
    "simplex": lambda x: jax.nn.softmax(_with_classes(x)),
    "reals": lambda x: x,
    "positives": jnp.exp,
}
"""For each kind of parameter, its value as a function of unconstrained numbers."""
