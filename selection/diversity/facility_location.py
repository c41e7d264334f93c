"""Facility location: choose a budget of rows such that every row has a chosen one that is similar to it."""

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

    Up to `block_rows` rows this is exactly the greedy choice. Above that, rows are cut into blocks of neighbours (see
    `gristmill.selection.diversity.blocks`), and a row represents only rows of its own block.
    `benchmarks/diversity.json` says what that costs.

    Source: Wei, Iyer and Bilmes 2015, Submodularity in data subset selection and active learning, ICML, section 3
    (facility location); Minoux 1978 (lazy greedy); with quality QDIT, Bukharin et al. 2023, arXiv:2311.14736, section
    3.
    Departures: cosines below 0 count as 0; all cosines are of vectors rounded to 1/4,000; blocks, where usually a
    chosen row represents only its 32 nearest neighbours; both terms are means in [0, 1], so that `trade` means the same
    at every size.

    Args:
        matrix: [n, d] unit rows.
        budget: rows wanted; all rows come back when there are no more.
        seed: seed of the clustering into blocks.
        quality: [n] in [0, 1].
        trade: weight of the quality, in [0, 1).
        block_rows: most rows of a block, which takes 4 x block_rows^2 bytes.

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

    `nearest[i]` is the highest product of row i with a chosen row. `upper` is the gain of each row when it was last
    computed, in turn `fresh`. Gains only fall, so `upper` is a bound: a row that is still the highest after its gain
    was computed in this turn is the best of all. The gains of most rows are never computed again.
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
    """Return how much a row would add to the sum of `nearest`."""
    total = 0.0
    for row in range(len(product)):
        total += np.float64(max(product[row] - nearest[row], np.float32(0)))
    return total
