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
# # From a reward to a sampler, four ways
#
# Objects are made step by step, each has a reward, and objects are wanted in proportion to their
# rewards, without data. A program that makes an object is a random walk on a graph. Here it is
# given to importance weights, a variational bound, and two losses of generative flow networks.
#
# The objects are the points of a grid of 8 × 8, reached by steps of one from a corner. So their law
# is known exactly, for any policy: by dynamic programming.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import ppgen
from ppgen.inference import (
    Hypergrid,
    Policy,
    backward_walk,
    balance,
    elbo,
    epsilon_uniform,
    fit,
    forward_looking,
    importance_sampling,
    target_law,
    terminal_law,
    walk,
)

SIDE = 8
dag = Hypergrid(SIDE, 2)


def energy(state):
    """Minus the log of a reward that is large near the corners, and small between."""
    off = jnp.abs(state.position / (SIDE - 1) - 0.5)
    outer, ring = jnp.all(off > 0.25), jnp.all((off > 0.3) & (off < 0.4))
    return -jnp.log(0.01 + 0.5 * outer + 2.0 * ring)


wanted = np.asarray(target_law(dag, energy))[-(SIDE**2) :]


def total_variation(law):
    return 0.5 * float(np.abs(np.asarray(law, np.float64) - wanted).sum())


# %% [markdown]
# ## A policy, and the program of its walks
#
# A policy has a forward kernel, which says how to go on from a state, a backward kernel, which says
# how one came there (uniform here), and a flow of every state. Tables are enough for 64 points.


# %%
def logits(params, state):
    return params["logits"][dag.index(state)]


def log_flow(params, state):
    return params["log_flow"][dag.index(state)]


policy = Policy(logits, log_flow=log_flow)
start = {"logits": jnp.zeros((SIDE**2, dag.actions)), "log_flow": jnp.zeros(SIDE**2)}
program = walk(dag, policy)
exact_law = jax.jit(terminal_law(dag, policy))


def law(params):
    """Of the objects that a policy makes: exact."""
    return np.asarray(exact_law(params))[-(SIDE**2) :]


# %% [markdown]
# ## Without training: weights
#
# `backward_walk` is the unnormalised program of walks that end in x with weight exp(-E(x)), and so
# a model with `walk` as its guide. Importance weights make of uniform walks an estimate of log Z,
# and a weighted sample. The floor is a sample of the law itself, of as many draws.

# %%
DRAWS = 10_000
weigh = importance_sampling(backward_walk(dag, policy, energy), program, particles=DRAWS)
sample = jax.jit(ppgen.seed(weigh))(jax.random.key(1), start)
ends = jax.vmap(lambda actions: ppgen.assess(program)({"action": actions}, start).value.end)
places = np.asarray(ends(sample.choices["action"]).position) @ [SIDE, 1]
weights = np.exp(np.asarray(sample.log_weights, np.float64))
log_z = -np.log(wanted[0]) - float(energy(dag.source()))  # of a point: log(reward / probability)
laws = {
    "uniform walks": law(start),
    "weighted walks": np.bincount(places, weights, minlength=SIDE**2),
    "floor: as many draws": np.random.default_rng(0).multinomial(DRAWS, wanted) / DRAWS,
}
print(f"log Z {float(sample.log_evidence):.2f}, exact {log_z:.2f}, {float(sample.ess):.0f} draws")

# %% [markdown]
# ## A variational bound
#
# The same two programs make the ELBO, whose maximum is the policy that is wanted. The actions are
# discrete; the estimator is the score function with 16 draws as baselines for each other, on
# policy.
#
# ## Balance
#
# Flow networks do without a bound: what flows into a state, forwards, has to be what flows out of
# it, backwards. The loss is the squared difference, zero at the optimum, averaged over walks of
# *any* behaviour: here one in ten actions is uniform. Over whole trajectories it needs only the
# flow of the source, log Z; over parts of them (`over=0.9`), flows of all states. Those are
# *forward-looking* here: the energy of an unfinished object, were it finished, is part of its flow.

# %%
explore = epsilon_uniform(0.1)
looking = policy._replace(log_flow=forward_looking(log_flow, energy))
losses = {
    "bound": elbo(
        backward_walk(dag, policy, energy),
        ppgen.with_estimators(program, {"action": ppgen.ScoreFunction()}),
    ),
    "trajectory balance": balance(dag, policy, energy, behaviour=explore),
    "forward-looking balance": balance(dag, looking, energy, over=0.9, behaviour=explore),
}
paths = {}
for name, loss in losses.items():
    paths[name] = []

    def note(now, seen=paths[name]):
        seen.append((now.step, total_variation(law(now.params))))

    trained = fit(
        loss,
        start,
        optax.adam(optax.cosine_decay_schedule(0.05, 1000)),
        key=jax.random.key(2),
        steps=1000,
        draws=16,
        maximize=name == "bound",
        callback=note,
    ).params
    laws[name] = law(trained)


def corners(found):
    """The shares of the four corners, each a quarter of the objects."""
    half = SIDE // 2
    return found.reshape(2, half, 2, half).sum((1, 3)).ravel()


print(f"{'':26s} total variation   shares of the corners")
for name, found in laws.items():
    shares = "  ".join(f"{share:.2f}" for share in corners(found))
    print(f"{name:26s} {total_variation(found):15.3f}   {shares}")

# %% [markdown]
# Weights need no training, but 10,000 walks are worth a few dozen: the far corner is reached by one
# in fifty. The bound is on policy: it learns from walks of its own, and so about corners that it
# visits already. Trajectory balance learns from whatever is visited, and ends below what a sample
# of 10,000 objects can tell. In tables, parts of walks carry what they learn back to the source one
# state at a time; networks, which generalise, gain from them where walks are never finished.

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3), width_ratios=[1, 1, 1, 1.6])
shown = {"wanted": wanted} | {name: laws[name] for name in ("bound", "trajectory balance")}
for axis, (name, found) in zip(axes, shown.items(), strict=False):
    axis.imshow(found.reshape(SIDE, SIDE), vmin=0, vmax=wanted.max(), cmap="Blues")
    axis.set(title=name, xticks=[], yticks=[])
for name, seen in paths.items():
    axes[-1].semilogy(*zip(*seen, strict=True), label=name)
axes[-1].axhline(total_variation(laws["floor: as many draws"]), color="0.6", ls="--")
axes[-1].set(xlabel="step", ylabel="total variation", title="dashed: 10,000 exact draws")
axes[-1].legend(fontsize=7)
figure.tight_layout()
plt.show()

reached = {name: total_variation(found) for name, found in laws.items()}
assert reached["trajectory balance"] < reached["floor: as many draws"]
assert reached["bound"] < reached["uniform walks"] / 2 > reached["forward-looking balance"]

# %% [markdown]
# The sampler is a program like any other: it can be curated by a reward that came later
# (`ppgen.curate`), filtered by `smc` with its `program.move`, or trained to reach any object that
# it is told, and then given a reward without training (`adapt`). `ppgen fit gflownet` has networks
# in place of tables, on grids, subsets and bit strings.
