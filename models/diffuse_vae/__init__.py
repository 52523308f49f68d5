"""DiffuseVAE: a diffusion that refines what a variational autoencoder decodes.

z ~ prior; x̂ = Dec(z); x_T ~ p(x_T | z); x_s ~ p(x_s | x_t, x̂), down to the image x. Model and guide
are programs over *one* image, so `ppgen.simulate`, `ppgen.log_density` and the objectives of
`ppgen.inference` apply to them; the objectives here are programs for `ppgen.expectation`.

References:
    Pandey, Mukherjee, Rai, Kumar. DiffuseVAE: efficient, controllable and high-fidelity generation
    from low-dimensional latents. TMLR 2022.
"""

from ppgen.models.diffuse_vae._autoencoder import Autoencoder as Autoencoder
from ppgen.models.diffuse_vae._autoencoder import autoencoder_bound as autoencoder_bound
from ppgen.models.diffuse_vae._autoencoder import autoencoder_guide as autoencoder_guide
from ppgen.models.diffuse_vae._autoencoder import autoencoder_model as autoencoder_model
from ppgen.models.diffuse_vae._chain import Move as Move
from ppgen.models.diffuse_vae._chain import Sampler as Sampler
from ppgen.models.diffuse_vae._chain import ScheduleError as ScheduleError
from ppgen.models.diffuse_vae._chain import linear_schedule as linear_schedule
from ppgen.models.diffuse_vae._chain import quadratic_times as quadratic_times
from ppgen.models.diffuse_vae._chain import uniform_times as uniform_times
from ppgen.models.diffuse_vae._objectives import BoundTerms as BoundTerms
from ppgen.models.diffuse_vae._objectives import bound_terms as bound_terms
from ppgen.models.diffuse_vae._objectives import denoising_loss as denoising_loss
from ppgen.models.diffuse_vae._objectives import joint_loss as joint_loss
from ppgen.models.diffuse_vae._objectives import variational_bound as variational_bound
from ppgen.models.diffuse_vae._prior import fit_mixture_prior as fit_mixture_prior
from ppgen.models.diffuse_vae._programs import DiffuseVAE as DiffuseVAE
from ppgen.models.diffuse_vae._programs import abduct as abduct
from ppgen.models.diffuse_vae._programs import diffuse_vae_guide as diffuse_vae_guide
from ppgen.models.diffuse_vae._programs import diffuse_vae_model as diffuse_vae_model
from ppgen.models.diffuse_vae._programs import draw_images as draw_images
from ppgen.models.diffuse_vae._programs import replay as replay
from ppgen.models.diffuse_vae._training import autoencoder_objective as autoencoder_objective
from ppgen.models.diffuse_vae._training import denoising_objective as denoising_objective
from ppgen.models.diffuse_vae._training import fit_autoencoder as fit_autoencoder
from ppgen.models.diffuse_vae._training import fit_denoiser as fit_denoiser
from ppgen.models.diffuse_vae._training import fit_jointly as fit_jointly
from ppgen.models.diffuse_vae._training import joint_objective as joint_objective
