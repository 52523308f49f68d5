"""Packages that import their exported names lazily, on first access.

`import ppgen` then takes milliseconds, and JAX is imported by the first access to a name that needs
it, so that `ppgen --help` answers at once.
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
    """Make a package export lazily what its `__init__` imports under `if TYPE_CHECKING:`.

    Type checkers, editors and this function all read the lines `from x import y as y` there. The
    first access to one of the names imports all of them, in order.

    Args:
        package: its `__name__`.
        star: whether to set `__all__` to these names.
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
    """A context that keeps module constants concrete, even if the first access is in a trace."""
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "ensure_compile_time_eval"):
        return contextlib.nullcontext()
    # Where nothing is traced an import must not touch a device: JAX may be set up after it.
    if not importlib.import_module("ppgen._jax").is_tracing():
        return contextlib.nullcontext()
    return jax.ensure_compile_time_eval()
