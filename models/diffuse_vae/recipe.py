"""`ppgen fit diffuse_vae`."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Annotated, ClassVar, Literal

from ppgen.models import diffuse_vae
from ppgen.models.parts import data as datasets
from ppgen.models.parts.bounds import Bounds, Count, Number, Positive, Share
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.options import ImageSource
from ppgen.models.parts.recipe import Recipe, Stage, image_picture
from ppgen.models.parts.training import Training


@dataclasses.dataclass(frozen=True)
class DiffuseVAERecipe(Recipe):
    """Train a diffusion that refines what a variational autoencoder decodes.

    The autoencoder comes first, for `--steps` steps, and then, with it frozen, the network that
    predicts noise, for as many. The learning rate of each falls to zero along a cosine.
    """

    form: Literal[1, 2] = 1
    """1 for a chain that ends in noise around zero, 2 for noise around what is decoded."""
    latent: Count = 8
    """Dimensions of the latent vector."""
    encoder_hidden: Count = 256
    """Width of the hidden layers of encoder and decoder."""
    encoder_depth: Count = 2
    """Hidden layers of encoder and decoder."""
    pixel_scale: Positive = 0.35
    """Standard deviation of a pixel in the autoencoder, black and white being 2 apart. The smaller
    it is, the more is encoded, and the harder is what remains for a prior of latent vectors."""
    hidden: Count = 256
    """Width of the three hidden layers of the network that predicts noise."""
    # With fewer, the last noise level of the schedule would hold more noise than there is.
    levels: Annotated[int, Bounds(21)] = 1000
    """Noise levels in training."""
    dropout: Share = 0.0
    """Share of the images for which the network is not given the decoded image, for guidance."""
    warmup: Number = 0
    """Steps in which each learning rate rises from zero before it falls."""
    components: Number = 20
    """Gaussians in the prior of latent vectors, which is fitted to those of the training images
    when images are drawn. 0 means the standard normal distribution."""
    moves: Count = 50
    """Noise levels that a chain visits."""
    stride: Literal["quadratic", "uniform"] = "quadratic"
    """Spacing of the levels: quadratic ones are closer to each other where there is less noise."""
    eta: Share = 0.0
    """Noise of the steps: 0 for none (DDIM), 1 for that of the forward chain (DDPM)."""
    guidance: Annotated[float, Bounds(-1)] = 0.0
    """Weight of classifier-free guidance by the decoded image; needs dropout."""
    data: ImageSource = None

    training: ClassVar[Training] = Training(
        steps=8000, batch_size=128, learning_rate=4e-3, chunk=100, checkpoint_every=1000, ema=0.999
    )
    settings: ClassVar = {"mnist5k": {"hidden": 1024, "encoder_hidden": 512, "latent": 16}}
    tiny: ClassVar = {"hidden": 8, "encoder_hidden": 8, "latent": 2, "components": 2} | {
        "levels": 50,
        "moves": 3,
        "batch_size": 16,
    }
    stages: ClassVar = ("autoencoder", "denoiser")

    def check(self):
        if self.moves > self.levels:
            raise CommandError(f"--moves must be at most --levels {self.levels}, not {self.moves}")
        if self.guidance != 0 and self.dropout == 0:
            raise CommandError("--guidance needs a --dropout above 0")

    def load(self):
        return datasets.images_or_digits(self.data)

    def model(self, facts, keys):
        from ppgen.models.parts.networks import DenoisingMLP

        pixels, key = math.prod(facts["shape"]), keys["autoencoder"]
        layers = {"hidden": self.encoder_hidden, "depth": self.encoder_depth}
        vae = diffuse_vae.Autoencoder(
            pixels=pixels, latent=self.latent, scale=self.pixel_scale, **layers, key=key
        )
        net = DenoisingMLP(pixels, hidden=self.hidden, key=keys["denoiser"])
        return diffuse_vae.DiffuseVAE(vae, net, form=self.form)

    def stage(self, name, training):
        import optax

        def objective(model, image):
            if first:
                return diffuse_vae.autoencoder_bound(model.vae, image)
            return diffuse_vae.denoising_loss(model, levels, image, dropout=self.dropout)

        first, levels = name == "autoencoder", self.sampler(every_level=True)
        return Stage(
            objective,
            training.optimizer(optax.adam, warmup=self.warmup),
            lambda data, model: datasets.centred(data.train, data.levels),
            part=lambda model: model.vae if first else model.net,
            maximize=first,
            label="ELBO" if first else "squared error",
            unit="nats per image" if first else "of the noise of an image",
        )

    def figures(self, run, rows, particles, key):
        import jax

        from ppgen.models.parts.figures import Figures

        vae, keys, levels = run.model.vae, jax.random.split(key, 6), self.sampler(every_level=True)
        train, images = (datasets.centred(x, run.data.levels) for x in (run.data.train, rows))
        options = {"prior": self.prior(run, keys[0]), "draws": particles, "keys": keys[1:]}
        chains = run.model, self.sampler(), levels
        bounds = diffuse_vae.autoencoder_bounds(vae, images, key=keys[4], draws=particles)
        found = diffuse_vae.image_scores(*chains, train, images, **options)
        shown = ("Gaussian", "DiffuseVAE")
        shown = {f"held-out {label}": found[label]["error of the noise"] for label in shown}
        return Figures(
            title=f"{len(images)} images, {run.data.pixels} pixels on [-1, 1]; draws are told "
            "from them by the nearest neighbour, at best .5",
            units={"error of the noise": 2, "told from data": 3},
            rows=found,
            references={"autoencoder": {"held-out ELBO": bounds}, "denoiser": shown},
        )

    def sample(self, run, key):
        model, sampler, prior = run.model, self.sampler(), self.prior(run, key)
        title, shape = f"Samples after {self.moves} moves", run.facts["shape"]
        draw = functools.partial(diffuse_vae.diffuse_vae_model, model, sampler, prior=prior)
        return image_picture(title, draw, shape, bottom=-1)

    def pictures(self, run):
        def rows(image):
            x = datasets.centred(image, run.facts["levels"])
            decoded, chains = diffuse_vae.refine(run.model, self.sampler(), x)
            drawn = {"decoded": decoded, "one chain": chains[0], "another": chains[1]}
            return {"held out": x} | drawn

        title = "Held-out images, what a draw of z decodes to, and chains from there"
        return {"reconstructions": image_picture(title, rows, run.facts["shape"], bottom=-1)}

    def sampler(self, every_level=False):
        """The chain that draws images, or all levels that the network is trained at."""
        times = getattr(diffuse_vae, f"{self.stride}_times")(self.levels, self.moves)
        visited = None if every_level else times
        schedule = diffuse_vae.linear_schedule(self.levels)
        return diffuse_vae.Sampler(schedule, visited, eta=self.eta, guidance=self.guidance)

    def prior(self, run, key):
        """The prior of latent vectors, fitted to those of the training images; None for N(0, I)."""
        if self.components == 0:
            return None
        vae, train = run.model.vae, datasets.centred(run.data.train, run.data.levels)
        return diffuse_vae.fit_mixture_prior(vae, train, key=key, components=self.components)
