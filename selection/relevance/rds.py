"""Choice of samples by cosine, where queries take turns (round robin): for RDS+ and for nearest neighbours.

Source: Ivison et al. 2025, arXiv:2503.01807, section 3 (selection) and its appendix on round robin, as in the authors'
code (`get_top_influences.py`, method `max`): if the next best sample of a group is taken already, the group loses its
turn. Departures: none in what is chosen. Scores are computed block by block, and only the best rows of each group of
queries are kept in memory.
"""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import BLOCK_ROWS, Float32, Matrix
from gristmill.selection.kernels import kernel, parallel

Bool = NDArray[np.bool_]
UInt64 = NDArray[np.uint64]
HELD = 1 << 24
"""Number of candidates that are kept for all groups together; they take 128 MiB. If a group then has fewer candidates
than the budget and uses all of them, the samples are read again."""
SCORES = 1 << 23
"""Number of cosines in one block; they take 32 MiB."""
LOWEST = np.uint64(0xFFFFFFFF)
"""Mask of the lower half of a key."""
HIGHEST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""A number that is greater than every key, because no score gives so large a key."""


def round_robin(
    matrix: Matrix, queries: Float32, groups: Int, budget: int, held: int = HELD, scores: int = SCORES
) -> tuple[Int, Float32]:
    """Choose samples in turns: each group of queries takes its next best sample.

    If another group has already taken that sample, the group loses its turn. In its next turn, the group tries its next
    best sample after that.

    Args:
        matrix: [n, d] unit rows.
        queries: [q, d] unit rows, at least one.
        groups: [q] group of each query, 0 … g - 1. Each group must have a query. A sample's score for a group is its
            highest cosine to a query of the group. Groups take turns in the order of their numbers.
        budget: number of samples to choose; if there are fewer samples, all are chosen.
        held: number of candidates that are kept for all groups together.
        scores: number of cosines in one block.

    Returns:
        chosen: [min(n, budget)] rows in the order of choice; of equal scores the lower row comes first.
        nearest: [n] highest cosine to any query.
    """
    order = np.argsort(groups, kind="stable")
    sorted_queries = np.ascontiguousarray(queries[order])
    bounds = np.append(0, np.cumsum(np.bincount(groups)))
    budget = min(budget, len(matrix))
    keep = max(1, min(budget, held // (len(bounds) - 1)))
    rows = max(1, min(BLOCK_ROWS, scores // len(queries)))
    nearest = np.empty(len(matrix), np.float32)
    open_ = np.ones(len(matrix), np.bool_)
    chosen, num = np.empty(budget, np.int64), 0
    ends = np.full(len(bounds) - 1, HIGHEST)
    while num < budget:
        keys = _best(matrix, sorted_queries, bounds, ends, keep, rows, nearest)
        num = _take_turns((LOWEST - (keys & LOWEST)).astype(np.int64), open_, chosen, num)
        ends = keys[:, -1]
    return chosen, nearest


def _best(
    matrix: Matrix, queries: Float32, bounds: Int, ends: UInt64, keep: int, rows: int, nearest: Float32
) -> UInt64:
    """Return [groups, ≤ keep] the best keys of each group that are below its entry in `ends`, best first.

    `nearest` is filled with the highest cosine of each row.
    """
    num_groups = len(bounds) - 1
    heaps, counts = np.empty((num_groups, keep), np.uint64), np.zeros(num_groups, np.int64)
    for first, block in matrix.blocks(rows):
        scores = queries @ block.T
        nearest[first : first + len(block)] = scores.max(axis=0)
        if len(queries) > num_groups:
            scores = np.maximum.reduceat(scores, bounds[:-1], axis=0)
        _offer(scores.view(np.uint32), first, ends, heaps, counts)
    return np.sort(heaps[:, : counts[0]], axis=1)[:, ::-1]  # every group has as many: it has seen the same rows


@parallel
def _offer(bits: NDArray[np.uint32], first: int, ends: UInt64, heaps: UInt64, counts: Int) -> None:
    """Add the best keys of a block to the heap of every group; `bits` is [groups, rows], the bits of the scores.

    The first key of a heap is its lowest. A group takes only keys that are below its entry in `ends`, which is the last
    key that it had before.

    A key is one number, with the score in its upper half, and `LOWEST` minus the row in its lower half. So no two keys
    are equal, and of equal scores the lower row has the higher key. The bits of negative scores are inverted, and those
    of other scores get the highest bit. After that the bits sort as the scores do.
    """
    for group in prange(len(bits)):
        heap = heaps[group]
        for place in range(bits.shape[1]):
            high = np.uint64(bits[group, place])
            high = LOWEST - high if high >> np.uint64(31) else high | np.uint64(0x80000000)
            key = (high << np.uint64(32)) | (LOWEST - np.uint64(first + place))
            if key >= ends[group] or (counts[group] == len(heap) and key < heap[0]):
                continue
            if counts[group] < len(heap):
                _rise(heap, counts[group], key)
                counts[group] += 1
            else:
                _sink(heap, key)


@kernel
def _rise(heap: UInt64, at: int, key: np.uint64) -> None:
    """Put a key at the end of a binary heap and move it up to its place."""
    while at > 0 and heap[(at - 1) // 2] > key:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = key


@kernel
def _sink(heap: UInt64, key: np.uint64) -> None:
    """Replace the lowest key of a full heap and move the new one down to its place."""
    at, below = 0, 1
    while below < len(heap):
        if below + 1 < len(heap) and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= key:
            break
        heap[at] = heap[below]
        at, below = below, 2 * below + 1
    heap[at] = key


@kernel
def _take_turns(lists: Int, open_: Bool, chosen: Int, num: int) -> int:
    """Let groups choose in turns until the budget is full or the lists end; return the number of chosen samples.

    `lists` is [groups, keep]: the rows of each group, the best first.
    """
    for place in range(lists.shape[1]):
        for group in range(len(lists)):
            row = lists[group, place]
            if num < len(chosen) and open_[row]:
                open_[row] = False
                chosen[num] = row
                num += 1
    return num
