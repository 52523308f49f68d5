"""Images from files: NumPy's NPZ and NPY, and the IDX format of MNIST."""

from __future__ import annotations

import gzip
import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ppgen.inference import DataError
from ppgen.models.parts.data.images import Images, split

MAX_LEVELS = 256
MOST_LABELS = 10_000
_FEWEST = 2
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,  # of a header that is no Python literal
    TypeError,
    NotImplementedError,  # of an unknown compression
    RuntimeError,  # of encryption
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""Exceptions that readers raise for files that are damaged or of another kind."""


def load_images(
    path: str | Path, *, held_out: float = 1 / 6, seed: int = 0, labels: bool = False
) -> Images:
    """Loads grey images from a file and splits them. Nothing in the file is ever executed.

    Args:
        path: `.npz` with an array `images` or with one array only, `.npy`, or IDX, which may be
            gzipped. The array has shape `(n, height, width)` and holds whole numbers from 0 to 255;
            the number of grey levels is the highest of them plus 1.
        held_out: Fraction of the images to hold out.
        seed: Chooses which ones, see `split`.
        labels: Whether to load their labels: an array `labels` in an `.npz`, of shape `(n,)`, of
            whole numbers from 0 on.

    Returns:
        The data set.

    Raises:
        DataError: If the file is missing, cannot be read, or does not hold such an array.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        images = _read(path)
        told = _read_npz(path, "labels") if labels else None
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as images: {first_line(error)}") from error
    levels = _check(images, path)
    count = max(1, round(held_out * len(images)))
    if min(count, len(images) - count) < _FEWEST:
        raise DataError(
            f"{path}: of its {len(images)} images, {count} would be held out and "
            f"{len(images) - count} fitted to; a standard error needs {_FEWEST} or more of each"
        )
    told = None if told is None else _check_labels(told, len(images), path)
    return split(images, levels=levels, held_out=count, seed=seed, labels=told)


def _read(path: Path) -> Shaped[np.ndarray, "..."]:
    """Reads a file of the type of its suffix, if its first bytes confirm the type."""
    with path.open("rb") as file:
        start = file.read(6)
        found = ".npz" if start[:2] == b"PK" else ".npy" if start == b"\x93NUMPY" else ""
        named = path.suffix if path.suffix in (".npz", ".npy") else ""
        if found != named:
            what = f"it is of the kind {found}" if found else f"it is no {named}"
            raise DataError(f"{path}: cannot be read as images: by its first bytes {what}")
        if named == ".npy":
            return _read_npy(file, path, path.stat().st_size)
    return _read_npz(path) if named == ".npz" else _read_idx(path)


def _read_npz(path: Path, wanted: str = "images") -> Shaped[np.ndarray, "..."]:
    if path.suffix != ".npz":
        raise DataError(f"{path}: only an .npz has an array {wanted!r} beside its images")
    with zipfile.ZipFile(path) as archive:
        members = {Path(info.filename).stem: info for info in archive.infolist()}
        if wanted not in members and (wanted != "images" or len(members) != 1):
            found, also = ", ".join(members) or "none", ", or one array" * (wanted == "images")
            raise DataError(f"{path}: needs an array {wanted!r}{also}; it has: {found}")
        name = wanted if wanted in members else next(iter(members))
        info = members[name]
        if info.flag_bits & 1:
            raise DataError(f"{path}: the array {name!r} is encrypted")
        with archive.open(info) as file:
            if file.read(6) != b"\x93NUMPY":
                raise DataError(f"{path}: {info.filename!r} in it is no NumPy array")
            return _read_npy(file, path, info.file_size)


def _read_npy(file: Any, path: Path, size: int) -> Shaped[np.ndarray, "..."]:
    """Reads an array, after a check that the file is as long as its header claims."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise DataError(f"{path}: NumPy's format {version[0]}.{version[1]} is not one for images")
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        # An object array would run code while it loads.
        raise DataError(f"{path}: cannot be read as images: it holds Python objects")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != there:
        raise DataError(
            f"{path}: the header says {shape} of {dtype}, which takes {claimed} bytes, but {there} "
            "follow"
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_idx(path: Path) -> Shaped[np.ndarray, "..."]:
    """Reads unsigned bytes in IDX: 0, 0, 8, rank, sizes as big-endian 32-bit integers, data."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: neither .npz nor .npy, nor an IDX file of unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{path}: IDX file cut short in its header")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path}: the IDX header says {shape}, which takes {math.prod(shape)} bytes, but "
            f"{len(data) - start} follow"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _check_labels(labels: Shaped[np.ndarray, "..."], rows: int, path: Path) -> Any:
    """Returns labels that can be used, as whole numbers."""
    if labels.shape != (rows,):
        raise DataError(f"{path}: labels must have shape ({rows},), not {labels.shape}")
    good = labels.dtype.kind in "uifb" and np.isfinite(labels).all()
    if not good or (labels != np.round(labels)).any() or labels.min() < 0:
        raise DataError(f"{path}: labels must be whole numbers from 0 on")
    if labels.max() >= MOST_LABELS:
        raise DataError(f"{path}: labels must be below {MOST_LABELS}, not {labels.max():g}")
    return labels.astype(np.int32)


def _check(images: Shaped[np.ndarray, "..."], path: Path) -> int:
    """Checks that images can be used, and returns their number of grey levels."""
    if images.ndim != 3:
        raise DataError(f"{path}: images must have shape (n, height, width), not {images.shape}")
    if 0 in images.shape or len(images) < 2:
        raise DataError(f"{path}: needs two images or more with pixels, not shape {images.shape}")
    if images.dtype.kind not in "uifb":
        raise DataError(f"{path}: grey levels must be numbers, not {images.dtype}")
    bad = ~np.isfinite(images)
    if bad.any():
        first = np.argwhere(bad)[0]
        raise DataError(
            f"{path}: {bad.sum()} pixels are NaN or infinite, the first in image {first[0]} "
            f"at row {first[1]}, column {first[2]}"
        )
    low, high = images.min(), images.max()
    if low < 0 or high >= MAX_LEVELS or (images != np.round(images)).any():
        raise DataError(
            f"{path}: grey levels must be whole numbers from 0 to {MAX_LEVELS - 1}; these are "
            f"{images.dtype} from {low:g} to {high:g}"
        )
    if low == high:
        raise DataError(f"{path}: every pixel of every image is {low:g}")
    return int(high) + 1
