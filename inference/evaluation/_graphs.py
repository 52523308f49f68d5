"""Statistics of graphs as histograms, for kernels of graphs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float


def degree_histogram(graphs: Iterable[Any], *, most: int) -> Float[np.ndarray, "graphs degrees"]:
    """How many nodes of each graph have 0, 1, ... edges.

    Like the other statistics it does not depend on the order of the nodes, and goes into
    `gaussian_emd_kernel` or `total_variation_kernel`.

    Args:
        graphs: The adjacency matrix of each, symmetric, of zeros and ones; of any sizes.
        most: The largest degree. It must be the same for both sets that `mmd` compares.

    Returns:
        A histogram for each graph.

    Raises:
        ValueError: A matrix is none of a graph, or a node has more edges than `most`.

    Examples:
        A path of three nodes, and a triangle:

        >>> import numpy as np
        >>> from ppgen.inference import degree_histogram
        >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> degree_histogram([path, 1 - np.eye(3)], most=2).tolist()
        [[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]]
    """
    rows = []
    for graph in _graphs(graphs):
        degrees = graph.sum(1).astype(int)
        if degrees.max() > most:
            raise ValueError(f"a node has {degrees.max()} edges, more than `most`")
        rows.append(np.bincount(degrees, minlength=most + 1))
    return np.stack(rows).astype(float)


def clustering_histogram(
    graphs: Iterable[Any], *, bins: int = 100
) -> Float[np.ndarray, "graphs bins"]:
    """Histograms of the clustering coefficients of the nodes, from 0 to 1.

    The coefficient of a node is the share of pairs of its neighbours that are neighbours, or zero
    where it has fewer than two.

    Args:
        graphs: As for `degree_histogram`.
        bins: Bins of one width; the value 1 is in the last one.

    Returns:
        A histogram for each graph.

    Examples:
        >>> import numpy as np
        >>> from ppgen.inference import clustering_histogram
        >>> clustering_histogram([1 - np.eye(3)], bins=4).tolist()
        [[0.0, 0.0, 0.0, 3.0]]
    """
    rows = []
    for graph in _graphs(graphs):
        degrees = graph.sum(1)
        triangles = np.einsum("ij,jk,ki->i", graph, graph, graph, optimize=True)
        shares = triangles / np.maximum(degrees * (degrees - 1), 1)
        rows.append(np.histogram(shares, bins, (0.0, 1.0))[0])
    return np.stack(rows).astype(float)


def spectrum_histogram(
    graphs: Iterable[Any], *, bins: int = 200
) -> Float[np.ndarray, "graphs bins"]:
    """Histograms of the eigenvalues of the normalised Laplacian, from 0 to 2.

    Args:
        graphs: As for `degree_histogram`.
        bins: Bins of one width.

    Returns:
        A histogram for each graph. A node without edges has the eigenvalue zero.

    Examples:
        An edge has the eigenvalues 0 and 2:

        >>> import numpy as np
        >>> from ppgen.inference import spectrum_histogram
        >>> spectrum_histogram([np.array([[0, 1], [1, 0]])], bins=4).tolist()
        [[1.0, 0.0, 0.0, 1.0]]
    """
    rows = []
    for graph in _graphs(graphs):
        degrees = graph.sum(1)
        root = np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0.0)
        laplacian = np.diag((degrees > 0).astype(float)) - root[:, None] * graph * root
        # Whole and half numbers are common, and at the edges of bins: rounding must not part them.
        values = np.linalg.eigvalsh(laplacian).round(9).clip(0.0, 2.0)
        rows.append(np.histogram(values, bins, (0.0, 2.0))[0])
    return np.stack(rows).astype(float)


def _graphs(graphs: Iterable[Any]) -> Iterable[np.ndarray]:
    for graph in graphs:
        matrix = np.asarray(graph, np.float64)
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0
        if not (square and np.all((matrix == 0) | (matrix == 1)) and np.all(matrix == matrix.T)):
            raise ValueError("a graph is a symmetric matrix of zeros and ones")
        if np.any(np.diag(matrix)):
            raise ValueError("a graph has an edge from a node to itself")
        yield matrix
