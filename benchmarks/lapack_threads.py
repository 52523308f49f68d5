"""Two batched triangular solves in one program, with several numbers of threads, and without ppgen.

    python benchmarks/lapack_threads.py   # prints a table

Under jaxlib 0.10 each takes a thread of XLA's pool and waits for tasks that it has given to the
same pool: with two threads both wait, for ever. The control is one thread, and one solve.
"""

from __future__ import annotations

import os
import subprocess
import sys

import jaxlib

SECONDS = 10
PROGRAM = """
import sys, time
import jax, jax.numpy as jnp

solves, seconds = int(sys.argv[1]), float(sys.argv[2])
matrices = jnp.broadcast_to(3 * jnp.eye(2), (100_000, 2, 2))

@jax.jit
def f(matrices):
    sums = [
        jnp.sum(jax.scipy.linalg.solve_triangular(matrices + jnp.sin(i * matrices), matrices + i))
        for i in range(solves)
    ]
    return sum(sums)

calls, stop = 0, time.monotonic() + seconds
while time.monotonic() < stop:
    f(matrices).block_until_ready()
    calls += 1
print(calls)
"""


def calls(threads: int, solves: int) -> str:
    """How many calls there were in some seconds, or that one did not end in as many more."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(solves), str(SECONDS)],
            env=os.environ | {"NPROC": str(threads), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=3 * SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "one never ended"
    return done.stdout.strip()


def main() -> None:
    print(f"jaxlib {jaxlib.__version__}, calls in {SECONDS} s\n")
    print("| NPROC | one solve | two solves |\n| --- | --- | --- |")
    for threads in (1, 2, 8):
        print(f"| {threads} | {calls(threads, 1)} | {calls(threads, 2)} |", flush=True)


if __name__ == "__main__":
    main()
