"""Regression of fields on targets along a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

import ppgen
from ppgen._distributions.wrappers import unwrapped
from ppgen.annotations import Program
from ppgen.claims import claims
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._points import PathPoint, lazy_point
from ppgen.inference.paths._structure import (
    agree,
    checked,
    depends,
    fixing,
    is_unbounded,
    one_array,
    probe,
)


def squared_error(prediction: PyTree[Array], target: PyTree[Array]) -> Float[Array, ""]:
    """The sum of squared differences, whose regression is the conditional mean.

    Both may be pytrees of arrays: the sum is over all of their leaves.

    Raises:
        PathError: their shapes differ.
    """

    def one(p: Array, y: Array) -> Array:
        if jnp.shape(p) != jnp.shape(y):
            raise _other_shape(jnp.shape(p), jnp.shape(y))
        return jnp.sum((p - y) ** 2)

    return sum(jax.tree.leaves(jax.tree.map(one, prediction, target)), 0.0)  # pyright: ignore


def _other_shape(prediction: Any, target: Any) -> PathError:
    return PathError(
        f"the model predicts an array of shape {prediction}, and the target has shape {target}"
    )


@claims("unbiased", "the regression along the path", gradient="unbiased")
def regress(
    model: Callable[..., PyTree[Array]],
    bridge: Program,
    *,
    predict: str | Callable[[PathPoint], PyTree[Array]] = "velocity",
    weight: Callable[[Array], Any] | None = None,
    proposal: Any = None,
    loss: Callable[[Any, Any], Array] = squared_error,
    noise: str = "x0",
    inputs: tuple[str, ...] = (),
) -> Callable[..., Float[Array, ""]]:
    r"""The regression of a model on a target along a path: flow and score matching.

    .. math:: L(\theta) = E_{t \sim p(t)}\, w(t)\, E\big[\ell\big(m_\theta(x_t, t),
              y_t\big)\big],

    with the expectation over all sites of the bridge. Under the squared error the minimum is the
    conditional mean :math:`E[y_t | x_t]`: for `"velocity"` the field that transports noise to data.

    *Unbiased*, value and gradients. The law of `t` in the bridge and the weight decide what the
    objective is; `proposal` decides only which times are drawn: the density ratio is included
    automatically, so that another proposal has the same mean and another variance.

    Points need not be floats if no velocity and no score are asked for: masked diffusion is the
    regression of a categorical distribution on the clean tokens,
    :math:`\ell(\text{logits}, x_1) = -\log \text{softmax}(\text{logits})_{x_1}`.

    Args:
        model: `(params, x, t, *inputs) -> prediction`, of the structure and the shape of the
            target; of integers it may have further axes, such as logits.
        bridge: a program as for `path_point`. If its `t` has a batch shape, the loss is averaged
            over it, and a proposal must have it too.
        predict: the target: `"velocity"`; `"score"` (denoising score matching: it has the score of
            x_t as its conditional mean, whatever the density of the noise, if that is smooth on all
            of the line); the name of a site, such as `"x1"` or `"x0"`; or a function of the
            `PathPoint`.
        weight: w, of the time; 1 by default.
        proposal: a distribution from which to draw `t`, which covers its law in the bridge. Where
            its density vanishes faster than the law's, as that of logit-normal times does at both
            ends for uniform ones, the loss has infinite variance: mix it with a tenth of the law.
            As the *law* of the bridge's `t`, any will do.
        loss: of one prediction and one target, pytrees as they are, to a scalar.
        noise: the site whose density gives the score.
        inputs: sites whose values are passed to the model too, such as a label.

    Returns:
        `(params, *args) -> scalar`: one draw of the loss. `args` go to the bridge. Average many:
        `ppgen.expectation(..., draws=256)`, `fit(..., draws=256)`; antithetic noise is
        `ppgen.with_estimators(..., {"x0": ppgen.Antithetic()})`.

    Raises:
        PathError: as for `path_point`; no such site to predict; shapes that differ; or a score
            where the noise has bounds, does not enter the path linearly, or influences other sites.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le. Flow matching for generative modeling. ICLR 2023.
        Vincent. A connection between score matching and denoising autoencoders. 2011.
        Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion models. 2022.
        Sahoo et al. Simple and effective masked diffusion language models. NeurIPS 2024.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, optax, ppgen
        >>> from ppgen.inference import fit, regress
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(3.0, 0.0001))
        ...     x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) * x0
        >>> objective = regress(lambda c, x, t: (c - x) / (1 - t), bridge, weight=lambda t: 1 - t)
        >>> fitted = fit(objective, 0.0, optax.adam(0.1), key=jax.random.key(0), steps=300)
        >>> print(f"{fitted.params:.1f}")
        3.0
    """

    def propose() -> None:
        # Held fixed: the law of the bridge's time may have bounds, where its density is
        # discontinuous.
        numpyro.sample("t", proposal, infer={"grad": ppgen.ScoreFunction()})

    def objective(params: Any, *args: Any) -> Float[Array, ""]:
        drawn = None if proposal is None else ppgen.simulate(propose)()
        time = None if drawn is None else drawn["t"]
        point = lazy_point(bridge, time, inputs, args)
        if missing := [name for name in inputs if name not in point.sites]:
            raise PathError("the bridge has no such site", site=missing[0])
        target = _target(predict, point, bridge, noise, args)
        values = [point.sites[name] for name in inputs]
        prediction = model(params, point.x, point.t, *values)
        _same_shape(prediction, target)
        each = loss
        for _ in range(point.t.ndim):
            each = jax.vmap(each)
        losses = each(prediction, target)
        if jnp.shape(losses) != point.t.shape:
            raise PathError(f"the loss of one prediction is a scalar, not {jnp.shape(losses)}")
        if weight is not None:
            losses = losses * weight(point.t)
        if drawn is not None:
            losses = losses * jnp.exp(point.log_time - drawn.log_probs["t"])
        return jnp.mean(losses)

    return objective


def _same_shape(prediction: PyTree[Array], target: PyTree[Array]) -> None:
    """Refuse what would be broadcast; a label may have logits, with axes of their own."""
    one, other = jax.tree.structure(prediction), jax.tree.structure(target)
    if one != other:
        raise PathError(f"the model predicts a {one}, and the target is a {other}")
    for p, y in zip(jax.tree.leaves(prediction), jax.tree.leaves(target), strict=True):
        found, wanted = jnp.shape(p), jnp.shape(y)
        if not jnp.issubdtype(y.dtype, jnp.floating):
            found = found[: len(wanted)]
        if found != wanted:
            raise _other_shape(jnp.shape(p), wanted)


def _target(
    predict: Any, point: PathPoint, bridge: Program, noise: str, args: tuple
) -> PyTree[Array]:
    if callable(predict):
        return jax.tree.map(jnp.asarray, predict(point))
    if predict == "velocity":
        return point.velocity
    if predict == "score":
        return _score(point, bridge, noise, args)
    if predict not in point.sites:
        raise PathError(
            "the bridge has no such site to predict",
            site=predict,
            instead=f'"velocity", "score" or one of {sorted(point.sites)}',
        )
    return point.sites[predict]


def _score(point: PathPoint, bridge: Program, noise: str, args: tuple) -> Array:
    """The gradient of the log density of the noise that leads to x: its mean given x is the score.

    For x = r + c s, p(x) is the mean over r of q((x − r) / c) / cⁿ.
    """
    values, laws = point.sites, {}

    def at(s: Array) -> tuple[Array, dict[str, Array]]:
        found = ppgen.simulate(fixing(bridge, values | {noise: s}, laws=laws))(*args)
        return one_array(found.value[0]), found.log_probs

    if noise not in values or noise not in at(s := values[noise])[1]:
        raise PathError("the bridge has no such site of noise", site=noise)
    if isinstance(unwrapped(laws[noise]), dist.Delta):
        raise PathError(
            "a point mass has no density, and so no score",
            site=noise,
            instead="noise that is drawn from a smooth density; or another prediction",
        )
    if not is_unbounded(laws[noise]):
        raise PathError(
            "the density of the noise is discontinuous at its bounds, so that it does not give the "
            "score",
            site=noise,
            instead="noise with a smooth density on all of the line, as dist.Normal",
        )

    def others(s: Array) -> list[Array]:
        return [lp for name, lp in at(s)[1].items() if name != noise]

    if any(depends(others, s)):
        raise PathError(
            "other sites depend on the noise, so that its density does not give the score",
            site=noise,
            instead="noise that is drawn on its own, or another prediction",
        )
    start = at(jnp.zeros_like(s))[0]
    scale = at(jnp.ones_like(s))[0] - start
    scale = checked(
        scale,
        agree(at(probe(s, 1))[0], start, scale * probe(s, 1)),
        "the path is not linear, element by element, in the noise",
        "x = r + sigma(t) * noise",
    )
    return jax.grad(lambda s: jnp.sum(at(s)[1][noise]))(s) / scale
