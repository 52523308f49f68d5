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
# # Your own objective
#
# You have a NumPyro model and a guide. You want to fit them with an objective that no library
# offers, and you want its gradient to be unbiased, discrete choices included, without deriving
# anything by hand. This tutorial does that in three steps.
#
# 1. Write the objective as a program, in three lines.
# 2. Compare gradient estimators on it, by measuring their variance.
# 3. Prove that the gradient is unbiased, against an exact oracle.
#
# ## A model and a guide
#
# A detector reads `y`, eight noisy values. Either there is a signal of unknown amplitude `a` in
# them (`s = 1`) or there is none (`s = 0`). Both latents are inferred together; one is discrete.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist
import optax

import ppgen
from ppgen import Enumerate, MeasureValued, ScoreFunction
from ppgen.inference import fit
from ppgen.testing import assert_unbiased, exact

y = 0.35 + 0.9 * jax.random.normal(jax.random.key(7), (8,))


def model(params, y):
    s = numpyro.sample("s", dist.Bernoulli(0.3))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("readings", len(y)):
        numpyro.sample("y", dist.Normal(s * a, 1.0), obs=y)


def guide(params, y):
    s = numpyro.sample("s", dist.Bernoulli(logits=params["logit"]))
    loc = jnp.where(s == 1, params["loc"], 0.0)
    scale = jnp.where(s == 1, jnp.exp(params["log_scale"]), 1.0)
    numpyro.sample("a", dist.Normal(loc, scale))


params = {"logit": jnp.array(0.0), "loc": jnp.array(0.0), "log_scale": jnp.array(0.0)}

# %% [markdown]
# ## An objective in three lines
#
# `ppgen.simulate` runs a program and returns a `Trace`; `ppgen.log_density` scores a trace under
# another program. So the evidence lower bound reads like its formula, $\mathcal L = \mathbb
# E_{q}[\log p(y, s, a) - \log q(s, a)]$:


# %%
def elbo(params, y):
    trace = ppgen.simulate(guide)(params, y)
    return ppgen.log_density(model)(trace, params, y) - trace.log_density


# %% [markdown]
# `ppgen.expectation` turns it into a plain JAX function of a key and the same arguments. Its value
# is an unbiased estimate of the expectation and so is every derivative that JAX takes of it.

# %%
g = ppgen.expectation(elbo)
value, gradient = jax.value_and_grad(g, argnums=1)(jax.random.key(0), params, y)
print(f"one draw of the bound: {value:.3f} nats")
print("one draw of its gradient:", {k: round(float(v), 3) for k, v in gradient.items()})

# %% [markdown]
# `ppgen.check` reports what will be done, without running anything: the estimator of each choice,
# and which terms of the cost each one's score multiplies.

# %%
ppgen.check(elbo)(params, y)

# %% [markdown]
# Now an objective of your own. Suppose that a missed signal is costly, and you want a guide that
# covers the posterior instead of locking onto one mode. The bound of Rényi order $\alpha = 0.5$
# does that,
#
# $$\mathcal L_\alpha = \frac{1}{1-\alpha} \log \frac1K \sum_{k=1}^K w_k^{1-\alpha},\qquad
#   w_k = \frac{p(y, s_k, a_k)}{q(s_k, a_k)},$$
#
# and you also penalise a posterior that is too sure of "no signal", by the hinge $\lambda \max(0,
# \ell - \ell_0)$ on its log odds $\ell$ against one. With $K$ draws it is one `vmap`: every lane
# has its own randomness.


# %%
def cautious_bound(params, y, num=3, order=0.5, charge=0.2):
    log_weight = jax.vmap(lambda _: elbo(params, y))(jnp.arange(num))
    bound = jax.nn.logsumexp((1 - order) * log_weight) - jnp.log(num)
    return bound / (1 - order) - charge * jax.nn.relu(-params["logit"] - 1.0)


