"""Influence of samples on a target set, computed from gradient features: the second half of LESS.

Source: Xia et al. 2024, arXiv:2402.04333, section 4.2 (equation 3 and the maximum over subtasks). Departures: none
here. The features come from `relevance.gradients`. A feature holds the parts of all checkpoints, each scaled by the
square root of its weight, so that one dot product is the weighted sum of cosines.
"""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix

NUMBERS = 1 << 25
"""Most numbers of one block, which take 128 MiB. It limits the rows, because features have tens of thousands of
dimensions."""


def influence(matrix: Matrix, targets: Float32, tasks: Int) -> Float32:
    """Return [n] the influence of each sample: its mean score over the targets of its best task.

    Args:
        matrix: [n, d] features of the samples.
        targets: [t, d] features of the targets, at least one.
        tasks: [t] task of each target, 0 … k - 1. Each task must have a target.
    """
    means = np.zeros((int(tasks.max()) + 1, targets.shape[1]), np.float64)
    np.add.at(means, tasks, targets)
    means /= np.bincount(tasks)[:, None]
    directions = np.ascontiguousarray(means.T, np.float32)
    found = np.empty(len(matrix), np.float32)
    for first, block in matrix.blocks(max(1, NUMBERS // matrix.dim)):
        found[first : first + len(block)] = (block @ directions).max(axis=1)
    return found


def highest(scores: Float32, budget: int) -> Int:
    """Return the `budget` rows with the highest scores, best first; of equal scores, the lower row is first."""
    return np.argsort(-scores, kind="stable")[:budget].astype(np.int64)
