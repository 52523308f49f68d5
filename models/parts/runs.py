"""Running recipes: a model is made, fitted stage by stage, evaluated and sampled.

The command line does this in the folder of a run. `fit_recipe` does it in memory, with the same
keys: the same options give the same figures.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

import ppgen
from ppgen.inference import EarlyStopping, Fitted, fit, per_batch
from ppgen.models.parts.bounds import check_bounds
from ppgen.models.parts.data import labels_of_samples
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.figures import Figures
from ppgen.models.parts.recipe import Dataset, Picture, Recipe, Split, Stage
from ppgen.models.parts.training import Training

VALIDATION_ROWS = 1000
"""Most validation rows for early stopping; all are evaluated at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A fitted model, with its recipe, options and data.

    Attributes:
        recipe: the options of the model.
        training: the options that all models share.
        facts: the facts about the data: see `Dataset.facts`.
        model: the parameters.
        load: gives the data.
    """

    recipe: Recipe
    training: Training
    facts: dict[str, Any]
    model: PyTree
    load: Callable[[], Dataset]

    @functools.cached_property
    def data(self) -> Dataset:
        """The data, loaded on first access."""
        return self.load()

    def figures(self, particles: int | None = None, split: Split = "held-out") -> Figures:
        """Figures of the model on data. The same fit and options give the same figures.

        Args:
            particles: draws in the tightest bound; None for as many as after a fit.
            split: the held-out data, or the training data.
        """
        recipe = self.recipe
        particles = recipe.evaluation_particles if particles is None else particles
        rows = self.data.held_out if split == "held-out" else self.data.train
        key = named_key(self.training, "evaluate")
        found = recipe.figures(self, rows, particles, key)
        # A model that is fitted to no rows has the same figures for either split.
        where = "trained on" if split == "train" and rows is not None else "held out"
        return dataclasses.replace(found, title=f"{where}: {found.title}")

    def sample(self, key: Key[Array, ""], num: int, label: int | None = None) -> PyTree:
        """Draws data from the model.

        Args:
            key: everything random follows from it.
            num: how many.
            label: what a conditional model is told; None for all labels in turn.

        Returns:
            Arrays, with one leading axis.

        Raises:
            CommandError: there is no such label.
        """
        return self._samples(key, num, label)[1]

    def draw_samples(
        self, path: Path, key: Key[Array, ""], num: int, label: int | None = None
    ) -> None:
        """Writes a picture of `sample(key, num, label)`."""
        picture, samples = self._samples(key, num, label)
        picture.draw(path, samples, picture.title)

    def write_samples(
        self, path: Path, key: Key[Array, ""], num: int, label: int | None = None
    ) -> None:
        """Writes `sample(key, num, label)` as NPZ: `samples`, or a name for each array of several.

        Loading them executes no code.
        """
        samples = self.sample(key, num, label)
        leaves = jax.tree_util.tree_leaves_with_path(samples)
        names = [jax.tree_util.keystr(where, simple=True, separator=".") for where, _ in leaves]
        np.savez(path, **{name or "samples": x for name, (_, x) in zip(names, leaves, strict=True)})

    def draw_pictures(self, folder: Path) -> None:
        """Writes the other pictures of the model, with held-out data."""
        key = named_key(self.training, "pictures")
        for name, picture in self.recipe.pictures(self).items():
            rows = self.data.held_out
            rows = picture.most if rows is None else _first(rows, picture.most)
            drawn = each_of(picture.program, rows, key=key)
            picture.draw(folder / f"{name}.png", drawn, picture.title)

    def _samples(self, key: Key[Array, ""], num: int, label: int | None) -> tuple[Picture, PyTree]:
        first, second = jax.random.split(key)
        told = labels_of_samples(self.facts, num, label)
        picture = self.recipe.sample(self, first)
        if label is not None:
            picture = picture._replace(title=f"{picture.title}, label {label}")
        return picture, each_of(picture.program, num if told is None else told, key=second)


class Prepared(NamedTuple):
    """A stage that is ready for `fit`.

    Attributes:
        stage: the stage of the recipe.
        objective: a function of parameters and a batch.
        params: initial parameters.
        rows: the rows to fit to.
        whole: a function from fitted parameters to the whole model.
    """

    stage: Stage
    objective: Callable[..., Any]
    params: PyTree
    rows: Any
    whole: Callable[[PyTree], PyTree]

    def batch_size(self, training: Training) -> int | None:
        """The number of rows in a batch; None if there are no rows to choose from."""
        if self.rows is None or (callable(self.rows) and not hasattr(self.rows, "__iter__")):
            return None
        own = self.stage.batch_size
        return training.batch_size if own is None else own

    @property
    def number(self) -> int | None:
        """The number of rows; None for a stream."""
        leaves = jax.tree.leaves(self.rows)
        arrays = bool(leaves) and all(eqx.is_array_like(x) and np.ndim(x) for x in leaves)
        return len(leaves[0]) if arrays else None


def fresh(recipe: Recipe, training: Training, facts: dict[str, Any]) -> PyTree:
    """The freshly initialised model of a fit."""
    keys = {name: named_key(training, "params", name) for name in recipe.stages}
    return recipe.model(facts, keys)


def prepared(
    recipe: Recipe, training: Training, name: str, model: PyTree, data: Dataset
) -> Prepared:
    """Prepare a stage for `fit`.

    Args:
        recipe: the recipe of the model.
        training: the options that all models share.
        name: of the stage.
        model: as the stages before left it.
        data: to fit to.

    Raises:
        CommandError: the batch size or early stopping does not fit the data.
    """
    stage = recipe.stage(name, training)
    model = stage.begin(model)
    whole = functools.partial(with_part, stage, model)
    rows = stage.rows(data, model)
    batched = per_batch(stage.objective) if stage.each else stage.objective

    def objective(params: PyTree, *batch: Any) -> Any:
        return batched(whole(params), *batch)

    found = Prepared(stage, objective, part_of(stage, model), rows, whole)
    _check(found, training)
    return found


def part_of(stage: Stage, model: PyTree) -> PyTree:
    """The part of a model that a stage fits."""
    return model if stage.part is None else stage.part(model)


def with_part(stage: Stage, model: PyTree, part: PyTree) -> PyTree:
    """The model with that part replaced."""
    return part if stage.part is None else eqx.tree_at(stage.part, model, part)


def fit_prepared(
    ready: Prepared, training: Training, name: str, *, progress: bool = False, **options: Any
) -> Fitted:
    """Fits a stage.

    Args:
        ready: the stage.
        training: the options that all models share.
        name: of the stage.
        progress: whether to show any.
        **options: further arguments of `ppgen.inference.fit`.
    """
    stage, rows, stopping = ready.stage, ready.rows, None
    if training.early_stopping is not None:
        validation = _first(rows, _held_back(ready))
        rows = jax.tree.map(lambda x: x[_held_back(ready) :], rows)
        stopping = EarlyStopping(
            validation,
            every=training.evaluate_every,
            patience=training.early_stopping,
            draws=stage.draws,
        )
    return fit(
        ready.objective,
        ready.params,
        stage.optimizer,
        key=named_key(training, "fit", name),
        steps=training.steps,
        data=rows,
        batch_size=ready.batch_size(training),
        draws=stage.draws,
        maximize=stage.maximize,
        ema=training.ema,
        compute_dtype=None if training.precision == "float32" else training.precision,
        on_nonfinite=training.on_nonfinite,
        allow_biased=stage.allow_biased,
        has_aux=stage.has_aux,
        early_stopping=stopping,
        chunk=training.chunk,
        progress=progress,
        **options,
    )


def audited(
    ready: Prepared, training: Training, name: str, *, seconds: float, progress: bool = False
) -> ppgen.AuditReport:
    """Compare the gradient of a stage on the first rows with the slope of its objective.

    See `ppgen.audit`, which estimates the slope from values alone.

    Args:
        ready: the stage.
        training: the options that all models share.
        name: of the stage.
        seconds: no new draws after this time, compilation included.
        progress: whether to show any.
    """
    key = named_key(training, "audit", name)
    rows, size = ready.rows, ready.batch_size(training)
    batch: tuple[Any, ...] = ()
    if size is not None:
        stream = ready.number is None
        batch = (next(iter(rows)) if stream else _first(rows, size),)
    elif rows is not None:
        batch = (ppgen.seed(rows)(jax.random.fold_in(key, 1)),)
    arrays, static = eqx.partition(ready.params, eqx.is_inexact_array)

    def objective(arrays: PyTree) -> Any:
        found = ready.objective(eqx.combine(arrays, static), *batch)
        return found[0] if ready.stage.has_aux else found

    biased = ready.stage.allow_biased
    run = ppgen.audit(objective, allow_biased=biased, seconds=seconds, progress=progress)
    return run(key, arrays)


def evaluated(fitted: Fitted) -> PyTree:
    """The parameters to evaluate: the moving average, if there is one."""
    return fitted.params if fitted.ema is None else fitted.ema


def fit_recipe(
    recipe: Recipe,
    *,
    data: Dataset | None = None,
    model: PyTree | None = None,
    stages: Sequence[str] | None = None,
    **training: Any,
) -> Run:
    """Fits a model in memory, as `ppgen fit` does in a folder: to the same figures.

    Args:
        recipe: its options.
        data: in place of what the recipe loads.
        model: where to begin, in place of fresh parameters.
        stages: the stages to fit; the others are left as they are in `model`. None for all.
        **training: options of `Training` that differ from the recipe's.

    Returns:
        The fitted model, with what it takes to evaluate and sample it.

    Raises:
        CommandError: options are out of bounds or incompatible.

    Example:
        >>> from ppgen.models.parts.runs import fit_recipe
        >>> from ppgen.models.vae.recipe import VAERecipe
        >>> run = fit_recipe(VAERecipe(hidden=8, dimensions=2), steps=20, batch_size=16)
        >>> list(run.figures(particles=2).estimates)
        ['per-pixel histograms', 'ELBO', 'IWELBO-2']
    """
    options = dataclasses.replace(recipe.training, **training)
    for group in (recipe, options):
        check_bounds(group)
        group.check()
    data = recipe.load() if data is None else data
    facts = data.facts()
    model = fresh(recipe, options, facts) if model is None else model
    for name in recipe.stages if stages is None else stages:
        ready = prepared(recipe, options, name, model, data)
        model = ready.whole(evaluated(fit_prepared(ready, options, name)))
    return Run(recipe, options, facts, model, lambda: data)


def each_of(
    program: Callable[..., Any], rows: PyTree | int, *, key: Key[Array, ""], batch_size: int = 100
) -> PyTree:
    """Runs a program on each row of data, or a number of times.

    Args:
        program: a function of one row, or without arguments. It may draw.
        rows: arrays with one leading axis, or the number of runs.
        key: each row gets a key of its own from it.
        batch_size: rows computed at the same time.

    Returns:
        The stacked results, as NumPy arrays.
    """
    args: Any = () if isinstance(rows, int) else (jax.tree.map(jnp.asarray, rows),)
    number = rows if isinstance(rows, int) else len(jax.tree.leaves(rows)[0])
    run = ppgen.seed(program)

    @jax.jit
    def every(keys: Key[Array, " n"], args: Any) -> Any:
        return jax.lax.map(
            lambda pair: run(pair[0], *pair[1]), (keys, args), batch_size=min(batch_size, number)
        )

    return jax.tree.map(np.asarray, every(jax.random.split(key, number), args))


def named_key(training: Training, *names: str) -> Key[Array, ""]:
    """A key for each purpose, so that a new purpose does not change the others."""
    number = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:4], "big")
    return jax.random.fold_in(jax.random.key(training.seed), number)


def _first(rows: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda x: x[:number], rows)


def _check(ready: Prepared, training: Training) -> None:
    rows = ready.number
    if training.early_stopping is not None:
        if rows is None:
            raise CommandError(
                "--early-stopping needs data in memory, and this model has a stream or none"
            )
        rows -= _held_back(ready)
    size = ready.batch_size(training)
    if size is not None and rows is not None and size > rows:
        raise CommandError(f"--batch-size {size} exceeds the {rows} rows of training data")


def _held_back(ready: Prepared) -> int:
    """The number of rows held back for early stopping."""
    assert ready.number is not None
    return min(VALIDATION_ROWS, max(1, ready.number // 10))
