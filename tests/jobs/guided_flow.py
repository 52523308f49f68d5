"""Flow matching from data, and samples that an energy guides."""

# --- user code
import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from sklearn.datasets import make_moons

import ppgen
from ppgen.inference import Chain, PlugIn, ancestral, decode, fit, guide, per_batch, regress

data = jnp.float32(make_moons(2000, noise=0.05, random_state=0)[0] - [0.5, 0.25])
noise = dist.Normal(jnp.zeros(2), 1.0).to_event(1)


def bridge(row):
    t = numpyro.sample("t", dist.Uniform())
    x1 = numpyro.sample("x1", noise, obs=row)  # the data: its law does not matter
    x0 = numpyro.sample("x0", noise)
    return t * x1 + (1 - t) * x0


def network(net, x, t):
    return net(jnp.append(x, t))


fresh = eqx.nn.MLP(3, 2, 64, 3, jax.nn.silu, key=jax.random.key(0))
options = {"steps": 1200, "data": data, "batch_size": 128, "key": jax.random.key(1)}
fitted = fit(per_batch(regress(network, bridge)), fresh, optax.adam(2e-3), **options)
field = decode(lambda x, t: network(fitted.params, x, t), bridge, given="velocity", args=(data[0],))
chain = Chain(noise, ancestral(field), jnp.linspace(0.01, 0.99, 51))


def energy(x):  # minus the log probability that a classifier gives to "on the right"
    return jax.nn.softplus(-3.0 * x[0])


guided = guide(chain, energy, PlugIn(lambda x, t: field(x, t).x1))
plain = jax.vmap(ppgen.seed(chain))(jax.random.split(jax.random.key(2), 500))
particles = ppgen.seed(guided.smc(particles=500))(jax.random.key(3))
# --- end of user code

# Samples are near the data, as noise is not.
at_random = noise.sample(jax.random.key(4), (500,))
gaps = [
    float(jnp.linalg.norm(x[:, None] - data, axis=-1).min(1).mean()) for x in (plain, at_random)
]
assert gaps[0] < 0.4 * gaps[1], gaps

# Guided ones have less energy, and the weights estimate the probability of that class.
energies = jax.vmap(energy)
before, after = energies(plain).mean(), particles.mean(energy)
assert after < 0.4 * before, (before, after)
assert particles.mean(lambda x: x[0] > 0) > 0.75 > 0.65 > (plain[:, 0] > 0).mean()
exact = float(jax.nn.logsumexp(-energies(data)) - jnp.log(len(data)))
assert abs(float(particles.log_evidence) - exact) < 0.6, (particles.log_evidence, exact)
