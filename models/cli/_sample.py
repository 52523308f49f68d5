"""`ppgen sample`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppgen.models.cli._errors import CommandError
from ppgen.models.cli._run_folder import read_config


@dataclass(frozen=True)
class Sample:
    """Draw images from the model that a run of `ppgen fit` trained."""

    run: Path
    """Folder of the run."""
    out: Path = Path("samples.png")
    """PNG file to write. One that exists is left alone."""
    num: int = 64
    """Number of images."""
    seed: int = 0
    """Seed of the images."""

    def execute(self) -> None:
        """Loads the model, draws and writes the picture."""
        if self.num < 1:
            raise CommandError(f"--num must be at least 1, not {self.num}")
        if not 0 <= self.seed < 2**32:
            raise CommandError(f"--seed must be from 0 to 2**32 - 1, not {self.seed}")
        if self.out.suffix.lower() != ".png":
            raise CommandError(f"--out {self.out} must end in .png")
        if self.out.exists():
            raise CommandError(f"--out {self.out} exists; choose another file")
        if not self.out.parent.is_dir():
            raise CommandError(f"--out {self.out}: there is no folder {self.out.parent}")
        config = read_config(self.run)
        from ppgen.models.cli import _vae

        run = _vae.load_run(self.run, config)
        _vae.write_samples(self.out, run, self.num, self.seed)
        print(f"wrote {self.out}")
