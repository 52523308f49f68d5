"""The digits against their known statistics, and files good and bad."""

from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest

from ppgen.models.parts.data import DataError, load_digits, load_images, split
from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood


def test_digits_have_the_known_statistics():
    digits = load_digits()
    everything = np.concatenate([digits.train, digits.held_out])
    assert (digits.shape, digits.levels, digits.pixels) == ((8, 8), 17, 64)
    assert digits.train.shape == (1500, 64) and digits.held_out.shape == (297, 64)
    assert everything.dtype == np.float32
    assert set(np.unique(everything)) == set(range(17))
    # The sums below are those of the 1,797 images as scikit-learn ships them.
    assert everything.sum(dtype=np.float64) == 561718.0
    assert (everything.max(0) == 0).sum() == 3
    np.testing.assert_allclose(everything.mean(), 4.884165, atol=1e-5)


def test_the_split_is_fixed_disjoint_and_chosen_by_the_seed():
    images = np.arange(20.0).reshape(20, 1, 1)
    first = split(images, levels=20, held_out=5, seed=0)
    again = split(images, levels=20, held_out=5, seed=0)
    other = split(images, levels=20, held_out=5, seed=1)
    assert np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.held_out, other.held_out)
    assert sorted(np.concatenate([first.train, first.held_out])[:, 0]) == list(range(20))
    assert first.held_out[:, 0].tolist() == [18, 1, 19, 8, 10]


def test_the_split_refuses_an_empty_part():
    with pytest.raises(DataError, match="cannot hold out 5 of 5"):
        split(np.zeros((5, 2, 2)), levels=2, held_out=5)


IMAGES = np.random.RandomState(0).randint(0, 9, (12, 4, 3)).astype(np.uint8)


def idx(images):
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def write(path, images):
    if path.name.endswith(".npz"):
        np.savez(path, images=images, labels=np.zeros(len(images)))
    elif path.name.endswith(".npy"):
        np.save(path, images)
    else:
        path.write_bytes(gzip.compress(idx(images)) if path.name.endswith(".gz") else idx(images))


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_files_of_every_format_give_the_same_images(tmp_path, name):
    write(tmp_path / name, IMAGES)
    data = load_images(tmp_path / name, held_out=0.25)
    assert (data.shape, data.levels) == ((4, 3), 9)
    assert (len(data.train), len(data.held_out)) == (9, 3)
    both = np.concatenate([data.train, data.held_out])
    assert sorted(map(tuple, both)) == sorted(map(tuple, IMAGES.reshape(12, 12).astype(float)))


def with_nan():
    images = IMAGES.astype(float)
    images[3, 2, 1] = np.nan
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.reshape(12, 12), r"shape \(n, height, width\), not \(12, 12\)"),
        (IMAGES[:1], "two images or more"),
        (IMAGES[:, :0], "two images or more"),
        (with_nan(), "1 pixels are NaN or infinite, the first in image 3 at row 2, column 1"),
        (IMAGES / 9.0, "whole numbers from 0 to 255; these are float64"),
        (IMAGES.astype(int) - 1, "whole numbers from 0 to 255; these are int64 from -1"),
        (IMAGES.astype(int) + 250, "whole numbers from 0 to 255"),
        (np.ones_like(IMAGES), "every pixel of every image is 1"),
        (IMAGES.astype(str), "must be numbers"),
        (IMAGES.astype(complex), "must be numbers"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, images, message):
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "a.npy")


def test_files_that_cannot_be_read(tmp_path):
    good = idx(IMAGES)
    for name, content, message in [
        ("short", good[:-1], r"\(12, 4, 3\), which takes 144 bytes, but 143 follow"),
        ("header", good[:9], "cut short in its header"),
        ("text", b"not an image", "neither .npz nor .npy, nor an IDX"),
        ("empty", b"", "neither .npz nor .npy, nor an IDX"),
        ("cut.gz", gzip.compress(good)[:-9], "cannot be read as images"),
        ("a.npz", b"not a zip", "cannot be read as images"),
        ("a.npy", b"not an array", "cannot be read as images"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_images(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        load_images(tmp_path / "missing.npz")


def test_an_npz_must_say_which_array(tmp_path):
    np.savez(tmp_path / "a.npz", first=IMAGES, second=IMAGES)
    with pytest.raises(DataError, match="it has: first, second"):
        load_images(tmp_path / "a.npz")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("loading ran code",))


def test_loading_runs_no_code(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb()], object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(DataError, match="cannot be read as images"):
            load_images(tmp_path / name)


def test_the_baseline_is_a_normalised_likelihood():
    train = np.array([[0, 1], [0, 2], [1, 2]])
    every = np.array([[a, b] for a in range(3) for b in range(3)])
    logs = pixel_marginal_log_likelihood(train, every, values=3)
    np.testing.assert_allclose(np.exp(logs).sum(), 1.0)
    counted = (2 + 1 / 3) / 4 * (2 + 1 / 3) / 4
    np.testing.assert_allclose(np.exp(logs[2]), counted)
