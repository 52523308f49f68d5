"""`ppgen fit vae`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, ClassVar, Literal

import numpy as np

import ppgen
from ppgen import inference
from ppgen.models import vae
from ppgen.models.parts import data as datasets
from ppgen.models.parts.bounds import Bounds, Count, Weight
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.options import Condition, ImageSource
from ppgen.models.parts.recipe import Recipe, Stage, image_picture
from ppgen.models.parts.training import Training, at_least


@dataclasses.dataclass(frozen=True)
class VAERecipe(Recipe):
    """Train a variational autoencoder on images, at a rate that falls to zero along a cosine."""

    objective: Literal["elbo", "iwelbo", "dreg", "vimco"] = "elbo"
    """The bound to maximise; dreg and vimco are iwelbo with other gradients: doubly
    reparameterised, or of score functions."""
    likelihood: Literal["bernoulli", "categorical", "gaussian", "logistic"] = "logistic"
    """Distribution of a pixel: of its grey level (categorical, discretised logistic), of the grey
    level plus uniform noise (gaussian), or of its binary value (bernoulli)."""
    network: Literal["mlp", "conv"] = "mlp"
    """Perceptrons, or convolutions, for images whose sides are multiples of four."""
    latent: Literal["gaussian", "vmf", "binary", "categorical", "hierarchical"] = "gaussian"
    """The latent representation: a Gaussian vector, a direction (von Mises-Fisher), flips, classes,
    or a Gaussian vector that depends on another one."""
    posterior: Literal["diagonal", "flow"] = "diagonal"
    """Posterior of a Gaussian vector: a diagonal Gaussian, or affine couplings of one."""
    dimensions: Count = 16
    """Dimensions of the latent vector: numbers, flips or variables."""
    classes: Annotated[int, Bounds(2)] = 8
    """Classes of each categorical variable."""
    hidden: Count = 128
    """Width of the hidden layers; convolutions have an eighth as many channels at half the size."""
    beta: Weight = 1.0
    """Weight of the divergence from the prior in the elbo; a bound if at least 1."""
    weight_decay: Weight = 0.3
    """Decoupled weight decay, against fitting the training images only."""
    particles: Count = 5
    """Draws of the latent vector for each image: iwelbo takes the logarithm of their mean weight,
    elbo averages over them."""
    condition: Condition = "none"
    data: ImageSource = None

    training: ClassVar[Training] = Training(
        steps=2000, batch_size=128, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 500
    settings: ClassVar = {"mnist5k": {"likelihood": "bernoulli", "hidden": 500, "steps": 6000}}
    tiny: ClassVar = {"hidden": 8, "dimensions": 2, "batch_size": 16}

    def check(self):
        if self.objective == "vimco":
            at_least(self, 2, "particles")
        if self.latent == "vmf" or self.posterior == "flow":
            at_least(self, 2, "dimensions")
        if self.posterior == "flow" and self.latent != "gaussian":
            raise CommandError(f"--posterior flow needs --latent gaussian, not {self.latent}")
        if self.objective == "dreg" and self.latent in ("binary", "categorical"):
            raise CommandError(
                f"--objective dreg needs a latent vector that moves: {self.latent} ones jump"
            )
        if self.beta != 1 and self.objective != "elbo":
            raise CommandError(f"--beta needs --objective elbo, not {self.objective}")

    def load(self):
        data = datasets.images_or_digits(self.data, self.condition)
        if self.network == "conv" and any(side % 4 for side in data.shape):
            size = "x".join(map(str, data.shape))
            raise CommandError(f"--network conv needs sides that are multiples of four, not {size}")
        return data

    def model(self, facts, keys):
        from ppgen.models.parts.latents import CategoricalLatent

        latent = "flow" if self.posterior == "flow" else self.latent
        if latent == "categorical":
            latent = CategoricalLatent(self.dimensions, self.classes)
        return vae.VAE(
            pixels=int(np.prod(facts["shape"])),
            levels=facts["levels"],
            likelihood=self.likelihood,
            latent=latent,
            dimensions=self.dimensions,
            network=self.network,
            shape=tuple(facts["shape"]),
            hidden=self.hidden,
            classes=facts.get("classes", 0),
            key=keys[""],
        )

    def stage(self, name, training):
        import optax

        guide, is_elbo = vae.vae_guide, self.objective == "elbo"
        if self.latent in ("binary", "categorical"):
            guide = ppgen.with_estimators(guide, "auto")
        build, options, label = getattr(inference, self.objective), {}, "ELBO"
        if not is_elbo:
            options, label = {"particles": self.particles}, "IWELBO"
        elif self.beta != 1:
            build, options, label = inference.beta_elbo, {"beta": self.beta}, f"{self.beta:g}-ELBO"
        return Stage(
            vae.image_objective(build(vae.vae_model, guide, **options)),
            training.optimizer(optax.adamw, weight_decay=self.weight_decay),
            draws=self.particles if is_elbo else 1,
            maximize=True,
            label=label,
            unit="nats per image",
        )

    def figures(self, run, rows, particles, key):
        from ppgen.models.parts import figures
        from ppgen.models.parts.metrics.baselines import pixel_histograms

        model, pixels, values = run.model, run.data.pixels, run.model.likelihood.values
        nats = {"per-pixel histograms": pixel_histograms(model.likelihood, run.data.train, rows)}
        programs, of = (vae.vae_model, vae.vae_guide), vae.image_objective
        nats |= figures.bounds(*programs, model, rows, particles, key, draws=50, of=of)
        return figures.Figures(
            title=f"{len(nats['ELBO'])} images, {pixels} pixels of {values} values",
            units={"nats per image": 2, "bits per dimension": 3},
            rows={k: figures.nats_and_bits(x, pixels, per="image") for k, x in nats.items()},
        )

    def sample(self, run, key):
        title, top = "Samples: mean of x given z, z from the prior", run.model.likelihood.values - 1
        draw = functools.partial(vae.vae_model, run.model, None)
        return image_picture(title, draw, run.facts["shape"], top)

    def pictures(self, run):
        def rows(datum):
            image, label = datasets.datum_and_label(datum)
            rebuilt = vae.reconstruct(run.model, vae.observed(run.model, image), label)
            return {"held out": likelihood.discretize(image), "rebuilt": rebuilt}

        likelihood, title = run.model.likelihood, "Held-out images and the mean of x given z"
        picture = image_picture(title, rows, run.facts["shape"], likelihood.values - 1)
        return {"reconstructions": picture}
