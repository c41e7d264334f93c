"""Maximal marginal relevance: rows that score high and are unlike those chosen before."""

import numpy as np

from gristmill.selection.data.matrix import Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.k_center import greedy


def mmr(matrix: Matrix, budget: int, quality: Float64, trade: float) -> Spread:
    """Choose one by one the row of highest trade x quality - (1 - trade) x highest cosine to a chosen row.

    This is exactly the greedy choice, computed lazily as in `k_center`. The first is the row of highest quality. Ties
    go to the lower row.

    Source: Carbonell and Goldstein 1998, The use of MMR, SIGIR, section 2. Departures: none.

    Args:
        matrix: [n, d] unit rows.
        budget: rows wanted; all rows come back when there are no more.
        quality: [n] in [0, 1].
        trade: the paper's lambda, in (0, 1).

    Returns:
        `worth`: the marginal relevance; of the first, trade x its quality. `stand_in`: see `k_center.greedy`.
    """
    if not len(matrix):
        return Spread(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), {})
    bonus = trade * quality
    chosen, cosine, stand_in, _ = greedy(matrix, budget, int(np.argmax(quality)), bonus, 1 - trade)
    worth = bonus[chosen] - (1 - trade) * np.nan_to_num(cosine)
    return Spread(chosen, worth, stand_in, {"mean_quality": float(quality[chosen].mean())})
