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
# # From NumPyro to ppgen in one line, and what was silently wrong
#
# You have a NumPyro model, a guide and a training loop with `SVI`. All of it stays. One argument
# changes, `loss`, and `SVI` then follows any objective of ppgen, or your own.
#
# The second half of this page is about why you might want to. With discrete latents, some of
# NumPyro's gradients are wrong, and most of the time without a warning. Each case is small enough
# to be enumerated, so that you can check it.
#
# ## One line
#
# A sensor reads 0.9. It is faulty with probability 0.3, and reads 2 on average if it is, else 0.
# The guide has one parameter, the logit of a fault, and the posterior is known.

# %%
import itertools
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, RenyiELBO, TraceGraph_ELBO

import ppgen
from ppgen.inference import as_numpyro_elbo, elbo, iwelbo

print("NumPyro", numpyro.__version__)


def sensor_model():
    faulty = numpyro.sample("faulty", dist.Bernoulli(0.3))
    numpyro.sample("x", dist.Normal(2.0 * faulty, 1.0), obs=0.9)


def sensor_guide():
    numpyro.sample("faulty", dist.Bernoulli(logits=numpyro.param("theta", 0.4)))


def fit(model, guide, loss, steps=1500, rate=0.01):
    """The parameter after each step of NumPyro's own SVI."""
    svi = SVI(model, guide, numpyro.optim.Adam(rate), loss=loss)

    def step(state, _):
        state, _ = svi.update(state)
        return state, svi.get_params(state)["theta"]

    state = svi.init(jax.random.key(0))
    return np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, None, length=steps)[1])(state))


# %% [markdown]
# The objective is the importance-weighted bound with two particles. Before and after:

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    before = fit(sensor_model, sensor_guide, loss=RenyiELBO(alpha=0, num_particles=2))
after = fit(sensor_model, sensor_guide, loss=as_numpyro_elbo(iwelbo, particles=2, draws=10))


def last(path):
    """The probability of a fault, over the last third of the steps."""
    return float(jax.nn.sigmoid(path[-500:]).mean())


posterior = float(jax.nn.sigmoid(jnp.log(0.3 / 0.7) + 2 * 0.9 - 2))
print(f"{'RenyiELBO':24s} P(faulty) = {last(before):.3f}")
print(f"{'as_numpyro_elbo(iwelbo)':24s} P(faulty) = {last(after):.3f}")
print(f"{'exact':24s} P(faulty) = {posterior:.3f}")
print("NumPyro warned of:", [str(w.message).splitlines()[0] for w in said][:1])
assert last(before) > 0.9 and abs(last(after) - posterior) < 0.02 and said

# %% [markdown]
# The posterior says that the sensor is probably fine. Trained by `RenyiELBO`, the guide is sure of
# a fault. Its gradient follows only how the density moves, not how the draws do: the score term is
# missing, and what is left points the wrong way. NumPyro has a general warning here. The next cases
# have none.
#
# ## Gradients against enumeration
#
# For each program: its exact gradient, by summing over all that the guide can draw; the mean of
# 20,000 of NumPyro's gradients; and that of 20,000 of ppgen's, from *the same* model and guide.

# %%
DRAWS = 20_000
FLIP = jnp.array([0.0, 1.0])


def log_flip(logits, z):
    return jax.nn.log_sigmoid(jnp.where(z == 1, logits, -logits))


def log_normal(x, mean):
    return -0.5 * (x - mean) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def enumerated(log_q, log_w, particles=1):
    """The exact bound of one element: over all that its particles can draw."""
    total = 0.0
    for drawn in itertools.product(range(len(log_q)), repeat=particles):
        index = jnp.array(drawn)
        value = jax.nn.logsumexp(log_w[index]) - jnp.log(particles)
        total += jnp.exp(jnp.sum(log_q[index])) * value
    return total


def sensor_exact(theta, particles=1):
    log_q = log_flip(theta, FLIP)
    log_p = jnp.log(jnp.where(FLIP == 1, 0.3, 0.7)) + log_normal(0.9, 2 * FLIP)
    return enumerated(log_q, log_p - log_q, particles)


# %% [markdown]
# **A minibatch.** Four readings, two of them at a time. The scale of the plate enters the cost, and
# once more the density that the score is taken of.

# %%
X = jnp.array([0.3, -1.2, 0.8, 2.0])
START = jnp.array([0.4, -0.3, 0.2, 0.1])


def batch_model():
    with numpyro.plate("N", 4, subsample_size=2):
        x = numpyro.subsample(X, event_dim=0)
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def batch_guide():
    with numpyro.plate("N", 4, subsample_size=2):
        x = numpyro.subsample(X, event_dim=0)
        theta = numpyro.param("theta", START[:2])
        numpyro.sample("z", dist.Bernoulli(logits=theta[0] + theta[1] * x))


