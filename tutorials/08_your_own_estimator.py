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
# # Your own estimator, and a proof that it is right
#
# An estimator replaces a distribution by a finite set of weighted points. That is the whole
# interface, so a new idea takes a dozen lines. To show that they are right takes a test that could
# have failed, and `ppgen.testing` has one. This page
#
# 1. writes an estimator for a choice among many classes, of which one is likely,
# 2. proves it unbiased up to second derivatives, alone and within programs,
# 3. plants a bug that leaves every value right, and watches the test catch it,
# 4. compares its variance with that of others, and with theory.
#
# ## The idea: sum one class, sample the others
#
# Let $k$ be the likeliest class. The expectation is
#
# $$\mathbb E[f] = p_k f(k) + (1 - p_k)\, \mathbb E_{q}[f(x)],\qquad
#   q(x) = \frac{p_x}{1 - p_k} \text{ for } x \ne k,$$
#
# so sum the likeliest class and sample only among the others (Liu et al., *Rao-Blackwellized
# Stochastic Gradients for Discrete Distributions*, ICML 2019). Two points: $k$ with the weight
# $p_k$, and one draw $x$ from a frozen $q$ with the weight $p_x(\theta) / q(x)$. The value of the
# latter is $1 - p_k$ whatever was drawn, and the mean of its derivative is that of $1 - p_k$: the
# ratio moves with $p_x$, by which the sample was *not* chosen.
#
# One improvement is possible. The weights sum to one, but their derivatives sum to zero only on
# average. If the likeliest class gets the rest of the weight, $1 - p_x(\theta) / q(x)$, its mean is
# still $p_k$, and a constant that is added to the cost has no effect at all: $f(k)$ has become a
# baseline of the other point.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import ppgen
from ppgen import AbstractEstimator, Enumerate, Points, ScoreFunction, UnorderedSet, plain
from ppgen.testing import CASES, DISTRIBUTIONS, UnderpoweredError, assert_unbiased, pair


class SumAndSample(AbstractEstimator):
    """Sum over the likeliest class, sample one of the others. Unbiased, to every order."""

    differentiable = False  # the points stay where they are: all derivatives are in the weights
    weighted = True  # there are several points
    biased = False
    first_order = False  # right to every order

    baseline: bool = True

    def misfit(self, d):
        if isinstance(plain(d), (dist.CategoricalLogits, dist.CategoricalProbs)):
            return None
        return f"SumAndSample() is for Categorical, not for {type(plain(d)).__name__}"

    def __call__(self, key, d):
        log_p = jax.nn.log_softmax(plain(d).logits)
        log_p = jnp.broadcast_to(log_p, (*d.batch_shape, log_p.shape[-1]))
        frozen = jax.lax.stop_gradient(log_p)
        likeliest = jnp.argmax(frozen, axis=-1)
        taken = jax.nn.one_hot(likeliest, log_p.shape[-1], dtype=bool)
        log_q = jax.nn.log_softmax(jnp.where(taken, -jnp.inf, frozen))
        other = jax.random.categorical(key, log_q)

        def at(table, index):
            return jnp.take_along_axis(table, index[..., None], axis=-1)[..., 0]

        rest = self.rest(at(log_p, other), at(log_q, other), at(log_p, likeliest))
        first = 1 - rest if self.baseline else jnp.exp(at(log_p, likeliest))
        return Points(jnp.stack([likeliest, other]), weight=jnp.stack([first, rest]))

    def rest(self, log_p_other, log_q_other, log_p_likeliest):
        """The weight of the class that was sampled."""
        return jnp.exp(log_p_other - log_q_other)


# %% [markdown]
# The four flags tell the rest of ppgen how it may use the points; `AbstractEstimator` has a few
# more, all off by default. `misfit` says in words why it does not serve a distribution. The
# elements of the batch shape, which a plate has expanded, are independent choices, each with its
# own points; ppgen handles their combination, and `vmap`.
#
# It is used like any other, from inside (`infer={"grad": SumAndSample()}`) or from outside:


# %%
def shop(logits, prices):
    item = ppgen.draw(dist.Categorical(logits=logits), name="item")
    return prices[item] * (1 + 0.1 * item) + jnp.sum(logits**2)


logits, prices = jnp.array([2.0, 0.3, -0.5, 0.1]), jnp.array([1.0, -2.0, 0.5, 3.0])
mine = ppgen.with_estimators(shop, {"item": SumAndSample()})
print(jax.grad(ppgen.expectation(mine), argnums=1)(jax.random.key(0), logits, prices))
_ = ppgen.check(mine)(logits, prices)

