"""The memory that a fit takes whose rows are on disk."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fit_common import (
    BATCH,
    HIDDEN,
    batch_bound,
    child,
    table,
    verdict,
)
from overhead import (
    PIXELS,
    init_vae,
)

from ppgen.inference import fit


class Rows:
    """Rows on disk. Mapped anew for each read, what was read does not stay mapped."""

    def __init__(self, path: str, keep: bool) -> None:
        self._path = path
        self._mapped = self._map() if keep else None

    def _map(self) -> np.ndarray:
        return np.memmap(self._path, np.uint8, "r").reshape(-1, PIXELS)

    def __len__(self) -> int:
        return Path(self._path).stat().st_size // PIXELS

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array((self._map() if self._mapped is None else self._mapped)[index])


def measure(path: str, how: str, steps: str, seed: str) -> dict[str, float]:
    import grain

    p = init_vae(jax.random.key(int(seed)), HIDDEN)
    if how == "in memory":
        data: Any = np.fromfile(path, np.uint8).reshape(-1, PIXELS)
    else:
        rows = Rows(path, keep=how == "streamed, one mapping")
        data = grain.MapDataset.source(rows).seed(0).shuffle().batch(BATCH).to_iter_dataset()
    anonymous = []

    def callback(_: Any) -> None:
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        anonymous.extend(int(x.split()[1]) / 1024 for x in lines if x.startswith("RssAnon"))

    fit(
        lambda p, x: batch_bound(p, x.astype(jnp.float32)),
        p,
        optax.adam(1e-3),
        key=jax.random.key(1),
        steps=int(steps),
        data=data,
        batch_size=BATCH,
        maximize=True,
        callback=callback,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak /= 2**20 if sys.platform == "darwin" else 2**10
    return {"peak": peak, "anonymous": max(anonymous, default=float("nan"))}


def memory(options: Any) -> str:
    lines, peaks = [], {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for rows in (10_000, 1_000_000):
            paths[rows] = f"{folder}/{rows}"
            random = np.random.default_rng(options.seed)
            with open(paths[rows], "wb") as file:
                for _ in range(rows // 10_000):
                    random.integers(0, 2, (10_000, PIXELS), np.uint8).tofile(file)
        for rows, how in (
            (10_000, "streamed"),
            (1_000_000, "streamed"),
            (1_000_000, "streamed, one mapping"),
            (1_000_000, "in memory"),
        ):
            made = child(__file__, paths[rows], how, options.memory_steps, options.seed)
            peaks[rows, how] = made["peak"]
            ratio = made["peak"] / peaks[10_000, "streamed"]
            lines.append(
                [
                    f"{rows:,}",
                    how,
                    f"{made['peak']:.0f}",
                    f"{made['anonymous']:.0f}",
                    f"**{ratio:.2f}**",
                ]
            )
    ratio = peaks[1_000_000, "streamed"] / peaks[10_000, "streamed"]
    return "\n".join(
        [
            f"Peak resident MiB of a process that takes {options.memory_steps} steps, rows of "
            f"{PIXELS} bytes read from a `np.memmap` in random order",
            "through grain. The operating system counts pages of a file as resident while they are "
            "mapped, though it can",
            "take them back; the first two map the file for each read, the third once. Anonymous: "
            "the most at the end of a chunk,",
            "without such pages. The last row is what the mark would catch.",
            "",
            table(["rows", "", "peak", "anonymous", "to 10,000"], lines),
            "",
            f"- At most 1.2 times that of 10,000 rows: {verdict(ratio <= 1.2)} ({ratio:.3f}).",
        ]
    )


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
