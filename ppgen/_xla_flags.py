"""A flag of XLA that one release of jaxlib needs, for compiled programs to be right on CPUs.

The compiler of jaxlib 0.10.2 fuses a sum with products of it, and what is computed beyond 32,768
elements is wrong, without an error: the second derivatives of a batch of Gaussian densities, say.
The release before has no such fusions, the one after it computes them right.

References:
    https://github.com/jax-ml/jax/issues/39103
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

WRONG = "0.10.2"
FLAG = "--xla_cpu_experimental_ynn_fusion_type"
VALUE = "-reduce"


def without_wrong_fusions() -> None:
    """Switch such fusions off where jaxlib has them, unless `XLA_FLAGS` says what to fuse.

    XLA reads the variable when the first array is made. Where that has been, there is a warning.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _release() != WRONG or FLAG in flags:
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={VALUE}".strip()
    if "jax" not in sys.modules:
        return
    from ppgen import _jax

    if _jax.computes_on_cpus_already():
        warnings.warn(
            f"jaxlib {WRONG} computes some sums of more than 32,768 elements wrong on CPUs "
            f"(https://github.com/jax-ml/jax/issues/39103). Import ppgen before JAX makes its "
            f'first array, or set XLA_FLAGS="{FLAG}={VALUE}", or install another jaxlib.',
            stacklevel=3,
        )


def _release() -> str:
    try:
        return version("jaxlib")
    except PackageNotFoundError:
        return ""
