"""Neighbours of vectors: all pairs over a cosine threshold, exact, in blocks of bounded memory."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 8192
"""Rows of the base in one product: 1,024 queries x 8,192 cosines are 32 MiB."""
ROUNDING = 1e-6
"""The float32 product of two equal unit vectors falls up to a few of its last digits short of 1."""


class Near(NamedTuple):
    """The pairs over the threshold as columns, by query, highest cosine first, and the best of each query."""

    query: NDArray[np.int64]
    base: NDArray[np.int64]
    cosine: NDArray[np.float32]
    best: NDArray[np.float32]
    """[queries]: highest cosine to any base row, over the threshold or not; -1 where there is no base row."""


def above(
    queries: NDArray[np.float32], base: NDArray[np.float32], min_cosine: float, *, tile_rows: int = TILE_ROWS
) -> Near:
    """Return every pair of a query and a base row with a cosine of at least `min_cosine`.

    Both are [., d] with unit rows. Ties go to the lower base row. One product of [queries, tile_rows] is held at a
    time; the answer itself is as long as the pairs that there are.
    """
    best = np.full(len(queries), -1, np.float32)
    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for start in range(0, len(base), tile_rows):
        cosines = np.minimum(queries @ base[start : start + tile_rows].T, np.float32(1))  # [q, tile]
        np.maximum(best, cosines.max(axis=1), out=best)
        left, right = np.nonzero(cosines >= min_cosine - ROUNDING)
        pairs.append((left, right + start, cosines[left, right]))
    query, row, cosine = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((row, -cosine, query))
    return Near(query[order], row[order], cosine[order], best)
