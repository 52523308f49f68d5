# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # From runs to a paper's figure
#
# A figure in a paper answers a question, with error bars whose meaning is stated, and can be made
# again from files. The question here: how many latent dimensions does a variational autoencoder of
# digits need? The answer takes a sweep, two seeds each, and a vector file of one column's width.
#
# ## The runs
#
# In a terminal this is `ppgen fit vae --sweep sweep.toml --seeds 0 1`. A sweep is a file, so that
# the paper's repository can hold it. What is short here (few steps, a narrow network) keeps this
# page fast.

# %%
import json
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from ppgen.models import load_run
from ppgen.models.cli import main

folder = Path(tempfile.mkdtemp())
sweep, runs = folder / "sweep.toml", folder / "runs"
sweep.write_text("""
dimensions = [1, 4, 16]
hidden = 32
steps = 400
batch_size = 64
""")
options = ["--sweep", str(sweep), "--seeds", "0", "1", "--no-compilation-cache"]
assert main(["fit", "vae", *options, "--out", str(runs)]) == 0

# %% [markdown]
# A sweep that is killed goes on with `ppgen resume`, and ends with the same numbers.
#
# ## What the numbers mean
#
# `sweep.json` has every figure of every run. Two spreads belong to each of them, and they answer
# different questions. The *standard error* in a run's own figures is that of the mean over held-out
# images: what another sample of images would change. The *standard deviation over seeds* is what
# another initialization and another order of the data would change. To compare models that were
# fitted once each, the second one counts, and it takes more than one seed to know it.

# %%
found = json.loads((runs / "sweep.json").read_text())["runs"]
label = list(found[0]["figures"])[-1]
dimensions = [run["changed"]["dimensions"] for run in found]
figures = [run["figures"][label]["nats per image"] for run in found]
members = [runs / run["name"] / f"seed-{seed}" for run in found for seed in (0, 1)]
first = json.loads((members[0] / "figures.json").read_text())["figures"]
floor = first["per-pixel histograms"]["nats per image"]
for number, figure in zip(dimensions, figures, strict=True):
    print(f"{number:2d} dimensions: {figure['mean']:.2f} ± {figure['standard_deviation']:.2f}")
assert all(figure["mean"] > floor["mean"] for figure in figures)
assert figures[1]["mean"] > figures[0]["mean"] + 3 * figures[0]["standard_deviation"]

# %% [markdown]
# ## The samples
#
# Each member of a sweep is a run like any other. `load_run` checks that the data are those that it
# was fitted to.

# %%
drawn = [load_run(member).sample(jax.random.key(0), 6) for member in members[::2]]
drawn = [np.asarray(images).reshape(-1, 8, 8) for images in drawn]

# %% [markdown]
# ## The figure
#
# Drawn at the size at which it is printed, so that the letters are those of the caption: 3.3 inches
# are a column of most conferences. Axes have units, every seed is shown beside the mean, and what
# the bars are is said where they are drawn. Fonts of type 42 can be edited.

# %%
style = {"font.size": 8, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}
with plt.rc_context(style):
    fig = plt.figure(figsize=(3.3, 3.0), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[2, 1])
    ax = top.subplots()
    means = [figure["mean"] for figure in figures]
    spreads = [figure["standard_deviation"] for figure in figures]
    ax.errorbar(
        dimensions, means, spreads, color="tab:blue", capsize=2, label="mean ± s.d. (2 seeds)"
    )
    for number, figure in zip(dimensions, figures, strict=True):
        ax.plot([number] * 2, figure["each"], "o", ms=3, mfc="none", color="tab:blue")
    ax.axhline(floor["mean"], color="0.4", ls="--", lw=1, label="per-pixel histograms")
    ax.set_xscale("log", base=2)
    ax.set_xticks(dimensions, map(str, dimensions))
    ax.set(xlabel="latent dimensions", ylabel=f"{label}\n(nats per held-out image)")
    ax.legend(frameon=False)
    for ax, number, images in zip(bottom.subplots(1, 3), dimensions, drawn, strict=True):
        ax.imshow(np.block([[*images[:3]], [*images[3:]]]), cmap="Greys", vmin=0, vmax=16)
        ax.set_axis_off()
        ax.set_title(f"{number}", fontsize=8)
    fig.savefig(folder / "latent_dimensions.pdf")
print(f"{(folder / 'latent_dimensions.pdf').stat().st_size / 1000:.0f} kB of vectors")

# %% [markdown]
# ## What belongs beside it
#
# The file of the sweep, the versions (`ppgen --version`), and the runs or their exports: `ppgen
# export RUN` writes weights and a card with options, data and figures, in formats that execute
# nothing.
# The caption says what the held-out images are, what the bound is, and what the bars are.
