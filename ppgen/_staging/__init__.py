"""Step 1: a program becomes a jaxpr whose sites are equations."""