# %% [markdown]
# ## The proof
#
# `assert_unbiased` draws many estimates of the value, the gradient and the Hessian, and compares
# each entry with an exact oracle that shares no code with estimators. An unbiased one fails with
# a probability of one in a million, over all entries together.

# %%
entries = assert_unbiased(mine, logits, prices)
print("largest of", len(entries), "distances:", f"{max(abs(e.z) for e in entries):.1f} errors")

# %% [markdown]
# One objective is one objective. `pair(family, estimator)` makes one for any family of NumPyro's
# distributions that the estimator serves, with a cost that is neither odd nor even nor linear, and
# knows to which order there are derivatives:

# %%
served = [family for family in DISTRIBUTIONS if pair(family, SumAndSample()).order]
print("serves", served)
print("Poisson:", pair("Poisson", SumAndSample()).reason)
for family, baseline in [("CategoricalLogits", True), ("OrderedLogistic", True)] + [
    ("CategoricalLogits", False)
]:
    case = pair(family, SumAndSample(baseline=baseline))
    assert case.order == 2
    assert_unbiased(case, case.theta, order=case.order, samples=100_000)
    print(f"{family}, baseline={baseline}: unbiased up to order {case.order}")

# %% [markdown]
# And it has to be right *within* programs: where its points meet those of other choices, in plates
# whose elements are mixed by the cost, in branches. `CASES` are the programs that ppgen's own laws
# run through; any program of yours is tested in the same way.


# %%
def plated(theta):
    with numpyro.plate("customers", 3):
        z = numpyro.sample("z", dist.Categorical(logits=theta))
    last = numpyro.sample("last", dist.Bernoulli(jax.nn.sigmoid(theta[0] * z[0] - 0.5)))
    return jnp.sin(jnp.sum(z) + last) * theta[1] + jnp.sum(z**2)


theta = jnp.array([0.8, -0.4, 0.1])
in_a_plate = ppgen.with_estimators(plated, {"z": SumAndSample(), "last": Enumerate()})
assert_unbiased(in_a_plate, theta, samples=50_000)
switch = CASES["switch"].with_estimators({"k": SumAndSample(), "x*": ppgen.Reparameterize()})
assert_unbiased(switch.function, *switch.args, order=1, argnums=(0,), samples=50_000)
print("unbiased in a plate and before a switch")

# %% [markdown]
# ## Power: a bug, and a test that is too small
#
# Here is a mistake that is easily made. The weight of the sampled class is $1 - p_k$ in value, so
# why not write that? The weights still sum to one. Every value is right. Even the derivative of the
# sum of the weights is.


# %%
class Shortcut(SumAndSample):
    def rest(self, log_p_other, log_q_other, log_p_likeliest):
        return 1 - jnp.exp(log_p_likeliest)


wrong = ppgen.with_estimators(shop, {"item": Shortcut()})
assert_unbiased(wrong, logits, prices, order=0)
print("the value passes")
try:
    assert_unbiased(wrong, logits, prices, order=1)
except AssertionError as error:
    print(error)
else:
    raise RuntimeError("the planted bug was not caught")

# %% [markdown]
# The other way to fool oneself is a test with so few samples that nothing could have failed. That
# is an error, too:

# %%
try:
    assert_unbiased(mine, logits, prices, samples=30)
except UnderpoweredError as error:
    print(error)
else:
    raise RuntimeError("a test without power passed")

# %% [markdown]
# ## What it is worth
#
# Twenty classes with costs around 3, and logits that are sharpened from flat to peaked. For one
# choice the variance of each of these gradients is a finite sum, so the measurement has a reference
# (the lines). All of the candidates look at the cost twice, except the plain score function, which
# looks once. Enumeration would look twenty times and have no variance.

# %%
classes = 20
base = jax.random.normal(jax.random.key(0), (classes,))
costs = 3.0 + jax.random.normal(jax.random.key(1), (classes,))


def cost(logits):
    return costs[ppgen.draw(dist.Categorical(logits=logits), name="x")]


def exact_variances(logits):
    """Of the gradient, summed over its entries: a sum over all that can be drawn."""
    p = jax.nn.softmax(logits)
    slopes = jax.jacobian(jax.nn.softmax)(logits)  # row x is the gradient of p_x
    k = jnp.argmax(p)
    q = jnp.where(jnp.arange(classes) == k, 0.0, p / (1 - p[k]))
    ratio = slopes / jnp.where(q == 0, jnp.inf, q)[:, None]
    score = slopes / p[:, None]

    def spread(probs, gradients):
        probs, gradients = probs.ravel(), gradients.reshape(-1, classes)
        mean = probs @ gradients
        return probs @ jnp.sum((gradients - mean) ** 2, axis=1)

    difference = (costs[:, None] - costs)[..., None] * (score[:, None] - score)
    return {
        "score function": spread(p, costs[:, None] * score),
        "score function, leave one out": spread(p[:, None] * p, difference / 2),
        "sum and sample, no baseline": spread(q, slopes[k] * costs[k] + costs[:, None] * ratio),
        "sum and sample": spread(q, (costs - costs[k])[:, None] * ratio),
    }


