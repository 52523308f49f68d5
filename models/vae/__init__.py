"""The variational autoencoder, of any latent representation and likelihood."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.models.vae.model import VAE as VAE
    from ppgen.models.vae.model import batch_objective as batch_objective
    from ppgen.models.vae.model import image_objective as image_objective
    from ppgen.models.vae.model import observed as observed
    from ppgen.models.vae.model import reconstruct as reconstruct
    from ppgen.models.vae.model import vae_guide as vae_guide
    from ppgen.models.vae.model import vae_model as vae_model

_export_lazily(__name__)
