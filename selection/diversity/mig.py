"""MIG: choose greedily the samples that add the most information to a graph of tags.

Source: Chen et al. 2025, MIG, arXiv:2504.13835, section 3, and its released code (the propagation's columns sum up to
1). Departures: the greedy choice is computed lazily and with sparse matrices, which makes it faster and does not change
the result.
"""

from typing import NamedTuple

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64
from gristmill.selection.diversity.tags import TagMatrix
from gristmill.selection.kernels import kernel

A, B = 1e-6, 0.8
"""A tag with weight x has the information phi(x) = (x + A)^B. The numbers are those of the released code."""
BLOCK_ROWS = 1024
"""Number of tags whose cosines are computed in one product."""


class Propagation(NamedTuple):
    """A sparse [T, T] matrix P with columns that sum up to 1: row t says how tag t gives its weight to near tags."""

    starts: Int
    """[T + 1] index at which the entries of each row begin in the two other arrays."""
    tags: Int
    weights: Float64


class MigChoice(NamedTuple):
    """The greedy choice of MIG."""

    chosen: Int
    """[k] rows in the order of choice."""
    gain: Float64
    """[k] information that each row added when it was chosen."""


def propagation(vectors: Float32, min_cosine: float) -> Propagation:
    """Return the matrix of the cosines of tags, without those below `min_cosine`, with columns divided by their sums.

    Args:
        vectors: [T, d] unit rows.
        min_cosine: in (0, 1].
    """
    num = len(vectors)
    parts = [(np.arange(num), np.arange(num), np.ones(num))]
    for start in range(0, num, BLOCK_ROWS):
        cosines = vectors[start : start + BLOCK_ROWS] @ vectors[start:].T
        left, right = np.nonzero(np.triu(cosines >= min_cosine, 1))
        value = np.minimum(cosines[left, right].astype(np.float64), 1.0)
        parts += [(left + start, right + start, value), (right + start, left + start, value)]
    row, tag, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((tag, row))
    row, tag, cosine = row[order], tag[order], cosine[order]
    starts = np.zeros(num + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=num), out=starts[1:])
    return Propagation(starts, tag, cosine / np.bincount(tag, weights=cosine, minlength=num)[tag])


def mig(tags: TagMatrix, quality: Float64, propagated: Propagation, budget: int) -> MigChoice:
    """Choose rows one by one, each time the row that adds the most information; ties go to the lower row.

    The quality of a row is shared evenly among its tags, v = quality / tags, and spread over the graph, u = v P. x is
    the sum of u over the chosen rows, and a further row adds the information u . phi'(x). phi' falls as x grows, so the
    information of a row when it was last computed is an upper bound of its information now. Therefore only rows at the
    top of a heap are computed again.

    Args:
        tags: tags of n rows; a row without tags is never chosen.
        quality: [n] >= 0; a row with NaN is never chosen.
        propagated: the matrix P.
        budget: number of rows to choose.
    """
    per_row = tags.per_row
    share = quality / np.maximum(per_row, 1)
    rows = np.flatnonzero((per_row > 0) & ~np.isnan(quality))
    slope = np.full(len(tags.names), B * A ** (B - 1))
    pull = np.empty(len(tags.names))  # the sum of the slopes that a tag's weight reaches
    bound = np.empty(len(rows))
    parts = (propagated.starts, propagated.tags, propagated.weights)
    _begin(rows, (tags.starts, tags.tags), share, parts, (slope, pull, bound))
    order = np.argsort(-bound, kind="stable")  # a sorted array is a heap
    return MigChoice(
        *_greedy(
            (tags.starts, tags.tags),
            share,
            parts,
            (slope, pull),
            (bound[order], rows[order]),
            min(budget, len(rows)),
        )
    )


@kernel
def _begin(
    rows: Int,
    tags: tuple[Int, Int],
    share: Float64,
    propagated: tuple[Int, Int, Float64],
    state: tuple[Float64, Float64, Float64],
) -> None:
    """Compute the pull of every tag, and the first upper bound of every row's information."""
    slope, pull, bound = state
    for t in range(len(pull)):
        pull[t] = _pull(t, propagated[0], propagated[1], propagated[2], slope)
    for n in range(len(rows)):
        bound[n] = _gain(rows[n], tags[0], tags[1], share, pull)


