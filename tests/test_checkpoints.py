"""A fit that goes on from a checkpoint ends as one that was never interrupted, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import ppgen
from ppgen.inference import CheckpointError, Checkpoints, EarlyStopping, fit

KEY = jax.random.key(3)
ROWS = np.random.default_rng(0).normal(size=(53, 4)).astype(np.float32)
ROOT = Path(__file__).resolve().parent.parent


class Batches:
    """Without positions, in another order on every pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        order = np.random.default_rng(self.passes).permutation(53)
        return iter(np.array_split(ROWS[order], 6))


def drawn():
    return ppgen.draw(dist.Normal(0.0, 1.0).expand([8, 4]), name="data")


DATA = {
    "arrays": lambda: ROWS,
    "grain": lambda: grain.MapDataset.source(ROWS).shuffle(3).batch(9).to_iter_dataset(),
    "own": Batches,
    "program": lambda: drawn,
    "none": lambda: None,
}


def loss(params, batch=None):
    x = ppgen.draw(dist.Normal(params, 0.1), name="x")
    return jnp.mean((x - (1.0 if batch is None else batch)) ** 2)


def run(folder, kind, steps=40, chunk=10, every=7, stop=None, key=KEY, **more):
    data = DATA[kind]()
    if kind in ("arrays", "grain", "own"):
        more |= {"batch_size": 8, "early_stopping": EarlyStopping(ROWS[:9], every=13)}
    if folder is not None:
        more["checkpoints"] = Checkpoints(folder / "checkpoints", every=every, best=True)
        more["metrics"] = folder / "metrics.jsonl"
    return fit(
        loss,
        jnp.zeros(4),
        optax.adam(0.05),
        key=key,
        steps=steps,
        data=data,
        chunk=chunk,
        ema=0.9,
        callback=(lambda progress: progress.step >= stop) if stop else (),
        **more,
    )


def lines(folder):
    read = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


def steps_in(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a[:4]), jax.tree.leaves(b[:4]), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.sweep(of=3)
@pytest.mark.parametrize("kind", DATA)
def test_goes_on_exactly(tmp_path, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = run(whole, kind)
    if kind == "arrays":
        assert_same(expected, run(None, kind))  # saving changes nothing
    assert run(parts, kind, stop=20).stopped == "callback"
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "objective": 1}\n{"step": 40, "obj')  # what a kill leaves behind
    assert_same(expected, run(parts, kind))
    assert lines(parts) == lines(whole)
    assert_same(expected, run(parts, kind))  # it is at its end


def test_boundaries_do_not_matter(tmp_path):
    whole = run(None, "grain")
    for stop, chunk, every in ((9, 3, 4), (16, 8, 100)):
        run(tmp_path, "grain", stop=stop, chunk=chunk, every=every)
    assert_same(whole, run(tmp_path, "grain"))
    longer = run(tmp_path, "grain", steps=55)
    assert_same(run(None, "grain", steps=55), longer)


def test_keeps_the_last_ones_and_the_best(tmp_path):
    values = iter([3.0] * 4 + [1.0] * 4 + [2.0] * 12)

    class Once:
        def __iter__(self):
            return iter(np.full((1, 1), next(values), np.float32) for _ in range(1))

    fit(
        lambda p, batch: p * 0.0 + jnp.mean(batch),
        0.0,
        optax.sgd(0.1),
        key=KEY,
        steps=20,
        data=Once(),
        checkpoints=Checkpoints(tmp_path / "checkpoints", every=4, keep=2, best=True),
    )
    assert steps_in(tmp_path) == [8, 16, 20]


def newest_data_file(folder):
    newest = folder / "checkpoints" / str(steps_in(folder)[-1])
    return max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_falls_back_from_damaged_ones(tmp_path):
    expected = run(tmp_path, "arrays")
    file = newest_data_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=r"step 40 .* is damaged .* goes on from that of step 35"):
        assert_same(expected, run(tmp_path, "arrays"))
    assert (tmp_path / "checkpoints" / "damaged-40").is_dir() and steps_in(tmp_path)[-1] == 40
    for step in steps_in(tmp_path):
        for path in (tmp_path / "checkpoints" / str(step) / "notes").iterdir():
            path.write_text("{")
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged: step 40"):
        run(tmp_path, "arrays")


def test_a_wrong_number_is_noticed(tmp_path):
    """Whatever the format notices by itself: here the array is replaced by another valid one."""
    import orbax.checkpoint as ocp

    run(tmp_path, "none")
    arrays = tmp_path / "checkpoints" / "40" / "arrays"
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(arrays)
        stored["carry/trained/params"] = stored["carry/trained/params"].at[1].add(1e-6)
        checkpointer.save(arrays, stored, force=True)
    with pytest.warns(UserWarning, match="carry/trained/params is not what was written"):
        run(tmp_path, "none")


def test_of_another_fit_is_an_error(tmp_path):
    run(tmp_path, "none", steps=10)
    with pytest.raises(CheckpointError, match="another key"):
        run(tmp_path, "none", key=jax.random.key(4))
    folder = Checkpoints(tmp_path / "checkpoints")
    more = {"key": KEY, "steps": 20}
    with pytest.raises(CheckpointError, match=r"is float32\[4\], and float32\[5\] here"):
        fit(loss, jnp.zeros(5), optax.adam(0.1), checkpoints=folder, ema=0.9, **more)
    with pytest.raises(CheckpointError, match="another fit: .* and not known here"):
        fit(loss, jnp.zeros(4), optax.sgd(0.1), checkpoints=folder, **more)
    with pytest.raises(CheckpointError, match="holds the checkpoints of another fit"):
        once = Checkpoints(folder.folder, resume=False)
        fit(loss, jnp.zeros(4), optax.sgd(0.1), checkpoints=once, **more)


def test_typed_keys_and_state_are_saved(tmp_path):
    def stateful(params, state):
        key, new = jax.random.split(state["key"])
        x = jax.random.normal(key)
        return (params - x) ** 2, {"key": new, "count": state["count"] + 1}

    def run(steps, folder):
        return fit(
            stateful,
            0.0,
            optax.sgd(0.1),
            key=KEY,
            steps=steps,
            state={"key": jax.random.key(8), "count": jnp.zeros((), int)},
            checkpoints=Checkpoints(folder),
        )

    expected = run(9, tmp_path / "whole")
    run(4, tmp_path / "parts")
    found = run(9, tmp_path / "parts")
    np.testing.assert_array_equal(found.history, expected.history)
    assert found.state["count"] == 9 and found.state["key"] == expected.state["key"]


@pytest.mark.long
def test_faults():
    """SIGKILL, a damaged file, a full disk, in processes of their own: see benchmarks/faults.py."""
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--kills", "2", "--damages", "20"]
    command += ["--kinds", "grain"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
