"""The variational autoencoder, of any latent representation and likelihood."""

from ppgen.models.vae.model import VAE as VAE
from ppgen.models.vae.model import batch_objective as batch_objective
from ppgen.models.vae.model import image_objective as image_objective
from ppgen.models.vae.model import observed as observed
from ppgen.models.vae.model import reconstruct as reconstruct
from ppgen.models.vae.model import vae_guide as vae_guide
from ppgen.models.vae.model import vae_model as vae_model
