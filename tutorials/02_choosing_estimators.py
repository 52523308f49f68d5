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
# # Choosing estimators by measuring
#
# Every sound estimator gives the same gradient on average. They differ in the cost of a gradient
# and in its variance, by factors of a thousand on the same objective. Which one is best depends on
# the objective, so this page does not rank them: it shows how to measure.
#
# 1. What does the program do? `ppgen.check`.
# 2. What would a rule pick? `with_estimators(objective, "auto")`.
# 3. What is it worth? `ppgen.variance`: variance, time, and their product.
# 4. Is the cheapest one right, too? A check that variance cannot replace.
# 5. Does it matter? Train.
#
# ## A chain of switches
#
# A machine is in one of two regimes and stays there with probability 0.85. Twelve readings, each
# `-1` or `+1` by regime, with noise. The guide is a chain as well, with logits for each step and
# each regime before it. The posterior of such a chain is a chain too, so the best bound *is* the
# log evidence, and both are known exactly.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen import Enumerate, MeasureValued, ScoreFunction, StraightThrough
from ppgen.inference import elbo, iwelbo

T, STAY = 12, 0.85
truth = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1])
y = jnp.asarray(2 * truth - 1 + np.random.RandomState(0).normal(size=T), jnp.float32)


def model(theta):
    def step(before, y):
        s = numpyro.sample("s", dist.Bernoulli((1 - STAY) + (2 * STAY - 1) * before))
        numpyro.sample("y", dist.Normal(2.0 * s - 1.0, 1.0), obs=y)
        return 1.0 * s, None

    scan(step, 0.0, y)


def guide(theta):
    def step(before, logits):
        s = numpyro.sample("s", dist.Bernoulli(logits=logits[0] + logits[1] * before))
        return 1.0 * s, None

    scan(step, 0.0, theta)


theta = 0.3 * jax.random.normal(jax.random.key(1), (T, 2))
bound = elbo(model, guide)

# %% [markdown]
# ## 1. Ask what the program does
#
# `check` runs nothing. It lists the choices, the estimators that they have, and the additive terms
# of the cost with the choices that reach them. A score multiplies only the terms that its choice
# reaches, and enumeration has to look at the joint values only of the choices that meet in a term.

# %%
_ = ppgen.check(bound)(theta)

# %% [markdown]
# ## 2. Ask a rule
#
# `"auto"` picks by facts about the distribution and the terms, and reports the reason.

# %%
_ = ppgen.check(ppgen.with_estimators(bound, "auto"))(theta)

# %% [markdown]
# ## 3. Measure
#
# `ppgen.variance` takes the candidates and measures, on this objective at these parameters, the
# variance of the gradient (the sum over its entries), the time that one compiled gradient takes,
# and their product. **Read the product**: you can always average more gradients, so twice the
# variance at half the time is no difference, and the product is the time that a given accuracy
# takes. `±` is a standard error. The operations are those that XLA counts, which counts the body of
# a loop once: they do not depend on what else your machine is doing, but compare them only between
# programs with the same loops.

# %%
candidates = {
    "auto": "auto",
    "score function": ScoreFunction(),
    "measure-valued": MeasureValued(),
}
report = ppgen.variance(bound, candidates, progress=False)(jax.random.key(0), theta)
print(report)

# %% [markdown]
# With several draws, the others are a baseline for each one. `draws` belongs to the expectation,
# not to the estimator, so it is a second measurement. (The variance is that of the mean of four.)

# %%
report_4 = ppgen.variance(
    bound, {"score function, 4 draws": ScoreFunction()}, draws=4, progress=False
)(jax.random.key(0), theta)
print(report_4)

# %% [markdown]
# In such a chain `"auto"` enumerates: a term holds two neighbours, so the cost of a gradient grows
# linearly with the number of steps, and there is no variance left.
#
# ### Another objective, another answer
#
# The importance-weighted bound takes the logarithm of a sum over particles. All choices of all
# particles meet in one term, and enumeration would need $2^{36}$ joint values. It is refused, and
# the report says so; `"auto"` picks something else.

# %%
others = {**candidates, "enumeration": Enumerate()}
weighted = iwelbo(model, guide, particles=3)
report_iw = ppgen.variance(weighted, others, progress=False)(jax.random.key(0), theta)
print(report_iw)
in_iw = {c.label: c for c in report_iw.candidates}
assert in_iw["enumeration"].refused
assert in_iw["measure-valued"].variance < 0.5 * in_iw["auto"].variance

# %% [markdown]
# Here the rule picked `DisARM`, and measure-valued derivatives have less than half of its variance:
# their 36 further points run side by side. A rule does not know your machine, nor your cost. The
# product in your table decides. `ppgen.tune(weighted)(key, theta)` looks for candidates itself.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
type(report)((*report.candidates, *report_4.candidates)).plot(axes[0]).set_title("ELBO")
report_iw.plot(axes[1]).set_title("IWELBO, 3 particles")
plt.show()

# %% [markdown]
# ## 4. Low variance is not enough
#
# The variance does not show a bias. The straight-through estimator, which differentiates a flip as
# if it were its probability, has little variance and another mean. ppgen refuses it without
# `allow_biased=True`; here is the bias that this would allow. The exact gradient is a recursion
# over the marginal probabilities of the guide, written by hand.


