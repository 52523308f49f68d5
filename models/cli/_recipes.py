"""Every model of the command line: a row here is all that the rest has to know."""

from __future__ import annotations

from ppgen.models.cli._air import AIRRecipe
from ppgen.models.cli._diffuse_vae import DiffuseVAERecipe
from ppgen.models.cli._recipe import AbstractRecipe
from ppgen.models.cli._vae import VAERecipe

RECIPES: dict[str, type[AbstractRecipe]] = {
    "air": AIRRecipe,
    "diffuse_vae": DiffuseVAERecipe,
    "vae": VAERecipe,
}
