"""Blocks of similar rows: objectives over all pairs are computed inside each, and the choices are merged."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import ceil
from os import cpu_count
from typing import NamedTuple

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.duplicates import clusters

BLOCK_ROWS = 4096
"""Most rows of a block. The cosines of so many rows take 64 MiB."""
THREADS = min(4, cpu_count() or 1)
"""Number of blocks that are computed at a time; more would take more memory."""
SLACK = 8
"""A block first makes twice its share of the choices, and this many more."""
GRID = 4000.0
"""Where cosines are summed, vectors are rounded to multiples of 1 / GRID. The products of such unit rows, times GRID^2,
are whole numbers below 2^24. float32 holds them exactly, so the order in which a library sums them does not matter. The
rounding changes a cosine by 10^-4."""


class BlockChoice(NamedTuple):
    """A greedy choice among some rows."""

    chosen: Int
    """[k] rows in the order of choice."""
    gains: Float64
    """[k] the gain of each choice; no gain is greater than the one before it."""


def blocks(matrix: Matrix, seed: int, most: int = BLOCK_ROWS) -> list[Int]:
    """Return all rows in blocks of at most `most` similar rows; the rows of a block are ascending.

    If all rows fit in one block, there is one block.

    Spherical k-means divides the rows into clusters, and divides again each cluster that is too large. It cannot
    separate copies of one vector; these are divided in their order. The number of clusters gives a mean size of a
    quarter of `most`, so that few clusters must be divided again. With 10^5 rows in 250 topics, the coverage is 0.7395,
    and 0.7385 for a mean size of half of `most`. Cost: (n + 12 x the sample of the fit) x 4 n / `most` x d
    multiplications.
    """
    done: list[Int] = []
    waiting = [np.arange(len(matrix))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= most:
            done.append(rows)
            continue
        part, num = matrix.at(rows), ceil(4 * len(rows) / most)
        near, _ = clusters.assign(part, clusters.fit(part, num, seed=seed))
        ordered, ends = clusters.members(near, num)
        if np.diff(ends).max() == len(rows):
            ends = np.linspace(0, len(rows), ceil(len(rows) / most) + 1).astype(np.int64)
        waiting += [rows[ordered[i:j]] for i, j in pairwise(ends) if j > i]
    return sorted(done, key=lambda rows: int(rows[0]) if len(rows) else 0)


def merge_choices(parts: list[Int], choose: Callable[[Int, int], BlockChoice], budget: int) -> BlockChoice:
    """Return the greedy choice of `budget` rows among all blocks.

    Choices in one block must not change the gains in another block. Then the greedy choice takes the choices of each
    block in their order, and always the choice with the highest gain of all blocks; of equal gains, that of the earlier
    block. A block first chooses twice its share of the budget. It chooses more only if its last choice is among the
    best.

    Args:
        parts: rows of each block.
        choose: function of (rows, most) that returns the greedy choice of at most `most` of the rows.
        budget: rows wanted.
    """
    total = sum(len(rows) for rows in parts)
    limits = [min(len(rows), SLACK + ceil(2 * budget * len(rows) / max(1, total))) for rows in parts]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(choose, parts, limits))
        while True:
            gains = np.concatenate([block.gains for block in found])
            best = np.argsort(-gains, kind="stable")[:budget]
            floor = gains[best[-1]] if 0 < len(best) == budget else -np.inf
            short = [
                place
                for place, (rows, block) in enumerate(zip(parts, found, strict=True))
                if limits[place] < len(rows) and block.gains[-1] >= floor
            ]
            if not short:
                return BlockChoice(np.concatenate([block.chosen for block in found])[best], gains[best])
            for place in short:
                limits[place] = min(4 * limits[place], len(parts[place]))
            again = pool.map(choose, [parts[place] for place in short], [limits[place] for place in short])
            for place, block in zip(short, again, strict=True):
                found[place] = block


def stand_ins(matrix: Matrix, parts: list[Int], chosen: Int) -> tuple[Int, float]:
    """Return ([n] the nearest chosen row of the same block, or -1; the mean cosine to it, where none counts 0)."""
    found, total = np.full(len(matrix), -1, np.int64), 0.0
    held = np.zeros(len(matrix), np.bool_)
    held[chosen] = True
    for rows in parts:
        centres = rows[held[rows]]
        if len(centres):
            near, product = clusters.assign(Matrix(on_grid(matrix.take(rows))), on_grid(matrix.take(centres)))
            found[rows] = centres[near[:, 0]]
            total += float(np.clip(product / GRID**2, 0, 1).sum(dtype=np.float64))
    found[chosen] = chosen  # a copy that is not the first
    return found, total / max(1, len(matrix))


def on_grid(vectors: Float32) -> Float32:
    """Return unit rows times `GRID`, rounded to whole numbers."""
    rounded: Float32 = np.rint(vectors * np.float32(GRID))
    return rounded
