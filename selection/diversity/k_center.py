"""k-center greedy, exact and lazy: a row is compared with a centre only if this can change the next choice."""

from typing import NamedTuple

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.duplicates.clusters import Int32
from gristmill.selection.kernels import kernel_with


class Sizes(NamedTuple):
    """Numbers of rows and centres that are processed at a time; they do not change the choice."""

    pool: int = 4096
    """Number of rows that are updated with every choice: 6 MiB at 384 dimensions, which fits into a core's caches."""
    rows: int = 1024
    centres: int = 4096
    """Rows and centres of one block of rough cosines: 16 MiB."""


SIZES = Sizes()


def k_center(matrix: Matrix, budget: int, first: int | None = None, sizes: Sizes = SIZES) -> Spread:
    """Choose rows one by one, each time the row farthest from all chosen rows; of equally far rows, the lower row.

    This is exactly the greedy choice; `greedy` computes it. A row is compared with a quarter of the centres or less, in
    few passes over the matrix. With 10^6 x 384 numbers and 10^4 centres it takes 37 CPU seconds.

    Source: Sener & Savarese 2018, arXiv:1708.00489, algorithm 1 (greedy, a radius within twice the best).
    Departures: the first row is the row nearest to the mean, where the paper begins with a labelled pool.

    Args:
        matrix: [n, d] unit rows.
        budget: number of centres to choose; if there are fewer rows, all are chosen.
        first: row that is chosen first; by default the row nearest to the mean.
        sizes: rows and centres that are processed at a time.

    Returns:
        `worth`: 1 - cosine to the nearest earlier centre, NaN for the first centre. `stand_in`: a centre within the
        radius, but not always the nearest one. Figures: `radius`, the largest 1 - cosine of a row to its nearest
        centre.
    """
    if not len(matrix):
        return Spread(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), {"radius": 0.0})
    start = _nearest_to_mean(matrix) if first is None else first
    chosen, cosine, stand_in, rest = greedy(matrix, budget, start, np.zeros(len(matrix)), 1.0, sizes)
    return Spread(chosen, 1 - np.minimum(cosine, 1), stand_in, {"radius": max(0.0, 1 - rest)})


class GreedyChoice(NamedTuple):
    """The greedy choice of k-center or MMR."""

    chosen: Int
    """[k] in the order of choice."""
    cosine: Float64
    """[k] cosine to the nearest row chosen before; NaN for the first."""
    stand_in: Int
    """[n] the chosen row that represents each row: of the chosen rows that it was compared with, the row with the
    highest cosine. A chosen row represents itself."""
    rest: float
    """For the row that would be chosen next, its highest cosine to a chosen row; 1 if no row is left."""


def greedy(
    matrix: Matrix, budget: int, first: int, bonus: Float64, weight: float, sizes: Sizes = SIZES
) -> GreedyChoice:
    """Choose one by one the row with the lowest penalty: `weight` x (highest cosine to a chosen row) - `bonus`.

    This is lazy and exact. The highest cosine of a row only grows, so its value at the last comparison gives a lower
    bound of the row's penalty. The rows with the lowest bounds form a pool that is compared with every new choice. As
    long as the best of the pool is below the bound of all other rows, it is the next choice. After that the next pool
    is formed. One matrix product compares it with the choices that its rows were not yet compared with. The rounding of
    this product differs from machine to machine, so it only says which pairs need an exact comparison in float64.

    Args:
        matrix: [n, d] unit rows, n > 0.
        budget: number of rows to choose.
        first: row that is chosen first.
        bonus: [n] the amount by which each row's penalty is lowered.
        weight: weight of the cosine, not negative.
        sizes: rows and centres that are processed at a time.
    """
    known = _NearestCentres(matrix, min(budget, len(matrix)), first)
    rest = 1.0
    while True:
        penalty = np.where(known.open, weight * known.nearest - bonus, np.inf)
        rows, bound = _lowest(penalty, sizes.pool)
        if not len(rows):
            break
        pool = matrix.take(rows)
        known.catch_up(rows, pool, sizes)
        row, rest = _drain(known, rows, pool, bound, (bonus, weight))
        if row >= 0:
            break
    stand_in = known.chosen[known.by]
    stand_in[known.chosen] = known.chosen
    return GreedyChoice(known.chosen, known.at_choice, stand_in, rest)


def _drain(
    known: "_NearestCentres", rows: Int, pool: Float32, bound: tuple[float, int], terms: tuple[Float64, float]
) -> tuple[int, float]:
    """Choose from the pool while its best row is better than all rows outside the pool.

    Args:
        known: what is known of all rows; the choices are added to it.
        rows: [p] rows of the pool.
        pool: [p, d] their vectors.
        bound: lowest (penalty, row) of the rows outside the pool.
        terms: (bonus [n], weight) as in `greedy`.

    Returns:
        If the budget is used up, the row that would come next, and its highest cosine. If a new pool must be formed,
        (-1, 1.0).
    """
    bonus, weight = terms[0][rows], terms[1]
    nearest, by, following = known.nearest[rows], known.by[rows], (-1, 1.0)
    while True:
        penalty = np.where(known.open[rows], weight * nearest - bonus, np.inf)
        best = int(np.argmin(penalty))
        if penalty[best] == np.inf or (penalty[best], rows[best]) >= bound:
            break
        if known.count == len(known.chosen):
            following = (int(rows[best]), float(nearest[best]))
            break
        known.choose(int(rows[best]), pool[best], nearest[best])
        meet(pool, known.centres, (known.count - 1, known.count), nearest, by)
    known.nearest[rows], known.by[rows], known.seen[rows] = nearest, by, known.count
    return following


