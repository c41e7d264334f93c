"""Facility location: choose rows such that every row is similar to one of the chosen rows."""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.blocks import (
    BLOCK_ROWS,
    GRID,
    BlockChoice,
    blocks,
    merge_choices,
    on_grid,
    stand_ins,
)
from gristmill.selection.kernels import kernel, kernel_with


def facility_location(
    matrix: Matrix,
    budget: int,
    *,
    seed: int,
    quality: Float64 | None = None,
    trade: float = 0.0,
    block_rows: int = BLOCK_ROWS,
) -> Spread:
    """Choose greedily for (1 - trade) x mean cosine of all rows to their nearest chosen row + trade x mean quality.

    Up to `block_rows` rows this is exactly the greedy choice. With more rows, rows are divided into blocks of similar
    rows (see `gristmill.selection.diversity.blocks`), and a row represents only rows of its own block.
    `benchmarks/diversity.json` says what that costs.

    Source: Wei, Iyer and Bilmes 2015, Submodularity in data subset selection and active learning, ICML, section 3
    (facility location); Minoux 1978 (lazy greedy); with quality QDIT, Bukharin et al. 2023, arXiv:2311.14736, section
    3.
    Departures: cosines below 0 count as 0, and cosines are those of vectors rounded to 1/4,000. Large data is divided
    into blocks, where others let a chosen row represent only its 32 nearest neighbours. Both terms are means in [0, 1],
    so that `trade` means the same at every size.

    Args:
        matrix: [n, d] unit rows.
        budget: number of rows to choose; if there are fewer rows, all are chosen.
        seed: seed of the clustering into blocks.
        quality: [n] in [0, 1].
        trade: weight of the quality, in [0, 1).
        block_rows: most rows of a block; a block takes 4 x block_rows^2 bytes.

    Returns:
        `worth`: gain of the objective, times the budget. Figures: `facility_location`, the mean cosine.
    """
    budget = min(budget, len(matrix))
    parts = blocks(matrix, seed, block_rows)
    scale = (1 - trade) * budget / max(1, len(matrix))
    bonus = np.zeros(len(matrix)) if quality is None else trade * quality

    def choose(rows: Int, most: int) -> BlockChoice:
        vectors = on_grid(matrix.take(rows))
        products = vectors @ vectors.T
        np.clip(products, 0, GRID**2, out=products)
        chosen, gains = _lazy_greedy(products, scale / GRID**2, bonus[rows], most)
        return BlockChoice(rows[chosen], np.minimum.accumulate(gains))

    found = merge_choices(parts, choose, budget)
    stand_in, value = stand_ins(matrix, parts, found.chosen)
    return Spread(found.chosen, found.gains, stand_in, {"facility_location": value, "blocks": float(len(parts))})


@kernel
def _lazy_greedy(products: Float32, scale: float, bonus: Float64, most: int) -> tuple[Int, Float64]:
    """Return `most` rows in the order of choice, and the gain of each.

    `nearest[i]` is the highest product of row i with a chosen row. `upper[i]` is the gain of row i when it was last
    computed, and `fresh[i]` is the turn in which that was. Gains only fall, so `upper` is an upper bound. If a row has
    the highest bound and its gain was computed in this turn, it is the best of all rows. The gains of most rows are
    never computed again.
    """
    num = len(products)
    nearest = np.zeros(num, np.float32)
    upper = np.empty(num)
    for row in range(num):
        upper[row] = scale * _gain(products[row], nearest) + bonus[row]
    fresh = np.zeros(num, np.int64)
    chosen, gains = np.empty(most, np.int64), np.empty(most)
    for turn in range(most):
        best = np.argmax(upper)
        while fresh[best] < turn:
            upper[best] = scale * _gain(products[best], nearest) + bonus[best]
            fresh[best] = turn
            best = np.argmax(upper)
        chosen[turn], gains[turn] = best, upper[best]
        upper[best] = -np.inf
        np.maximum(nearest, products[best], nearest)
    return chosen, gains


@kernel_with(fastmath={"reassoc", "contract"})
def _gain(product: Float32, nearest: Float32) -> float:
    """Return how much the sum of `nearest` grows if the row with these products is chosen."""
    total = 0.0
    for row in range(len(product)):
        total += np.float64(max(product[row] - nearest[row], np.float32(0)))
    return total
