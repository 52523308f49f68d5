"""Kills, fills and damages fits, and compares what becomes of them with fits that were left alone.

    python benchmarks/faults.py --out benchmarks/faults.md  # takes ten minutes or so
    python benchmarks/faults.py --kills 3 --kinds grain --damages 10

Each fit runs in a process of its own, forked before JAX starts its threads. "Same" is bit for bit:
parameters, moving average, history, and every line of the metrics but for its seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import orbax.checkpoint  # noqa: F401  # imported before forking

import ppgen
from ppgen.inference import CheckpointError, Checkpoints, EarlyStopping, fit

STEPS = 120
ROWS, COLUMNS, BATCH = 203, 5, 16  # 203 rows: every epoch ends in a ragged batch


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def drawn() -> Any:
    return ppgen.draw(dist.Normal(0.0, 1.0).expand([BATCH, COLUMNS]), name="data")


DATA: dict[str, Callable[[], Any]] = {
    "arrays": rows,
    "grain": lambda: (
        grain.MapDataset.source(rows()).seed(7).shuffle().batch(BATCH).to_iter_dataset()
    ),
    "program": lambda: drawn,
}


def objective(params: Any, batch: Any) -> Any:
    keep = ppgen.draw(dist.Bernoulli(logits=params["logit"]), name="keep")
    noise = ppgen.draw(dist.Normal(params["mean"], jnp.exp(params["scale"])), name="noise")
    return jnp.mean((batch - keep * noise) ** 2)


def run(folder: Path, kind: str, *, size: int = 1, disk: Path | None = None) -> None:
    """The fit, with ballast of some size in the parameters; its result is saved when it is done."""
    params = {"mean": jnp.zeros(COLUMNS), "scale": jnp.zeros(COLUMNS), "logit": jnp.zeros(())}
    fitted = fit(
        objective,
        params | {"ballast": jnp.asarray(np.random.default_rng(1).normal(size=size), jnp.float32)},
        optax.adam(optax.cosine_decay_schedule(0.05, STEPS)),
        key=jax.random.key(5),
        steps=STEPS,
        data=DATA[kind](),
        batch_size=None if kind == "program" else BATCH,
        ema=0.9,
        chunk=10,
        checkpoints=Checkpoints(disk or folder / "checkpoints", every=7),
        early_stopping=EarlyStopping(rows()[:20], every=9, patience=100),
        metrics=folder / "metrics.jsonl",
    )
    leaves = [np.asarray(x) for x in jax.tree.leaves((fitted.params, fitted.ema, fitted.history))]
    np.savez(folder / "result", *leaves)


def strictly(*args: Any, **kwargs: Any) -> None:
    """The fit, in which a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(*args, **kwargs)


