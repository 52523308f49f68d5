"""Steps a second: `fit`, a loop by hand, and both modes of NumPyro's `SVI.run`, in turn."""

from __future__ import annotations

import gc
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fit_common import (
    BATCH,
    HIDDEN,
    batch_bound,
    binary,
    hand_loop,
    svi_of,
    table,
    verdict,
)
from overhead import (
    init_vae,
)
from tqdm import trange

from ppgen.inference import fit


def flops_of_fit(x: jax.Array, p: dict, size: int | None) -> float:
    """Compiled FLOPs of the loop of `fit`, whose body XLA counts once."""
    from ppgen.inference.fitting._loop import Loop  # not public: `fit` hides what it compiles

    class Seen(Exception):
        pass

    def looked_at(self: Loop, stop: int) -> None:
        source = self.optimization.source
        given = type(self.given)(self.given.key, self.given.fixed, source.feed(self.step)[0])
        compiled = self._run.lower(self.carry, given, np.int32(1)).compile()
        raise Seen(compiled.cost_analysis()["flops"])

    advance, Loop.advance = Loop.advance, looked_at
    adam, key = optax.adam(1e-3), jax.random.key(0)
    try:
        fit(batch_bound, p, adam, key=key, steps=1, data=x, batch_size=size, maximize=True)
    except Seen as seen:
        return seen.args[0]
    finally:
        Loop.advance = advance
    raise AssertionError("fit no longer takes steps through Loop.advance")


def speed_of(rows: int, options: Any) -> tuple[list[list[str]], list[str]]:
    chunk, seed = options.chunk, options.seed
    x, p = jnp.asarray(binary(rows, seed)), init_vae(jax.random.key(seed), HIDDEN)
    size = BATCH if rows > BATCH else None
    run, begin = hand_loop(x, chunk, jax.random.key(seed + 1))
    svi = svi_of(p, rows)
    # `SVI.run` compiles anew at each call. These are its two bodies, compiled once.
    scan = jax.jit(
        lambda s: svi.run(jax.random.key(0), chunk, x, progress_bar=False, init_state=s)[1:]
    )
    update = jax.jit(lambda s: svi.update(s, x))
    state = svi.init(jax.random.key(seed), x)
    run, scan = run.lower(begin(p)).compile(), scan.lower(state).compile()
    flops = {"hand": run.cost_analysis()["flops"], "SVI, scan": scan.cost_analysis()["flops"]}
    flops["fit"] = flops_of_fit(x, p, size)
    carries: dict[str, Any] = {"hand": begin(p), "SVI, scan": state, "SVI, Python loop": state}

    def by_hand() -> Any:
        carries["hand"], values = run(carries["hand"])
        return np.asarray(values)

    def by_scan() -> Any:
        carries["SVI, scan"], values = scan(carries["SVI, scan"])
        return -np.asarray(values)

    def by_python() -> Any:
        values = []
        with trange(chunk, file=devnull) as bar:
            for _ in bar:
                carries["SVI, Python loop"], value = update(carries["SVI, Python loop"])
                values.append(value)
        return -np.asarray(jnp.stack(values))

    others = {"hand": by_hand, "SVI, scan": by_scan, "SVI, Python loop": by_python}
    wall: dict[str, list[float]] = {who: [] for who in ("fit", *others)}
    cpu: dict[str, list[float]] = {who: [] for who in wall}
    last: dict[str, float] = {}
    order, began = np.random.default_rng(seed), [0.0, 0.0]

    def timed(who: str, start: list[float]) -> None:
        wall[who].append((time.perf_counter() - start[0]) / chunk)
        cpu[who].append((time.process_time() - start[1]) / chunk)

    def callback(progress: Any) -> None:
        timed("fit", began)
        last["fit"] = progress.values.mean()
        for who in order.permutation(list(others)):
            start = [time.perf_counter(), time.process_time()]
            last[who] = others[who]().mean() / (rows if "SVI" in who else -1)
            timed(who, start)
        began[:] = time.perf_counter(), time.process_time()

    gc.collect()
    with open(os.devnull, "w") as devnull:
        fit(
            batch_bound,
            p,
            optax.adam(1e-3),
            key=jax.random.key(seed + 1),
            steps=chunk * (options.repetitions + 2),
            data=x,
            batch_size=size,
            maximize=True,
            chunk=chunk,
            callback=callback,
        )
    if np.ptp(list(last.values())) > 0.03 * abs(last["fit"]):
        raise AssertionError(f"they do not optimise the same: {last}")
    for times in (*wall.values(), *cpu.values()):
        del times[:2]  # compilation
    what = "one batch" if rows == BATCH else f"batches of {rows:,} rows"

    def ratio(times: dict[str, list[float]], who: str) -> tuple[float, float, float]:
        """Steps of `fit` in the time of one of theirs."""
        low, middle, high = statistics.quantiles(
            [a / b for a, b in zip(times[who], times["fit"], strict=True)], n=4
        )
        return low, middle, high

    lines = []
    for who in wall:
        low, middle, high = ratio(wall, who)
        counted = flops.get(who)
        lines.append(
            [
                what,
                who,
                f"{1 / statistics.median(wall[who]):.0f}",
                f"**{middle:.3f}** ({low:.2f}–{high:.2f})",
                f"{1e3 * statistics.median(cpu[who]):.2f}",
                f"{ratio(cpu, who)[1]:.3f}",
                "" if counted is None else f"{counted:,.0f}",
                "" if counted is None else f"{counted / flops['fit']:.4f}",
            ]
        )
    best = min(ratio(wall, who)[1] for who in others if who != "hand")
    hand = ratio(wall, "hand")[1]
    marks = [
        f"- {what}: at least .97 of the loop by hand: {verdict(hand >= 0.97)} ({hand:.3f}); at "
        f"least NumPyro's faster mode: {verdict(best >= 1)} ({best:.3f})."
    ]
    return lines, marks


def speed(options: Any) -> str:
    lines, marks = [], []
    for rows in options.rows:
        more = speed_of(rows, options)
        lines, marks = lines + more[0], marks + more[1]
    columns = ["data", "who", "steps/s", "fit's speed to its", "CPU ms", "CPU", "FLOPs", "to fit's"]
    return "\n".join(
        [
            f"Medians of {options.repetitions} chunks of {options.chunk} steps, in turn in one "
            "process; ratios are medians of those within a turn,",
            "in brackets their quartiles; above 1, `fit` is faster or takes less. FLOPs are of the "
            "compiled loop, its body once,",
            "by XLA's count; the last column is theirs over `fit`'s. Batches: `fit` and the loop "
            "by hand shuffle all rows each epoch,",
            "NumPyro's plate subsamples anew each step. `SVI`'s loops are those of `SVI.run` "
            "without and with a progress bar, but",
            "compiled once: it compiles them anew at each call.",
            "",
            table(columns, lines),
            "",
            *marks,
        ]
    )
