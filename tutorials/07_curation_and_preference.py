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
# # Curation and preference
#
# People look at what a model draws and keep what they like. The next model is trained on what was
# kept. That is a transformation of the model: `ppgen.curate` turns a program into a curated one,
# with a density. This tutorial compares four things with closed forms: the law of curated draws, a
# model that is trained on them round after round, rewards from votes, and losses that need no
# reward (DPO) or no voter (DDO).
#
# The model draws one of ten designs, so that all laws are known exactly.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import ppgen
from ppgen.inference import curated_law, ddo, dpo, fit, fit_rewards, retrain

N = 10
rewards = jnp.linspace(-1.0, 1.5, N)[jnp.array([3, 0, 7, 1, 9, 4, 2, 8, 5, 6])]
start = 0.7 * jax.random.normal(jax.random.key(0), (N,))
prior = np.asarray(jax.nn.softmax(start), np.float64)


def model(logits, x=None):
    return numpyro.sample("x", dist.Categorical(logits=logits), obs=x)


def total_variation(p, q):
    return 0.5 * float(np.abs(np.asarray(p) - np.asarray(q)).sum())


# %% [markdown]
# ## What is kept
#
# Of $K$ draws one is kept, with probabilities $\mathrm{softmax}(r)$. The law of what is kept is
# $p(x) H^K(x)$, which `curated_law` computes by quadrature. As $K$ grows it approaches
# $p(x) e^{r(x)} / Z$.

# %%
K, DRAWS = 4, 20_000
kept = ppgen.curate(model, lambda x: rewards[x], choices=K)
draw = jax.jit(jax.vmap(ppgen.seed(kept), (0, None)))
xs = draw(jax.random.split(jax.random.key(1), DRAWS), start)
found = np.bincount(xs, minlength=N) / DRAWS
exact = curated_law(prior, rewards, choices=K)
errors = np.sqrt(exact * (1 - exact) / DRAWS)
print(f"largest difference: {np.abs((found - exact) / errors).max():.1f} standard errors")
print(f"control, without curation: {np.abs((found - prior) / errors).max():.0f} standard errors")
assert np.abs((found - exact) / errors).max() < 5 < np.abs((found - prior) / errors).max()

# %% [markdown]
# Its density is estimated without bias, and so is the gradient. The chance of keeping design 4:

# %%
density = jax.jit(
    jax.vmap(lambda k: jnp.exp(ppgen.seed(ppgen.log_density(kept))(k, {"x": 4}, start)))
)
estimates = np.asarray(density(jax.random.split(jax.random.key(2), DRAWS)), np.float64)
mean, error = estimates.mean(), estimates.std() / DRAWS**0.5
print(f"estimated {mean:.4f} ± {error:.4f}, exact {exact[4]:.4f}")
assert abs(mean - exact[4]) < 5 * error

# %% [markdown]
# ## Round after round
#
# `retrain` draws, keeps and fits, again and again. In the limit of many draws the law follows the
# recursion $p \leftarrow p H^K$, or, where a share of real data is mixed in,
# $p \leftarrow (p_{ref} + \lambda\, p H^K) / (1 + \lambda)$. The floor is that recursion, the
# control has $K = 1$: nothing is preferred, and nothing should happen but noise.

# %%
ROUNDS, SIZE = 5, 4000
real = jax.random.categorical(jax.random.key(3), start, shape=(SIZE,))
settings = {
    "pure": (K, None),
    "real data mixed in, λ = 0.5": (K, 0.5),
    "control: K = 1": (1, None),
}
paths = {}
for number, (name, (choices, mix)) in enumerate(settings.items()):
    laws = [prior]
    retrain(
        model,
        lambda x: rewards[x],
        start,
        optax.adam(0.1),
        key=jax.random.key(10 + number),
        rounds=ROUNDS,
        choices=choices,
        size=SIZE,
        steps=120,
        reference=None if mix is None else real,
        mix=mix,
        callback=lambda now, laws=laws: laws.append(np.asarray(jax.nn.softmax(now.params))),
    )
    right = [prior]
    for _ in range(ROUNDS):
        curated = curated_law(right[-1], rewards, choices=choices)
        right.append(curated if mix is None else (prior + mix * curated) / (1 + mix))
    paths[name] = np.array(laws), np.array(right)
    print(
        f"{name:30s} distance to the recursion {total_variation(laws[-1], right[-1]):.3f}", end=""
    )
    print(f", from the start {total_variation(laws[-1], prior):.3f}")

# %% [markdown]
# The mean reward rises in every round, and the entropy falls: without real data all mass ends where
# the reward is largest. The real data hold it in place.