def batch_exact(theta):
    def one(x):
        log_q = log_flip(theta[0] + theta[1] * x, FLIP)
        log_p = jnp.log(jnp.where(FLIP == 1, 0.3, 0.7)) + log_normal(x, 2 * FLIP)
        return enumerated(log_q, log_p - log_q)

    return sum(one(x) for x in X)


# %% [markdown]
# **A chain.** A regime that persists with probability 0.95, in NumPyro's `scan`. The first reading
# speaks for one regime, the later ones for the other, so the first choice matters for what is to
# come. That is what the gradient leaves out. The same chain as a Python loop is the control: there,
# NumPyro is right.

# %%
READINGS = jnp.array([0.0, 1.6, 2.0, 1.8])


def chain_model(scan=scan):
    def step(before, x):
        z = numpyro.sample("z", dist.Bernoulli(0.05 + 0.9 * before))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)
        return 1.0 * z, None

    scan(step, 0.5, READINGS)


def chain_guide(scan=scan):
    def step(carry, logit):
        numpyro.sample("z", dist.Bernoulli(logits=logit))
        return carry, None

    scan(step, 0.0, numpyro.param("theta", START))


def loop(step, carry, xs):
    for i, x in enumerate(xs):
        with numpyro.handlers.scope(prefix=f"{i}"):
            carry, _ = step(carry, x)


def chain_exact(theta):
    z = jnp.array(list(itertools.product((0.0, 1.0), repeat=len(READINGS))))
    before = jnp.concatenate([jnp.full((len(z), 1), 0.5), z[:, :-1]], axis=1)
    p = 0.05 + 0.9 * before
    log_p = jnp.log(jnp.where(z == 1, p, 1 - p)) + log_normal(READINGS, 2 * z)
    log_q = log_flip(theta, z)
    return enumerated(log_q.sum(1), (log_p - log_q).sum(1))


# %% [markdown]
# **Logits of zero.** Where networks start. The density of `Bernoulli(logits=0)` is computed through
# an absolute value, whose derivative at zero JAX takes to be one: the score comes out as 1 or 0
# where it is 1/2 or -1/2. So this is the first sensor, at another parameter.

# %%
graph = TraceGraph_ELBO()
cases = {
    "IWELBO, 2 particles": (
        (sensor_model, sensor_guide, RenyiELBO(alpha=0, num_particles=2)),
        lambda m, g: iwelbo(m, g, particles=2),
        lambda theta: sensor_exact(theta, 2),
        0.4,
    ),
    "minibatch": ((batch_model, batch_guide, graph), elbo, batch_exact, START[:2]),
    "chain in a scan": ((chain_model, chain_guide, graph), elbo, chain_exact, START),
    "logits of zero": ((sensor_model, sensor_guide, graph), elbo, sensor_exact, 0.0),
    "control: chain in a loop": (
        (lambda: chain_model(loop), lambda: chain_guide(loop), graph),
        elbo,
        chain_exact,
        START,
    ),
}


def mean_gradient(estimate, theta):
    keys = jax.random.split(jax.random.key(11), DRAWS)
    gradient = jax.grad(lambda theta, key: estimate(key, {"theta": theta}))
    each = jax.jit(jax.vmap(gradient, (None, 0)))(jnp.asarray(theta), keys)
    each = np.atleast_2d(np.asarray(each, np.float64).T)
    return each.mean(1), each.std(1) / DRAWS**0.5


rows = []
for name, ((model, guide, loss), objective, exact, theta) in cases.items():
    right = np.atleast_1d(jax.grad(exact)(jnp.asarray(theta)))
    theirs = mean_gradient(
        lambda key, params, m=model, g=guide, e=loss: -e.loss(key, params, m, g), theta
    )
    bound = objective(ppgen.functional(model), ppgen.functional(guide))
    ours = mean_gradient(ppgen.expectation(bound), theta)
    for i, x in enumerate(right):
        label = f"{name}, entry {i}" if len(right) > 1 else name
        rows.append((label, x, theirs[0][i], theirs[1][i], ours[0][i], ours[1][i]))

print(f"{'':36s}{'exact':>9s}{'NumPyro':>18s}{'ppgen':>18s}")
for name, x, theirs, their_error, ours, our_error in rows:
    print(
        f"{name:36s}{x:>+9.4f}{f'{theirs:+.4f} ± {their_error:.4f}':>18s}"
        f"{f'{ours:+.4f} ± {our_error:.4f}':>18s}"
    )
    assert abs(ours - x) < 5 * our_error


off = {row[0]: abs(row[2] - row[1]) > 10 * row[3] for row in rows}
assert all(any(off[label] for label in off if label.startswith(name)) for name in list(cases)[:4])
assert not any(off[label] for label in off if label.startswith("control"))

# %%
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
height = np.arange(len(rows))[::-1]
for name, k, style in [("NumPyro", 2, "rs"), ("ppgen", 4, "bo")]:
    gap = [row[k] - row[1] for row in rows]
    error = [2 * row[k + 1] for row in rows]
    axis.errorbar(gap, height + 0.12 * (3 - k), xerr=error, fmt=style, ms=5, alpha=0.8, label=name)
