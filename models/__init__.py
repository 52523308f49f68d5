"""Generative models, written as NumPyro programs. Import them as `ppgen.models`."""
