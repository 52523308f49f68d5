"""Chains of atoms as strings with a reward: few enough to know the whole distribution.

A string is a chain of carbon, nitrogen, oxygen and fluorine, a token for each atom with its bond to
the atom before: "C", "=O", "#N". It is valid if no atom has more bonds than its valence, if the
first atom has no bond before it and if nothing follows the end. The reward favours heteroatoms, but
no two in a row, which would not be stable; it is of the kind used in searches for molecules.
"""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

TOKENS = ("", "C", "N", "O", "F", "=C", "=N", "=O", "#C", "#N")
"""The end, and each atom with its bond to the one before."""

_ATOM = np.array([0, 1, 2, 3, 4, 1, 2, 3, 1, 2])
_BOND = np.array([0, 1, 1, 1, 1, 2, 2, 2, 3, 3])
_VALENCE = np.array([0, 4, 3, 2, 1])
"""Of the end, carbon, nitrogen, oxygen and fluorine."""


class Molecules(eqx.Module):
    """Strings of up to `length` tokens, wanted in proportion to exp(`reward`)."""

    length: int = eqx.field(static=True, default=5)
    invalid: float = eqx.field(static=True, default=-6.0)
    """The reward of a string that is not a molecule, in nats. Finite, so that every string can be
    scored by a model that starts uniform; their share of the target is a percent."""

    @property
    def sites(self) -> int:
        """Tokens of a string, ends included."""
        return self.length

    @property
    def values(self) -> int:
        """Number of different tokens."""
        return len(TOKENS)

    def bonds_left(self, x: Int[Array, " sites"]) -> Int[Array, " sites"]:
        """Bonds that each atom has left for hydrogen; negative where it has too many."""
        before = jnp.asarray(_BOND)[x].at[0].set(0)
        after = jnp.append(before[1:], 0)
        return jnp.asarray(_VALENCE)[jnp.asarray(_ATOM)[x]] - before - after

    def is_valid(self, x: Int[Array, " sites"]) -> Array:
        """Whether a string of token numbers is a molecule: a boolean scalar."""
        bonds = jnp.asarray(_BOND)[x]
        # The end has valence zero, so an atom after an end has too many bonds as well.
        return (bonds[0] == 1) & jnp.all(self.bonds_left(x) >= 0)

    def log_weight(self, x: Int[Array, " sites"]) -> Float[Array, ""]:
        """The reward in nats.

        One for each nitrogen or oxygen, less two for each pair of them that are bonded, half for
        each bond beyond a single one, and less half for each token over three.
        """
        atom, bond = jnp.asarray(_ATOM)[x], jnp.asarray(_BOND)[x].at[0].set(1)
        hetero = (atom == 2) | (atom == 3)
        reward = (
            1.0 * jnp.sum(hetero)
            - 2.0 * jnp.sum(hetero[1:] & hetero[:-1])
            + 0.5 * jnp.sum(jnp.maximum(bond - 1, 0))
            - 0.5 * jnp.maximum(jnp.sum(atom > 0) - 3, 0)
        )
        return jnp.where(self.is_valid(x), reward, self.invalid)

    def log_normalizer(self) -> float:
        """Log Z in nats, by enumeration.

        Examples:
            >>> from ppgen.models.parts.data import Molecules
            >>> print(f"{Molecules(4).log_normalizer():.4f}")
            7.8844
        """
        return float(np.logaddexp.reduce(_weights(self)[1]))

    def log_marginal(
        self, x: Int[np.ndarray, " sites"], known: Bool[np.ndarray, " sites"]
    ) -> float:
        """The log probability of the tokens at some places: in nats, by enumeration.

        Args:
            x: A string. Its tokens at unknown places do not matter.
            known: The places.
        """
        strings, log_weights = _weights(self)
        agree = (strings[:, known] == x[known]).all(1)
        return float(np.logaddexp.reduce(log_weights[agree]) - np.logaddexp.reduce(log_weights))


@functools.lru_cache(maxsize=4)
def _weights(
    task: Molecules,
) -> tuple[Int[np.ndarray, "strings sites"], Float[np.ndarray, " strings"]]:
    """All strings, and their log weights."""
    strings = all_strings(task.sites, task.values)
    return strings, np.asarray(jax.vmap(task.log_weight)(jnp.asarray(strings)), np.float64)


def all_strings(sites: int, values: int) -> Int[np.ndarray, "strings sites"]:
    """Every configuration of `sites` sites of `values` values each, the last site fastest.

    Examples:
        >>> from ppgen.models.parts.data import all_strings
        >>> all_strings(2, 2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return np.array(list(itertools.product(range(values), repeat=sites)), np.int32)


def molecule_string(x: Int[np.ndarray, " sites"]) -> str:
    """Writes a string of token numbers, as in SMILES.

    Examples:
        >>> import numpy as np
        >>> from ppgen.models.parts.data import molecule_string
        >>> molecule_string(np.array([2, 1, 7, 0, 0]))
        'NC=O'
    """
    return "".join(TOKENS[token] for token in x)