# %%
def exact_bound(theta):
    up, total = 0.0, 0.0
    for t in range(T):
        # The probability of each regime before, and of "1" given each of them.
        before = jnp.stack([1 - up, up])
        q = jax.nn.sigmoid(theta[t, 0] + theta[t, 1] * jnp.arange(2.0))
        p = (1 - STAY) + (2 * STAY - 1) * jnp.arange(2.0)
        log_y = dist.Normal(jnp.array([-1.0, 1.0]), 1.0).log_prob(y[t])
        total += jnp.sum(before * q * (jnp.log(p) - jnp.log(q) + log_y[1]))
        total += jnp.sum(before * (1 - q) * (jnp.log1p(-p) - jnp.log1p(-q) + log_y[0]))
        up = jnp.sum(before * q)
    return total


def log_evidence():
    log_alpha = jnp.array([0.0, -jnp.inf])  # before the first step, the regime is 0
    switch = jnp.log(jnp.array([[STAY, 1 - STAY], [1 - STAY, STAY]]))
    for t in range(T):
        log_alpha = jax.nn.logsumexp(log_alpha[:, None] + switch, axis=0)
        log_alpha += dist.Normal(jnp.array([-1.0, 1.0]), 1.0).log_prob(y[t])
    return jax.nn.logsumexp(log_alpha)


right = jax.grad(exact_bound)(theta)
contenders = {
    "auto": ("auto", 1),
    "measure-valued": (MeasureValued(), 1),
    "score function, 4 draws": (ScoreFunction(), 4),
    "score function": (ScoreFunction(), 1),
    "control: straight-through": (StraightThrough(), 1),
}
gradients, farthest = {}, {}
keys = jax.random.split(jax.random.key(2), 4000)
for name, (estimator, draws) in contenders.items():
    choice = estimator if estimator == "auto" else {"s": estimator}
    objective = ppgen.with_estimators(bound, choice)
    estimate = ppgen.expectation(objective, draws=draws, allow_biased="control" in name)
    gradients[name] = jax.grad(estimate, argnums=1)
    each = np.asarray(jax.jit(jax.vmap(gradients[name], (0, None)))(keys, theta), np.float64)
    error = each.std(0) / len(keys) ** 0.5
    gap = np.abs(each.mean(0) - np.asarray(right))
    farthest[name] = np.max(gap / (error + 1e-4))
    variance = np.sum(each.var(0))
    print(f"{name:28s} variance {variance:9.3f}   farthest entry {farthest[name]:6.1f} errors off")

assert all(off < 5 for name, off in farthest.items() if "control" not in name)
assert farthest["control: straight-through"] > 8

# %% [markdown]
# The four sound estimators agree with the exact gradient in all 24 entries. The control has a small
# fraction of the variance of the plain score function, and a gradient that is not that of the
# bound. In a table of variances alone it would look best.
#
# ## 5. Does it matter?
#
# The measure is not an end in itself. So train: 400 steps of Adam from the same start, eight seeds,
# and then the *exact* distance of the bound to the log evidence, which the best guide reaches.

# %%
optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))


def train(gradient, seed):
    def step(state, key):
        theta, moments = state
        updates, moments = optimizer.update(-gradient(key, theta), moments)
        theta = optax.apply_updates(theta, updates)
        return (theta, moments), theta

    keys = jax.random.split(jax.random.key(seed), 400)
    return jax.lax.scan(step, (theta, optimizer.init(theta)), keys)[1]


evidence = float(log_evidence())
bounds = jax.jit(jax.vmap(jax.vmap(exact_bound)))
short = {}
for name, gradient in gradients.items():
    path = jax.jit(jax.vmap(lambda seed, g=gradient: train(g, seed)))(jnp.arange(8))
    short[name] = evidence - np.asarray(bounds(path), np.float64)

start = evidence - float(exact_bound(theta))
print(f"log evidence {evidence:.4f} nats; the start is {start:.4f} nats below it")
print(f"{'nats below the log evidence':28s}{'after 50':>18s}{'after 400':>20s}")
for name, each in short.items():
    columns = [each[:, k] for k in (49, 399)]
    shown = [f"{c.mean():.5f} ± {c.std(ddof=1) / 8**0.5:.5f}" for c in columns]
    print(f"{name:28s}{shown[0]:>18s}{shown[1]:>20s}")

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, each in short.items():
    style = "--" if "control" in name else "-"
    (line,) = axis.plot(np.median(each, 0), style, label=name)
    axis.fill_between(np.arange(400), each.min(0), each.max(0), alpha=0.15, color=line.get_color())
axis.set(yscale="log", xlabel="step", ylabel="nats below the log evidence", ylim=(5e-3, None))
axis.set_title("median and range of eight seeds")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# `auto` has no noise, so all seeds agree. Of the sound estimators, those with less variance end
# closer to the evidence, in the order of the table in section 3: the plain score function is still
# nats away when the others are a tenth of a nat from it. The biased control is faster than the
# plain score function and then stays where its own, other objective is best.
#
# So: `check`, then `"auto"`, then `variance` for what the rule cannot know. Measure at the
# start and near the end, with as many draws as you will use, and keep the exact answer of a small
# case at hand for what variance cannot tell.

# %%
last = {name: each[:, -1].mean() for name, each in short.items()}
order = ["auto", "measure-valued", "score function, 4 draws", "control: straight-through"]
assert list(last[n] for n in order) == sorted(last[n] for n in order)
assert last["score function"] > 1 > last["control: straight-through"] > 0.5
last
