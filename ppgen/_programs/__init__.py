"""What users call on programs: simulate, assess, marginal, normalize, tilt, curate and others."""
