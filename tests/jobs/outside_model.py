"""A model from outside: one file for the command line, and its run in Python."""

# --- user code
import dataclasses

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from sklearn.datasets import load_breast_cancer

from ppgen.inference import elbo
from ppgen.models import Count, Recipe, Stage, Training, bound_figures, point_picture, split_table


def model(p, x=None):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(len(p["w"])), 1.0).to_event(1))
    law = dist.Normal(z @ p["w"], jnp.exp(p["noise"])).to_event(1)
    return numpyro.sample("x", law, obs=x)


def guide(p, x):
    numpyro.sample("z", dist.Normal(p["look"] @ x, jnp.exp(p["spread"])).to_event(1))


@dataclasses.dataclass(frozen=True)
class Tissue(Recipe):
    """Fit factor analysis to tissue samples."""

    factors: Count = 3
    """Numbers that stand for a sample."""
    training = Training(steps=1000, batch_size=64, learning_rate=0.02)

    def load(self):
        x = jnp.log(load_breast_cancer().data + 0.01)
        return split_table((x - x.mean(0)) / x.std(0), held_out=100)

    def model(self, facts, keys):
        w = 0.1 * jax.random.normal(keys[""], (self.factors, *facts["shape"]))
        return {"w": w, "look": w, "noise": jnp.zeros(w.shape[1]), "spread": jnp.zeros(len(w))}

    def stage(self, name, training):
        return Stage(elbo(model, guide), training.optimizer(optax.adam), maximize=True)

    def figures(self, run, rows, particles, key):
        floor = dist.Normal(0.0, 1.0).log_prob(rows).sum(-1)
        given = (model, guide, run.model, rows, particles, key)
        return bound_figures(*given, floors={"independent columns": floor})

    def sample(self, run, key):
        return point_picture("Samples", lambda: model(run.model))


if __name__ == "__main__":
    # $ ppgen fit outside_model.py --factors 4
    from ppgen.models import load_run

    run = load_run("runs/outside_model-001")
    print(run.figures().table())
    samples = run.sample(jax.random.key(0), 500)
# --- end of user code

if __name__ == "__main__":
    import numpy as np

    assert run.recipe.factors == 4 and samples.shape == (500, 30)
    floor, *_, tight = (row["nats per row"] for row in run.figures().estimates.values())
    assert tight.mean > floor.mean + 5 * (tight.standard_error + floor.standard_error)
    learned, real = np.corrcoef(samples.T), np.corrcoef(run.data.held_out.T)
    assert np.corrcoef(learned.ravel(), real.ravel())[0, 1] > 0.7
