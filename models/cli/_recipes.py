"""Every model of the command line: a row here is all that the rest has to know."""

from __future__ import annotations

from ppgen.models.cli._air import AIRRecipe
from ppgen.models.cli._diffuse_vae import DiffuseVAERecipe
from ppgen.models.cli._marginalization import MarginalizationRecipe
from ppgen.models.cli._random_grid import RandomGridRecipe
from ppgen.models.cli._recipe import AbstractRecipe
from ppgen.models.cli._vae import VAERecipe

RECIPES: dict[str, type[AbstractRecipe]] = {
    "air": AIRRecipe,
    "diffuse_vae": DiffuseVAERecipe,
    "marginalization": MarginalizationRecipe,
    "random_grid": RandomGridRecipe,
    "vae": VAERecipe,
}
