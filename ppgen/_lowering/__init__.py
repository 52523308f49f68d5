"""Step 2: sites become random choices and densities, calls are inlined."""
