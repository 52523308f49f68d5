"""Files that are not what their names say: one line each, and nothing is run or allocated."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from ppgen.models.parts.data import load_images
from ppgen.models.parts.data.images import DataError

IMAGES = (np.arange(20 * 3 * 2).reshape(20, 3, 2) % 7).astype(np.uint8)


def npy(array=IMAGES, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **options)
    return file.getvalue()


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def idx(shape=IMAGES.shape) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + IMAGES.tobytes()


def changed(content: bytes, flags: int | None = None, method: int | None = None) -> bytes:
    """A zip with other flags or another method, in the local and the central header."""
    data = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + offset
        if flags is not None:
            data[at : at + 2] = struct.pack("<H", flags)
        if method is not None:
            data[at + 2 : at + 4] = struct.pack("<H", method)
    return bytes(data)


def claiming(shape: tuple[int, ...]) -> bytes:
    """A header of an array that is not there."""
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + b"\0" * 64


OBJECTS = npy(np.array([[[{}]]], object), allow_pickle=True)
FILES = {
    "an npy named npz": ("a.npz", npy()),
    "an npz named npy": ("a.npy", npz(images=npy())),
    "an npz named as IDX": ("a-ubyte", npz(images=npy())),
    "an npy named as IDX": ("a-ubyte", npy()),
    "IDX named npy": ("a.npy", idx()),
    "IDX named npz": ("a.npz", idx()),
    "empty npy": ("a.npy", b""),
    "empty npz": ("a.npz", b""),
    "a zip of nothing": ("a.npz", npz()),
    "a member that is no array": ("a.npz", npz(images=b"hello")),
    "an encrypted zip": ("a.npz", changed(npz(images=npy()), flags=1)),
    "an unknown compression": ("a.npz", changed(npz(images=npy()), method=97)),
    "LZMA that is none": ("a.npz", changed(npz(images=npy()), method=14)),
    "bzip2 that is none": ("a.npz", changed(npz(images=npy()), method=12)),
    "deflate that is none": ("a.npz", changed(npz(images=npy()), method=8)),
    "a header that claims 1e14 bytes": ("a.npy", claiming((10**7, 10**3, 10**3))),
    "the same in a zip": ("a.npz", npz(images=claiming((10**7, 10**3, 10**3)))),
    "a negative shape": ("a.npy", claiming((-2, 3, 4))),
    "IDX that claims 1e14 bytes": ("a", idx((10**6, 10**4, 10**4))),
    "objects": ("a.npy", OBJECTS),
    "objects in a zip": ("a.npz", npz(images=OBJECTS)),
    "a header that is no literal": ("a.npy", npy().replace(b"'descr'", b"'desc(")),
    "a header without a key": ("a.npy", npy().replace(b"'descr'", b"'descx'")),
    "a dtype that is none": ("a.npy", npy().replace(b"|u1", b"|q9")),
    "an unknown version": ("a.npy", npy().replace(b"NUMPY\x01", b"NUMPY\x09")),
    "gzip of something else": ("a.gz", gzip.compress(b"hello")),
    "damaged gzip": ("a.gz", gzip.compress(idx())[:20] + b"\xff" * 20),
    "one image held out": ("a.npy", npy(IMAGES[:2])),
    "one image": ("a.npy", npy(IMAGES[:1])),
}
WHOLE = {"a.npy": npy(), "a.npz": npz(images=npy()), "a": idx(), "a.gz": gzip.compress(idx())}


def refused(folder, name, content) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as found:
        load_images(folder / name)
    message = str(found.value).split("\n  ")[0]  # without the advice
    assert str(folder / name) in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line(tmp_path, kind):
    refused(tmp_path, *FILES[kind])


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_read_whole_or_refused(tmp_path, name):
    (tmp_path / name).write_bytes(WHOLE[name])
    assert load_images(tmp_path / name).shape == (3, 2)
    for length in np.linspace(0, len(WHOLE[name]) - 1, 12).astype(int):
        refused(tmp_path, name, WHOLE[name][:length])
