"""Representation filter: keep the best rows of a matrix, without rows that are too near to a better row."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.kernels import kernel

BLOCK_ROWS = 1024
"""Number of candidates that are compared with the kept rows in one product."""
TILE_ROWS = 8192
"""Number of kept rows in one product: 1,024 x 8,192 cosines take 32 MiB."""
FLOP_PER_S = 7.6e10
"""Number of multiplications and additions of float32 that one core does in a second, measured in products of
matrices."""


class FilterResult(NamedTuple):
    """The decisions of the filter on its candidates."""

    kept: NDArray[np.bool_]
    """[visited] whether a candidate is kept, for each candidate that was visited before the budget was full, best
    first."""
    nearest: Int
    """[n] for each row, the nearest row that was kept before it; -1 for the first row, and for rows that were never
    compared."""
    cosine: Float32
    """[n] for each row, its cosine to the row in `nearest`; NaN if there is none."""


def representation_filter(vectors: Matrix, order: Int, max_cosine: float, budget: int) -> FilterResult:
    """Visit rows best first, and keep a row if its cosine to all kept rows is at most `max_cosine`, up to a budget.

    The result is the same as if rows were visited one by one. One product compares a block of candidates with the kept
    rows, and a second product compares them with each other. Memory: the kept vectors, and 36 MiB.

    Args:
        vectors: [n, d] unit rows.
        order: rows to visit, best first.
        max_cosine: highest cosine of two kept rows.
        budget: most rows to keep.
    """
    nearest, cosine = np.full(len(vectors), -1, np.int64), np.full(len(vectors), np.nan, np.float32)
    kept, bank, start = np.zeros(len(order), np.bool_), _Bank(vectors.dim), 0
    while start < len(order) and len(bank) < budget:
        rows = order[start : start + BLOCK_ROWS]
        block = vectors.take(rows)
        best, near = bank.nearest(block)
        taken = np.zeros(len(rows), np.bool_)
        seen = _greedy(block @ block.T, (best, near), rows, (max_cosine, budget - len(bank)), taken)
        compared = rows[:seen][near[:seen] >= 0]
        nearest[compared], cosine[compared] = near[:seen][near[:seen] >= 0], best[:seen][near[:seen] >= 0]
        kept[start : start + len(rows)] = taken
        bank.add(block[taken], rows[taken])
        start += seen
    return FilterResult(kept[:start], nearest, np.minimum(cosine, np.float32(1)))


class _Bank:
    """The vectors and the numbers of the kept rows, in the order in which they were kept."""

    def __init__(self, dim: int) -> None:
        self._vectors, self._rows, self._held = np.empty((0, dim), np.float32), np.empty(0, np.int64), 0

    def __len__(self) -> int:
        return self._held

    def nearest(self, block: Float32) -> tuple[Float32, Int]:
        """Return ([b] highest cosine to a kept row, or -2; [b] that row, the first of equally near rows, or -1)."""
        best, near = np.full(len(block), -2, np.float32), np.full(len(block), -1, np.int64)
        for start in range(0, self._held, TILE_ROWS):
            stop = min(start + TILE_ROWS, self._held)
            cosines = block @ self._vectors[start:stop].T
            place = cosines.argmax(axis=1)
            found = cosines[np.arange(len(block)), place]
            higher = found > best
            best[higher], near[higher] = found[higher], self._rows[start:stop][place[higher]]
        return best, near

    def add(self, vectors: Float32, rows: Int) -> None:
        """Add kept rows. If the memory is full, it is doubled, so that each vector is moved about once."""
        held = self._held + len(rows)
        if held > len(self._rows):
            room = max(held, 2 * len(self._rows), BLOCK_ROWS)
            self._vectors = np.concatenate(
                [self._vectors, np.empty((room - len(self._rows), vectors.shape[1]), np.float32)]
            )
            self._rows = np.concatenate([self._rows, np.empty(room - len(self._rows), np.int64)])
        self._vectors[self._held : held], self._rows[self._held : held] = vectors, rows
        self._held = held


@kernel
def _greedy(
    inner: Float32, known: tuple[Float32, Int], rows: Int, limits: tuple[float, int], taken: NDArray[np.bool_]
) -> int:
    """Visit the rows of a block in order; return the number of rows that were visited until the budget was full.

    `inner` is [rows, rows], the cosines inside the block. `best` is the highest cosine of each row to a kept row, and
    `near` is that kept row; both are first updated with the rows of this block that are taken already. A row is taken
    if its `best` is then low enough.
    """
    best, near = known
    max_cosine, room = limits
    for row in range(len(rows)):
        for other in range(row):
            if taken[other] and inner[row, other] > best[row]:
                best[row], near[row] = inner[row, other], rows[other]
        if best[row] <= np.float32(max_cosine):
            taken[row] = True
            room -= 1
            if room == 0:
                return row + 1
    return len(rows)
