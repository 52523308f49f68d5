"""What several laws share."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, settings

from ppgen.testing import exact

# Fixed examples: a test that fails today fails tomorrow.
few = settings(
    max_examples=8,
    # Shrinking repeats a slow test many times over, and the example is printed anyway.
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def taylor(function, args, order):
    """A function with the same value and derivatives as `function` at `args`, much cheaper.

    So that the oracle runs once for all estimators of a program.
    """

    def first(theta):
        value, gradient = jax.value_and_grad(function)(theta)
        return gradient, (value, gradient)

    def second(theta):
        hessian, (value, gradient) = jax.jacfwd(first, has_aux=True)(theta)
        return value, gradient, hessian

    with jax.enable_x64(True):
        point = np.asarray(args[0], np.float64)
        if order == 2:
            value, gradient, hessian = map(np.asarray, jax.jit(second)(point))
        else:
            value, gradient = map(np.asarray, jax.jit(first)(point)[1])
            hessian = np.zeros(())

    def expansion(theta):
        step = theta - point
        quadratic = step @ hessian @ step / 2 if order == 2 else 0.0
        return value + gradient @ step + quadratic

    return expansion


def truth(case):
    """The exact expectation of a case of the registry, as a function of its argument."""
    order = max(variant.order for variant in case.variants().values())
    return taylor(case.exact or exact(case.function), case.args, order)