# %% [markdown]
# ## Which estimator? Measure
#
# The discrete choice `s` can be differentiated in several ways. `with_estimators` chooses from
# outside, and nothing about the objective changes, only the variance. The amplitude is
# reparameterised throughout.

# %%
candidates = {
    "score function": (ScoreFunction(), 1),
    "score function,\nleave one out, 4 draws": (ScoreFunction(), 4),
    "measure-valued": (MeasureValued(), 1),
    "enumeration": (Enumerate(), 1),
}
keys = jax.random.split(jax.random.key(1), 4000)
draws_of_gradient = {}
for name, (estimator, draws) in candidates.items():
    objective = ppgen.with_estimators(cautious_bound, {"s": estimator})
    estimate = ppgen.expectation(objective, draws=draws)
    gradients = jax.jit(jax.vmap(jax.grad(estimate, argnums=1), (0, None, None)))(keys, params, y)
    draws_of_gradient[name] = gradients["logit"]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[3, 2])
left.violinplot([jnp.clip(d, -4, 4) for d in draws_of_gradient.values()], showmeans=True)
left.set_xticks(range(1, 1 + len(candidates)), list(candidates), fontsize=8)
left.set(ylabel="gradient in the log odds", title="one draw each: the means agree")
variances = [float(d.var()) for d in draws_of_gradient.values()]
right.barh(list(candidates), variances, color="tab:blue")
right.set(xscale="log", title="variance")
right.tick_params(axis="y", labelsize=8)
figure.tight_layout()
plt.show()
for name, variance in zip(candidates, variances, strict=True):
    mean = draws_of_gradient[name].mean()
    print(f"{name.replace(chr(10), ' '):42s} mean {mean:+.3f}   variance {variance:.4f}")

# %% [markdown]
# ## Is it unbiased? Test it
#
# For a program this small there is an exact answer. `ppgen.testing.exact` computes it by
# enumeration and quadrature, independently of the estimators, and `assert_unbiased` compares value
# and gradient with it, at a stated error probability. Put this into your test suite; that such a
# test can fail is shown in [the lesson on testing](11_testing_your_objective).

# %%
print(f"exact bound: {float(exact(elbo)(params, y)):.4f} nats")
for estimator, order in [(ScoreFunction(), 2), (Enumerate(), 2), (MeasureValued(), 1)]:
    f = ppgen.with_estimators(elbo, {"s": estimator})
    assert_unbiased(f, params, y, order=order)
    print(type(estimator).__name__, "is unbiased on this objective, up to order", order)

# %% [markdown]
# ## Fit
#
# Eight draws a step, Adam, the whole loop compiled. (What `expectation` makes is a function of JAX,
# so a loop of your own works as well.)

# %%
objective = ppgen.with_estimators(cautious_bound, {"s": Enumerate()})
fitted, bounds, *_ = fit(
    lambda params: objective(params, y),
    params,
    optax.adam(0.05),
    key=jax.random.key(2),
    steps=600,
    draws=8,
    maximize=True,
)

# %% [markdown]
# The posterior of this model is known in closed form, so the figure has a reference: given a
# signal, $a \mid y$ is Gaussian, and the probability of a signal follows from the evidence of both
# cases.

# %%
n = len(y)
precision = 1 + n
log_bayes_factor = 0.5 * (jnp.sum(y) ** 2 / precision - jnp.log(precision))
log_odds = jnp.log(0.3 / 0.7) + log_bayes_factor
print(f"{'':18s}{'fitted':>8s}{'exact':>8s}")
print(f"{'P(signal)':18s}{jax.nn.sigmoid(fitted['logit']):8.3f}{jax.nn.sigmoid(log_odds):8.3f}")
print(f"{'amplitude, mean':18s}{fitted['loc']:8.3f}{jnp.sum(y) / precision:8.3f}")
print(f"{'amplitude, scale':18s}{jnp.exp(fitted['log_scale']):8.3f}{precision**-0.5:8.3f}")

figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(bounds, lw=0.6)
axis.set(xlabel="step", ylabel="bound (nats)")
figure.tight_layout()
plt.show()
