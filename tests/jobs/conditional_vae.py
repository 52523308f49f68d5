"""A conditional VAE with a flow posterior, fitted by the importance-weighted bound."""

# --- user code
import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_digits

import ppgen
from ppgen.inference import fit, iwelbo, mean_over_data, per_batch, per_datum
from ppgen.models.parts.latents import FlowLatent

digits = load_digits()
rows = (jnp.float32(digits.data > 7), jax.nn.one_hot(digits.target, 10))  # images and labels
train, held_out = ([x[part] for x in rows] for part in (slice(1500), slice(1500, None)))


class Net(eqx.Module):
    latent: FlowLatent
    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.latent = FlowLatent(6, 16, layers=2, key=keys[0])
        self.encoder = eqx.nn.MLP(64 + 10, self.latent.statistics, 64, 1, key=keys[1])
        self.decoder = eqx.nn.MLP(self.latent.code + 10, 64, 64, 1, key=keys[2])


def model(net, row):
    image, label = row
    logits = net.decoder(jnp.concatenate([net.latent.prior(), label]))
    return numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=image)


def guide(net, row):
    net.latent.posterior(net.encoder(jnp.concatenate(row)))


bound, fresh, key = iwelbo(model, guide, particles=3), Net(jax.random.key(0)), jax.random.key(1)
options = {"steps": 600, "data": train, "batch_size": 32, "maximize": True}
fitted = fit(per_batch(bound), fresh, optax.adam(5e-3), key=key, **options)
figure = mean_over_data(per_datum(bound, fitted.params, held_out, key=key))
threes = jax.vmap(lambda key: ppgen.seed(model)(key, fitted.params, (None, rows[1][3])))(
    jax.random.split(key, 200)
)
# --- end of user code

import numpy as np  # noqa: E402

# The floor: pixels that are independent, given the label.
images, labels = (np.asarray(x) for x in train)
share = (labels.T @ images + 1) / (labels.sum(0)[:, None] + 2)
floor = mean_over_data(
    np.asarray(dist.Bernoulli(held_out[1] @ share).log_prob(held_out[0]).sum(-1))
)
assert figure.mean > floor.mean + 5 * figure.standard_error, (figure, floor)

# The label matters: with others the bound is lower, and samples of a label are like its images.
others = (held_out[0], jnp.roll(held_out[1], 1, axis=1))
wrong = mean_over_data(per_datum(bound, fitted.params, others, key=key))
assert wrong.mean < figure.mean - 5 * figure.standard_error, (figure, wrong)
gaps = np.abs(np.asarray(threes).mean(0) - share).mean(-1)
assert int(digits.target[3]) == 3 == gaps.argmin(), gaps
