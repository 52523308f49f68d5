"""The equations, each as a problem and with a solver that gives its reference."""
