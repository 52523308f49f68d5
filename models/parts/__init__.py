"""What several models are made of: data, networks, latents, likelihoods, metrics, recipes."""
