"""Small graphs, and what walks on them do, by listing all walks in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from scipy.special import logsumexp

from ppgen.inference import Policy, TableDag

STATES, ACTIONS, LONGEST = 9, 3, 4


@st.composite
def tables(draw):
    """Where actions lead: layers of 1 to 3 states, all reachable, ends at different depths.

    Edges may skip layers and may be double; some states have one action. Unused rows of the table
    are more ends, which the source leads to by way of others.
    """
    depth = np.array([0, *sorted(draw(st.lists(st.integers(1, LONGEST), min_size=8, max_size=8)))])
    # Every layer up to the last is there.
    used = np.unique(depth)
    depth = np.searchsorted(used, depth)
    children = np.full((STATES, ACTIONS), -1)
    for s in range(1, STATES):
        # A parent that has an action left, as deep as can be.
        for p in reversed(range(s)):
            free = np.flatnonzero(children[p] < 0)
            if depth[p] < depth[s] and len(free):
                children[p, draw(st.sampled_from(list(free)))] = s
                break
        else:
            depth[s:] = depth[s:] + 1
            p = next(p for p in reversed(range(s)) if (children[p] < 0).any())
            children[p, np.flatnonzero(children[p] < 0)[0]] = s
    for _ in range(draw(st.integers(0, 6))):
        s = draw(st.integers(0, STATES - 2))
        later = np.flatnonzero(depth > depth[s])
        free = np.flatnonzero(children[s] < 0)
        # A state that has actions may get another one; an end stays an end.
        if len(later) and len(free) and (children[s] >= 0).any():
            children[s, free[-1]] = draw(st.sampled_from(list(later)))
    return children


def padded(children):
    """The graph, in shapes that all graphs of a size share: one compilation serves them all."""
    dag = TableDag(children)
    object.__setattr__(dag, "_longest", STATES - 1)
    object.__setattr__(dag, "_backward", STATES * ACTIONS)
    return dag


def normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).normal(size=shape))


def parameters(dag, seed):
    """Logits of actions, of backward actions, and log flows, of every state."""
    states = len(dag.children)
    return {
        "forward": normal(seed, states, dag.actions),
        "backward": normal(seed + 1, states, dag.backward_actions),
        "flow": normal(seed + 2, states),
    }


TABULAR = Policy(
    lambda p, s: p["forward"][s], lambda p, s: p["backward"][s], lambda p, s: p["flow"][s]
)
UNIFORM_BACK = TABULAR._replace(backward=None)


def log_softmax(row, among):
    row = np.asarray(row, np.float64)[among]
    return dict(zip(among, row - logsumexp(row), strict=True))


class Walks:
    """All walks of a table, with the probabilities of their steps."""

    def __init__(self, children, params):
        children = np.asarray(children)
        forward, backward = np.asarray(params["forward"]), np.asarray(params["backward"])
        slots, seen = {}, {}
        for s, a in zip(*np.nonzero(children >= 0), strict=True):
            c = int(children[s, a])
            slots[s, a] = seen.get(c, 0)
            seen[c] = slots[s, a] + 1
        back = {c: log_softmax(backward[c], list(range(n))) for c, n in seen.items()}
        self.steps, pending = [], [[(0, None, 0.0, 0.0)]]
        while pending:
            walk = pending.pop()
            s = walk[-1][0]
            among = [a for a in range(children.shape[1]) if children[s, a] >= 0]
            if not among:
                self.steps.append(walk)
                continue
            for a, p in log_softmax(forward[s], among).items():
                c = int(children[s, a])
                pending.append([*walk, (c, a, p, back[c][slots[s, a]])])
        self.ends = np.array([walk[-1][0] for walk in self.steps])
        self.log_forward = np.array([sum(p for *_, p, _ in walk) for walk in self.steps])
        self.log_backward = np.array([sum(b for *_, b in walk) for walk in self.steps])

    def law(self, states=STATES):
        return np.bincount(self.ends, np.exp(self.log_forward), states)

    def imbalances(self, flow, energies):
        """Of every step of every walk."""
        flow, energies = np.asarray(flow), np.asarray(energies)
        for walk in self.steps:
            flows = [flow[s] for s, *_ in walk[:-1]] + [-energies[walk[-1][0]]]
            yield np.array(
                [flows[t] + p - flows[t + 1] - b for t, (_, _, p, b) in enumerate(walk[1:])]
            )

    def loss(self, flow, energies, over, log_weights=None):
        weights = np.exp(self.log_forward if log_weights is None else log_weights)
        total = 0.0
        for weight, delta in zip(weights, self.imbalances(flow, energies), strict=True):
            total += weight * weighted(delta, over)
        return total


def weighted(delta, over):
    if over == "transition":
        return np.mean(delta**2)
    if over == "trajectory":
        return np.sum(delta) ** 2
    n, above, below = len(delta), 0.0, 0.0
    for i in range(n):
        for j in range(i + 1, n + 1):
            above += over ** (j - i) * delta[i:j].sum() ** 2
            below += over ** (j - i)
    return above / below


def listed(dag):
    """The states, each by itself."""
    states = dag.states()
    return [
        jax.tree.map(lambda x, i=i: x[i], states) for i in range(len(jax.tree.leaves(states)[0]))
    ]
