"""What `fit` costs: against a loop written by hand and NumPyro's `SVI`, over devices, in memory.

A variational autoencoder, 784-400-10, on random binary rows, batches of 128, Adam.

    python benchmarks/fit.py                      # prints, and writes benchmarks/fit.md
    python benchmarks/fit.py --only speed latency --repetitions 11 --out /dev/null

- speed: in one process. `fit` runs once, and its callback has the others take as many steps, in
  random order, so that whatever else the machine does meets all of them alike.
- latency: from the call to the end of the first step, in fresh processes without a cache.
- scaling: what the compiled step sends between 1, 2, 4 and 8 virtual devices.
- memory: the peak of fits to rows on disk.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from collectives import collectives, dump_flags, dumped
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import optax_to_numpyro
from overhead import (
    LATENT,
    PIXELS,
    decode,
    encode,
    init_vae,
    machine,
    numpyro_params,
    vae_by_hand,
    vae_guide,
    vae_model,
)
from tqdm import trange

import ppgen
from ppgen.inference import elbo, fit

HIDDEN, BATCH = 400, 128
BOUND = elbo(vae_model, vae_guide)


def batch_bound(p: dict, x: jax.Array) -> jax.Array:
    return BOUND(p, x) / x.shape[0]


def image_bound(p: dict, x: jax.Array) -> jax.Array:
    """The same, as a mean of bounds on one image each."""
    return jnp.mean(jax.vmap(lambda row: BOUND(p, row[None]))(x))


def binary(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (rows, PIXELS)).astype(np.float32)


def svi_of(p: dict, rows: int) -> SVI:
    """NumPyro's way to take batches is a plate that subsamples."""

    def model(x: jax.Array) -> None:
        q = numpyro_params(p)
        with numpyro.plate("images", rows, subsample_size=BATCH):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            x = numpyro.subsample(x, event_dim=1)
            numpyro.sample("x", dist.Bernoulli(logits=decode(q, z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        q = numpyro_params(p)
        with numpyro.plate("images", rows, subsample_size=BATCH):
            x = numpyro.subsample(x, event_dim=1)
            numpyro.sample("z", dist.Normal(*encode(q, x)).to_event(1))

    return SVI(model, guide, optax_to_numpyro(optax.adam(1e-3)), Trace_ELBO())


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


# --- speed ----------------------------------------------------------------------------------------


def hand_loop(x: jax.Array, chunk: int, key: jax.Array) -> Callable:
    """`chunk` steps in a scan that overwrites what it is given, shuffling as `fit` does."""
    rows, optimizer = x.shape[0], optax.adam(1e-3)
    per_epoch = rows // BATCH
    order_key, draw_key = jax.random.split(key)

    def step(carry: tuple, _: None) -> tuple:
        i, p, state, epoch, order = carry
        batch = x
        if rows > BATCH:
            now = i // per_epoch
            order = jax.lax.cond(
                now == epoch,
                lambda: order,
                lambda: jax.random.permutation(jax.random.fold_in(order_key, now), order),
            )
            epoch = now
            batch = x[jax.lax.dynamic_slice(order, (i % per_epoch * BATCH,), (BATCH,))]

        def loss(p: dict) -> jax.Array:
            return -vae_by_hand(jax.random.fold_in(draw_key, i), p, batch)

        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(gradient, state)
        return (i + 1, optax.apply_updates(p, updates), state, epoch, order), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=chunk), donate_argnums=0)

    def begin(p: dict) -> tuple:
        p = jax.tree.map(jnp.copy, p)
        return jnp.int32(0), p, optimizer.init(p), jnp.int32(-1), jnp.arange(rows)

    return run, begin


def flops_of_fit(x: jax.Array, p: dict, size: int | None) -> float:
    """Compiled FLOPs of the loop of `fit`, whose body XLA counts once."""
    from ppgen.inference.loop import Loop  # not public: `fit` hides what it compiles

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


# --- latency --------------------------------------------------------------------------------------


def child_latency(who: str, rows: str, seed: str) -> dict[str, float]:
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
                taken[who].append(child("latency", who, rows, options.seed))
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


# --- scaling --------------------------------------------------------------------------------------


def child_scaling(devices: str, form: str, seed: str, folder: str) -> dict[str, Any]:
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
            made = child("scaling", devices, form, options.seed, folder, XLA_FLAGS=flags)
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


# --- memory ---------------------------------------------------------------------------------------


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


def child_memory(path: str, how: str, steps: str, seed: str) -> dict[str, float]:
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
            made = child("memory", paths[rows], how, options.memory_steps, options.seed)
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


# --- the report -----------------------------------------------------------------------------------

SECTIONS = {"speed": speed, "latency": latency, "scaling": scaling, "memory": memory}
CHILDREN = {"latency": child_latency, "scaling": child_scaling, "memory": child_memory}


def child(section: str, *arguments: Any, **environment: str) -> dict[str, Any]:
    """Part of a section, in a process of its own."""
    command = [sys.executable, __file__, "--child", section, *map(str, arguments)]
    cold = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment = os.environ | cold | environment
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def earlier(path: Path) -> dict[str, str]:
    """The sections of a report, so that one can be made anew without the others."""
    parts = path.read_text().split("\n## ")[1:] if path.is_file() else []
    named = dict(part.split("\n\n", 1) for part in parts)
    return {name.lower(): text.strip() for name, text in named.items()}


def report(sections: dict[str, str], seed: int) -> str:
    ordered = [(name, sections[name]) for name in SECTIONS if name in sections]
    return "\n".join(
        [
            "# What fitting costs",
            "",
            f"{machine()}; Python {platform.python_version()}, ppgen {ppgen.__version__}, jax "
            f"{jax.__version__}, numpyro {numpyro.__version__}; seed {seed}.",
            "A VAE, 784-400-10, on random binary rows in batches of 128, with Adam.",
            "",
            *(f"## {name.capitalize()}\n\n{text}\n" for name, text in ordered),
        ]
    )


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        print(json.dumps(CHILDREN[arguments[1]](*arguments[2:])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repetitions", type=int, default=51, help="chunks, for speed")
    parser.add_argument("--chunk", type=int, default=50, help="steps of one, for speed")
    parser.add_argument("--processes", type=int, default=5, help="of each kind, for latency")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[BATCH, 80 * BATCH], help="for speed and latency"
    )
    parser.add_argument("--memory-steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(arguments)
    command = f"python benchmarks/fit.py {' '.join(arguments)}".strip()
    for name in options.only:
        load = os.getloadavg()[0]
        text = SECTIONS[name](options)
        text += (
            f"\n\n{datetime.date.today()}, load {load:.0f} to {os.getloadavg()[0]:.0f}. `{command}`"
        )
        print(f"## {name.capitalize()}\n\n{text}\n", flush=True)
        sections = earlier(options.out) | {name: text}
        options.out.write_text(report(sections, options.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