class _NearestCentres:
    """For every row, the highest cosine to the centres that it was compared with, and the centre with this cosine."""

    def __init__(self, matrix: Matrix, budget: int, first: int) -> None:
        self.centres = np.empty((budget, matrix.dim), np.float32)
        self.chosen, self.at_choice, self.count = np.empty(budget, np.int64), np.empty(budget), 0
        self.open = np.ones(len(matrix), np.bool_)
        self.nearest, self.by = np.full(len(matrix), -np.inf), np.zeros(len(matrix), np.int32)
        self.seen = np.ones(len(matrix), np.int32)  # it was compared with the centres [0, seen)
        self.choose(first, matrix.take(np.array([first]))[0], np.nan)
        for start, block in matrix.blocks():
            rows = slice(start, start + len(block))
            meet(block, self.centres, (0, 1), self.nearest[rows], self.by[rows])

    def choose(self, row: int, vector: Float32, cosine: float) -> None:
        """Add a row to the centres; `cosine` is its highest cosine to an earlier centre."""
        self.centres[self.count], self.chosen[self.count], self.at_choice[self.count] = vector, row, cosine
        self.open[row] = False
        self.count += 1

    def catch_up(self, rows: Int, pool: Float32, sizes: Sizes) -> None:
        """Compare each of these rows with the centres that it was not yet compared with; `pool` holds their vectors."""
        places = np.argsort(self.seen[rows], kind="stable")
        places = places[self.seen[rows[places]] < self.count]
        for start in range(0, len(places), sizes.rows):
            tile = places[start : start + sizes.rows]
            vectors, these = pool[tile], rows[tile]
            nearest, by = self.nearest[these], self.by[these]
            for centre in range(int(self.seen[these[0]]), self.count, sizes.centres):
                meet(vectors, self.centres, (centre, min(centre + sizes.centres, self.count)), nearest, by)
            self.nearest[these], self.by[these] = nearest, by
        self.seen[rows] = self.count


def meet(rows: Float32, centres: Float32, which: tuple[int, int], nearest: Float64, by: Int32) -> None:
    """Update `nearest`, the highest cosine of each row so far, and `by`, its centre, with the centres [start, stop)."""
    start, stop = which
    some = centres[start:stop]
    # One centre is multiplied on one core: a library that starts threads for this takes 0.05 ms for
    # 4,096 rows on idle cores, and 10 ms where others are at work.
    rough = rows @ some.T if len(some) > 1 else np.full((len(rows), 1), np.inf, np.float32)
    _look(rough, _margin(rows.shape[1]), rows, some, start, nearest, by)


def _margin(dim: int) -> float:
    """Return twice the largest error that rounding can cause in a float32 product of unit rows."""
    return dim * 2.0**-23


def _lowest(penalty: Float64, most: int) -> tuple[Int, tuple[float, int]]:
    """Return (the rows of the `most` lowest pairs (penalty, row), ascending; the lowest pair that is left out).

    Rows with an infinite penalty are never returned.
    """
    if most >= len(penalty):
        return np.flatnonzero(penalty < np.inf), (np.inf, len(penalty))
    bound = np.partition(penalty, most)[most]
    below, level = np.flatnonzero(penalty < bound), np.flatnonzero(penalty == bound)
    spare = most - len(below)
    rows = np.sort(np.concatenate([below, level[:spare]])) if bound < np.inf else below
    return rows, (float(bound), int(level[spare]))


def _nearest_to_mean(matrix: Matrix) -> int:
    total = np.zeros(matrix.dim)
    for _, block in matrix.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    mean = (total / len(matrix)).astype(np.float32)
    rough = np.concatenate([block @ mean for _, block in matrix.blocks()])
    near = np.flatnonzero(rough >= rough.max() - 2 * _margin(matrix.dim))[: SIZES.pool]
    rows = matrix.take(near)
    exact, by = np.full(len(near), -np.inf), np.zeros(len(near), np.int32)
    _look(rough[near, None], np.inf, rows, mean[None], 0, exact, by)
    return int(near[np.argmax(exact)])


@kernel_with(fastmath={"reassoc", "contract", "nnan", "nsz"})
def _look(
    rough: Float32, margin: float, rows: Float32, centres: Float32, first: int, nearest: Float64, by: Int32
) -> None:
    """Compute exactly each cosine that may be above the row's highest so far: in float64, in a fixed order.

    `rough` is [rows, centres] of float32 products, each within `margin` of the exact cosine. A centre is skipped if its
    exact cosine must be below the exact cosine of the centre with the highest rough one, or below `nearest`. Of equal
    cosines, the first centre counts.
    """
    for row in range(len(rough)):
        top = rough[row].max()
        if top < nearest[row] - margin:
            continue
        floor = max(top - 2 * margin, nearest[row] - margin)
        for centre in range(rough.shape[1]):
            if rough[row, centre] >= floor:
                cosine = 0.0
                for k in range(rows.shape[1]):
                    cosine += np.float64(rows[row, k]) * np.float64(centres[centre, k])
                if cosine > nearest[row]:
                    nearest[row], by[row] = cosine, first + centre
