"""Every model of the command line: a row here is all that the rest has to know."""

from __future__ import annotations

from ppgen.models.air.recipe import AIRRecipe
from ppgen.models.diffuse_vae.recipe import DiffuseVAERecipe
from ppgen.models.marginalization.recipe import MarginalizationRecipe
from ppgen.models.parts.recipe import AbstractRecipe
from ppgen.models.random_grid.recipe import RandomGridRecipe
from ppgen.models.vae.recipe import VAERecipe

RECIPES: dict[str, type[AbstractRecipe]] = {
    "air": AIRRecipe,
    "diffuse_vae": DiffuseVAERecipe,
    "marginalization": MarginalizationRecipe,
    "random_grid": RandomGridRecipe,
    "vae": VAERecipe,
}
