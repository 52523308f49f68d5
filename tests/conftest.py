"""Settings that have to be there before JAX is."""

import os

# Small programs, many of them: the tests spend most of their time on machine code that runs once.
# What XLA makes of a program (fusion, FLOPs, instructions) is not affected, only its last step is.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
).strip()