candidates = {
    "score function": (ScoreFunction(), 1),
    "score function, leave one out": (ScoreFunction(), 2),
    "unordered set": (UnorderedSet(2), 1),
    "sum and sample, no baseline": (SumAndSample(baseline=False), 1),
    "sum and sample": (SumAndSample(), 1),
}
sharpness = np.array([0.5, 1.5, 3.0, 5.0])
measured = {name: [] for name in candidates}
keys = jax.random.split(jax.random.key(2), 20_000)
for name, (estimator, draws) in candidates.items():
    g = ppgen.expectation(ppgen.with_estimators(cost, {"x": estimator}), draws=draws)
    gradients = jax.jit(jax.vmap(jax.grad(g, argnums=1), (0, None)))
    for sharp in sharpness:
        each = np.asarray(gradients(keys, sharp * base), np.float64)
        squares = np.sum((each - each.mean(0)) ** 2, axis=1)
        measured[name].append((squares.mean(), squares.std() / len(keys) ** 0.5))

# %%
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
fine = np.linspace(0.5, 5.0, 40)
theory = [exact_variances(sharp * base) for sharp in fine]
peak = [float(jnp.max(jax.nn.softmax(sharp * base))) for sharp in fine]
at = [float(jnp.max(jax.nn.softmax(sharp * base))) for sharp in sharpness]
for name, found in measured.items():
    mean, error = np.array(found).T
    points = axis.errorbar(at, mean, yerr=2 * error, fmt="o", ms=5, label=name)
    if name in theory[0]:
        axis.plot(peak, [t[name] for t in theory], color=points[0].get_color(), lw=0.8)
axis.set(yscale="log", xlabel="probability of the likeliest class")
axis.set_ylabel("variance of the gradient")
axis.legend(fontsize=8)
plt.show()

print(f"{'probability of the likeliest class':34s}" + "".join(f"{x:>20.3f}" for x in at))
for name, found in measured.items():
    print(f"{name:34s}" + "".join(f"{f'{m:.4f} ± {e:.4f}':>20s}" for m, e in found))
for name in theory[0]:
    right = [float(exact_variances(sharp * base)[name]) for sharp in sharpness]
    print(f"{'exact: ' + name:34s}" + "".join(f"{x:>20.4f}" for x in right))
    for (mean, error), x in zip(measured[name], right, strict=True):
        assert abs(mean - x) < 5 * error + 1e-4 * x, (name, mean, error, x)

# %% [markdown]
# The measured variances lie on the lines. They are less favourable to the idea than one might
# expect. The baseline, one word of code, is worth a factor of seven and more. With it, summing and
# sampling beats two draws with the leave-one-out baseline where one class is likely, and loses
# where none is. And `UnorderedSet(2)`, two different classes without replacement, is better than
# both wherever we measured. So this is an estimator to learn from; for your own costs, `variance`
# decides.

# %%
means = {name: np.array(found)[:, 0] for name, found in measured.items()}
assert np.all(means["sum and sample, no baseline"] > 6.5 * means["sum and sample"])
assert means["sum and sample"][0] > means["score function, leave one out"][0]
assert means["sum and sample"][-1] < 0.5 * means["score function, leave one out"][-1]
assert np.all(means["unordered set"] < means["sum and sample"])
report = ppgen.variance(cost, [Enumerate(), UnorderedSet(2), SumAndSample(), ScoreFunction()])(
    jax.random.key(3), jnp.asarray(3.0 * base)
)
print(report)

# %% [markdown]
# ## Keep it
#
# In your own package: put `assert_unbiased` on `pair(family, YourEstimator())`, for each family
# that it serves, into the test suite, and the planted bug next to it. Nothing has to be
# registered: any instance of an `AbstractEstimator` can be used as an estimator.
#
# In ppgen: a file in `ppgen/estimators/`, and a line in `ppgen.testing.ESTIMATORS`, the registry of
# all estimators by name. The laws (unbiasedness with every family, swapping estimators, `jit` and
# `vmap`, planted bugs) then include it automatically, and `python tests/laws/law_pairs.py` gives it
# a column in the table *Which estimator serves which distribution*.
