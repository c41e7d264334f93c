"""Which of a group of copies stays: the best of equal keys, and the greedy rule for pairs of similar rows.

Both visit the rows from best to worst, so the order alone decides what stays, and neither shards nor threads do.
"""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.kernels import kernel

Key = NDArray[np.uint64]


def greedy(order: Int, left: Int, right: Int, weight: Float32) -> Int:
    """Return the kept row that each row loses to, [n] int64, -1 where it stays.

    Rows are visited in `order`, best first. A row goes exactly when a row that stays is paired with it. It loses to the
    one of these rows with the highest weight; of equal weights, to the first in the order. No row loses to a row that
    goes itself, so there are no chains: in a - b - c only b goes if a is best, while connected components would leave
    one of the three.

    Source: the greedy maximal independent set in a fixed order; the keep rule of NearDup and of semhash.

    Args:
        order: [n] each row once, best first.
        left: [pairs] one row of each pair. Pairs have no direction and may repeat; a pair of a row with itself is
            ignored.
        right: [pairs] the other row.
        weight: [pairs] how alike the two are.
    """
    lost: Int = _greedy(_int(order), _int(left), _int(right), np.ascontiguousarray(weight, np.float32))
    return lost


def first(order: Int, high: Key, low: Key) -> Int:
    """Return the best row that has the same key as each row, [n] int64, -1 where that is the row itself.

    Args:
        order: [n] each row once, best first.
        high: [n] one half of each key, of 128 bits in all: at 10^8 texts a collision has a chance of 10^-23.
        low: [n] the other half.
    """
    best: Int = _first(_int(order), high, low)
    return best


def _int(values: Int) -> Int:
    return np.ascontiguousarray(values, np.int64)


@kernel
def _greedy(order: Int, left: Int, right: Int, weight: Float32) -> Int:
    """Build the neighbour lists of all rows as one array (compressed rows), then visit the rows in order.

    The neighbours of row i are `neighbour[begin[i] : begin[i + 1]]`, with their weights in `near`. When a row is
    visited, all better rows are decided, so only these matter.
    """
    num = len(order)
    begin = np.zeros(num + 1, np.int64)
    for pair in range(len(left)):
        begin[left[pair] + 1] += 1
        begin[right[pair] + 1] += 1
    for row in range(num):
        begin[row + 1] += begin[row]
    free = begin[:-1].copy()
    neighbour = np.empty(2 * len(left), np.int64)
    near = np.empty(2 * len(left), np.float32)
    for pair in range(len(left)):
        for one, other in ((left[pair], right[pair]), (right[pair], left[pair])):
            neighbour[free[one]], near[free[one]] = other, weight[pair]
            free[one] += 1
    rank = np.empty(num, np.int64)
    for place in range(num):
        rank[order[place]] = place
    lost = np.full(num, -1, np.int64)
    for row in order:
        best, most = -1, np.float32(0)
        for edge in range(begin[row], begin[row + 1]):
            other = neighbour[edge]
            if rank[other] >= rank[row] or lost[other] >= 0:  # not visited yet, or dropped
                continue
            if best < 0 or near[edge] > most or (near[edge] == most and rank[other] < rank[best]):
                best, most = other, near[edge]
        lost[row] = best
    return lost


@kernel
def _first(order: Int, high: Key, low: Key) -> Int:
    """Enter the rows into a hash table, best first; so the first row of a key is the best with that key.

    Open addressing with linear probing, at most half full: 16 to 32 bytes a row.
    """
    size = 2
    while size < 2 * len(order):
        size *= 2
    slots = np.full(size, -1, np.int64)
    found = np.full(len(order), -1, np.int64)
    for row in order:
        slot = np.int64(high[row] & np.uint64(size - 1))
        while slots[slot] >= 0 and (high[slots[slot]] != high[row] or low[slots[slot]] != low[row]):
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot] = row
        else:
            found[row] = slots[slot]
    return found
