"""Packages that import what they export when it is first asked for.

`import ppgen` is then a matter of milliseconds, and JAX is imported by the first name that needs
it; so the command answers `--help` at once.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any


def export_lazily(package: str, *, star: bool = False) -> None:
    """Makes a package export what its `__init__` imports under `if TYPE_CHECKING:`.

    What is written there as `from x import y as y` is what type checkers, editors and this function
    read. The first name that is asked for imports all of them, in their order.

    Args:
        package: its `__name__`.
        star: whether `from package import *` is for these names (`__all__`).
    """
    module = sys.modules[package]
    exports = _exports(module)
    loading = False

    def value(name: str) -> Any:
        source, original = exports[name]
        found = getattr(importlib.import_module(source), original)
        setattr(module, name, found)
        return found

    def __getattr__(name: str) -> Any:  # noqa: N807
        nonlocal loading
        if name in exports:
            if not loading:
                loading = True
                try:
                    with _outside_of_traces():
                        for each in exports:
                            value(each)
                finally:
                    loading = False
            return value(name)
        if not name.startswith("__") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    vars(module).pop("TYPE_CHECKING", None)  # no name of the package's own
    vars(module).update(__getattr__=__getattr__, __dir__=lambda: sorted({*vars(module), *exports}))
    if star:
        vars(module)["__all__"] = list(exports)


def _exports(module: ModuleType) -> dict[str, tuple[str, str]]:
    """The names under `if TYPE_CHECKING:`, each with its module and its name there."""
    found = {}
    for block in ast.parse(inspect.getsource(module)).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for line in block.body:
                assert isinstance(line, ast.ImportFrom) and line.module, ast.unparse(line)
                for alias in line.names:
                    found[alias.asname or alias.name] = (line.module, alias.name)
    return found


def _outside_of_traces() -> contextlib.AbstractContextManager[Any]:
    """Constants of modules are arrays, even if a function that is traced is the first to ask."""
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "ensure_compile_time_eval"):
        return contextlib.nullcontext()
    # Where nothing is traced an import must not touch a device: JAX may be set up after it.
    if not importlib.import_module("ppgen._jax").is_tracing():
        return contextlib.nullcontext()
    return jax.ensure_compile_time_eval()
