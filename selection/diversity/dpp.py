"""Determinantal point process: choose rows such that the determinant of the matrix of their similarities is large."""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.blocks import BLOCK_ROWS, BlockChoice, blocks, merge_choices, stand_ins
from gristmill.selection.kernels import kernel_with

WIDTH = 0.25
"""If 1 - cosine of two rows has this value, their similarity is 1/e."""
LEAST = 1e-10
"""A row adds nothing new if its squared distance to the span of the chosen rows is smaller than this. Smaller numbers
come from rounding."""


def dpp(
    matrix: Matrix,
    budget: int,
    *,
    seed: int,
    quality: Float64 | None = None,
    trade: float = 0.0,
    block_rows: int = BLOCK_ROWS,
) -> Spread:
    """Choose greedily for trade x sum of quality + (1 - trade) x log det of the chosen rows' similarities.

    Each chosen row adds the log of a squared distance: that of the row to the span of the rows chosen before, in the
    space of the similarity. An incremental Cholesky factorisation gives this distance. Up to `block_rows` rows this is
    exactly the greedy choice. With more rows, the similarity of rows in two blocks (see `diversity.blocks`) counts as
    0, because n x budget numbers would take 80 GB for 10^6 rows and 10^4 choices. Cost: rows of a block x (its
    choices)^2, for each block.

    Source: Chen, Zhang and Zhou 2018, arXiv:1709.05135, algorithm 1 and section 5 (the trade-off). Departures: the
    similarity is exp((cosine - 1) / 0.25). The matrix of cosines has rank d, so it would allow only d choices. The
    budget is always filled, with copies chosen last. Blocks are used above `block_rows` rows.

    Args:
        matrix: [n, d] unit rows.
        budget: number of rows to choose; if there are fewer rows, all are chosen.
        seed: seed of the clustering into blocks.
        quality: [n] in [0, 1].
        trade: weight of the quality, in [0, 1).
        block_rows: most rows of a block.

    Returns:
        `worth`: log of the squared distance + trade / (1 - trade) x quality. Figures: `log_det` of the similarities.
    """
    budget = min(budget, len(matrix))
    parts = blocks(matrix, seed, block_rows)
    bonus = np.zeros(len(matrix)) if quality is None else trade / (1 - trade) * quality

    def choose(rows: Int, most: int) -> BlockChoice:
        chosen, gains = _greedy(matrix.take(rows), bonus[rows], most)
        return BlockChoice(rows[chosen], np.minimum.accumulate(gains))

    found = merge_choices(parts, choose, budget)
    stand_in, _ = stand_ins(matrix, parts, found.chosen)
    log_det = float((found.gains - bonus[found.chosen]).sum())
    return Spread(found.chosen, found.gains, stand_in, {"log_det": log_det, "blocks": float(len(parts))})


@kernel_with(fastmath={"reassoc", "contract"})
def _greedy(vectors: Float32, bonus: Float64, most: int) -> tuple[Int, Float64]:
    """Return `most` rows of a block in the order of choice, and the gain of each.

    `factors` is [n, choices]: row i holds the coordinates of row i in an orthonormal basis of the space that the chosen
    rows span. So `squared[i]` = 1 - |factors[i]|^2 is the squared distance of row i to this space. A choice adds one
    column: the similarity to the chosen row, minus the part that the earlier columns explain, divided by the length of
    the new basis vector.
    """
    num = len(vectors)
    factors = np.zeros((num, most))
    squared = np.ones(num)
    open_ = np.ones(num, np.bool_)
    chosen, gains = np.empty(most, np.int64), np.empty(most)
    for turn in range(most):
        best, gain = -1, -np.inf
        for row in range(num):
            if open_[row]:
                worth = np.log(max(squared[row], LEAST)) + bonus[row]
                if worth > gain:
                    best, gain = row, worth
        chosen[turn], gains[turn] = best, gain
        open_[best] = False
        if squared[best] <= LEAST:
            continue  # a copy: nothing changes
        length = np.sqrt(squared[best])
        for row in range(num):
            if not open_[row]:
                continue
            cosine = 0.0
            for k in range(vectors.shape[1]):
                cosine += np.float64(vectors[row, k]) * np.float64(vectors[best, k])
            shared = 0.0
            for k in range(turn):
                shared += factors[row, k] * factors[best, k]
            factor = (np.exp((min(cosine, 1.0) - 1) / WIDTH) - shared) / length
            factors[row, turn] = factor
            squared[row] -= factor * factor
    return chosen, gains
