"""Linear algebra of a path: data, noise, velocity and score from any one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import ppgen
from ppgen.annotations import Program
from ppgen.inference.paths._errors import PathError
from ppgen.inference.paths._structure import (
    Sites,
    agree,
    all_arrays,
    checked,
    depends,
    fixing,
    normal_parameters,
    one_array,
    probe,
)

Field = Callable[[Array, Array], Array]

PREDICTIONS = ("x1", "x0", "velocity", "score")


class Coefficients(NamedTuple):
    """The coefficients of a path at one time: `x = alpha x1 + sigma x0`, element by element.

    Attributes:
        alpha: the coefficient of the data.
        sigma: the coefficient of the noise site.
        alpha_dot: the derivative of `alpha` with respect to t.
        sigma_dot: the derivative of `sigma` with respect to t.
        noise: location and scale of the noise site where it is normal and independent of all other
            sites, else `None`.
    """

    alpha: Float[Array, "..."]
    sigma: Float[Array, "..."]
    alpha_dot: Float[Array, "..."]
    sigma_dot: Float[Array, "..."]
    noise: tuple[Array, Array] | None

    @property
    def exchange(self) -> Float[Array, "..."]:
        r"""The coefficient of the score in the velocity: ε* = τ² σ (σ α̇ − α σ̇) / α.

        It is half the squared diffusion of the noising process, g²/2, with τ² the variance of the
        noise site.

        Raises:
            PathError: the noise is not normal.
        """
        _, scale = self.normal()
        a, s, a_dot, s_dot = self.alpha, self.sigma, self.alpha_dot, self.sigma_dot
        return scale**2 * s * (ratio(s * a_dot, a) - s_dot)

    def normal(self) -> tuple[Array, Array]:
        """Location and scale of the noise.

        Raises:
            PathError: the noise is not normal.
        """
        if self.noise is None:
            raise PathError(
                "the score is a linear function of the other predictions only where noise is "
                "normal, independent of everything else",
                site="x0",
                instead='numpyro.sample("x0", dist.Normal(...).to_event()); or a model of the '
                'score of its own, by regress(model, bridge, predict="score")',
            )
        return self.noise


def ratio(numerator: Array, alpha: Array) -> Array:
    """`numerator / alpha`, or zero where `alpha` is zero.

    It is only used as a factor of the derivative of the expected data with respect to the
    point, which is zero at pure noise, where `alpha` is.
    """
    none = alpha == 0
    return jnp.where(none, 0.0, numerator / jnp.where(none, 1.0, alpha))


def coefficients(bridge: Program) -> Callable[..., Coefficients]:
    """The coefficients of a path that is linear in its ends, and their time derivatives.

    They are found by running the bridge, and `jax.jvp`, *exactly*.

    Args:
        bridge: a program as for `path_point`, whose point is `alpha x1 + sigma x0`: linear, element
            by element, and nothing else.

    Returns:
        A function `(t, like, *args) -> Coefficients`; `like` is an array of the shape and the dtype
        of the points, and `args` go to the bridge.

    Raises:
        PathError: the path is not of this form. Under `jax.jit`, where values cannot be checked,
            the coefficients are NaN instead.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import coefficients
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(3.0, 1.0))
        ...     x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) ** 2 * x0
        >>> found = coefficients(bridge)(0.5, jnp.zeros(()))
        >>> [float(c) for c in found[:4]]
        [0.5, 0.25, 1.0, -1.0]
    """

    def run(t: Any, like: Array, *args: Any) -> Coefficients:
        t, zero = jnp.asarray(t, like.dtype), jnp.zeros_like(like)

        def point(t: Array, x1: Array, x0: Array) -> tuple[Array, Any]:
            def program() -> tuple[Array, Any]:
                with Sites({"t": t, "x1": x1, "x0": x0}) as sites:
                    x = one_array(all_arrays(bridge(*args)))
                if missing := {"t", "x1", "x0"} - set(sites.values):
                    raise PathError(
                        f"the bridge has no site {sorted(missing)[0]!r}", instead="t, x1 and x0"
                    )
                return x, normal_parameters(sites.laws["x0"])

            # The values of its other sites must not matter, which is checked below.
            return ppgen.seed(program)(jax.random.key(0))

        def ends(t: Array) -> tuple[Array, Array]:
            middle, one = point(t, zero, zero)[0], jnp.ones_like(like)
            return point(t, one, zero)[0] - middle, point(t, zero, one)[0] - middle

        (alpha, sigma), dots = jax.jvp(ends, (t,), (jnp.ones_like(t),))
        u, w = probe(like, 1), probe(like, 2)
        x, noise = point(t, u, w)
        if noise is not None and _independent(bridge, t, like, args):
            loc, scale = (jnp.broadcast_to(n, like.shape) for n in noise)
            noise = (loc, scale)
        else:
            noise = None
        numbers = checked(
            (alpha, sigma, *dots),
            agree(x, alpha * u, sigma * w),
            "the path is not alpha(t) * x1 + sigma(t) * x0, element by element",
            "path_point, which takes any path; or a bridge of these two sites",
        )
        alpha, sigma, alpha_dot, sigma_dot = numbers
        return Coefficients(alpha, sigma, alpha_dot, sigma_dot, noise)

    return run


def _independent(bridge: Program, t: Array, like: Array, args: tuple) -> bool:
    """Whether no other site depends on the noise, nor the noise on the data."""

    def log_probs(x1: Array, x0: Array) -> dict[str, Array]:
        program = fixing(bridge, {"t": t, "x1": x1, "x0": x0})
        return ppgen.seed(ppgen.simulate(program))(jax.random.key(0), *args).log_probs

    def others(x0: Array) -> list[Array]:
        return [lp for name, lp in log_probs(like, x0).items() if name != "x0"]

    own = depends(lambda x1: log_probs(x1, like)["x0"], like)
    return not any(own) and not any(depends(others, like))


class Decoded(eqx.Module):
    """All predictions at one point of a path, from one of them.

    Attributes:
        x: the point.
        x1: the expected data, given `x`.
        x0: the expected noise, given `x`.
        coefficients: those of the path there.
    """

    x: Float[Array, "..."]
    x1: Float[Array, "..."]
    x0: Float[Array, "..."]
    coefficients: Coefficients

    @property
    def velocity(self) -> Float[Array, "..."]:
        """The expected velocity given `x`: the field of the probability-flow ODE."""
        return self.coefficients.alpha_dot * self.x1 + self.coefficients.sigma_dot * self.x0

    @property
    def score(self) -> Float[Array, "..."]:
        """The gradient of the log density of the points at this time.

        Raises:
            PathError: the noise is not normal.
        """
        loc, scale = self.coefficients.normal()
        return (loc - self.x0) / (self.coefficients.sigma * scale**2)

    @property
    def exchange(self) -> Float[Array, "..."] | None:
        """The coefficient of the score in the velocity; `None` where there is none."""
        return None if self.coefficients.noise is None else self.coefficients.exchange


class Decoder(eqx.Module):
    """A field that predicts everything: see `decode`. Final.

    Attributes:
        field: the given prediction.
        given: the kind of that prediction.
        bridge: the path.
        args: what the bridge is called with.
    """

    field: Field
    given: str = eqx.field(static=True)
    bridge: Program
    args: tuple[Any, ...] = ()

    def coefficients(self, t: Any, like: Array) -> Coefficients:
        """The coefficients of the path at the time `t`."""
        return coefficients(self.bridge)(t, like, *self.args)

    def __call__(self, x: Float[Array, "..."], t: Any) -> Decoded:
        """The predictions at a point and a time, from one evaluation of the field."""
        at, given = self.coefficients(t, x), self.field(x, t)
        if self.given == "x1":
            x1, x0 = given, (x - at.alpha * given) / at.sigma
        elif self.given == "velocity":
            # The inverse of [[alpha, sigma], [alpha_dot, sigma_dot]].
            determinant = at.alpha * at.sigma_dot - at.sigma * at.alpha_dot
            x1 = (at.sigma_dot * x - at.sigma * given) / determinant
            x0 = (at.alpha * given - at.alpha_dot * x) / determinant
        else:
            if self.given == "score":
                loc, scale = at.normal()
                x0 = loc - at.sigma * scale**2 * given
            else:
                x0 = given
            x1 = (x - at.sigma * x0) / at.alpha
        return Decoded(x, x1, x0, at)


def decode(field: Field, bridge: Program, *, given: str, args: tuple[Any, ...] = ()) -> Decoder:
    r"""All predictions of a field from one of them, by linear algebra.

    With :math:`x = \alpha x_1 + \sigma x_0` and :math:`v = \dot\alpha x_1 + \dot\sigma x_0`, two of
    x, v, x₁ and x₀ give the others; expectations given x do so too. Where the noise site is
    N(μ, τ²), the score is :math:`(\mu - x_0) / (\sigma \tau^2)`. It is *exact* for exact fields.

    Args:
        field: of a point and a time: a prediction of x₁, x₀, the velocity or the score.
        bridge: the path, as for `coefficients`; x₀ independent of x₁ if there is to be a score.
        given: what `field` predicts: `"x1"`, `"x0"`, `"velocity"` or `"score"`.
        args: what to call the bridge with.

    Returns:
        A `Decoder`: called with a point and a time, it returns a `Decoded`, with `x1`, `x0`,
        `velocity` and `score`. Where the path divides by zero (`sigma` at its end, `alpha` at its
        beginning), so does the algebra.

    Raises:
        ValueError: `given` is none of these.
        PathError: on a call, if the path is not linear; or a score, if noise is not normal.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from ppgen.inference import decode
        >>> def bridge():
        ...     t = numpyro.sample("t", dist.Uniform())
        ...     x1 = numpyro.sample("x1", dist.Normal(0.0, 1.0))
        ...     x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
        ...     return t * x1 + (1 - t) * x0
        >>> denoised = lambda x, t: t * x / (t**2 + (1 - t) ** 2)
        >>> found = decode(denoised, bridge, given="x1")(jnp.array(0.3), 0.25)
        >>> bool(jnp.allclose(found.score, -0.3 / (0.25**2 + 0.75**2)))
        True
    """
    if given not in PREDICTIONS:
        raise ValueError(f"given must be one of {PREDICTIONS}, not {given!r}")
    return Decoder(field, given, bridge, args)
