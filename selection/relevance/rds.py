"""Round robin over queries by cosine, for RDS+ and for nearest neighbours.

Source: Ivison et al. 2025, arXiv:2503.01807, section 3 (selection) and its appendix on round robin, as in the authors'
code (`get_top_influences.py`, method `max`): a group whose next best sample is taken already loses its turn.
Departures: none in what is chosen. Scores are computed in a stream over blocks of samples, and of each group of queries
only the best rows are kept in memory.
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
"""Candidates kept over all groups, 128 MiB. If that is less than the budget for each group, the samples are read again
when a group has used all its candidates."""
SCORES = 1 << 23
"""Cosines of one block: 32 MiB."""
LOWEST = np.uint64(0xFFFFFFFF)
"""The lower half of a key."""
HIGHEST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""A number above every key, because every score is less."""


def round_robin(
    matrix: Matrix, queries: Float32, groups: Int, budget: int, held: int = HELD, scores: int = SCORES
) -> tuple[Int, Float32]:
    """Choose samples in turns: each group of queries takes its next best sample.

    If another group has already taken that sample, the turn is lost; in its next turn the group goes on with the sample
    after it.

    Args:
        matrix: [n, d] unit rows.
        queries: [q, d] unit rows, at least one.
        groups: [q] group of each query, 0 … g - 1, every one of them present. A sample's score for a group is its
            highest cosine to a query of it. Groups take turns in this order.
        budget: samples to choose; all, where there are no more.
        held: candidates kept over all groups.
        scores: cosines of one block.

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
    """Return [groups, ≤ keep] the best keys of each group below its entry in `ends`, best first; fill in `nearest`."""
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
    """Offer a block, [groups, rows] bits of scores, to the heap of every group. The lowest key of a heap comes first.

    A group takes keys below its entry in `ends`, the last key that it had before.

    A key is one number, with the score in its upper half and the row, counted down, in its lower half. So no two keys
    are equal, and of equal scores the lower row has the higher key. The bits of floats sort as the numbers do, once
    those of negative numbers are inverted and the others are put above them.
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
    """Let groups choose in turn until the budget is full or the lists end; return how many samples are chosen.

    `lists` is [groups, keep], the rows of each group best first.
    """
    for place in range(lists.shape[1]):
        for group in range(len(lists)):
            row = lists[group, place]
            if num < len(chosen) and open_[row]:
                open_[row] = False
                chosen[num] = row
                num += 1
    return num