# %%
r = np.asarray(rewards, np.float64)
figure, (left, right_axis) = plt.subplots(1, 2, figsize=(10, 3.4))
for name, (laws, right) in paths.items():
    [line] = left.plot(right @ r, lw=1, label=name)
    left.plot(laws @ r, "o", ms=4, color=line.get_color())
    right_axis.plot(-(right * np.log(right)).sum(1), lw=1)
    right_axis.plot(-(laws * np.log(laws)).sum(1), "o", ms=4, color=line.get_color())
left.set(xlabel="round", ylabel="mean reward", title="dots: trained; lines: exact recursion")
right_axis.set(xlabel="round", ylabel="entropy, nats")
left.legend(fontsize=8)
figure.tight_layout()
plt.show()
for name, (laws, right) in paths.items():
    # Of a round, the sampling error of SIZE draws in N cells; they add up over rounds.
    assert total_variation(laws[-1], right[-1]) < ROUNDS * 0.5 * (N / SIZE) ** 0.5, name
gains = {name: laws[-1] @ r - prior @ r for name, (laws, _) in paths.items()}
assert gains["pure"] > 2 * gains["real data mixed in, λ = 0.5"] > 10 * abs(gains["control: K = 1"])

# %% [markdown]
# ## Rewards from votes
#
# Usually the reward is not known; votes are. `fit_rewards` is the maximum of the likelihood of
# Bradley and Terry, with intervals: of 45 differences about 95 % should lie in theirs.

# %%
key, other = jax.random.split(jax.random.key(4))
pairs = jax.random.randint(key, (3000, 2), 0, N)
pairs = pairs[pairs[:, 0] != pairs[:, 1]]
first_wins = jax.random.bernoulli(other, jax.nn.sigmoid(r[pairs[:, 0]] - r[pairs[:, 1]]))
votes = jnp.where(first_wins[:, None], pairs, pairs[:, ::-1])  # in each row, the winner first
fitted = fit_rewards(votes)
inside = [
    interval.low <= r[i] - r[j] <= interval.high
    for i in range(N)
    for j in range(i)
    for interval in [fitted.difference(i, j)]
]
best, worst = int(r.argmax()), int(r.argmin())
interval = fitted.difference(best, worst)
print(f"{len(votes)} votes: {sum(inside)} of {len(inside)} differences are in their intervals")
print(
    f"best less worst: {interval.estimate:.2f} in [{interval.low:.2f}, {interval.high:.2f}],",
    end="",
)
print(f" true {r[best] - r[worst]:.2f}")
assert sum(inside) >= 36  # intervals of common items are not independent

# %% [markdown]
# ## Without the reward, and without the voter
#
# `dpo` fits the model to the votes at once. Its minimum is the prior tilted by $r / \beta$, the
# answer to the question that `kl_regularized_reward` asks. `ddo` needs no voter: it pulls a model
# towards real data, by telling them apart from what the model used to draw, and at its best it is
# the law of the data. Each is fitted from the same start, the prior.

# %%
BETA = 0.8
loss = dpo(model, lambda _: model(start), beta=BETA)


def of_votes(logits, votes):
    return jnp.mean(jax.vmap(lambda v: loss({"x": v[0]}, {"x": v[1]}, logits))(votes))


data_law = np.asarray(jax.nn.softmax(start + rewards), np.float64)
data = jax.random.categorical(jax.random.key(5), jnp.log(data_law), shape=(6000,))
told_apart = ddo(model, lambda _: model(start))


def of_data(logits, xs):
    return jnp.mean(jax.vmap(lambda x: told_apart({"x": x}, logits))(xs))


adam = optax.adam(optax.cosine_decay_schedule(0.05, 600))
common = {"key": jax.random.key(6), "steps": 600, "batch_size": 512}
by_votes = fit(of_votes, start, adam, data=votes, **common).params
by_data = fit(of_data, start, adam, data=data, draws=4, **common).params

tilted = prior * np.exp(r / BETA)
estimated = prior * np.exp(fitted.rewards / BETA)
answers = {
    "DPO": (by_votes, tilted / tilted.sum()),
    "DPO, to its own optimum": (by_votes, estimated / estimated.sum()),
    "DDO": (by_data, data_law),
}
print(f"{'':28s}{'distance':>10s}{'of the start':>14s}")
for name, (logits, law) in answers.items():
    at = total_variation(jax.nn.softmax(logits), law)
    print(f"{name:28s}{at:10.3f}{total_variation(prior, law):14.3f}")
    assert at < 0.25 * total_variation(prior, law), name

# %% [markdown]
# The distance of DPO from the true tilt is that of the votes, which are finitely many: from the
# tilt by the rewards that the same votes give by maximum likelihood it is smaller. There is one
# question, what law is wanted, and each of these methods answers it exactly in a limit that can be
# written down and tested.

# %%
distances = {name: total_variation(jax.nn.softmax(p), law) for name, (p, law) in answers.items()}
assert distances["DPO, to its own optimum"] < distances["DPO"]
