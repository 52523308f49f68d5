"""ppgen's objectives as losses for NumPyro: `numpyro.infer.SVI(..., loss=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.infer.elbo import ELBO

import ppgen
from ppgen.annotations import Program


def as_numpyro_elbo(
    objective: Any,
    *,
    draws: int = 1,
    maximize: bool = True,
    allow_biased: bool = False,
    **options: Any,
) -> ELBO:
    r"""An objective of ppgen as a loss of NumPyro's `SVI`.

    Model, guide, optimiser and training loop stay as they are: with `loss=as_numpyro_elbo(iwelbo,
    particles=5)`, the steps of `SVI` follow the gradient of the IWELBO, *unbiased* also for
    discrete latents, subsampled plates, masks and loops, where NumPyro's own losses may be silently
    wrong. Estimators are chosen in the programs, by `infer={"grad": ...}` or
    `ppgen.with_estimators`. Mutable state (`mutable`, batch normalisation) is updated as by
    NumPyro's own losses; with several `draws`, by the first one.

    Args:
        objective: A builder `objective(model, guide, **options)`, one of `ppgen.inference` or your
            own.
        draws: Independent runs to average, as for `ppgen.expectation`: NumPyro's `num_particles`.
        maximize: Whether the objective is a bound, to be maximised; False for losses.
        allow_biased: As for `ppgen.expectation`.
        **options: For the builder.

    Returns:
        A `numpyro.infer.ELBO`: `loss(key, params, model, guide, *args)` is one estimate of the
        loss, in nats, for *constrained* parameters.

    Raises:
        TypeError: `objective` is not a builder, but what one returned, or a class of NumPyro's.

    References:
        Phan, Pradhan, Jankowiak. Composable effects for flexible and accelerated probabilistic
        programming in NumPyro. 2019.

    Examples:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import SVI
        >>> from ppgen.inference import as_numpyro_elbo, elbo
        >>> def model(x):
        ...     z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...     numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)
        >>> def guide(x):
        ...     logits = numpyro.param("logits", 0.0)
        ...     numpyro.sample("z", dist.Bernoulli(logits=logits))
        >>> loss = as_numpyro_elbo(elbo, draws=10)
        >>> svi = SVI(model, guide, numpyro.optim.Adam(0.1), loss=loss)
        >>> result = svi.run(jax.random.key(0), 200, 2.0, progress_bar=False)
        >>> bool(result.params["logits"] > 0.5)  # the posterior log odds are 2
        True
    """
    foreign = isinstance(objective, type) and issubclass(objective, ELBO)
    if foreign or not callable(objective):
        raise TypeError(
            f"expected a builder of objectives, got {objective!r}. "
            "Write instead: as_numpyro_elbo(ppgen.inference.elbo)"
        )
    return _Objective(objective, draws, maximize, allow_biased, options)


@final
class _Objective(ELBO):
    can_infer_discrete = True

    def __init__(
        self,
        objective: Callable[..., Any],
        draws: int,
        maximize: bool,
        allow_biased: bool,
        options: dict[str, Any],
    ) -> None:
        super().__init__(num_particles=draws)
        self.objective = objective
        self.maximize = maximize
        self.allow_biased = allow_biased
        self.options = options

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: dict[str, Any],
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One estimate of the loss, and the new state of mutable sites, `None` without any."""

        def with_data(program: Program) -> Program:
            run = ppgen.functional(program, constrained=True)
            # Parameters stay an argument: some objectives hold a program's arguments fixed.
            return lambda params: run(params, *args, **kwargs)

        bound = self.objective(with_data(model), with_data(guide), **self.options)
        estimate = ppgen.expectation(
            ppgen.with_state(bound),
            draws=self.num_particles,
            has_aux=True,
            allow_biased=self.allow_biased,
        )
        value, state = estimate(rng_key, param_map)
        if self.num_particles > 1:
            state = jax.tree.map(lambda x: x[0], state)
        loss = -value if self.maximize else value
        return {"loss": jnp.asarray(loss), "mutable_state": state or None}
