"""Loggers of fits: what is said, and that other programs can read it."""

from __future__ import annotations

import csv
import struct

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.errors import CostError
from ppgen.inference import (
    AbstractLogger,
    Checkpoints,
    CSVLogger,
    DataError,
    EarlyStopping,
    FitError,
    TensorBoardLogger,
    WandbLogger,
    fit,
    per_batch,
)

KEY = jax.random.key(0)


class Notes(AbstractLogger):
    """What was said, in order."""

    def __init__(self):
        self.began, self.lines, self.pictures, self.ended = [], [], [], 0

    def begin(self, step):
        self.began.append(step)

    def log(self, step, values):
        self.lines.append({"step": step, **values})

    def picture(self, step, name, image):
        self.pictures.append((step, name, image.shape))

    def end(self):
        self.ended += 1


def loss(params, batch):
    """With named parts, which sum to it."""
    parts = {"fit": jnp.mean((batch - params) ** 2), "more": {"size": 0.1 * params**2}}
    return parts["fit"] + parts["more"]["size"], parts


ROWS = np.arange(8, dtype=np.float32)


def test_what_is_said_is_what_was_computed():
    """Against gradient descent by hand: objective, its parts, gradient norm, learning rate."""
    notes, rate = Notes(), optax.linear_schedule(0.2, 0.0, 6)
    optimizer = optax.inject_hyperparams(optax.sgd)(rate)
    options = {"key": KEY, "steps": 6, "data": ROWS, "chunk": 2, "has_aux": True}
    fitted = fit(loss, 1.0, optimizer, loggers=[notes], **options)
    params, said = 1.0, []
    for step in range(6):
        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(params, ROWS)
        said.append([value, parts["fit"], parts["more"]["size"], abs(gradient)])
        params -= rate(step) * gradient
    means = np.array(said).reshape(3, 2, 4).mean(1)
    names = ["objective", "fit", "more.size", "gradient_norm"]
    assert [line["step"] for line in notes.lines] == [2, 4, 6]
    np.testing.assert_allclose([[line[n] for n in names] for line in notes.lines], means, rtol=1e-4)
    rates = [line["learning_rate"] for line in notes.lines]
    np.testing.assert_allclose(rates, [rate(1), rate(3), rate(5)], rtol=1e-5)
    assert (notes.began, notes.ended) == ([0], 1)
    # Being watched changes nothing, and neither do metrics.
    alone = fit(lambda p, x: loss(p, x)[0], 1.0, optimizer, **options | {"has_aux": False})
    np.testing.assert_array_equal(fitted.history, alone.history)


def test_metrics_are_means_over_draws_and_rows_and_may_come_with_state():
    notes = Notes()

    def noisy(params, datum):
        draw = ppgen.draw(dist.Normal(params, 1.0))
        return (draw - datum) ** 2, {"draw": draw}

    options = {"key": KEY, "steps": 2, "data": ROWS, "chunk": 2, "has_aux": True, "draws": 500}
    fit(per_batch(noisy), 3.0, optax.sgd(0.0), loggers=[notes], **options)
    assert abs(notes.lines[0]["draw"] - 3.0) < 0.1

    def counted(params, state, batch):
        return jnp.mean((batch - params) ** 2), (state + 1, {"count": state})

    notes = Notes()
    options |= {"draws": 1, "state": jnp.float32(0)}
    fitted = fit(counted, 3.0, optax.sgd(0.1), loggers=[notes], **options)
    assert fitted.state == 2 and notes.lines[0]["count"] == 0.5
    options |= {"draws": 2, "early_stopping": EarlyStopping(ROWS, every=1, patience=1)}
    fit(counted, 3.0, optax.sgd(0.1), loggers=[notes], **options)
    assert notes.lines[-1]["held_out"] > 0


def test_metrics_have_no_derivative_need_not_be_finite_and_are_numbers():
    def odd(params):
        return params**2, {"log": jnp.log(-jnp.abs(params))}

    notes, options = Notes(), {"key": KEY, "steps": 2, "chunk": 1, "has_aux": True}
    fitted = fit(odd, 1.0, optax.sgd(0.1), loggers=[notes], **options)
    assert np.isfinite(fitted.params) and "log" not in notes.lines[0]
    with pytest.raises(CostError, match=r"the metric 'x' is of shape \(3,\)"):
        fit(lambda p: (p**2, {"x": jnp.zeros(3)}), 1.0, optax.sgd(0.1), **options)


