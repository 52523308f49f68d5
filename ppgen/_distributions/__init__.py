"""NumPyro's distributions, taken apart and put together."""
