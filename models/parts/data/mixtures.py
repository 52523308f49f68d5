"""Gaussian mixtures, whose noised, conditioned and tilted forms are all known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float


class GaussianMixture(eqx.Module):
    r"""A mixture of K normals in d dimensions: the oracle for paths, samplers and guidance.

    Noise (`smoothed`) and observations (`observed`) turn a Gaussian mixture into another one, so
    that scores, denoisers, velocities, normalisers and exact guidance at any time are *exact*, by
    composition of the two, in whatever precision the arrays have.

    Attributes:
        logits: log weights of the components, of any common offset, `(K,)`.
        means: `(K, d)`.
        axes: orthonormal principal axes of each component, in columns, `(K, d, d)`.
        scales: standard deviations along them, `(K, d)`.

    Example:
        The denoiser is the mean of the posterior, and Tweedie's formula holds.

        >>> import jax.numpy as jnp
        >>> from ppgen.models.parts.data import GaussianMixture
        >>> mixture = GaussianMixture.isotropic([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], 0.5)
        >>> x, alpha, sigma = jnp.array([0.2, 0.1]), 0.8, 0.6
        >>> score = mixture.smoothed(alpha, sigma).score(x)
        >>> by_score = (x + sigma**2 * score) / alpha
        >>> bool(jnp.allclose(mixture.denoised(x, alpha, sigma), by_score, atol=1e-5))
        True
    """

    logits: Float[Array, " k"]
    means: Float[Array, "k d"]
    axes: Float[Array, "k d d"]
    scales: Float[Array, "k d"]

    @classmethod
    def isotropic(cls, weights, means, scale) -> GaussianMixture:
        """Components with covariance `scale**2` times the identity; `scale` a number or `(K,)`."""
        means = jnp.asarray(means, float)
        k, d = means.shape
        scales = jnp.broadcast_to(jnp.asarray(scale, float), (k,))[:, None] * jnp.ones(d)
        return cls(
            jnp.log(jnp.asarray(weights, float)), means, jnp.eye(d) + 0 * means[:, None], scales
        )

    @classmethod
    def from_covariances(cls, logits, means, covariances) -> GaussianMixture:
        """Components with any covariances, `(K, d, d)`."""
        variances, axes = jnp.linalg.eigh(covariances)
        return cls(logits, means, axes, jnp.sqrt(variances))

    @property
    def covariances(self) -> Float[Array, "k d d"]:
        """The covariance matrices of the components."""
        spread = self.axes * self.scales[:, None, :]
        return spread @ jnp.swapaxes(spread, 1, 2)

    @property
    def weights(self) -> Float[Array, " k"]:
        """Probabilities of the components."""
        return jax.nn.softmax(self.logits)

    @property
    def mean(self) -> Float[Array, " d"]:
        """The mean of the mixture."""
        return self.weights @ self.means

    @property
    def distribution(self) -> dist.Distribution:
        """The NumPyro distribution, to draw from or for a site of a program."""
        components = dist.MultivariateNormal(self.means, covariance_matrix=self.covariances)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    def log_density(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log density at one point, in nats."""
        return jax.nn.logsumexp(self._joint(x))

    def score(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The gradient of the log density by x."""
        return jax.grad(self.log_density)(x)

    def component(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        """The probabilities that x came from each component."""
        return jax.nn.softmax(self._joint(x))

    def _joint(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        along = jnp.einsum("kij,ki->kj", self.axes, x - self.means)
        log_probs = jnp.sum(dist.Normal(0.0, self.scales).log_prob(along), axis=-1)
        return jax.nn.log_softmax(self.logits) + log_probs

    def smoothed(self, alpha, sigma) -> GaussianMixture:
        """The law of `alpha x1 + sigma x0`, with x1 from this mixture and x0 standard normal."""
        # Along the axes, which stay the same: no matrix is ever factored.
        scales = jnp.sqrt((alpha * self.scales) ** 2 + sigma**2)
        return GaussianMixture(self.logits, alpha * self.means, self.axes, scales)

    def observed(
        self, matrix: Float[Array, "m d"], y: Float[Array, " m"], variance
    ) -> tuple[GaussianMixture, Float[Array, ""]]:
        """The law of x given that `matrix @ x` plus normal noise of that variance is y.

        Args:
            matrix: The matrix of the observation.
            y: The observation.
            variance: The variance of its noise: a number, or a covariance matrix `(m, m)`.

        Returns:
            The posterior, again a mixture, and the log evidence in nats.
        """
        noise = jnp.asarray(variance) * jnp.eye(len(y)) if jnp.ndim(variance) < 2 else variance

        def one(mean, covariance):
            joint = covariance @ matrix.T
            total = matrix @ joint + noise
            gain = jnp.linalg.solve(total, joint.T).T
            evidence = dist.MultivariateNormal(matrix @ mean, covariance_matrix=total).log_prob(y)
            # Joseph's form stays positive definite under rounding.
            rest = jnp.eye(len(mean)) - gain @ matrix
            posterior = rest @ covariance @ rest.T + gain @ noise @ gain.T
            return mean + gain @ (y - matrix @ mean), posterior, evidence

        means, covariances, evidence = jax.vmap(one)(self.means, self.covariances)
        logits = jax.nn.log_softmax(self.logits) + evidence
        posterior = GaussianMixture.from_covariances(logits, means, covariances)
        return posterior, jax.nn.logsumexp(logits)

    def tilted(
        self, matrix: Float[Array, "m d"], y: Float[Array, " m"], scale
    ) -> tuple[GaussianMixture, Float[Array, ""]]:
        r"""The law in proportion to p(x) exp(−E(x)), with E(x) = ‖matrix @ x − y‖² / 2 scale².

        Returns:
            The tilted law, and the logarithm of its normaliser :math:`Z = E_p[e^{-E}]`.
        """
        posterior, evidence = self.observed(matrix, y, scale**2)
        return posterior, evidence + len(y) * jnp.log(jnp.sqrt(2 * jnp.pi) * scale)

    def given_noised(self, x: Float[Array, " d"], alpha, sigma) -> GaussianMixture:
        """The posterior of x1 given that `alpha x1 + sigma x0` is x."""
        noised = self.smoothed(alpha, sigma)
        gain = alpha * self.scales**2 / noised.scales**2
        along = gain * jnp.einsum("kij,ki->kj", self.axes, x - noised.means)
        means = self.means + jnp.einsum("kij,kj->ki", self.axes, along)
        scales = self.scales * sigma / noised.scales
        return GaussianMixture(noised._joint(x), means, self.axes, scales)

    def denoised(self, x: Float[Array, " d"], alpha, sigma) -> Float[Array, " d"]:
        """The mean of x1 given that `alpha x1 + sigma x0` is x."""
        return self.given_noised(x, alpha, sigma).mean
