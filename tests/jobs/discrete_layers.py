"""Two layers of discrete choices, with the gradient estimators that a measurement prefers."""

# --- user code
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_digits

import ppgen
from ppgen.inference import elbo, fit, iwelbo, mean_over_data, per_batch, per_datum

images = jnp.float32(load_digits().data > 7)
train, held_out = images[:1500], images[1500:]


def flips(name, logits, obs=None):
    return numpyro.sample(name, dist.Bernoulli(logits=logits).to_event(1), obs=obs)


def model(theta, x):
    upper = flips("upper", theta["top"])
    lower = flips("lower", upper @ theta["down"] + theta["middle"])
    flips("x", lower @ theta["pixels"] + theta["background"], obs=x)


def guide(theta, x):
    lower = flips("lower", (x - 0.5) @ theta["look"])
    flips("upper", (lower - 0.5) @ theta["up"])


shapes = {"top": 8, "down": (8, 16), "middle": 16, "pixels": (16, 64), "background": 64}
shapes |= {"look": (64, 16), "up": (16, 8)}
keys = dict(zip(shapes, jax.random.split(jax.random.key(0), len(shapes)), strict=True))
theta = {name: 0.2 * jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
bound = elbo(model, guide)
choices = {"score function": ppgen.ScoreFunction(), "DisARM": ppgen.DisARM()}
choices |= {"measure-valued": ppgen.MeasureValued(prune=True)}
report = ppgen.variance(per_batch(bound), choices, samples=100)(keys["up"], theta, train[:16])
measured = ppgen.with_estimators(bound, report.best.choice)
options = {"steps": 700, "data": train, "batch_size": 32, "maximize": True}
fitted = fit(per_batch(measured), theta, optax.adam(0.01), key=keys["up"], **options)
tight = iwelbo(model, guide, particles=50)
figure = mean_over_data(per_datum(tight, fitted.params, held_out, key=keys["top"]))
# --- end of user code

import numpy as np  # noqa: E402

assert all(c.variance > 0 for c in report.candidates) and not any(
    c.refused for c in report.candidates
)
assert report.best.variance < 0.5 * max(c.variance for c in report.candidates)
share = (train.sum(0) + 1) / (len(train) + 2)
floor = mean_over_data(np.asarray(dist.Bernoulli(share).log_prob(held_out).sum(-1)))
assert figure.mean > floor.mean + 5 * figure.standard_error, (figure, floor)
