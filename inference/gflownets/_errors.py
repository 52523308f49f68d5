"""Errors of walks on graphs."""

from __future__ import annotations

from ppgen.errors import PpgenError


class DagError(PpgenError, ValueError):
    """A graph or a policy lacks what an objective needs. The message says what.

    Example:
        Trajectory balance learns the log flow of the source, which is log Z.

        >>> import jax.numpy as jnp
        >>> from ppgen.inference import Hypergrid, Policy, balance
        >>> logits = lambda params, state: params["logits"]
        >>> balance(Hypergrid(4, 2), Policy(logits), lambda x: 0.0)
        Traceback (most recent call last):
            ...
        ppgen.inference.DagError: the policy has no log flow, ...
          Write instead: Policy(forward, backward, log_flow=...); ...
          See: ppgen.inference.DagError

        >>> policy = Policy(logits, log_flow=lambda params, state: params["log_z"])
        >>> loss = balance(Hypergrid(4, 2), policy, lambda x: 0.0)
    """

    # Where its users see it: what messages and pickles say.
    __module__ = "ppgen.inference"
