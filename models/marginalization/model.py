r"""Marginalization models: the probability of any part of a vector in one pass of a network.

A vector x of D sites, each with one of K values, is drawn in a random order σ, one site after the
other, from *conditionals* p_φ; the *marginals* p_θ say how likely the values of any subset S are:

.. math:: \sigma \sim \mathrm{Uniform}(S_D), \qquad
          x_{\sigma(d)} \sim p_\phi(\cdot \mid x_{\sigma(<d)}), \qquad
          p_\theta(x_{\sigma(<d)})\, p_\phi(x_{\sigma(d)} \mid x_{\sigma(<d)})
          = p_\theta(x_{\sigma(\le d)}).

The last equation, *self-consistency*, holds at the end of training, up to the error that
`inconsistency` measures. Then both are one distribution, and p_θ gives in one pass what takes p_φ
up to D passes. As long as it does not hold, p_θ is not exactly normalised, and every figure states
which of the two it is of.

Training by *maximum likelihood* takes two stages: `any_order_bound` for p_φ, then `consistency` for
p_θ. Training by an *energy*, an unnormalised target f, does both at once: `importance_weighted_kl`
is unbiased, `published_kl` the heuristic of the paper, and `target_loss` is for draws that follow f
itself; `consistency` is part of each. `ppgen.models.marginalization.training` runs them.

References:
    Liu, Ramadge, Adams. Generative marginalization models. ICML 2024 (arXiv 2023).
    Hoogeboom, Gritsenko, Bastings, Poole, van den Berg, Salimans. Autoregressive diffusion models.
    ICLR 2022, for the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Int, Key, Num
from numpyro.contrib.control_flow import scan

import ppgen
from ppgen.models.parts.distributions import UniformPermutation
from ppgen.models.parts.networks import DualMLP, DualTorus, DualTransformer

LogWeight = Callable[[Num[Array, " sites"]], Float[Array, ""]]
"""The log of an unnormalised target f, in nats, of one vector."""


class MaM(eqx.Module):
    """A network with two heads: marginals and conditionals.

    Attributes:
        network: Maps one-hot values, zeros for unknown sites, of shape `(sites, values)`, to a
            scalar and to logits of that shape: `ppgen.models.parts.networks.DualMLP`, for instance.
        sites: D.
        values: K.
    """

    network: Callable[[Float[Array, "sites values"]], tuple[Float[Array, ""], Array]]
    sites: int = eqx.field(static=True)
    values: int = eqx.field(static=True)

    def __call__(
        self, x: Int[Array, " sites"], known: Bool[Array, " sites"]
    ) -> tuple[Float[Array, ""], Float[Array, "sites values"]]:
        """Both heads on one vector of which the sites `known` are known.

        The scalar at the empty set is subtracted, so that log p_θ(∅) = 0 by construction, where the
        paper has a penalty for it. Under `jax.vmap` it is computed once for all vectors.

        Returns:
            log p_θ(x_S), and log p_φ(x_i = k | x_S) for every site i and value k, in nats.
        """
        nothing = jnp.zeros((self.sites, self.values))
        log_p, logits = self.network(jax.nn.one_hot(x, self.values) * known[:, None])
        return log_p - self.network(nothing)[0], jax.nn.log_softmax(logits)


def untrained(
    network: Literal["mlp", "transformer", "torus"],
    sites: int,
    values: int,
    *,
    hidden: int,
    depth: int,
    key: Key[Array, ""],
) -> MaM:
    """A model with a fresh network, which is at the uniform distribution.

    Args:
        network: `DualMLP`, `DualTransformer` or `DualTorus` of `ppgen.models.parts.networks`.
        sites: D.
        values: K.
        hidden: Width of the network, or of each site in it.
        depth: Its blocks.
        key: Draws the weights.
    """
    if network == "torus":
        return MaM(DualTorus(values, hidden, depth, key=key), sites, values)
    kind = DualMLP if network == "mlp" else DualTransformer
    return MaM(kind(sites, values, hidden, depth, key=key), sites, values)


def log_marginal(
    mam: MaM, x: Int[Array, " sites"], known: Bool[Array, " sites"] | None = None
) -> Float[Array, ""]:
    """Log p_θ of the values of the sites `known`, all if None: in nats, one pass."""
    return mam(x, jnp.ones(mam.sites, bool) if known is None else known)[0]


def any_order(
    mam: MaM,
    x: Int[Array, " sites"] | None = None,
    *,
    start: Int[Array, " sites"] | None = None,
    erased: int | None = None,
) -> Int[Array, " sites"]:
    """The generative program: erase the last sites of a random order, and draw them from p_φ again.

    With everything erased, the default, this is any-order ancestral sampling, and its density is
    p(σ) p_φ(x | σ). With less it is a step of block-Gibbs sampling from `start`.

    Sites: `order`, and `values`, the values in that order.

    Args:
        mam: The parameters.
        x: The observed vector, or None to draw one.
        start: The vector to start from.
        erased: How many sites to draw; all if None.

    Returns:
        A vector.
    """
    erased = mam.sites if erased is None else erased
    order: Any = numpyro.sample("order", UniformPermutation(mam.sites))
    rank = jnp.argsort(order)

    def draw(state: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        d, site = step
        log_p = mam(state, rank < d)[1]
        seen = None if x is None else x[site]
        law: Any = dist.Categorical(logits=log_p[site])
        value = numpyro.sample("values", law, obs=seen)
        return state.at[site].set(value), None

    steps = jnp.arange(mam.sites - erased, mam.sites)
    nothing = jnp.zeros(mam.sites, int)
    return scan(draw, nothing if start is None else start, (steps, order[mam.sites - erased :]))[0]


def uniform_order(mam: MaM, x: Int[Array, " sites"] | None = None) -> None:
    """The guide of `any_order` given x: `elbo` and `iwelbo` with it bound log p_φ(x) from below."""
    numpyro.sample("order", UniformPermutation(mam.sites))


def target(mam: MaM, log_weight: LogWeight) -> None:
    """The unnormalised program p(σ) f(x), with the sites of `any_order`.

    `elbo` of it under the guide `any_order` is a lower bound on log Z − KL(p_φ ‖ f / Z): the
    objective of an autoregressive model without marginals, at D passes for each gradient.
    """
    order: Any = numpyro.sample("order", UniformPermutation(mam.sites))
    uniform: Any = dist.Categorical(logits=jnp.zeros((mam.sites, mam.values)))
    values: Any = numpyro.sample("values", uniform.to_event(1))
    x = jnp.zeros(mam.sites, int).at[order].set(values)
    numpyro.factor("f", log_weight(x) + mam.sites * jnp.log(mam.values))


# --- what is trained ------------------------------------------------------------------------------


def _prefix(mam: MaM) -> tuple[Int[Array, " sites"], Int[Array, ""]]:
    """A uniform order, as the rank of each site, and how many sites of it are known already."""
    rank: Any = ppgen.draw(UniformPermutation(mam.sites), name="rank")
    d: Any = ppgen.draw(dist.DiscreteUniform(0, mam.sites - 1), name="d")
    return rank, d


def any_order_bound(mam: MaM, x: Int[Array, " sites"]) -> Float[Array, ""]:
    r"""A lower bound on log p_φ(x) = log E_σ p_φ(x | σ), in one pass rather than D.

    .. math:: E_\sigma[\log p_\phi(x \mid \sigma)] = E_{\sigma, d}\Big[\frac{D}{D - d + 1}
              \sum_{i \ge d} \log p_\phi(x_{\sigma(i)} \mid x_{\sigma(<d)})\Big],

    because the next site is uniform over those that are not known yet. A *bound*, of which this is
    an *unbiased* estimate, its gradients too. It draws.

    Args:
        mam: The parameters; those of p_φ matter.
        x: A vector.

    Returns:
        The estimate, in nats.
    """
    return _bound_at(mam, x, *_prefix(mam))


def _bound_at(
    mam: MaM, x: Int[Array, " sites"], rank: Int[Array, " sites"], d: Int[Array, ""]
) -> Float[Array, ""]:
    log_p = jnp.take_along_axis(mam(x, rank < d)[1], x[:, None], 1)[:, 0]
    return mam.sites / (mam.sites - d) * jnp.sum(jnp.where(rank >= d, log_p, 0.0))


def inconsistency(
    mam: MaM, x: Int[Array, " sites"], rank: Int[Array, " sites"], d: Int[Array, ""]
) -> Float[Array, ""]:
    """The violation of self-consistency at one step of one order, in nats.

    Args:
        mam: The parameters.
        x: A vector.
        rank: The place of each site in the order.
        d: Sites that are known before the step, from 0 to D − 1.

    Returns:
        log p_θ(x_σ(<d)) + log p_φ(x_σ(d) | x_σ(<d)) − log p_θ(x_σ(≤d)).
    """
    before, log_p = mam(x, rank < d)
    after, _ = mam(x, rank <= d)
    step = jnp.sum(jnp.where((rank == d)[:, None], log_p * jax.nn.one_hot(x, mam.values), 0.0))
    return before + step - after


def consistency(mam: MaM, x: Int[Array, " sites"]) -> Float[Array, ""]:
    """The squared `inconsistency` at a random step of a random order: C(q), for x ~ q.

    *Unbiased* for its expectation over orders and steps, which is zero if and only if p_θ and p_φ
    agree on all subsets of the values of x. It draws. Multiplied by D it is the sum over the steps
    of an order.

    Args:
        mam: The parameters.
        x: A vector.

    Returns:
        The square, in nats².
    """
    return inconsistency(mam, x, *_prefix(mam)) ** 2


def importance_weighted_kl(
    mam: MaM, log_weight: LogWeight, *, draws: int, penalty: float | Array = 0.0
) -> Float[Array, ""]:
    r"""KL(p_θ ‖ f), from ancestral draws of p_φ: *unbiased*, whether or not the two agree.

    With x ~ p_φ(· | σ), the weight w = p_θ(x) / p_φ(x | σ) corrects for drawing from p_φ, and

    .. math:: E\big[w\,(\log p_\theta(x) - \log f(x) - 1 - b) + 1 + b\big]
              = \sum_x p_\theta(x) \log \frac{p_\theta(x)}{f(x)}
              - (1 + b) \Big(\sum_x p_\theta(x) - 1\Big),

    whose gradient is Σ_x ∇p_θ(x) (log p_θ(x) − log f(x) − b). Where p_θ is normalised this is the
    gradient of KL(p_θ ‖ f / Z), whatever b is; else the divergence is that of measures of any mass
    (generalised Kullback-Leibler), from f exp(b) rather than f. Here b, the baseline, is the mean
    of the other draws' log p_θ − log f. It tends to −log Z, and the variance to zero, as p_θ tends
    to f / Z. It draws, D passes in a row.

    Args:
        mam: The parameters. p_φ has no gradient by this: it is trained by the penalty.
        log_weight: log f.
        draws: Vectors to average over, at least two.
        penalty: λ, the weight of `consistency` at the same vectors.

    Returns:
        The estimate of the divergence, KL − log Z where p_θ is normalised, plus λ C: in nats.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"the baseline of a draw is the mean of others: {draws} are too few")
    proposal = ppgen.simulate(any_order)

    def one(_: Any) -> tuple[Array, Array, Array]:
        drawn = proposal(jax.lax.stop_gradient(mam))
        log_p = log_marginal(mam, drawn.value)
        log_w = log_p - jnp.sum(drawn.log_probs["values"])
        return log_w, log_p - log_weight(drawn.value), consistency(mam, drawn.value)

    log_w, cost, error = jax.vmap(one)(jnp.arange(draws))
    held = jax.lax.stop_gradient(cost)
    baseline = (jnp.sum(held) - held) / (draws - 1)
    return jnp.mean(jnp.exp(log_w) * (cost - 1 - baseline) + 1 + baseline + penalty * error)


