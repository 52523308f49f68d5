"""Step 3: what influences what, and whether derivatives are sound."""
