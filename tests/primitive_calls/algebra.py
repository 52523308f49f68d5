"""Calls of products, windows, linear algebra and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax import lax

from primitive_calls.operands import Maker, _axis, a_shape, complexes, one_of, reals


def _dot(rng):
    x = one_of(rng, reals, complexes)(rng, a_shape(rng))
    axis = _axis(rng, x)
    batch = tuple(a for a in range(x.ndim) if a != axis and rng.integers(2))
    numbers = (((axis,), (axis,)), (batch, batch))
    kind = one_of(rng, None, x.dtype)
    return lambda x, y: lax.dot_general(x, y, numbers, preferred_element_type=kind), [x, x + 1]


def _conv(rng):
    groups, batches = one_of(rng, (1, 1), (2, 1), (1, 2))
    x = reals(rng, (2, 2, 4))
    w = reals(rng, (2, 2 // groups, 2))
    spec = one_of(rng, ("NCH", "OIH", "NCH"), ("NCH", "OIH", "NHC"))
    how = {
        "window_strides": (int(rng.integers(1, 3)),),
        "padding": [(int(rng.integers(2)), int(rng.integers(2)))],
        "lhs_dilation": (int(rng.integers(1, 3)),),
        "rhs_dilation": (int(rng.integers(1, 3)),),
    }
    return lambda x, w: lax.conv_general_dilated(
        x, w, **how, dimension_numbers=spec, feature_group_count=groups, batch_group_count=batches
    ), [x, w]


def _window(name: str) -> Maker:
    init, fn = {
        "reduce_window_sum": (0.0, lax.add),
        "reduce_window_max": (-np.inf, lax.max),
        "reduce_window_min": (np.inf, lax.min),
    }[name]

    def maker(rng):
        x = reals(rng, one_of(rng, (3, 4), (4,), (1, 3)))
        window = [int(rng.integers(1, n + 1)) for n in x.shape]
        strides = rng.integers(1, 3, x.ndim).tolist()
        padding = [(int(rng.integers(2)), int(rng.integers(2))) for _ in x.shape]
        return lambda x: lax.reduce_window(x, init, fn, window, strides, padding), [x]

    return maker


def _matrices(rng, rows: int = 3, columns: int = 3):
    batch = one_of(rng, (), (2,), (1,), (2, 3))
    return one_of(rng, reals, reals, complexes)(rng, (*batch, rows, columns))


def _positive(rng):
    x = _matrices(rng)
    y = np.einsum("...ij,...kj->...ik", x, x.conj()) + 2 * np.eye(3)
    return y.astype(x.dtype)


def _triangular(rng):
    a = _positive(rng)
    b = (a[..., :2] + 1).astype(a.dtype)
    how = {
        "left_side": True,
        "lower": bool(rng.integers(2)),
        "transpose_a": bool(rng.integers(2)),
        "conjugate_a": bool(rng.integers(2)),
        "unit_diagonal": bool(rng.integers(2)),
    }
    return lambda a, b: lax.linalg.triangular_solve(a, b, **how), [a, b]


def _qr(rng):
    full = bool(rng.integers(2))
    x = _matrices(rng, 3, 2)
    return lambda x: lax.linalg.qr(x, full_matrices=full), [x]


def _eigh(rng):
    lower = bool(rng.integers(2))
    return partial(lax.linalg.eigh, lower=lower, symmetrize_input=False), [_positive(rng)]


def _svd(rng):
    vectors = bool(rng.integers(2))
    how = {"full_matrices": bool(rng.integers(2)), "compute_uv": vectors}
    return lambda x: lax.linalg.svd(x, **how), [_matrices(rng, 3, 2)]


def _householder(rng):
    a = _matrices(rng, 3, 2)
    return lax.linalg.householder_product, [a, a[..., 0, :]]


def _fft(rng):
    kind = one_of(rng, *jax.lax.FftType)
    x = reals(rng, one_of(rng, (4,), (2, 4)))
    real = kind.name == "RFFT"
    return lambda x: lax.fft(x, kind, (6,) if kind.name == "IRFFT" else (4,)), [
        x if real else x.astype(np.complex64)
    ]


def _solve(rng):
    b = reals(rng, (3,))
    a = np.eye(3, dtype=np.float32) * 2
    solve = lambda _, y: y / 2  # noqa: E731
    return lambda b: lax.custom_linear_solve(lambda x: a @ x, b, solve, solve), [b]


def _callback(fn: Callable) -> Maker:
    def maker(rng):
        x = reals(rng, a_shape(rng))
        return lambda x: fn(np.floor, jax.ShapeDtypeStruct(x.shape, x.dtype), x), [x]

    return maker
