"""Samples that move with their parameters, and draws made together."""