def published_kl(
    mam: MaM, log_weight: LogWeight, x: Int[Array, "draws sites"], *, penalty: float | Array = 0.0
) -> Float[Array, ""]:
    r"""The paper's substitute for KL(p_θ ‖ f), at given vectors: *heuristic*, cheap and stable.

    The published gradient is the score function of p_θ on vectors that come from p_φ, mostly from
    its persistent chains, with the differences log p_θ − log f centred and divided by their
    standard deviation in the batch:

    .. math:: \frac1n \sum_i \frac{c_i - \bar c}{\mathrm{std}(c)} \nabla \log p_\theta(x_i)
              = \nabla\, \mathrm{std}(c), \qquad c_i = \log p_\theta(x_i) - \log f(x_i).

    It is not the gradient of KL(p_θ ‖ f), neither in length nor in direction, but that of the
    standard deviation on the right, which is computed here. This is zero if and only if p_θ is
    proportional to f at the vectors, whatever they are drawn from, so its minimum is right.

    Args:
        mam: The parameters.
        log_weight: log f.
        x: Vectors, held fixed: from `any_order`.
        penalty: λ, the weight of `consistency` at the same vectors, which is unbiased and draws.

    Returns:
        The standard deviation in nats, plus λ C.

    References:
        Richter, Boustati, Nüsken, Ruiz, Akyildiz. VarGrad: a low-variance gradient estimator for
        variational inference. NeurIPS 2020, for the variance as a divergence.
    """
    cost = jax.vmap(lambda x: log_marginal(mam, x) - log_weight(x))(x)
    error = jax.vmap(consistency, in_axes=(None, 0))(mam, x)
    return _spread(cost) + penalty * jnp.mean(error)


