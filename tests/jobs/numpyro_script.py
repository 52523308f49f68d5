"""A NumPyro script: a regression in which some points are outliers. One line of it is ppgen's."""

# --- user code
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO

from ppgen.inference import as_numpyro_elbo, iwelbo

x = jnp.linspace(-2, 2, 40)
y = 1.5 * x + 0.3 * jax.random.normal(jax.random.key(0), x.shape)
y = y.at[5::8].add(4.0)  # every eighth one is off


def model(x, y):
    slope = numpyro.param("slope", 0.0)
    with numpyro.plate("points", len(x)):
        off = numpyro.sample("off", dist.Bernoulli(0.2))
        numpyro.sample("y", dist.Normal(slope * x, 0.3 + 4.0 * off), obs=y)


def guide(x, y):
    logits = numpyro.param("logits", jnp.zeros(len(x)))
    with numpyro.plate("points", len(x)):
        numpyro.sample("off", dist.Bernoulli(logits=logits))


loss = RenyiELBO(alpha=0, num_particles=4)
loss = as_numpyro_elbo(iwelbo, particles=4)  # the line that changes
fitted = SVI(model, guide, numpyro.optim.Adam(0.05), loss).run(
    jax.random.key(1), 2000, x, y, progress_bar=False
)
# --- end of user code

import numpy as np  # noqa: E402


def log_joint(slope):
    """Of each point, and of being an outlier or not."""
    each = [dist.Normal(slope * x, 0.3 + 4.0 * off).log_prob(y) for off in (1, 0)]
    return jnp.stack(each) + jnp.log(jnp.array([0.2, 0.8]))[:, None]


slopes = np.linspace(0, 3, 301)
best = slopes[np.argmax([jax.nn.logsumexp(log_joint(s), axis=0).sum() for s in slopes])]
assert abs(fitted.params["slope"] - best) < 0.1, (fitted.params["slope"], best)
posterior = jax.nn.softmax(log_joint(fitted.params["slope"]), axis=0)[0]
found = jax.nn.sigmoid(fitted.params["logits"])
assert ((found > 0.5) == (posterior > 0.5)).all() and abs(found - posterior).max() < 0.4
