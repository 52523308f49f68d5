"""Gradient steps of networks with convolutions in a loop: as they are, and channels last.

    python benchmarks/convolutions.py   # writes convolutions.md

On a CPU, XLA brings a convolution into the layout in which it has its fast algorithm, channels
last, unless it is in the body of a loop. `ppgen.inference.fit` steps in a loop, and has it do so
there too. Measured are a step in a loop of four of either kind, and one that is compiled by itself:
the floor, a loop in Python without what that costs. Control: a perceptron, of which nothing
changes. Medians of the time of the process, interleaved; batches of 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ppgen.inference.fitting._channels_last import channels_last
from ppgen.models.parts.marks import machine
from ppgen.models.parts.networks import (
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    DenoisingUNet,
    GICNet,
    VectorMLP,
)

BATCH, STEPS = 64, 4


def losses(key: Any) -> dict[str, tuple[Any, Callable[[Any, Any], Any]]]:
    """Networks, and functions of one and a batch of uniform numbers that are to be small."""

    def squares(one: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda net, x: jnp.mean(jax.vmap(lambda row: one(net, row))(x) ** 2)

    def autoencode(net: Any, x: Any) -> Any:
        return net[1](net[0](x)) - x[:, None]

    def denoise(net: Any, x: Any) -> Any:
        return net(x[:64], jnp.array(0.5), x[64:128], x[:1])

    def operate(net: Any, x: Any) -> Any:
        return net.decode(net.encode(x[:64].reshape(32, 2), x[64:96, None], x[:0]), x[:1])

    gicnet = GICNet(
        dimensions=2, values=1, context=0, query=1, outputs=4, width=64, nodes=8, key=key
    )
    return {
        "a convolution, 5x5, 16 channels, 8x8": (
            eqx.nn.Conv2d(16, 16, 5, padding=2, key=key),
            squares(lambda net, x: net(jnp.tile(x[:64].reshape(1, 8, 8), (16, 1, 1)))),
        ),
        "convolutional autoencoder, 28x28": (
            (
                ConvolutionalEncoder((28, 28), 10, key=key),
                ConvolutionalDecoder(10, (28, 28), 1, key=key),
            ),
            squares(autoencode),
        ),
        "`DenoisingUNet`, 8x8": (DenoisingUNet((8, 8), key=key), squares(denoise)),
        "`GICNet`, two dimensions": (gicnet, squares(operate)),
        "control: a perceptron": (
            VectorMLP(784, 784, 400, 2, key=key),
            squares(lambda net, x: net(x)),
        ),
    }


def measure(net: Any, loss: Callable[[Any, Any], Any], x: Any, times: int) -> list[float]:
    """Milliseconds of a step: in a loop, in one that is channels last, by itself."""
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def step(params: Any) -> Any:
        grads = jax.grad(lambda p: loss(eqx.combine(p, static), x))(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

    def loop(params: Any) -> Any:
        return jax.lax.scan(lambda p, _: (step(p), None), params, None, length=STEPS)[0]

    runs = [(jax.jit(f), n) for f, n in ((loop, STEPS), (channels_last(loop), STEPS), (step, 1))]
    seconds: list[list[float]] = [[] for _ in runs]
    for i in range(times + 1):
        for (run, steps), taken in zip(runs, seconds, strict=True):
            start = time.process_time()
            jax.block_until_ready(run(params))
            if i:  # the first one compiles
                taken.append(1e3 * (time.process_time() - start) / steps)
    return [statistics.median(taken) for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    x = jax.random.uniform(jax.random.key(1), (BATCH, 784))
    lines = [
        "# Convolutions in loops",
        "",
        f"`python benchmarks/convolutions.py --times {options.times}`; {machine()}. Milliseconds "
        "of a gradient step, medians.",
        "",
        "| network | in a loop | channels last | ratio | by itself |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (net, loss) in losses(jax.random.key(0)).items():
        plain, last, single = measure(net, loss, x, options.times)
        lines.append(f"| {name} | {plain:.3g} | {last:.3g} | {plain / last:.3g} | {single:.3g} |")
        print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