@kernel
def _greedy(
    tags: tuple[Int, Int],
    share: Float64,
    propagated: tuple[Int, Int, Float64],
    state: tuple[Float64, Float64],
    heaps: tuple[Float64, Int],
    budget: int,
) -> tuple[Int, Float64]:
    """Return (rows in the order of choice, information that each row added).

    `heap` holds upper bounds, and `heap_row` their rows. In each turn, the row on top is computed again and moved down
    to its place. A row that is on top and was already computed in this turn (`looked_at`) is chosen. `held` is the
    weight of each tag, `slope` is phi' at this weight, and `pull` is the sum of the slopes that a tag's weight reaches.
    A choice changes `held` of the tags near its tags, and so the pulls of tags up to two steps away.
    """
    starts, tag = tags
    slope, pull = state
    heap, heap_row = heaps
    held, marked = np.zeros(len(pull)), np.full(len(pull), -1, np.int64)
    size, looked_at = len(heap), np.full(len(starts) - 1, -1, np.int64)
    chosen, gain = np.empty(budget, np.int64), np.empty(budget)
    turn = 0
    while turn < budget:
        row = heap_row[0]
        if looked_at[row] < turn:
            looked_at[row] = turn
            heap[0] = _gain(row, starts, tag, share, pull)
            _sift_down(heap, heap_row, size)
            continue
        chosen[turn], gain[turn] = row, heap[0]
        size -= 1
        heap[0], heap_row[0] = heap[size], heap_row[size]
        _sift_down(heap, heap_row, size)
        for e in range(starts[row], starts[row + 1]):
            _give(tag[e], share[row], propagated, held, slope)
        for e in range(starts[row], starts[row + 1]):
            _renew(tag[e], turn, propagated, slope, (pull, marked))
        turn += 1
    return chosen, gain


@kernel
def _give(t: int, share: float, propagated: tuple[Int, Int, Float64], held: Float64, slope: Float64) -> None:
    """Add a tag's share to the weight of every tag that it reaches, and update the slopes of these tags."""
    near_starts, near, weight = propagated
    for p in range(near_starts[t], near_starts[t + 1]):
        held[near[p]] += share * weight[p]
        slope[near[p]] = B * (held[near[p]] + A) ** (B - 1.0)


@kernel
def _renew(t: int, turn: int, propagated: tuple[Int, Int, Float64], slope: Float64, kept: tuple[Float64, Int]) -> None:
    """Compute again the pull of every tag that reaches a tag changed by `t`, but each pull only once in a turn."""
    near_starts, near, weight = propagated
    pull, marked = kept
    for p in range(near_starts[t], near_starts[t + 1]):
        for q in range(near_starts[near[p]], near_starts[near[p] + 1]):
            if marked[near[q]] < turn:
                marked[near[q]] = turn
                pull[near[q]] = _pull(near[q], near_starts, near, weight, slope)


@kernel
def _pull(t: int, near_starts: Int, near: Int, weight: Float64, slope: Float64) -> float:
    """Return the sum of the slopes that the weight of a tag reaches: row t of P times phi'."""
    total = 0.0
    for p in range(near_starts[t], near_starts[t + 1]):
        total += weight[p] * slope[near[p]]
    return total


@kernel
def _gain(row: int, starts: Int, tag: Int, share: Float64, pull: Float64) -> float:
    """Return the information that a row adds: its share times the sum of the pulls of its tags."""
    total = 0.0
    for e in range(starts[row], starts[row + 1]):
        total += pull[tag[e]]
    return float(total * share[row])


@kernel
def _sift_down(heap: Float64, heap_row: Int, size: int) -> None:
    """Move the first entry of a binary heap down to its place; the highest bound, or else the lowest row, is on top."""
    value, row, place = heap[0], heap_row[0], 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and (
            heap[child + 1] > heap[child] or (heap[child + 1] == heap[child] and heap_row[child + 1] < heap_row[child])
        ):
            child += 1
        if heap[child] < value or (heap[child] == value and heap_row[child] > row):
            break
        heap[place], heap_row[place] = heap[child], heap_row[child]
        place = child
    if size > 0:
        heap[place], heap_row[place] = value, row
