"""Types for annotating programs and objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Program = Callable[..., Any]
"""A program: a function of any arguments, with NumPyro's `sample` and `param` sites."""
