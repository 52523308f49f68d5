"""The Ising model on a torus: exact sums by transfer matrices, and a Gibbs sampler.

A torus of 10x10 is summed exactly, row by row: log Z, the entropy and the marginal probability of
any subset of the sites are products of 2^10 x 2^10 matrices. On larger ones there are only draws.

References:
    Onsager. Crystal statistics I. Physical Review 65, 1944.
"""

from __future__ import annotations

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from ppgen.inference import DataError

MAX_COLUMNS = 12
"""The widest torus that is summed: its transfer matrix has 4^12 entries, 128 MiB."""


class Ising(eqx.Module):
    r"""Spins s = ±1 on a torus, with weight exp(Σ_ij J_ij s_i s_j + θ Σ_i s_i).

    J is `coupling` times the adjacency matrix, so that the sum over i and j counts each edge twice.
    Sites are numbered row by row, and a configuration x holds 0 for a spin down and 1 for up.
    """

    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    coupling: float = eqx.field(static=True)
    field: float = eqx.field(static=True)

    def __init__(
        self, rows: int, columns: int | None = None, *, coupling: float = 0.1, field: float = 0.2
    ) -> None:
        """Makes a model.

        Args:
            rows: At least three, so that each site has four different neighbours.
            columns: Likewise; as many as rows if None.
            coupling: J between neighbours. Positive is ferromagnetic.
            field: θ.

        Raises:
            DataError: If a side is shorter than three.
        """
        self.rows, self.columns = rows, rows if columns is None else columns
        if min(self.rows, self.columns) < 3:
            raise DataError(f"a torus of {self.rows}x{self.columns} has sites next to themselves")
        self.coupling, self.field = coupling, field

    @property
    def sites(self) -> int:
        """Number of spins."""
        return self.rows * self.columns

    @property
    def values(self) -> int:
        """Number of values of a spin."""
        return 2

    def log_weight(self, x: Num[Array, " sites"]) -> Float[Array, ""]:
        """The log of the unnormalised probability of one configuration, in nats."""
        spins = (2.0 * x - 1.0).reshape(self.rows, self.columns)
        edges = spins * (jnp.roll(spins, 1, 0) + jnp.roll(spins, 1, 1))
        return 2 * self.coupling * jnp.sum(edges) + self.field * jnp.sum(spins)

    def log_normalizer(self) -> float:
        """Log Z in nats, exact.

        Raises:
            DataError: If there are more than `MAX_COLUMNS` columns.

        Examples:
            >>> from ppgen.models.parts.data import Ising
            >>> print(f"{Ising(4).log_normalizer():.6f}")
            12.598503
        """
        return _log_normalizer(self.rows, self.columns, self.coupling, self.field)

    def entropy(self) -> float:
        """The entropy in nats, exact: log Z less the mean log weight.

        Examples:
            >>> import math
            >>> from ppgen.models.parts.data import Ising
            >>> print(f"{Ising(4).entropy():.6f}")
            8.681267
        """
        # The mean log weight is the derivative of log Z by a common factor of the log weights; a
        # complex step has no cancellation, so that it is exact to rounding.
        step = 1e-30
        return self.log_normalizer() - self._log_sum(factor=1 + 1j * step).imag / step

    def log_marginal(
        self, x: Num[np.ndarray, " sites"], known: Bool[np.ndarray, " sites"]
    ) -> float:
        """The log probability of the values of some sites, the others summed out: in nats, exact.

        Args:
            x: A configuration. Its values at unknown sites do not matter.
            known: The sites.

        Examples:
            >>> import numpy as np
            >>> from ppgen.models.parts.data import Ising
            >>> ising = Ising(4)
            >>> one = np.arange(16) == 5
            >>> up, down = (ising.log_marginal(np.full(16, x), one) for x in (1, 0))
            >>> print(f"{np.exp(up) + np.exp(down):.6f}")
            1.000000
        """
        return self._log_sum((np.asarray(x), np.asarray(known))).real - self.log_normalizer()

    def _log_sum(
        self, clamped: tuple[np.ndarray, np.ndarray] | None = None, factor: complex = 1.0
    ) -> complex:
        """Log of the sum of weights ** factor over all configurations that agree with `clamped`."""
        within, between = _transfer(self.columns, self.coupling, self.field, complex(factor))
        allowed = np.ones((self.rows, len(within)))
        if clamped is not None:
            x, known = (a.reshape(self.rows, 1, self.columns) for a in clamped)
            allowed = ((_states(self.columns) == x) | ~known).all(-1)
        # Only the allowed states of each row enter, so a clamped sum is cheaper.
        states = [np.flatnonzero(row) for row in allowed]
        product, log_scale = np.eye(len(states[0])), 0.0
        for here, below in zip(states, [*states[1:], states[0]], strict=True):
            product = product @ (within[here, None] * between[np.ix_(here, below)])
            size = np.abs(product).max()
            product, log_scale = product / size, log_scale + math.log(size)
        return complex(np.log(np.trace(product)) + log_scale)


