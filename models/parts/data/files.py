"""Images from files: NumPy's NPZ and NPY, and the IDX format of MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ppgen.inference import DataError
from ppgen.models.parts.data.images import Images, split

MAX_LEVELS = 256


def load_images(path: str | Path, *, held_out: float = 1 / 6, seed: int = 0) -> Images:
    """Loads grey images from a file and splits them. Nothing in the file is ever executed.

    Args:
        path: `.npz` with an array `images` or with one array only, `.npy`, or IDX, which may be
            gzipped. The array has shape `(n, height, width)` and holds whole numbers from 0 to 255;
            the number of grey levels is the highest of them plus 1.
        held_out: Fraction of the images to hold out.
        seed: Chooses which ones, see `split`.

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
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as images: {error}") from error
    levels = _check(images, path)
    return split(images, levels=levels, held_out=max(1, round(held_out * len(images))), seed=seed)


def _read(path: Path) -> Shaped[np.ndarray, "..."]:
    if path.suffix == ".npz":
        # allow_pickle=False: an object array would run code while it loads.
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays)
            if "images" not in names and len(names) != 1:
                found = ", ".join(names) or "none"
                raise DataError(f"{path}: needs an array 'images', or one array; it has: {found}")
            return arrays["images" if "images" in names else names[0]]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return _read_idx(path)


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


def _check(images: Shaped[np.ndarray, "..."], path: Path) -> int:
    """Returns the number of grey levels of images that can be used."""
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
