"""Analysis and reconstruction of NumPyro's distributions."""
