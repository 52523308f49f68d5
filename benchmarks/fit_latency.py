"""The time to the end of the first step, in fresh processes."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from fit_common import (
    BATCH,
    HIDDEN,
    batch_bound,
    binary,
    child,
    hand_loop,
    svi_of,
    table,
    verdict,
)
from overhead import (
    init_vae,
)

from ppgen.inference import fit


def measure(who: str, rows: str, seed: str) -> dict[str, float]:
    x = jax.block_until_ready(jnp.asarray(binary(int(rows), int(seed))))
    p = jax.block_until_ready(init_vae(jax.random.key(int(seed)), HIDDEN))
    key = jax.random.key(1)
    start, start_cpu = time.perf_counter(), time.process_time()
    if who == "fit":
        size = BATCH if int(rows) > BATCH else None
        adam = optax.adam(1e-3)
        fit(batch_bound, p, adam, key=key, steps=1, data=x, batch_size=size, maximize=True)
    elif who == "hand":
        run, begin = hand_loop(x, 1, key)
        jax.block_until_ready(run(begin(p)))
    else:
        svi = svi_of(p, int(rows))
        jax.block_until_ready(jax.jit(svi.update)(svi.init(key, x), x))
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}


def latency(options: Any) -> str:
    lines, marks = [], []
    for rows in options.rows:
        taken: dict[str, list[dict]] = {"fit": [], "hand": [], "SVI": []}
        for _ in range(options.processes):
            for who in taken:
                taken[who].append(child(__file__, who, rows, options.seed))
        what = "one batch" if rows == BATCH else f"batches of {rows:,} rows"
        middle = {
            who: {c: statistics.median(t[c] for t in times) for c in ("wall", "cpu")}
            for who, times in taken.items()
        }
        ratios = {c: middle["fit"][c] / middle["SVI"][c] for c in ("wall", "cpu")}
        for c, name in (("wall", "seconds"), ("cpu", "CPU seconds")):
            lines.append(
                [
                    what,
                    name,
                    *(
                        f"{middle[w][c]:.2f} (from {min(t[c] for t in taken[w]):.2f})"
                        for w in taken
                    ),
                    f"**{ratios[c]:.2f}**",
                    f"{middle['hand'][c] / middle['SVI'][c]:.2f}",
                ]
            )
        marks.append(
            f"- {what}: at most half of NumPyro's: {verdict(ratios['wall'] <= 0.5)} "
            f"({ratios['wall']:.2f}; CPU {ratios['cpu']:.2f})."
        )
    return "\n".join(
        [
            f"Medians (and least) of {options.processes} fresh processes each, in turn, without a "
            "compilation cache: `fit(steps=1)`, from call to",
            "return, against the loop by hand and `SVI.init` with the first call of "
            "`jax.jit(svi.update)`. Imports, data "
            "and weights are there before.",
            "",
            table(["data", "", "fit", "hand", "SVI", "fit / SVI", "hand / SVI"], lines),
            "",
            *marks,
        ]
    )


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
