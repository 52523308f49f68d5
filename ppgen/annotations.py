"""What annotations of programs and objectives are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Program = Callable[..., Any]
"""A program: a function with NumPyro's `sample` and `param` sites, of arguments of its own."""
