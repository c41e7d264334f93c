"""Which rows of a group of copies stay: the best row of equal keys, and the greedy rule for pairs of similar rows.

Both rules visit the rows from best to worst. So only the order of the rows decides which stay, not shards or threads.
"""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.kernels import kernel

Key = NDArray[np.uint64]


def greedy(order: Int, left: Int, right: Int, weight: Float32) -> Int:
    """Return [n] int64 the kept row that each row loses to, -1 for a row that stays.

    Rows are visited in `order`, best first. A row is dropped if and only if it is paired with a row that stays. It
    loses to the row with the highest weight among these rows; of equal weights, to the first row in the order. No row
    loses to a dropped row, so there are no chains. With the pairs a - b and b - c, where a is best, only b is dropped;
    connected components would keep only one of the three.

    Source: the greedy maximal independent set in a fixed order; the keep rule of NearDup and of semhash.

    Args:
        order: [n] each row once, best first.
        left: [pairs] one row of each pair. The two rows may be in any order, and pairs may repeat. A pair of a row with
            itself is ignored.
        right: [pairs] the other row.
        weight: [pairs] similarity of the two rows.
    """
    lost: Int = _greedy(_int(order), _int(left), _int(right), np.ascontiguousarray(weight, np.float32))
    return lost


def first(order: Int, high: Key, low: Key) -> Int:
    """Return [n] int64 the best row with the same key as each row, -1 if that is the row itself.

    Args:
        order: [n] each row once, best first.
        high: [n] one half of each key. A key has 128 bits, so 10^8 texts have a collision with a probability of 10^-23.
        low: [n] the other half.
    """
    best: Int = _first(_int(order), high, low)
    return best


def _int(values: Int) -> Int:
    return np.ascontiguousarray(values, np.int64)


@kernel
def _greedy(order: Int, left: Int, right: Int, weight: Float32) -> Int:
    """Build the neighbour lists of all rows as one array (compressed rows), then visit the rows in order.

    The neighbours of row i are `neighbour[begin[i] : begin[i + 1]]`, and `near` holds their weights. When a row is
    visited, all better rows are decided already, so only kept rows among these are looked at.
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
    """Enter the rows into a hash table, best first, so that the first row of a key is the best row with that key.

    The table has open addressing with linear probing, and is at most half full. It takes 8 to 16 bytes for each row.
    """
    size = 2
    while size < 2 * len(order):
        size *= 2
    slots = np.full(size, -1, np.int32)
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
