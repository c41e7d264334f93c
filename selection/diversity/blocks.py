"""Blocks of similar rows, inside of which an objective over all pairs is computed, and the merge of their choices."""

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
"""Most rows of a block: its cosines take 64 MiB."""
THREADS = min(4, cpu_count() or 1)
"""Blocks computed at a time; more would take more memory."""
SLACK = 8
"""Number of choices that a block makes beyond twice its share before the merge asks for more."""
GRID = 4000.0
"""Vectors are rounded to 1 / GRID where cosines are summed. Products of such unit rows are whole numbers below 2^24,
which float32 holds exactly, in whatever order a library sums them. It moves a cosine by 10^-4."""


class BlockChoice(NamedTuple):
    """The greedy choice among some rows."""

    chosen: Int
    """[k] rows in the order of choice."""
    gains: Float64
    """[k] the gain of each choice, never rising."""


def blocks(matrix: Matrix, seed: int, most: int = BLOCK_ROWS) -> list[Int]:
    """Return all rows in blocks of at most `most` neighbours; rows are ascending in a block.

    If all fit, there is one block.

    Spherical k-means cuts the rows, and cuts again what is still too large. Copies of one vector, which it cannot
    separate, are cut in their order. It aims at a quarter of `most` rows a block, so that few must be cut again (with
    10^5 rows in 250 topics, coverage is 0.7395, against 0.7385 for half of `most`). Cost: (n + 12 x the fit's sample) x
    4 n / `most` x d multiplications.
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
    """Return the greedy choice of `budget` rows, if choices in one block do not change the gains in another.

    The greedy choice of all rows then takes the choices of each block in their order, always from the block whose next
    one gains most; of equal gains from the earlier block. A block chooses twice its share of the budget, and more only
    where its last choice would still be among the best.

    Args:
        parts: rows of each block.
        choose: (rows, most) -> their greedy choice of at most `most`.
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
    """Return ([n] the nearest chosen row of the same block, -1 without one; the mean cosine to it, 0 without one)."""
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
    """Return unit rows times `GRID` in whole numbers."""
    rounded: Float32 = np.rint(vectors * np.float32(GRID))
    return rounded
