"""`ppgen fit vae`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ppgen.models.cli._recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.cli._training import Training, at_least

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from ppgen.models.datasets import Images
    from ppgen.models.vae import VAE

ELBO_DRAWS = 50


@dataclasses.dataclass(frozen=True)
class VAERecipe(AbstractRecipe):
    """Train a variational autoencoder on images.

    The learning rate falls to zero along a cosine.
    """

    objective: Literal["elbo", "iwelbo"] = "elbo"
    """The bound to maximise."""
    likelihood: Literal["bernoulli", "categorical", "gaussian", "logistic"] = "logistic"
    """Distribution of a pixel: of its grey level (categorical, discretised logistic), of its grey
    level with uniform noise (gaussian), or of being at least half as dark as possible
    (bernoulli)."""
    latent: int = 16
    """Dimensions of the latent vector."""
    hidden: int = 128
    """Width of the hidden layer of each network."""
    weight_decay: float = 0.3
    """Decoupled weight decay, against fitting the training images only."""
    particles: int = 5
    """Draws of the latent vector for each image: iwelbo takes the logarithm of their mean weight,
    elbo averages over them."""
    data: Path | None = None
    """Images in an .npz, .npy or IDX file, of shape (n, height, width) with whole grey levels.
    None stands for the 1,797 digits of scikit-learn."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=128, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 500

    def check(self) -> None:
        """Refuse networks and draws of no size."""
        at_least(self, 1, "latent", "hidden", "particles")
        at_least(self, 0, "weight_decay")

    def load(self) -> Images:
        """The images to train on and to hold out."""
        from ppgen.models.datasets import load_digits, load_images

        return load_digits() if self.data is None else load_images(self.data)

    def facts(self, data: Images) -> dict[str, Any]:
        """What images look like."""
        from ppgen.models.cli._drive import fingerprint

        parts = (data.train, data.held_out)
        return {"shape": list(data.shape), "levels": data.levels, "sha256": fingerprint(parts)}

    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> VAE:
        """Fresh weights."""
        from ppgen.models.vae import VAE

        return VAE(
            pixels=math.prod(facts["shape"]),
            levels=facts["levels"],
            likelihood=self.likelihood,
            latent=self.latent,
            hidden=self.hidden,
            key=key,
        )

    def stage(
        self,
        name: str,
        training: Training,
        params: VAE,
        data: Images,
        fitted: Mapping[str, Any],
    ) -> Stage:
        """The bound, by Adam with weight decay."""
        import optax

        from ppgen.inference import elbo, iwelbo
        from ppgen.models.vae import batch_objective, vae_guide, vae_model

        weighted = self.objective == "iwelbo"
        bound = elbo(vae_model, vae_guide)
        if weighted:
            bound = iwelbo(vae_model, vae_guide, particles=self.particles)
        schedule = optax.cosine_decay_schedule(training.learning_rate, training.steps)
        return Stage(
            objective=batch_objective(bound),
            params=params,
            optimizer=optax.adamw(schedule, weight_decay=self.weight_decay),
            data=data.train,
            draws=1 if weighted else self.particles,
            maximize=True,
            label=self.objective.upper(),
            unit="nats per image",
        )

    def evaluate(
        self,
        data: Images,
        fitted: Mapping[str, VAE],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """Two bounds, and the exact log likelihood of a histogram of every pixel."""
        import jax
        import numpy as np

        from ppgen.inference import bits_per_dimension, elbo, iwelbo, mean_over_data, per_datum
        from ppgen.models.baselines import pixel_marginal_log_likelihood
        from ppgen.models.vae import image_objective, vae_guide, vae_model

        vae = fitted[""]
        images = data.held_out if split == "held-out" else data.train
        values = vae.likelihood.values
        levels = (
            np.asarray(vae.likelihood.discretize(jax.numpy.asarray(part)))
            for part in (data.train, images)
        )
        keys = jax.random.split(key)
        plain = image_objective(elbo(vae_model, vae_guide))
        weighted = image_objective(iwelbo(vae_model, vae_guide, particles=particles))
        figures = {
            "per-pixel histograms": pixel_marginal_log_likelihood(*levels, values=values),
            "ELBO": per_datum(plain, vae, images, key=keys[0], draws=ELBO_DRAWS),
            f"IWELBO-{particles}": per_datum(weighted, vae, images, key=keys[1]),
        }
        rows = []
        for label, each in figures.items():
            nats = mean_over_data(each)
            rows.append((label, (nats, bits_per_dimension(nats, data.pixels))))
        where = "held out" if split == "held-out" else "trained on"
        return Report(
            title=f"{where}: {len(images)} images, {data.pixels} pixels of {values} values",
            columns=(("nats per image", 2), ("bits per dimension", 3)),
            rows=rows,
            references={"": [(f"held-out {label}", nats.mean) for label, (nats, _) in rows]},
        )

    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, VAE],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Draws latent vectors from the prior and writes the mean images."""
        import equinox as eqx
        import jax
        import numpy as np

        import ppgen
        from ppgen.models.pictures import draw_samples
        from ppgen.models.vae import vae_model

        vae = fitted[""]
        draw = eqx.filter_jit(jax.vmap(ppgen.seed(vae_model), in_axes=(0, None)))
        means = np.asarray(draw(jax.random.split(key, count), vae))
        draw_samples(
            path,
            means.reshape(count, *facts["shape"]),
            top=vae.likelihood.values - 1,
            title="Samples: mean of x given z, z drawn from the prior",
        )

    def pictures(
        self, folder: Path, data: Images, fitted: Mapping[str, VAE], key: Key[Array, ""]
    ) -> None:
        """Held-out images above their reconstructions."""
        import equinox as eqx
        import jax
        import numpy as np

        import ppgen
        from ppgen.models.pictures import draw_reconstructions
        from ppgen.models.vae import observed, reconstruct

        vae = fitted[""]
        count = min(12, len(data.held_out))

        def rebuild(vae: VAE, image: jax.Array) -> tuple[jax.Array, jax.Array]:
            return vae.likelihood.discretize(image), reconstruct(vae, observed(vae, image))

        draw = eqx.filter_jit(jax.vmap(ppgen.seed(rebuild), in_axes=(0, None, 0)))
        images = jax.numpy.asarray(data.held_out[:count])
        parts = draw(jax.random.split(key, count), vae, images)
        original, rebuilt = (np.asarray(part).reshape(count, *data.shape) for part in parts)
        draw_reconstructions(
            folder / "reconstructions.png",
            [("held out", original), ("rebuilt", rebuilt)],
            top=vae.likelihood.values - 1,
            title="Held-out images and the mean of x given a draw of z from the guide",
        )
