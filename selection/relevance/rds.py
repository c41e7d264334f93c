"""Round robin over queries by cosine: the choice of RDS+ and of nearest neighbours.

Source: Ivison et al. 2025, arXiv:2503.01807, section 3 (selection) and its appendix on round robin.
Departures: a group whose next best sample is taken goes on to the one after it, where in the authors' code that group
loses its turn; of 100 and 1,000 chosen rows 99 and 94 % are the same. Scores are computed in a stream over blocks of
samples, and of each group of queries only the best rows are kept in memory.
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
"""Candidates kept over all groups, 128 MiB. Where that is less than the budget for each group, the samples are read
again when a group has used all its candidates."""
SCORES = 1 << 23
"""Cosines of one block: 32 MiB."""
LOWEST = np.uint64(0xFFFFFFFF)
"""The lower half of a key."""


def round_robin(
    matrix: Matrix, queries: Float32, groups: Int, budget: int, held: int = HELD, scores: int = SCORES
) -> tuple[Int, Float32]:
    """Choose samples in turns: each group of queries takes the sample that is next best for it and not yet taken.

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
    chosen = np.empty(budget, np.int64)
    num = turn = 0
    while num < budget:
        lists = _best(matrix, sorted_queries, bounds, open_, keep, rows, nearest)
        num, turn = _take_turns(lists, open_, chosen, num, turn)
    return chosen, nearest


def _best(matrix: Matrix, queries: Float32, bounds: Int, open_: Bool, keep: int, rows: int, nearest: Float32) -> Int:
    """Return [groups, keep] rows that are not yet taken, best first and -1 after the last; fill in `nearest`."""
    num_groups = len(bounds) - 1
    heaps, counts = np.empty((num_groups, keep), np.uint64), np.zeros(num_groups, np.int64)
    for first, block in matrix.blocks(rows):
        scores = queries @ block.T
        nearest[first : first + len(block)] = scores.max(axis=0)
        if len(queries) > num_groups:
            scores = np.maximum.reduceat(scores, bounds[:-1], axis=0)
        _offer(scores.view(np.uint32), open_[first : first + len(block)], first, heaps, counts)
    lists = np.full((num_groups, keep), -1, np.int64)
    for group, count in enumerate(counts):
        lists[group, :count] = LOWEST - (np.sort(heaps[group, :count])[::-1] & LOWEST)
    return lists


@parallel
def _offer(bits: NDArray[np.uint32], open_: Bool, first: int, heaps: UInt64, counts: Int) -> None:
    """Offer a block, [groups, rows] bits of scores, to every group's heap, whose lowest key comes first.

    A key is one number: the score in its upper half and the row counted down in its lower half, so no two keys are
    equal and of equal scores the lower row is higher. The bits of floats sort as the numbers do, once those of negative
    numbers are inverted and the others are put above them.
    """
    for group in prange(len(bits)):
        heap = heaps[group]
        for place in range(len(open_)):
            high = np.uint64(bits[group, place])
            high = LOWEST - high if high >> np.uint64(31) else high | np.uint64(0x80000000)
            key = (high << np.uint64(32)) | (LOWEST - np.uint64(first + place))
            if not open_[place] or (counts[group] == len(heap) and key < heap[0]):
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
def _take_turns(lists: Int, open_: Bool, chosen: Int, num: int, turn: int) -> tuple[int, int]:
    """Let groups choose in turn until the budget is full or the group whose turn it is has no candidate left.

    `lists` is [groups, keep], best first, and `at` is the place of each group in its list. Returns (samples chosen,
    whose turn it is), so that the caller can refill the lists and go on.
    """
    groups, keep = lists.shape
    at = np.zeros(groups, np.int64)
    while num < len(chosen):
        while at[turn] < keep and lists[turn, at[turn]] >= 0 and not open_[lists[turn, at[turn]]]:
            at[turn] += 1
        if at[turn] == keep or lists[turn, at[turn]] < 0:
            break
        row = lists[turn, at[turn]]
        open_[row] = False
        chosen[num] = row
        num += 1
        turn = (turn + 1) % groups
    return num, turn
