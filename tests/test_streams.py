"""Batches of any sizes, cut anew: no row is lost or counts twice, and it goes on where it was."""

from __future__ import annotations

import json

import grain
import jax
import numpy as np
import pytest

from ppgen.inference import DataError
from ppgen.inference.fitting._placement import Placement
from ppgen.inference.fitting._sources import StreamSource, source_of
from ppgen.inference.fitting._streams import Stream


class Source:
    """Random access to the numbers below a size, for grain."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"x": np.float32(i), "y": np.full(2, i)}

    def __repr__(self):
        return f"Source({self.size})"


def dataset(rows=23, size=5):
    return grain.MapDataset.source(Source(rows)).seed(1).shuffle().batch(size).to_iter_dataset()


def loader(rows=23, size=5):
    sampler = grain.samplers.IndexSampler(rows, shuffle=True, seed=3, num_epochs=1)
    batches = [grain.transforms.Batch(size, drop_remainder=False)]
    return grain.DataLoader(data_source=Source(rows), sampler=sampler, operations=batches)


class Batches:
    """An iterable of one's own, in another order on every pass, without positions."""

    def __init__(self, rows=23, size=5):
        self.rows, self.size, self.passes = rows, size, 0

    def __iter__(self):
        order = np.random.default_rng(self.passes).permutation(self.rows)
        self.passes += 1
        for start in range(0, self.rows, self.size):
            rows = order[start : start + self.size]
            yield {"x": rows.astype(np.float32), "y": np.stack([rows, rows], 1)}


KINDS = {"dataset": dataset, "loader": loader, "own": Batches}


def rows_of(data):
    return np.concatenate([batch["x"] for batch in data])


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [None, 4, 7, 23, 30])
def test_rows_are_those_of_the_epochs_in_their_order(make, size):
    stream = Stream(make(), size)
    stream.start(0, None)
    read = [stream.read(3, wanted)[0] for wanted in (3, 3, 2)]
    found = np.concatenate([r["x"][:n].ravel() for r, n in zip(read, (3, 3, 2), strict=True)])
    again = make()
    expected = np.concatenate([rows_of(again) for _ in range(12)])
    assert read[0]["x"].shape == (3, size or 5)
    np.testing.assert_array_equal(found, expected[: 8 * (size or 5)])
    for part in read:
        np.testing.assert_array_equal(part["y"], np.stack([part["x"]] * 2, -1))


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_goes_on_at_any_step(make):
    def read(stream, steps):
        return np.concatenate([stream.read(2, 1)[0]["x"][0] for _ in range(steps)])

    whole = Stream(make(), 4)
    whole.start(0, None)
    expected = read(whole, 14)
    for step in range(12):
        first = Stream(make(), 4)
        first.start(0, None)
        read(first, step + 2)  # it has read ahead, as it does while the device is busy
        position = json.loads(json.dumps(first.position(step)))
        second = Stream(make(), 4)
        second.start(step, position)
        np.testing.assert_array_equal(read(second, 14 - step), expected[4 * step :])


def test_blocks_are_bounded():
    data = [np.zeros((1000, 1000), np.float32)]  # 4 MB a batch
    source = source_of(
        iter(data), None, steps=5, block=100, placement=Placement(None, None), positions=False
    )
    assert isinstance(source, StreamSource)
    source.start(0, None)
    (_, block), until = source.feed(0)
    assert block.shape == (16, 1000, 1000) and until == 1
    assert source.feed(1)[1] == 1  # the iterator has ended


def test_kinds_of_data_are_told_apart():
    def kind(data, size=None):
        made = source_of(
            data, size, steps=1, block=1, placement=Placement(None, None), positions=False
        )
        return type(made).__name__

    assert kind(None) == kind(lambda: 1.0) == "NoData"
    assert kind([np.ones(3), np.ones(3)], 2) == kind(jax.numpy.ones(3)) == "ArraySource"
    assert kind(dataset()) == kind(loader()) == kind(iter([np.ones(2)])) == "StreamSource"
    for nothing in (None, lambda: 1.0):
        with pytest.raises(ValueError, match="needs data"):
            kind(nothing, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "hold no batch"),
        ([np.float32(1)], r"batch 0 of the data must share one leading axis.*\n.*\.batch"),
        ([(np.ones(3), np.ones(2))], "share one leading axis"),
        ([np.ones((3, 2)), np.ones((3, 4))], r"batch 1 .* float32\[4\] .* first is float32\[2\]"),
        ([np.ones(3), {"x": np.ones(3)}], "batch 1"),
    ],
)
def test_batches_that_do_not_fit(data, message):
    stream = Stream(iter(data), None)
    with pytest.raises(DataError, match=message):
        stream.start(0, None)
        stream.read(3, 3)


def test_what_goes_on_must_be_what_it_was():
    stream = Stream(dataset(), 4)
    stream.start(0, None)
    position = stream.position(0)
    with pytest.raises(DataError, match="set_state"):
        Stream([np.ones(3)], 4).start(0, position)
    with pytest.raises(DataError, match="batches were of 4 rows, and are of 3 now"):
        Stream(dataset(), 3).start(0, position)


def test_double_precision_is_left_at_the_door():
    stream = Stream([np.ones(3), np.ones(3)], None)
    stream.start(0, None)
    assert stream.read(1, 1)[0].dtype == np.float32
