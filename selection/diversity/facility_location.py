"""Facility location: a budget of rows such that every row has a chosen one that is much like it."""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.blocks import BLOCK_ROWS, GRID, Greed, blocks, merged, on_grid, stand_ins
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

    Exactly the greedy choice up to `block_rows` rows. Beyond, a row counts only for those of its own block of
    neighbours, see `gristmill.selection.diversity.blocks`; what that costs is in `benchmarks/diversity.json`.

    Source: Wei, Iyer and Bilmes 2015, Submodularity in data subset selection and active learning, ICML, section 3
    (facility location); Minoux 1978 (lazy greedy); with quality QDIT, Bukharin et al. 2023, arXiv:2311.14736, section
    3. Departures: cosines below 0 count 0, and all are those of vectors rounded to 1/4,000; the blocks, where the usual
    32 nearest neighbours let a chosen row represent these alone; both terms are means in [0, 1], so that `trade` means
    the same at every size.

    Args:
        matrix: [n, d] unit rows.
        budget: rows wanted; all come back when there are no more.
        seed: of the blocks.
        quality: [n] in [0, 1].
        trade: weight of the quality, in [0, 1).
        block_rows: most rows of a block, which holds 4 x block_rows^2 bytes.

    Returns:
        `worth`: gain of the objective, times the budget. Figures: `facility_location`, the mean cosine.
    """
    budget = min(budget, len(matrix))
    parts = blocks(matrix, seed, block_rows)
    scale = (1 - trade) * budget / max(1, len(matrix))
    bonus = np.zeros(len(matrix)) if quality is None else trade * quality

    def choose(rows: Int, most: int) -> Greed:
        vectors = on_grid(matrix.take(rows))
        products = vectors @ vectors.T
        np.clip(products, 0, GRID**2, out=products)
        chosen, gains = _lazy_greedy(products, scale / GRID**2, bonus[rows], most)
        return Greed(rows[chosen], np.minimum.accumulate(gains))

    found = merged(parts, choose, budget)
    stand_in, value = stand_ins(matrix, parts, found.chosen)
    return Spread(found.chosen, found.gains, stand_in, {"facility_location": value, "blocks": float(len(parts))})


@kernel
def _lazy_greedy(products: Float32, scale: float, bonus: Float64, most: int) -> tuple[Int, Float64]:
    """Choose `most` rows; a gain only falls, so that one which is still the best when looked at anew is the best."""
    num = len(products)
    nearest = np.zeros(num, np.float32)
    upper = np.empty(num)
    for row in range(num):
        upper[row] = scale * _gain(products[row], nearest) + bonus[row]
    fresh = np.zeros(num, np.int64)  # the number of choices that an upper bound knows of
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
    total = 0.0
    for row in range(len(product)):
        total += np.float64(max(product[row] - nearest[row], np.float32(0)))
    return total