def test_loggers_end_when_a_fit_fails():
    notes = Notes()
    with pytest.raises(FitError):
        fit(lambda x: x + jnp.sqrt(x), 1.0, optax.sgd(0.3), key=KEY, steps=9, loggers=[notes])
    assert notes.ended == 1


# --- files ----------------------------------------------------------------------------------------


def run(logger, tmp_path, steps, **more):
    """A fit with checkpoints, which goes on from where it was."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", every=2)
    optimizer = optax.inject_hyperparams(optax.sgd)(0.1)
    options = {"steps": steps, "data": ROWS, "chunk": 2, "checkpoints": checkpoints}
    return fit(loss, 1.0, optimizer, key=KEY, has_aux=True, loggers=[logger], **options, **more)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_goes_on_where_the_fit_does(tmp_path):
    path = tmp_path / "metrics.csv"
    run(CSVLogger(path), tmp_path, 4)
    with path.open("a") as file:
        file.write("6,1.0\n8")  # a later step, and a line that was not finished
    run(CSVLogger(path), tmp_path, 8)
    rows = read(path)
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    assert all(float(row["gradient_norm"]) > 0 and row["more.size"] for row in rows)
    (tmp_path / "again").mkdir()
    run(CSVLogger(tmp_path / "again" / "a.csv"), tmp_path / "again", 8)
    whole = [float(row["fit"]) for row in read(tmp_path / "again" / "a.csv")]
    np.testing.assert_allclose([float(row["fit"]) for row in rows], whole, rtol=1e-6)


def test_a_new_name_is_a_new_column(tmp_path):
    logger = CSVLogger(tmp_path / "a.csv")
    logger.begin(0)
    logger.log(1, {"a": 1.0})
    logger.log(2, {"a": 2.0, "b": 3.0})
    logger.log(3, {"b": 4.0})
    assert [list(row.values()) for row in read(tmp_path / "a.csv")] == [
        ["1", "1.0", ""],
        ["2", "2.0", "3.0"],
        ["3", "", "4.0"],
    ]


def events(folder):
    """What TensorBoard reads: records of a length, a checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            length, check = struct.unpack("<QI", data[:12])
            assert masked_crc32c(data[:8]) == check
            record, data = data[12 : 12 + length], data[12 + length + 4 :]
            yield Event.FromString(record)


def test_tensorboard_reads_what_was_said(tmp_path):
    logger, notes = TensorBoardLogger(tmp_path / "events"), Notes()
    picture = np.zeros((4, 6, 3), np.uint8)
    run(logger, tmp_path, 4, callback=lambda now: logger.picture(now.step, "samples", picture))
    (tmp_path / "again").mkdir()
    run(notes, tmp_path / "again", 4)
    scalars, images = {}, []
    for event in events(tmp_path / "events"):
        for value in event.summary.value:
            if value.HasField("image"):
                images.append((value.image.height, value.image.width))
            else:
                scalars[event.step, value.tag] = value.simple_value
    for line in notes.lines:
        for name in ("objective", "fit", "more.size", "gradient_norm", "learning_rate"):
            np.testing.assert_allclose(scalars[line["step"], name], line[name], rtol=1e-5)
    assert images == [(4, 6)] * 2
    # A run that goes on says from which step on what was there is void.
    run(logger, tmp_path, 6)
    starts = [e.step for e in events(tmp_path / "events") if e.session_log.status == 1]
    assert starts == [5]


def test_wandb_works_offline(tmp_path):
    logger = WandbLogger(tmp_path, project="tests", config={"rate": 0.1})
    picture = np.zeros((4, 6, 3), np.uint8)
    run(logger, tmp_path, 4, callback=lambda now: logger.picture(now.step, "samples", picture))
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    data = file.read_bytes()
    assert all(name in data for name in (b"gradient_norm", b"more.size", b"learning_rate"))
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png"))


@pytest.mark.parametrize("kind", [TensorBoardLogger, WandbLogger])
def test_a_missing_package_says_what_to_install(kind, tmp_path, monkeypatch):
    import sys

    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"pip install 'ppgen\["):
        kind(tmp_path)
