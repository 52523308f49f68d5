"""Rooms: the folders or files of models, found without a list of them.

There are three places: a folder of `ppgen.models` with a `recipe.py`; an entry point of the group
`ppgen.models` in another package, which names such a folder or a module; and a file by its path.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import ppgen.models
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Recipe

GROUP = "ppgen.models"
"""The group of the entry points."""
SHARED = ("cli", "parts")
"""Folders of `ppgen.models` that are not rooms."""


@dataclasses.dataclass(frozen=True)
class Room:
    """The location of a model.

    Attributes:
        name: its name in the command; for a file, the name without the suffix.
        module: the package or module, if it has been installed.
        path: the file, if it was given by its path.
        given: the recipe itself, if that was given.
    """

    name: str
    module: str = ""
    path: Path | None = None
    given: type[Recipe] | None = None

    @property
    def line(self) -> str:
        """The first line of the model's docstring, read without importing anything."""
        try:
            text = ast.get_docstring(ast.parse(_source(self.module)))
        except (ImportError, SyntaxError, OSError) as error:
            return f"cannot be read: {error}"
        return (text or "").split("\n")[0] or self.recipe_line

    @property
    def recipe_line(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.recipe().__doc__ or "").split("\n")[0]

    def recipe(self) -> type[Recipe]:
        """The recipe that is defined there.

        Raises:
            CommandError: there is none, or more than one, or an import fails.
        """
        return _recipe(self) if self.given is None else self.given


def installed() -> dict[str, Room]:
    """Every model that has a name, in the order of the names.

    If several have one name, that of `ppgen` is taken, else that of the first package.
    """
    found = {}
    for info in pkgutil.iter_modules(ppgen.models.__path__):
        folder = Path(info.module_finder.path) / info.name  # pyright: ignore
        if info.name not in SHARED and (folder / "recipe.py").is_file():
            found[info.name] = Room(info.name, f"ppgen.models.{info.name}")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.value):
        found.setdefault(entry.name, Room(entry.name, entry.value))
    return dict(sorted(found.items()))


def room_of(word: str) -> Room:
    """The model for a word of the command line: a name, or the path of a file.

    Raises:
        CommandError: there is none.
    """
    if word.endswith(".py"):
        path = Path(word).resolve()
        if not path.is_file():
            raise CommandError(f"{word}: no such file")
        return Room(path.stem, path=path)
    rooms = installed()
    if word not in rooms:
        raise CommandError(
            f"there is no model {word!r}; there are: {', '.join(rooms)} (or the path of a .py file)"
        )
    return rooms[word]


def recipe_of(name: str, recipe: type[Recipe]) -> Room:
    """The model of a recipe that is at hand."""
    return Room(name, given=recipe)


def missing(config: Mapping[str, Any]) -> str | None:
    """The message for a run whose model is not available; the run itself is intact."""
    if config.get("path") is not None:
        there = Path(config["path"]).is_file()
        return None if there else f"a run of {config['path']}, which is not there"
    if config["model"] in installed():
        return None
    return f"a run of {config['model']!r}, which is not installed"


def room_of_run(run: Path, config: Mapping[str, Any]) -> Room:
    """The model of a run.

    Args:
        run: its folder, for errors.
        config: its config.json.

    Raises:
        CommandError: it is missing.
    """
    if (what := missing(config)) is not None:
        raise CommandError(f"{run} is {what}; there are: {', '.join(installed())}")
    if config.get("path") is not None:
        return Room(config["model"], path=Path(config["path"]))
    return installed()[config["model"]]


def _source(module: str) -> str:
    """The text of a module, or of the `__init__` of a package."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ImportError(f"there is no module {module!r}")
    get_source = getattr(spec.loader, "get_source", None)
    return (get_source(module) if get_source else None) or ""


@functools.cache
def _recipe(room: Room) -> type[Recipe]:
    module = _load(room.path) if room.path is not None else _import(room)
    found = [value for value in vars(module).values() if _is_recipe(value, module)]
    where = room.path or module.__name__
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise CommandError(
            f"{where} must define one recipe, a frozen dataclass that extends "
            f"`ppgen.models.parts.recipe.Recipe`; it defines {names}"
        )
    if "__dataclass_params__" not in vars(found[0]):
        raise CommandError(f"{where}: {found[0].__name__} must be a frozen dataclass")
    return found[0]


def _is_recipe(value: Any, module: ModuleType) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Recipe)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    )


def _import(room: Room) -> ModuleType:
    """The module with the recipe: `recipe` in a folder, or the one that was named."""
    try:
        module = importlib.import_module(room.module)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{room.module}.recipe")
    except ImportError as error:
        raise CommandError(f"the model {room.name!r} cannot be imported: {error}") from error
    return module


def _load(path: Path) -> ModuleType:
    """Runs a file, whose neighbours it may import, as if it had been started as a program."""
    name = f"ppgen_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses look for their annotations there
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise CommandError(f"{path} cannot be imported: {error}") from error
    return module