def _states(columns: int) -> Int[np.ndarray, "states columns"]:
    return np.arange(2**columns)[:, None] >> np.arange(columns) & 1


@functools.lru_cache(maxsize=16)
def _log_normalizer(rows: int, columns: int, coupling: float, field: float) -> float:
    return Ising(rows, columns, coupling=coupling, field=field)._log_sum().real


@functools.lru_cache(maxsize=4)
def _transfer(
    columns: int, coupling: float, field: float, factor: complex
) -> tuple[np.ndarray, np.ndarray]:
    """Weights within each state of a row, and between those of two rows on each other."""
    if columns > MAX_COLUMNS:
        raise DataError(f"{columns} columns are too many to sum over; the most is {MAX_COLUMNS}")
    spins = 2.0 * _states(columns) - 1
    power = factor if factor.imag else factor.real
    inside = 2 * coupling * (spins * np.roll(spins, 1, 1)).sum(1) + field * spins.sum(1)
    return np.exp(power * inside), np.exp(power * 2 * coupling * spins @ spins.T)


def sample_ising(
    ising: Ising, draws: int, *, sweeps: int = 200, key: Key[Array, ""]
) -> Int[Array, "draws sites"]:
    """Draws configurations by Gibbs sampling, one chain each.

    A sweep redraws all even sites of the checkerboard at once, then all odd ones. The chains start
    uniform, so the draws are exact in the limit of many sweeps; away from the critical coupling
    (J = .22 without field) a few dozen are enough.

    Args:
        ising: The model, of even sides.
        draws: How many independent chains.
        sweeps: Sweeps of each chain, of which the last state is kept.
        key: Draws them.

    Returns:
        One configuration of 0 and 1 from each chain.

    Raises:
        DataError: If a side is odd, so that the torus has no checkerboard.

    Examples:
        >>> import jax
        >>> from ppgen.models.parts.data import Ising, sample_ising
        >>> sample_ising(Ising(30), 2, sweeps=10, key=jax.random.key(0)).shape
        (2, 900)
    """
    if ising.rows % 2 or ising.columns % 2:
        raise DataError(f"a torus of {ising.rows}x{ising.columns} has no checkerboard")
    return _gibbs(ising, draws, sweeps, key)


@eqx.filter_jit
def _gibbs(ising: Ising, draws: int, sweeps: int, key: Key[Array, ""]) -> Int[Array, "draws sites"]:
    shape = (draws, ising.rows, ising.columns)
    colour = (jnp.arange(ising.rows)[:, None] + jnp.arange(ising.columns)) % 2

    def half_sweep(spins: Array, colour_key: tuple) -> Array:
        mine, key = colour_key
        near = sum(jnp.roll(spins, shift, axis) for shift in (1, -1) for axis in (1, 2))
        # s and -s differ by 2 s (θ + 2 J Σ neighbours) in their log weight.
        logit = 2 * (ising.field + 2 * ising.coupling * near)
        fresh = jnp.where(jax.random.bernoulli(key, jax.nn.sigmoid(logit)), 1.0, -1.0)
        return jnp.where(mine, fresh, spins)

    def sweep(i: Int[Array, ""], spins: Array) -> Array:
        even, odd = jax.random.split(jax.random.fold_in(key, i + 1))
        return half_sweep(half_sweep(spins, (colour == 0, even)), (colour == 1, odd))

    start = jax.random.rademacher(jax.random.fold_in(key, 0), shape, float)
    spins = jax.lax.fori_loop(0, sweeps, sweep, start)
    return (spins > 0).astype(int).reshape(draws, -1)
