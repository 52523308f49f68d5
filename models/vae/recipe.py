"""`ppgen fit vae`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ppgen.models.parts.bounds import Bounds, Count, Weight
from ppgen.models.parts.data.kinds import facts_of, load
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training, at_least

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from ppgen.models.parts.data import Images
    from ppgen.models.vae.model import VAE

ELBO_DRAWS = 50


@dataclasses.dataclass(frozen=True)
class VAERecipe(AbstractRecipe):
    """Train a variational autoencoder on images.

    The learning rate falls to zero along a cosine.
    """

    objective: Literal["elbo", "iwelbo", "dreg", "vimco"] = "elbo"
    """The bound to maximise; dreg and vimco are iwelbo with other gradients: doubly
    reparameterised, or of score functions."""
    likelihood: Literal["bernoulli", "categorical", "gaussian", "logistic"] = "logistic"
    """Distribution of a pixel: of its grey level (categorical, discretised logistic), of its grey
    level with uniform noise (gaussian), or of being at least half as dark as possible
    (bernoulli)."""
    network: Literal["mlp", "conv"] = "mlp"
    """Perceptrons, or convolutions, for images whose sides are multiples of four."""
    latent: Literal["gaussian", "vmf", "binary", "categorical", "hierarchical"] = "gaussian"
    """What an image is decoded from: a Gaussian vector, a direction (von Mises-Fisher), flips,
    classes, or a Gaussian vector that depends on another one."""
    posterior: Literal["diagonal", "flow"] = "diagonal"
    """Of a Gaussian vector: a diagonal Gaussian, or affine couplings of one."""
    dimensions: Count = 16
    """Dimensions of the latent vector: numbers, flips or variables."""
    classes: Annotated[int, Bounds(2)] = 8
    """Classes of each categorical variable."""
    hidden: Count = 128
    """Width of the hidden layer of each network; convolutions have an eighth as many channels at
    half of the resolution."""
    beta: Weight = 1.0
    """Weight of the divergence from the prior in the elbo: what is maximised is a bound from 1
    on."""
    weight_decay: Weight = 0.3
    """Decoupled weight decay, against fitting the training images only."""
    particles: Count = 5
    """Draws of the latent vector for each image: iwelbo takes the logarithm of their mean weight,
    elbo averages over them."""
    data: Path | None = None
    """Images in an .npz, .npy or IDX file, of shape (n, height, width) with whole grey levels.
    None stands for the 1,797 digits of scikit-learn."""

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=128, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 500
    tiny: ClassVar[Mapping[str, Any]] = {"hidden": 8, "dimensions": 2, "batch_size": 16}

    def check(self) -> None:
        """Refuse options that do not go together."""
        if self.objective == "vimco":
            at_least(self, 2, "particles")
        if self.latent == "vmf" or self.posterior == "flow":
            at_least(self, 2, "dimensions")
        if self.posterior == "flow" and self.latent != "gaussian":
            raise CommandError(f"--posterior flow needs --latent gaussian, not {self.latent}")
        if self.objective == "dreg" and self.latent in ("binary", "categorical"):
            raise CommandError(
                f"--objective dreg needs a latent vector that moves with its parameters, and "
                f"{self.latent} ones jump: vimco or iwelbo"
            )
        if self.beta != 1 and self.objective != "elbo":
            raise CommandError(f"--beta needs --objective elbo, not {self.objective}")

    def load(self) -> Images:
        """The images to train on and to hold out."""
        data = load(self.data)
        if self.network == "conv" and any(side % 4 for side in data.shape):
            height, width = data.shape
            raise CommandError(
                f"--network conv needs sides that are multiples of four, not {height}x{width}"
            )
        return data

    def facts(self, data: Images) -> dict[str, Any]:
        """What images look like."""
        return facts_of(data)

    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> VAE:
        """Fresh weights."""
        from ppgen.models.parts.latents import CategoricalLatent
        from ppgen.models.vae.model import VAE

        latent = "flow" if self.posterior == "flow" else self.latent
        if latent == "categorical":
            latent = CategoricalLatent(self.dimensions, self.classes)
        height, width = facts["shape"]
        return VAE(
            pixels=math.prod(facts["shape"]),
            levels=facts["levels"],
            likelihood=self.likelihood,
            latent=latent,
            dimensions=self.dimensions,
            network=self.network,
            shape=(height, width),
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

        import ppgen
        from ppgen.inference import beta_elbo, dreg, elbo, iwelbo, vimco
        from ppgen.models.vae.model import batch_objective, vae_guide, vae_model

        weighted = self.objective != "elbo"
        guide = vae_guide
        if self.latent in ("binary", "categorical"):
            guide = ppgen.with_estimators(vae_guide, "auto")
        if weighted:
            build = {"iwelbo": iwelbo, "dreg": dreg, "vimco": vimco}[self.objective]
            bound = build(vae_model, guide, particles=self.particles)
        elif self.beta == 1:
            bound = elbo(vae_model, guide)
        else:
            bound = beta_elbo(vae_model, guide, beta=self.beta)
        label = "IWELBO" if weighted else "ELBO" if self.beta == 1 else f"{self.beta:g}-ELBO"
        schedule = optax.cosine_decay_schedule(training.learning_rate, training.steps)
        return Stage(
            objective=batch_objective(bound),
            params=params,
            optimizer=optax.adamw(schedule, weight_decay=self.weight_decay),
            data=data.train,
            draws=1 if weighted else self.particles,
            maximize=True,
            label=label,
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
        from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood
        from ppgen.models.vae.model import image_objective, vae_guide, vae_model

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
        from ppgen.models.parts.pictures import draw_samples
        from ppgen.models.vae.model import vae_model

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
        from ppgen.models.parts.pictures import draw_reconstructions
        from ppgen.models.vae.model import observed, reconstruct

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
