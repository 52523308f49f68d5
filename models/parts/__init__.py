"""Parts that models share: data, networks, latents, likelihoods, metrics, recipes."""
