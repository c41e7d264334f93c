"""Cluster-balanced: choose the same number of rows from every cluster of similar rows, the best rows first."""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.duplicates import clusters


def cluster_balanced(
    matrix: Matrix, budget: int, *, num: int, seed: int, quality: Float64 | None = None, trade: float = 0.0
) -> Spread:
    """Choose the best of all for a share of the budget, then the best of each cluster, the second best, and so on.

    Source: Ge et al. 2024, CaR, arXiv:2402.18191, section 3 (the n1 best of all and the n2 best of each of sqrt(n / 2)
    clusters, put together). Departures: n1 is a share of the budget, and n2 is as large as the budget needs. If the
    last turn is larger than the rest of the budget, its best rows are chosen. Without a score, the best rows are those
    nearest to their centroid. Clusters come from spherical k-means on the vectors, without a PCA.

    Args:
        matrix: [n, d] unit rows.
        budget: number of rows to choose; if there are fewer rows, all are chosen.
        num: number of clusters.
        seed: seed of the clustering.
        quality: [n] higher is better; by default the cosine to the centroid.
        trade: share of the budget for the best rows of all (n1), in [0, 1).

    Returns:
        `worth`: cosine to the centroid. `stand_in`: the best chosen row of the cluster. Figures: `clusters`, the number
        of clusters with rows; `clusters_chosen`, the number of clusters with chosen rows.
    """
    if not len(matrix):
        return Spread(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), {})
    near, cosine = clusters.assign(matrix, clusters.fit(matrix, num, seed=seed))
    label, central = near[:, 0], cosine[:, 0].astype(np.float64)
    order = np.argsort(-(central if quality is None else quality), kind="stable")
    turn = _turns(label[order].astype(np.int64))
    turn[: round(trade * min(budget, len(matrix)))] = -1
    chosen = order[np.argsort(turn, kind="stable")[:budget]]
    best = np.full(int(label.max()) + 1, -1, np.int64)
    best[label[chosen][::-1]] = chosen[::-1]  # written in reverse, so that the first of a cluster is written last
    stand_in = best[label]
    stand_in[chosen] = chosen
    figures = {"clusters": float(len(np.unique(label))), "clusters_chosen": float((best >= 0).sum())}
    return Spread(chosen, central[chosen], stand_in, figures)


def _turns(label: Int) -> Int:
    """Return [n] for each row, the number of rows before it that are in the same cluster."""
    by_label = np.argsort(label, kind="stable")
    first = np.searchsorted(label[by_label], label[by_label])
    turn = np.empty(len(label), np.int64)
    turn[by_label] = np.arange(len(label)) - first
    return turn