def result(folder: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """What is to be the same."""
    with np.load(folder / "result.npz") as file:
        arrays = [file[name].tobytes() for name in file]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return arrays, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def forked(task: Callable[[], None], log: Path) -> int:
    """Runs a task in another process; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
            try:
                task()
                code = 0
            except BaseException as error:
                print(type(error).__name__, error, file=sys.stderr, flush=True)
    os._exit(code)


def ended(child: int) -> int:
    """The exit code of a process, when it has one; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def complete(task: Callable[[], None], folder: Path) -> float:
    """Runs a task to its end; the seconds that it took."""
    began = time.perf_counter()
    if ended(forked(task, folder / "log")):
        raise SystemExit(f"a fit failed:\n{(folder / 'log').read_text()}")
    return time.perf_counter() - began


def checkpoints(folder: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    found = (folder / "checkpoints").glob("*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def is_half_written(folder: Path) -> bool:
    return any("tmp" in path.name for path in (folder / "checkpoints").glob("*"))


def kill(base: Path, kind: str, reference: Any, kills: int, seconds: float) -> dict[str, int]:
    """Fits that are killed at random moments, until there were so many kills."""
    count = {"kills": 0, "in a checkpoint": 0, "before the first": 0, "fits": 0, "same": 0}
    draw = random.Random(kind)
    while count["kills"] < kills:
        folder = base / f"{kind}-{count['fits']}"
        folder.mkdir()
        for attempt in range(9):
            child = forked(lambda folder=folder: strictly(folder, kind), folder / "log")
            if attempt < 8 and count["kills"] < kills:
                # Not in the first part, which goes by with compiling: that would only cost time.
                time.sleep(draw.uniform(0.4, 1.0) * seconds)
                os.kill(child, signal.SIGKILL)
            code = ended(child)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise SystemExit(f"a fit failed:\n{(folder / 'log').read_text()}")
            count["kills"] += 1
            count["in a checkpoint"] += is_half_written(folder)
            count["before the first"] += not checkpoints(folder)
        count["fits"] += 1
        count["same"] += result(folder) == reference
    return count


def damage(base: Path, whole: Path, kind: str, reference: Any, every: int) -> dict[str, int]:
    """Fits that go on from a folder whose last checkpoint was damaged, one file at a time."""
    last = max(checkpoints(whole))
    files = [
        p.relative_to(whole) for p in (whole / f"checkpoints/{last}").rglob("*") if p.is_file()
    ]
    ways: dict[str, Callable[[Path], Any]] = {
        "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
        "one bit flipped": _flip,
        "removed": Path.unlink,
    }
    cases = [(way, file) for way in ways for file in sorted(files)][::every]
    count = {"damages": 0, "noticed": 0, "harmless": 0, "same": 0}
    for i, (way, file) in enumerate(cases):
        folder = base / f"damage-{i}"
        shutil.copytree(whole, folder)
        (folder / "result.npz").unlink()
        ways[way](folder / file)

        def task(folder: Path = folder) -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run(folder, kind)
            (folder / "noticed").write_text("".join(str(w.message) for w in caught))

        complete(task, folder)
        noticed = (folder / "noticed").read_text()
        count["damages"] += 1
        count["noticed"] += f"of step {last} in" in noticed and "is damaged" in noticed
        count["harmless"] += not noticed
        count["same"] += result(folder) == reference
        shutil.rmtree(folder)
    return count


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 16
    path.write_bytes(content)


@contextlib.contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of its own in memory, and a function that mounts it anew with other options."""
    where.mkdir()
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", where], check=True)
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", where], check=True
        )
    finally:
        subprocess.run(["umount", where], check=True)


def refused(task: Callable[[], None], folder: Path) -> str:
    """Why a task fails with a `CheckpointError`; that it does not is an error here."""

    def expects() -> None:
        try:
            task()
        except CheckpointError as error:
            (folder / "refused").write_text(str(error).splitlines()[0])

    (folder / "refused").unlink(missing_ok=True)
    complete(expects, folder)
    return (folder / "refused").read_text()


def full_disk(base: Path, size: int) -> dict[str, str]:
    """A disk with room for a checkpoint or two, then one with more room."""
    whole, folder = base / "roomy", base / "full"
    for path in (whole, folder, base / "other"):
        path.mkdir()
    complete(lambda: strictly(whole, "arrays", size=size), whole)
    with small_disk(base / "disk", 2 * _megabytes(whole)) as remount:
        disk = base / "disk" / "checkpoints"
        why = refused(lambda: strictly(folder, "arrays", size=size, disk=disk), folder)
        left = sorted(int(path.name) for path in disk.iterdir() if path.name.isdigit())
        remount(f"size={20 * _megabytes(whole)}m")
        complete(lambda: strictly(folder, "arrays", size=size, disk=disk), folder)
        remount("ro")
        other = base / "disk" / "others"
        read_only = refused(lambda: strictly(base / "other", "arrays", disk=other), base)
    return {
        "said": _shown(why, base),
        "complete checkpoints left": str(left),
        "after more room": "same" if result(folder)[0] == result(whole)[0] else "different",
        "read-only": _shown(read_only, base),
    }


def _megabytes(folder: Path) -> int:
    newest = folder / "checkpoints" / str(max(checkpoints(folder)))
    return 1 + sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()) // 2**20


def limited_files(base: Path, size: int) -> str:
    """A limit on the length of a file, as a quota makes one."""
    folder = base / "limited"
    folder.mkdir()

    def task() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        strictly(folder, "arrays", size=size)

    return _shown(refused(task, folder), base)


def unwritable(base: Path) -> str:
    """A folder that cannot be made, for everyone, the superuser included."""
    folder = base / "unwritable"
    folder.mkdir()
    (folder / "file").write_text("in the way")
    task = lambda: strictly(folder, "arrays", disk=folder / "file" / "checkpoints")  # noqa: E731
    return _shown(refused(task, folder), base)


def _shown(message: str, base: Path) -> str:
    return message.replace(str(base), "...")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each kind of data")
    parser.add_argument("--damages", type=int, default=1, help="one in so many")
    parser.add_argument("--kinds", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--out", type=Path, help="where to write the results")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for kind in options.kinds:
            whole = base / kind
            whole.mkdir()
            seconds = complete(lambda: strictly(whole, kind), whole)  # noqa: B023
            reference = result(whole)
            report[kind] = kill(base, kind, reference, options.kills, seconds)
            print(kind, report[kind], flush=True)
        report["damage"] = damage(base, whole, kind, reference, options.damages)
        print("damage", report["damage"], flush=True)
        report["unwritable"] = unwritable(base)
        report["limited files"] = limited_files(base, 2**20)
        if os.geteuid() == 0:
            report["full disk"] = full_disk(base, 2**19)
        for name in ("unwritable", "limited files", "full disk"):
            print(name, report.get(name), flush=True)
    failed = [k for k in options.kinds if report[k]["same"] < report[k]["fits"]]
    if failed or report["damage"]["same"] < report["damage"]["damages"]:
        raise SystemExit("not the same")
    if options.out:
        options.out.write_text(
            _page(report, "python benchmarks/faults.py " + " ".join(sys.argv[1:]))
        )
        print(f"wrote {options.out}")


def _page(report: dict[str, Any], command: str) -> str:
    kinds = [k for k in DATA if k in report]
    rows = "\n".join(
        f"| {k} | {r['kills']} | {r['in a checkpoint']} | {r['before the first']} | {r['fits']} | "
        f"{r['same']} |"
        for k, r in ((k, report[k]) for k in kinds)
    )
    damage, disk = report["damage"], report.get("full disk")
    full = "Not tried: it needs the superuser.\n"
    if disk:
        full = (
            f"A disk that is full: `{disk['said']}`\n\nComplete checkpoints left there: "
            f"{disk['complete checkpoints left']}. After more room was made, the fit went on from "
            f"there; result: {disk['after more room']}. A disk that is read-only: "
            f"`{disk['read-only']}`\n"
        )
    return f"""# Fits that are interrupted

{datetime.date.today()}; {platform.system()}, {os.cpu_count()} cores; \
Python {platform.python_version()}, jax {jax.__version__}, \
orbax {orbax.checkpoint.__version__}, grain {grain.__version__}. \
Command: `{command}`.

A fit of {STEPS} steps with a checkpoint every 7, metrics every 10 and a held-out objective every 9,
on {ROWS} rows in batches of {BATCH}. "Same" is bit for bit: parameters, moving average, history,
lines of metrics. "Half-written" are kills while a checkpoint was written, "early" ones before there
was any.

## Killed (SIGKILL) at random moments

| data | kills | half-written | early | fits | same as one never killed |
| --- | --- | --- | --- | --- | --- |
{rows}

## Damaged checkpoints

Each file of the last checkpoint was cut in half, or had one bit flipped, or was removed:
{damage["damages"]} damages. {damage["noticed"]} were noticed, and the fit went on from the
checkpoint before; {damage["harmless"]} were in what is not read, or changed no value.
{damage["same"]} of the fits ended the same.

## Disks

{full}
A limit on the size of files, as by a quota: `{report["limited files"]}`

A folder that cannot be made: `{report["unwritable"]}`
"""


if __name__ == "__main__":
    main()