axis.axvline(0, color="black", lw=0.8)
axis.set_yticks(height, [row[0] for row in rows], fontsize=8)
axis.set_xlabel("mean gradient minus the exact one; two standard errors")
axis.legend()
plt.show()

# %% [markdown]
# ## Where that leads
#
# A gradient that is twice too long is a learning rate. One that leaves out what is to come belongs
# to another objective. So train the chain, with both losses, everything else the same, and look at
# the *exact* bound of the guides on the way. The guide takes the choices to be independent, so the
# best that it can do is below the log evidence; both are known.

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    by_graph = fit(chain_model, chain_guide, loss=TraceGraph_ELBO(num_particles=10))
by_ppgen = fit(chain_model, chain_guide, loss=as_numpyro_elbo(elbo, draws=10))


def climbed(theta):
    """The exact bound after 2,000 steps up its exact gradient."""
    step = lambda theta, _: (theta + 0.5 * jax.grad(chain_exact)(theta), None)  # noqa: E731
    return chain_exact(jax.lax.scan(step, theta, None, length=2000)[0])


starts = jnp.array(list(itertools.product((-1.5, 1.5), repeat=len(READINGS))))
best = float(jnp.max(jax.jit(jax.vmap(climbed))(starts)))

log_alpha = jnp.log(jnp.array([0.5, 0.5])) + log_normal(READINGS[0], 2 * FLIP)
for x in READINGS[1:]:
    joint = log_alpha[:, None] + jnp.log(jnp.array([[0.95, 0.05], [0.05, 0.95]]))
    log_alpha = jax.nn.logsumexp(joint, axis=0) + log_normal(x, 2 * FLIP)
evidence = float(jax.nn.logsumexp(log_alpha))

paths = {
    name: np.asarray(jax.jit(jax.vmap(chain_exact))(path), np.float64)
    for name, path in {"TraceGraph_ELBO": by_graph, "as_numpyro_elbo(elbo)": by_ppgen}.items()
}
print(f"{'log evidence':24s}{evidence:9.3f} nats")
print(f"{'best guide':24s}{best:9.3f} nats")
for name, bounds in paths.items():
    print(f"{name:24s}{bounds[-500:].mean():9.3f} nats")
print("NumPyro warned of:", [str(w.message) for w in said] or "nothing")

figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
for name, color in [("TraceGraph_ELBO", "tab:red"), ("as_numpyro_elbo(elbo)", "tab:blue")]:
    axis.plot(paths[name], color=color, lw=1, label=name)
axis.axhline(best, color="black", lw=0.8, ls="--", label="best guide")
axis.axhline(evidence, color="black", lw=0.8, label="log evidence")
axis.set(xlabel="step of SVI", ylabel="exact bound, nats", ylim=(None, evidence + 0.3))
axis.legend(fontsize=8)
plt.show()

assert best - paths["as_numpyro_elbo(elbo)"][-500:].mean() < 0.1
assert best - paths["TraceGraph_ELBO"][-500:].mean() > 1
assert not said

end = {"theta": jnp.asarray(by_graph[-1])}
losses = jax.jit(jax.vmap(lambda key: graph.loss(key, end, chain_model, chain_guide)))(
    jax.random.split(jax.random.key(5), DRAWS)
)
loss, error = float(losses.mean()), float(losses.std()) / DRAWS**0.5
print(f"at the end, NumPyro's own loss: {loss:.3f} ± {error:.3f}")
print(f"minus the exact bound:          {-paths['TraceGraph_ELBO'][-1]:.3f}")
assert abs(loss + paths["TraceGraph_ELBO"][-1]) < 5 * error
assert paths["TraceGraph_ELBO"].max() - paths["TraceGraph_ELBO"][-1] > 0.3

# %% [markdown]
# The guide that follows the incomplete gradient trusts each reading by itself, and ends more than a
# nat below what the same guide reaches with the right one. NumPyro's loss itself is estimated
# without bias. So there is one sign: it falls and then rises again, which noise in a longer program
# would hide.
#
# ## What else this line gives you
#
# - Any objective: `as_numpyro_elbo(objective, **options)` takes the builders of `ppgen.inference`
#   (`iwelbo`, `vimco`, `tvo`, ...) and functions `(model, guide) -> objective` of your own.
# - Any estimator: `infer={"grad": ppgen.Enumerate()}` at a site, or `ppgen.with_estimators`
#   around the guide. The tutorial *Choosing estimators by measuring* says how to choose.
# - Parameters, automatic guides, subsampled plates, `scan`, `mutable` state: as they were.
# - An error where the gradient would be silently biased, with the site, the line and what to write
#   instead.
#
# The test suite of ppgen runs these cases and more (masks, `handlers.scale`, enumeration with
# subsampling) with every change, and NumPyro's losses next to them: should a release of NumPyro
# repair one, that test fails and this page changes. Where all latents are continuous and
# reparameterised, NumPyro's gradients are right, and the two agree.