def target_loss(
    mam: MaM, log_weight: LogWeight, x: Int[Array, "draws sites"], *, penalty: float | Array = 0.0
) -> Float[Array, ""]:
    """`published_kl` less `any_order_bound`, for vectors that follow the target itself.

    So p_φ learns from every unknown site, not from one in each step, which is needed for many
    sites. *Unbiased* for its expectation over the vectors, the standard deviation apart; they are
    of f in the limit of the chains of `persistent_chains` with a `log_weight`.

    Args:
        mam: The parameters.
        log_weight: log f.
        x: Vectors that follow f / Z, held fixed.
        penalty: λ, the weight of `consistency` at the same vectors.

    Returns:
        In nats, KL(f / Z ‖ p_φ, order) + H(f / Z) + the standard deviation + λ C. It draws.
    """

    def one(x: Array) -> tuple[Array, Array, Array]:
        # At one prefix for both, for they share a pass.
        prefix = _prefix(mam)
        cost = log_marginal(mam, x) - log_weight(x)
        return cost, inconsistency(mam, x, *prefix) ** 2, _bound_at(mam, x, *prefix)

    cost, error, bound = jax.vmap(one)(x)
    return _spread(cost) + jnp.mean(penalty * error - bound)


def _spread(cost: Float[Array, " draws"]) -> Float[Array, ""]:
    # The root has no derivative at zero, where the target is met at all vectors.
    return jnp.sqrt(jnp.var(cost) + 1e-12)
