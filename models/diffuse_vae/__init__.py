r"""DiffuseVAE: a diffusion that refines what a variational autoencoder decodes.

An autoencoder generates an image from a low-dimensional latent vector, but blurs it; a diffusion
generates sharp images, but needs many steps, and has no such latent vector. Here the diffusion is
conditioned on what the autoencoder decodes:

.. math:: z \sim p(z), \quad \hat x = \mathrm{Dec}(z), \quad x_T \sim p(x_T \mid z), \quad
          x_s \sim p_\phi(x_s \mid x_t, \hat x) \text{ down to the image } x.

`diffuse_vae_model` and `diffuse_vae_guide` are programs over *one* image, so that `ppgen.simulate`,
`ppgen.log_density` and the objectives of `ppgen.inference` apply to them. In *form 1* the chain
ends in noise around zero; in *form 2*, in noise around x̂: the same chain, of x_t − x̂.

Training in *two stages* is that of the paper: `fit_autoencoder` by a bound, then, with it frozen,
`fit_denoiser` by `denoising_loss`, which is heuristic as a likelihood. `fit_jointly` trains both at
once, and `variational_bound` is a bound in nats on the log density of the whole model;
`bound_terms` gives its terms. `dropout=` is the probability of leaving out the condition, for
classifier-free guidance; at 1 the chain is unconditional.

A `Sampler` determines the levels that a chain visits, and whether it is DDPM (η = 1), DDIM (η = 0)
or in between. If a prediction is clipped, the predicted noise is changed to match it.

In training the decoder sees draws of q(z | x), whose aggregate law is not N(0, I): for draws of
N(0, I) where that law has little mass, images are bad however long the chain is.
`fit_mixture_prior` fits a prior to it afterwards. In `benchmarks/models.md` the condition improves
the chain only with this prior; without it, a long unconditional chain is better.

Examples:
    >>> import jax, optax
    >>> from ppgen.models.parts.data import load_digits
    >>> from ppgen.models.parts.networks import DenoisingMLP
    >>> x = load_digits().train / 8 - 1  # on [-1, 1]
    >>> keys = jax.random.split(jax.random.key(0), 6)
    >>> vae = Autoencoder(pixels=64, hidden=32, scale=0.35, key=keys[0])
    >>> adam = optax.adam(3e-3)
    >>> vae = fit_autoencoder(vae, x, adam, key=keys[1], steps=20).params  # 4,000 are enough
    >>> model = DiffuseVAE(vae, DenoisingMLP(64, hidden=32, key=keys[2]))
    >>> schedule = linear_schedule(1000)
    >>> fitted = fit_denoiser(model, schedule, x, adam, key=keys[3], steps=20, ema=0.9)
    >>> prior = fit_mixture_prior(vae, x, key=keys[4], components=2)
    >>> sampler = Sampler(schedule, quadratic_times(1000, 10), eta=0.0)
    >>> draw_images(keys[5], fitted.ema, sampler, 16, prior=prior).shape
    (16, 64)

    The same from the command line, with checkpoints and pictures: `ppgen fit diffuse_vae`.

References:
    Pandey, Mukherjee, Rai, Kumar. DiffuseVAE: efficient, controllable and high-fidelity generation
    from low-dimensional latents. TMLR 2022.
"""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.inference import ScheduleError as ScheduleError
    from ppgen.inference import linear_schedule as linear_schedule
    from ppgen.inference import quadratic_times as quadratic_times
    from ppgen.inference import uniform_times as uniform_times
    from ppgen.models.diffuse_vae.autoencoder import Autoencoder as Autoencoder
    from ppgen.models.diffuse_vae.autoencoder import autoencoder_bound as autoencoder_bound
    from ppgen.models.diffuse_vae.autoencoder import autoencoder_guide as autoencoder_guide
    from ppgen.models.diffuse_vae.autoencoder import autoencoder_model as autoencoder_model
    from ppgen.models.diffuse_vae.chain import Move as Move
    from ppgen.models.diffuse_vae.chain import Sampler as Sampler
    from ppgen.models.diffuse_vae.model import DiffuseVAE as DiffuseVAE
    from ppgen.models.diffuse_vae.model import abduct as abduct
    from ppgen.models.diffuse_vae.model import diffuse_vae_guide as diffuse_vae_guide
    from ppgen.models.diffuse_vae.model import diffuse_vae_model as diffuse_vae_model
    from ppgen.models.diffuse_vae.model import draw_images as draw_images
    from ppgen.models.diffuse_vae.model import refine as refine
    from ppgen.models.diffuse_vae.model import replay as replay
    from ppgen.models.diffuse_vae.objectives import BoundTerms as BoundTerms
    from ppgen.models.diffuse_vae.objectives import bound_terms as bound_terms
    from ppgen.models.diffuse_vae.objectives import denoising_loss as denoising_loss
    from ppgen.models.diffuse_vae.objectives import joint_loss as joint_loss
    from ppgen.models.diffuse_vae.objectives import variational_bound as variational_bound
    from ppgen.models.diffuse_vae.prior import aggregate_posterior as aggregate_posterior
    from ppgen.models.diffuse_vae.prior import fit_mixture_prior as fit_mixture_prior
    from ppgen.models.diffuse_vae.scores import autoencoder_bounds as autoencoder_bounds
    from ppgen.models.diffuse_vae.scores import decoded_draws as decoded_draws
    from ppgen.models.diffuse_vae.scores import image_scores as image_scores
    from ppgen.models.diffuse_vae.scores import noise_errors as noise_errors
    from ppgen.models.diffuse_vae.training import autoencoder_objective as autoencoder_objective
    from ppgen.models.diffuse_vae.training import denoising_objective as denoising_objective
    from ppgen.models.diffuse_vae.training import fit_autoencoder as fit_autoencoder
    from ppgen.models.diffuse_vae.training import fit_denoiser as fit_denoiser
    from ppgen.models.diffuse_vae.training import fit_jointly as fit_jointly
    from ppgen.models.diffuse_vae.training import joint_objective as joint_objective

_export_lazily(__name__)
