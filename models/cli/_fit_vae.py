"""`ppgen fit vae`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ppgen.models.cli._errors import CommandError
from ppgen.models.cli._run_folder import make_run_folder, write_config


@dataclasses.dataclass(frozen=True)
class FitVAE:
    """Train a variational autoencoder on images.

    Writes config.json, metrics.jsonl, a checkpoint that `ppgen sample` reads, samples.png,
    reconstructions.png and loss.png, and prints figures on held-out images.
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
    steps: int = 2000
    """Gradient steps."""
    batch_size: int = 128
    """Images in a step."""
    learning_rate: float = 2e-3
    """Highest learning rate; it falls to zero along a cosine."""
    weight_decay: float = 0.3
    """Decoupled weight decay, against fitting the training images only."""
    particles: int = 5
    """Draws of the latent vector for each image: iwelbo takes the logarithm of their mean weight,
    elbo averages over them."""
    seed: int = 0
    """Seed of everything random, the choice of the held-out images apart."""
    data: Path | None = None
    """Images in an .npz, .npy or IDX file, of shape (n, height, width) with whole grey levels.
    None stands for the 1,797 digits of scikit-learn."""
    out: Path | None = None
    """Folder to write to, new or empty. None stands for the next free runs/vae-001."""

    def execute(self) -> None:
        """Trains, evaluates and writes everything."""
        self._check()
        from ppgen.models.cli import _vae

        images = _vae.load_data(self.data)
        if self.batch_size > len(images.train):
            raise CommandError(
                f"--batch-size {self.batch_size} exceeds the {len(images.train)} training images"
            )
        folder = make_run_folder(self.out, "vae")
        settings = dataclasses.asdict(self) | {"data": self.data and str(self.data)}
        del settings["out"]
        write_config(
            folder,
            {"model": "vae", "settings": settings, "shape": images.shape, "levels": images.levels},
        )
        _vae.train_and_report(self, images, folder)

    def _check(self) -> None:
        for name in ("latent", "hidden", "steps", "batch_size", "particles"):
            if getattr(self, name) < 1:
                raise CommandError(
                    f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}"
                )
        if not 0 < self.learning_rate < float("inf"):
            raise CommandError(f"--learning-rate must be positive, not {self.learning_rate}")
        if not 0 <= self.weight_decay < float("inf"):
            raise CommandError(f"--weight-decay must not be negative, not {self.weight_decay}")
        if not 0 <= self.seed < 2**32:
            raise CommandError(f"--seed must be from 0 to 2**32 - 1, not {self.seed}")
