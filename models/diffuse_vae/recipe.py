"""`ppgen fit diffuse_vae`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ppgen.models.parts.data.kinds import facts_of, load
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training, at_least, positive

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Key

    from ppgen.inference import Estimate
    from ppgen.models.diffuse_vae import Autoencoder, Sampler
    from ppgen.models.parts.data import Images
    from ppgen.models.parts.networks import DenoisingMLP

DRAWN = 4000
"""Most images that are drawn to be told from held-out ones."""


@dataclasses.dataclass(frozen=True)
class DiffuseVAERecipe(AbstractRecipe):
    """Train a diffusion that refines what a variational autoencoder decodes.

    The autoencoder comes first, for `--steps` steps, and then, with it frozen, the network that
    predicts noise, for as many. The learning rate of each falls to zero along a cosine.
    """

    form: Literal[1, 2] = 1
    """1 for a chain that ends in noise around zero, 2 for noise around what is decoded."""
    latent: int = 8
    """Dimensions of the latent vector."""
    encoder_hidden: int = 256
    """Width of the two hidden layers of encoder and decoder."""
    pixel_scale: float = 0.35
    """Standard deviation of a pixel in the autoencoder, black and white being 2 apart. The smaller
    it is, the more is encoded, and the harder is what remains for a prior of latent vectors."""
    hidden: int = 256
    """Width of the three hidden layers of the network that predicts noise."""
    levels: int = 1000
    """Noise levels in training."""
    dropout: float = 0.0
    """Share of the images for which the network is not told what was decoded: for guidance."""
    components: int = 20
    """Gaussians in the prior of latent vectors that is fitted to those of the training images when
    images are drawn. 0 stands for the standard normal distribution."""
    moves: int = 50
    """Noise levels that a chain visits."""
    stride: Literal["quadratic", "uniform"] = "quadratic"
    """Which levels: quadratic ones lie closer where there is less noise."""
    eta: float = 0.0
    """Noise of the moves: 0 for none (DDIM), 1 for that of the forward chain (DDPM)."""
    guidance: float = 0.0
    """Weight of classifier-free guidance by what was decoded; needs dropout."""
    data: Path | None = None
    """Images in an .npz, .npy or IDX file, of shape (n, height, width) with whole grey levels.
    None stands for the 1,797 digits of scikit-learn."""

    training: ClassVar[Training] = Training(
        steps=8000,
        batch_size=128,
        learning_rate=4e-3,
        chunk=100,
        checkpoint_every=1000,
        ema=0.999,
    )
    evaluation_particles: ClassVar[int] = 100
    tiny: ClassVar[Mapping[str, Any]] = {
        "hidden": 8,
        "encoder_hidden": 8,
        "latent": 2,
        "levels": 50,
        "moves": 3,
        "components": 2,
        "batch_size": 16,
    }
    stages: ClassVar[tuple[str, ...]] = ("autoencoder", "denoiser")

    def check(self) -> None:
        """Refuse networks of no size, and chains that cannot be."""
        at_least(self, 1, "latent", "encoder_hidden", "hidden", "moves")
        at_least(self, 0, "components")
        # With fewer, the last noise level of the schedule would hold more noise than there is.
        at_least(self, 21, "levels")
        positive(self, "pixel_scale")
        if self.moves > self.levels:
            raise CommandError(f"--moves must be at most --levels {self.levels}, not {self.moves}")
        for name in ("dropout", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise CommandError(f"--{name} must be from 0 to 1, not {getattr(self, name)}")
        if not -1 <= self.guidance < float("inf"):
            raise CommandError(f"--guidance must be at least -1, not {self.guidance}")
        if self.guidance != 0 and self.dropout == 0:
            raise CommandError("--guidance needs a --dropout above 0")

    def load(self) -> Images:
        """The images to train on and to hold out."""
        return load(self.data)

    def facts(self, data: Images) -> dict[str, Any]:
        """What images look like."""
        return facts_of(data)

    def params(
        self, stage: str, facts: dict[str, Any], key: Key[Array, ""]
    ) -> Autoencoder | DenoisingMLP:
        """Fresh weights."""
        from ppgen.models.diffuse_vae import Autoencoder
        from ppgen.models.parts.networks import DenoisingMLP

        pixels = math.prod(facts["shape"])
        if stage == "denoiser":
            return DenoisingMLP(pixels, hidden=self.hidden, key=key)
        return Autoencoder(
            pixels=pixels,
            latent=self.latent,
            hidden=self.encoder_hidden,
            depth=2,
            scale=self.pixel_scale,
            key=key,
        )

    def stage(
        self,
        name: str,
        training: Training,
        params: Any,
        data: Images,
        fitted: Mapping[str, Any],
    ) -> Stage:
        """The bound of the autoencoder, and then the error of predicted noise, by Adam."""
        import optax

        from ppgen.models.diffuse_vae import (
            autoencoder_objective,
            denoising_objective,
            linear_schedule,
        )

        optimizer = optax.adam(optax.cosine_decay_schedule(training.learning_rate, training.steps))
        images = _scaled(data.train, data.levels)
        if name == "autoencoder":
            return Stage(
                objective=autoencoder_objective,
                params=params,
                optimizer=optimizer,
                data=images,
                maximize=True,
                label="ELBO",
                unit="nats per image",
            )
        model = self._model({**fitted, "denoiser": params})
        return Stage(
            objective=denoising_objective(
                model, linear_schedule(self.levels), dropout=self.dropout
            ),
            params=params,
            optimizer=optimizer,
            data=(images, None),
            label="squared error",
            unit="of the noise of an image",
        )

    def evaluate(
        self,
        data: Images,
        fitted: Mapping[str, Any],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """How well noise is predicted, and how easily draws are told from images."""
        import jax
        import numpy as np

        import ppgen
        from ppgen.inference import Estimate, mean_over_data, per_datum
        from ppgen.models.diffuse_vae import (
            Sampler,
            autoencoder_bound,
            autoencoder_model,
            denoising_loss,
            draw_images,
            linear_schedule,
        )
        from ppgen.models.parts.metrics.baselines import gaussian_denoising_error

        seen = data.held_out if split == "held-out" else data.train
        train, images = (_scaled(part, data.levels) for part in (data.train, seen))
        keys = jax.random.split(key, 6)
        model, schedule = self._model(fitted), linear_schedule(self.levels)
        prior = self._prior(model.vae, train, keys[0])
        count = min(DRAWN, len(images))

        def decoded() -> Array:
            program = ppgen.seed(lambda: autoencoder_model(model.vae, prior=prior))
            return jax.jit(jax.vmap(program))(jax.random.split(keys[1], count))

        random = np.random.RandomState(int(jax.random.randint(keys[2], (), 0, 2**31 - 1)))
        covariance = np.cov(train, rowvar=False)
        error = per_datum(
            lambda model, image: denoising_loss(model, Sampler(schedule), image),
            model,
            images,
            key=keys[3],
            draws=particles,
        )
        bound = per_datum(autoencoder_bound, model.vae, images, key=keys[4], draws=particles)
        draws = draw_images(keys[5], model, self._sampler(), count, prior=prior)
        columns = [random.choice(column, count) for column in train.T]
        errors = {
            "zeros": Estimate(float(data.pixels), 0.0),
            "Gaussian": mean_over_data(gaussian_denoising_error(train, images, schedule[1:])),
            "DiffuseVAE": mean_over_data(error),
        }
        told = {
            "independent pixels": np.stack(columns, 1),
            "Gaussian": random.multivariate_normal(train.mean(0), covariance, count),
            "autoencoder": decoded(),
            "DiffuseVAE": draws,
        }
        labels = ["zeros", "independent pixels", "Gaussian", "autoencoder", "DiffuseVAE"]
        apart = {label: _told_apart(x, images[:count]) for label, x in told.items()}
        where = "held out" if split == "held-out" else "trained on"
        return Report(
            title=f"{where}: {len(images)} images, {data.pixels} pixels on [-1, 1]; draws are told "
            "from them by the nearest neighbour, at best .5",
            columns=(("error of the noise", 2), ("told from data", 3)),
            rows=[(label, (errors.get(label), apart.get(label))) for label in labels],
            references={
                "autoencoder": [("held-out ELBO", float(bound.mean()))],
                "denoiser": [
                    (f"held-out {label}", errors[label].mean)
                    for label in ("Gaussian", "DiffuseVAE")
                ],
            },
        )

    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, Any],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Draws latent vectors from the fitted prior, and refines what they decode to."""
        import jax

        from ppgen.models.diffuse_vae import draw_images
        from ppgen.models.parts.pictures import draw_samples

        # The prior is fitted to the training images; the standard normal needs none.
        data = self.load() if self.components else None
        if data is not None and self.facts(data) != facts:
            raise CommandError("the prior is fitted to the training images, which have changed")
        keys = jax.random.split(key)
        model = self._model(fitted)
        prior = None
        if data is not None:
            prior = self._prior(model.vae, _scaled(data.train, data.levels), keys[0])
        images = draw_images(keys[1], model, self._sampler(), count, prior=prior)
        draw_samples(
            path,
            _ink(images, facts["levels"], facts["shape"]),
            top=facts["levels"] - 1,
            title=f"Samples after {self.moves} moves",
        )

    def pictures(
        self, folder: Path, data: Images, fitted: Mapping[str, Any], key: Key[Array, ""]
    ) -> None:
        """Held-out images, what they decode to, and two chains from there."""
        import equinox as eqx
        import jax
        import numpyro

        import ppgen
        from ppgen.models.diffuse_vae import autoencoder_guide, diffuse_vae_model
        from ppgen.models.parts.pictures import draw_reconstructions

        model, sampler = self._model(fitted), self._sampler()
        images = jax.numpy.asarray(_scaled(data.held_out[:12], data.levels))

        def rebuild(model: Any, sampler: Any, image: Array) -> tuple[Array, ...]:
            found: Any = ppgen.simulate(autoencoder_guide)(model.vae, image).choices
            chain: Any = numpyro.handlers.condition(diffuse_vae_model, found)
            refined = jax.vmap(lambda _: chain(model, sampler))(jax.numpy.arange(2))
            return image, model.vae.decoder(found["z"]), *refined

        draw = eqx.filter_jit(jax.vmap(ppgen.seed(rebuild), in_axes=(0, None, None, 0)))
        rows = draw(jax.random.split(key, len(images)), model, sampler, images)
        labels = ("held out", "decoded", "one chain", "another")
        shape = list(data.shape)
        draw_reconstructions(
            folder / "reconstructions.png",
            [(label, _ink(x, data.levels, shape)) for label, x in zip(labels, rows, strict=True)],
            top=data.levels - 1,
            title="Held-out images, what a draw of z decodes to, and chains from there",
        )

    def _model(self, fitted: Mapping[str, Any]) -> Any:
        from ppgen.models.diffuse_vae import DiffuseVAE

        return DiffuseVAE(fitted["autoencoder"], fitted["denoiser"], form=self.form)

    def _sampler(self) -> Sampler:
        from ppgen.models.diffuse_vae import (
            Sampler,
            linear_schedule,
            quadratic_times,
            uniform_times,
        )

        times = quadratic_times if self.stride == "quadratic" else uniform_times
        return Sampler(
            linear_schedule(self.levels),
            times(self.levels, self.moves),
            eta=self.eta,
            guidance=self.guidance,
        )

    def _prior(self, vae: Autoencoder, train: np.ndarray, key: Key[Array, ""]) -> Any:
        from ppgen.models.diffuse_vae import fit_mixture_prior

        if self.components == 0:
            return None
        return fit_mixture_prior(vae, train, key=key, components=self.components)


def _scaled(images: np.ndarray, levels: int) -> np.ndarray:
    """Grey levels on [-1, 1]."""
    import numpy as np

    return (2 * images / (levels - 1) - 1).astype(np.float32)


def _ink(images: Any, levels: int, shape: list[int]) -> np.ndarray:
    """The other way round, and as pictures."""
    import numpy as np

    ink = (np.asarray(images).clip(-1, 1) + 1) / 2 * (levels - 1)
    return ink.reshape(len(ink), *shape)


def _told_apart(draws: Any, images: np.ndarray) -> Estimate:
    """The accuracy, with the standard error that independent answers would have."""
    import numpy as np

    from ppgen.inference import Estimate
    from ppgen.models.parts.metrics.distances import neighbour_accuracy

    share = neighbour_accuracy(np.asarray(draws, np.float32), images)
    return Estimate(share, math.sqrt(share * (1 - share) / (2 * len(images))))
