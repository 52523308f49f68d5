"""A fitted model to give away: its weights as safetensors, and a card that says what they are."""

from __future__ import annotations

import datetime
import functools
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppgen.models.cli._drive import data_of, load
from ppgen.models.cli._options import arguments_of, differing, from_record, options_of, record_of
from ppgen.models.cli._rooms import Room, installed, recipe_of
from ppgen.models.cli._run_folder import FIGURES, read_config, read_entries, read_json, write_json
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import Recipe
from ppgen.models.parts.runs import Run, fresh

WEIGHTS, CARD, PAGE = "model.safetensors", "card.json", "README.md"
FORMAT = 1


def export(folder: Path, out: Path) -> None:
    """Writes the weights of a run, and its card for programs and for people.

    Args:
        folder: of the run.
        out: a folder that is not there yet.

    Raises:
        CommandError: there is no such run, it has no checkpoint, or safetensors is not installed.
    """
    library = _safetensors()
    config, options = read_config(folder), options_of(folder)
    run = load(options.recipe, options.training, folder)
    arrays = {name: np.asarray(_plain(x), order="C") for name, x in _named(run.model).items()}
    record, changed = (_without_places(x) for x in (record_of(options), differing(options)))
    done = read_json(folder / FIGURES) if (folder / FIGURES).is_file() else {}
    versions = {name: version(name) for name in ("jax", "numpy", "numpyro")}
    card = {
        "format": FORMAT,
        "model": config["model"],
        "options": record,
        "facts": run.facts,
        "title": done.get("title"),
        "figures": done.get("figures"),
        "parameters": int(sum(x.size for x in arrays.values())),
        "exported": datetime.datetime.now().isoformat(timespec="seconds"),
        "versions": {"ppgen": version("ppgen"), **versions},
    }
    out.mkdir(parents=True)
    library.numpy.save_file(
        arrays, out / WEIGHTS, metadata={"format": "ppgen", "model": card["model"]}
    )
    write_json(out / CARD, card)
    (out / PAGE).write_text(_page(card, changed), encoding="utf-8")


def load_exported(folder: str | Path, recipe: type[Recipe] | None = None) -> Run:
    """Loads what `ppgen export` wrote. Nothing that is in the folder is executed.

    Args:
        folder: the export.
        recipe: that of the model, if it is not one that is installed: the class from your own file.

    Returns:
        The run: `sample(key, num)` needs the folder alone, `data` and `figures()` the data that the
        model was fitted to.

    Raises:
        CommandError: it is no export, its model is not installed, or its arrays do not fit.

    Example:
        >>> from ppgen.models import load_exported
        >>> load_exported("nothing-here")
        Traceback (most recent call last):
            ...
        ppgen.models.cli._main.CommandError: nothing-here is no export of a model: it has no ...
    """
    folder, library = Path(folder), _safetensors()
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise CommandError(f"{folder} is no export of a model: it has no {name}")
    card = read_entries(folder / CARD, {"model": str, "options": dict, "facts": dict})
    if card.get("format") != FORMAT:
        raise CommandError(f"{folder / CARD} is of format {card.get('format')}, not {FORMAT}")
    options = from_record(_room(card["model"], recipe), card["options"], str(folder / CARD))
    try:
        like = fresh(options.recipe, options.training, card["facts"])
        arrays = library.numpy.load_file(folder / WEIGHTS)
    except (KeyError, TypeError, ValueError, OSError, library.SafetensorError) as error:
        raise CommandError(f"{folder} is damaged: {error!r}") from error
    model, facts = _filled(like, arrays, folder), card["facts"]
    data = functools.partial(data_of, options.recipe, folder, facts)
    return Run(options.recipe, options.training, facts, model, data)


def _without_places(options: dict[str, Any]) -> dict[str, Any]:
    """Options by name, of files the names alone: where they lay is nobody's business."""
    data = options.get("data")
    return options if data is None else options | {"data": Path(data).name}


def _room(name: str, recipe: type[Recipe] | None) -> Room:
    if recipe is not None:
        return recipe_of(name, recipe)
    if name not in installed():
        raise CommandError(
            f"a model {name!r} is not installed; load_exported(folder, recipe=...) takes its recipe"
        )
    return installed()[name]


def _named(model: Any) -> dict[str, Any]:
    """The arrays of a model by their places."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(where, simple=True, separator=".") or "params": x
            for where, x in leaves}  # fmt: skip


def _plain(x: Any) -> Any:
    """An array of numbers: of a key, its words."""
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def _filled(like: Any, arrays: dict[str, np.ndarray], folder: Path) -> Any:
    """A model of the same structure with these arrays."""
    expected = _named(like)
    if expected.keys() != arrays.keys():
        odd = sorted(expected.keys() ^ arrays.keys())[0]
        raise CommandError(f"{folder / WEIGHTS} is of another model: {odd!r} is in one of them")
    leaves = []
    for name, x in expected.items():
        plain, found = _plain(x), arrays[name]
        if (plain.shape, plain.dtype) != (found.shape, found.dtype):
            raise CommandError(
                f"{folder / WEIGHTS} is of another model: {name!r} is {found.dtype}{found.shape}, "
                f"not {plain.dtype}{plain.shape}"
            )
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        leaves.append(
            jax.random.wrap_key_data(jnp.asarray(found)) if is_key else jnp.asarray(found)
        )
    arrays_of, static = eqx.partition(like, eqx.is_array)
    filled = jax.tree.unflatten(jax.tree.structure(arrays_of), leaves)
    return eqx.combine(filled, static)


def _page(card: dict[str, Any], changed: dict[str, Any]) -> str:
    """The card for people."""
    words = " ".join(arguments_of(changed)) or "none"
    lines = [f"# {card['model']}", ""]
    lines += [f"Fitted with ppgen {card['versions']['ppgen']}; {card['parameters']:,} numbers.", ""]
    lines += [f"- Options that differ from the defaults: `{words}`"]
    facts = {k: v for k, v in card["facts"].items() if not isinstance(v, str)}
    lines += [f"- Data: {', '.join(f'{k} {v}' for k, v in facts.items()) or 'none'}"]
    lines += ["", "## Figures", ""]
    if card["figures"] is None:
        lines += ["The run was not finished when it was exported."]
    else:
        lines += [f"On {card['title']}.", "", "| | figure | standard error | unit |"]
        lines += ["| --- | --- | --- | --- |"]
        for label, units in card["figures"].items():
            for unit, x in units.items():
                numbers = f"{_shown(x['mean'])} | {_shown(x['standard_error'])}"
                lines += [f"| {label} | {numbers} | {unit} |"]
    lines += ["", "## Use", "", "```python", "import jax", "from ppgen.models import load_exported"]
    lines += ["", 'run = load_exported("this/folder")', "run.sample(jax.random.key(0), 16)", "```"]
    lines += ["", f"The weights are `{WEIGHTS}`; loading them executes nothing.", ""]
    return "\n".join(lines)


def _shown(x: float | None) -> str:
    return "not finite" if x is None else f"{x:.4g}"


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise CommandError(
            f"exports need the package safetensors, which cannot be imported: {error} "
            "(pip install 'ppgen[export]')"
        ) from error
    return safetensors
