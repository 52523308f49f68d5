"""What the step that `fit` compiles sends between devices."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from collectives import collectives, dump_flags, dumped
from fit_common import (
    BATCH,
    HIDDEN,
    batch_bound,
    binary,
    child,
    image_bound,
    table,
    verdict,
)
from overhead import (
    init_vae,
)

from ppgen.inference import fit


def measure(devices: str, form: str, seed: str, folder: str) -> dict[str, Any]:
    n = int(devices)
    p = init_vae(jax.random.key(int(seed)), HIDDEN)
    times: list[float] = []
    chunk, now = 3, [0.0]

    def callback(_: Any) -> None:
        times.append((time.perf_counter() - now[0]) / chunk)
        now[0] = time.perf_counter()

    fit(
        {"batch": batch_bound, "image": image_bound}[form],
        p,
        optax.adam(1e-3),
        key=jax.random.key(1),
        steps=5 * chunk,
        data=binary(20 * BATCH, int(seed)),
        batch_size=BATCH * n,
        maximize=True,
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:n]), ("data",)),
        chunk=chunk,
        callback=callback,
    )
    (hlo,) = dumped(folder)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(p)),
        "collectives": [c._asdict() for c in collectives(hlo)],
        "seconds": statistics.median(times[1:]),
    }


def scaling(options: Any) -> str:
    lines, as_marked = [], True
    for form, devices in [*(("image", n) for n in (1, 2, 4, 8)), ("batch", 8)]:
        with tempfile.TemporaryDirectory() as folder:
            flags = f"--xla_force_host_platform_device_count=8 {dump_flags(folder)}"
            made = child(__file__, devices, form, options.seed, folder, XLA_FLAGS=flags)
        gradient = 4 * made["parameters"]
        found = made["collectives"]
        sent = sum(c["bytes"] for c in found)
        kinds = ", ".join(f"{c['kind']} of {len(c['sizes'])} arrays" for c in found)
        if form == "image":
            as_marked &= (
                sent in (0, gradient + 4)
                and [c["kind"] for c in found] == ["all-reduce"] * (sent > 0)
                and (devices == 1 or sent > 0)
            )
        lines.append(
            [
                str(devices),
                "a mean over images" if form == "image" else "one of a plate",
                kinds or "none",
                f"{sent:,}",
                f"{gradient:,}",
                f"{sent - gradient:,}" if sent else "",
                f"{1e3 * made['seconds']:.1f} ms",
            ]
        )
    columns = ["devices", "bound", "collectives", "bytes", "gradient", "other bytes", "step"]
    return "\n".join(
        [
            "From the HLO of the loop that `fit` compiled, 128 rows a device, arrays as data, over "
            "virtual devices of one CPU.",
            "Steps' times mean little: all devices share its cores, so that at best they grow with "
            "the devices.",
            "",
            table(columns, lines),
            "",
            "- One all-reduce of the gradient and the objective (4 bytes), and nothing else: "
            f"{verdict(as_marked)}.",
            "- Of a bound over a plate, XLA reduces each of the objective's three terms rather "
            "than their sum, in the same all-reduce.",
        ]
    )


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
