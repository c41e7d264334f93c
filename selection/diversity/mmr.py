"""Maximal marginal relevance: choose rows with high scores that are unlike the rows chosen before."""

import numpy as np

from gristmill.selection.data.matrix import Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.k_center import greedy


def mmr(matrix: Matrix, budget: int, quality: Float64, trade: float) -> Spread:
    """Choose one by one the row with the highest trade x quality - (1 - trade) x (highest cosine to a chosen row).

    This is exactly the greedy choice, computed lazily as in `k_center`. The first row is the row with the highest
    quality. Ties go to the lower row.

    Source: Carbonell and Goldstein 1998, The use of MMR, SIGIR, section 2. Departures: none.

    Args:
        matrix: [n, d] unit rows.
        budget: number of rows to choose; if there are fewer rows, all are chosen.
        quality: [n] in [0, 1].
        trade: the paper's lambda, in (0, 1).

    Returns:
        `worth`: the marginal relevance; for the first row, trade x its quality. `stand_in`: see `k_center.greedy`.
        Figures: `mean_quality` of the chosen rows.
    """
    if not len(matrix):
        return Spread(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), {})
    bonus = trade * quality
    chosen, cosine, stand_in, _ = greedy(matrix, budget, int(np.argmax(quality)), bonus, 1 - trade)
    worth = bonus[chosen] - (1 - trade) * np.nan_to_num(cosine)
    return Spread(chosen, worth, stand_in, {"mean_quality": float(quality[chosen].mean())})
