"""Long spans that samples share. The search is exact, and its memory grows with the shared text, not with all text.

Every span of at least `size` units is a run of windows of `size` units. So two samples share a span exactly if they
share the hash of a window. Not all windows are kept. A first pass computes for each window the smallest hash of its
shorter n-grams, which is the same in equal windows. A second pass keeps only the windows with a smallest hash that two
samples have.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import prange
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.ngrams import Array, Number, Table, UInt64, Units, slices, units, windows
from gristmill.selection.kernels import kernel, parallel

Int32 = NDArray[np.int32]
Scan = Callable[[], Iterator[tuple[Int, pa.LargeStringArray]]]
"""Reads the texts from the beginning, in pieces (rows, texts of these rows)."""


class SharedWindows(NamedTuple):
    """The m windows that are in two rows or more, which take 12 bytes each, and the length of each of n rows."""

    rows: Int32
    """[m] row of each window."""
    places: Int32
    """[m] index in its row of the first unit of each window."""
    groups: Int32
    """[m] number of each window, from 0 on; equal windows have the same number."""
    lengths: Int
    """[n] number of units of each row."""


class SpanOwners(NamedTuple):
    """The owners of shared spans: every shared window belongs to one row that stays."""

    lost_to: Int
    """[n] -1 for a row that stays; for a dropped row, the row that holds its first span."""
    covered: Int
    """[n] number of units of each row that are inside spans of better rows."""
    spans: Int
    """[s, 3] (row, first unit, unit after the last) of each span of a better row in a row that stays, by row and
    place."""


def shared_windows(scan: Scan, size: int, rows: int) -> SharedWindows:
    """Return the windows of `size` units that several rows have; all texts are read twice.

    The first pass holds 12 bytes for each size / 4 units, which is 100 MB for a million texts of 200 words.

    Source: Schleimer, Wilkerson and Aiken 2003, Winnowing, SIGMOD, section 3: of every w successive k-grams, the k-gram
    with the smallest hash is taken, so that every match of w + k - 1 units is found. Here k is half of `size`. Windows
    count as equal if their 64-bit hashes are equal.
    """
    lengths = np.zeros(rows, np.int64)
    lows, holders = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    for seen, texts in _pieces(scan):
        found = units(texts)
        lengths[seen] = np.diff(found.ends)
        ends, low = lowest(found, size)
        new = np.ones(len(low), np.bool_)
        new[1:] = low[1:] != low[:-1]
        new[ends[:-1][ends[:-1] < len(low)]] = True  # the next row may begin with the last hash of this row
        lows.append(low[new])
        holders.append(np.repeat(seen, np.diff(ends)).astype(np.int32)[new])
    table = Table.of(_in_several(np.concatenate(lows), np.concatenate(holders)))
    del lows, holders
    columns = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint64))]
    for seen, texts in _pieces(scan) if len(table.keys) else ():
        found = units(texts)
        ends, low = lowest(found, size)
        known = table.find(low) >= 0
        owners, places = np.repeat(seen, np.diff(ends)), np.arange(len(low)) - np.repeat(ends[:-1], np.diff(ends))
        hashes = windows(found, size)[1]
        columns.append((owners[known].astype(np.int32), places[known].astype(np.int32), hashes[known]))
    owners, places, hashes = (np.concatenate(column) for column in zip(*columns, strict=True))
    groups = Table.of(_in_several(hashes, owners)).find(hashes)
    return SharedWindows(owners[groups >= 0], places[groups >= 0], groups[groups >= 0], lengths)


def settle(shared: SharedWindows, size: int, rank: Int, limits: NDArray[np.float64]) -> SpanOwners:
    """Give every shared window to the best row that has it and stays; rows are visited best first.

    Args:
        shared: the windows of `size` units.
        size: units of a window.
        rank: [n] place of each row in the order of preference.
        limits: [n] largest share of a row's units that may be inside spans of better rows; with more, the row is
            dropped. A dropped row holds no window, so no text is lost to a dropped row.
    """
    order = np.lexsort((shared.places, rank[shared.rows]))
    sorted_ = SharedWindows(shared.rows[order], shared.places[order], shared.groups[order], shared.lengths)
    lost_to, covered = np.full(len(rank), -1, np.int64), np.zeros(len(rank), np.int64)
    held_by = np.full(int(shared.groups.max(initial=-1)) + 1, -1, np.int64)
    spans = np.empty((len(order), 3), np.int64)
    count = _settle(sorted_, size, limits, held_by, SpanOwners(lost_to, covered, spans))
    found = spans[:count]
    return SpanOwners(lost_to, covered, found[np.lexsort((found[:, 1], found[:, 0]))])


def lowest(found: Units, size: int) -> tuple[Int, UInt64]:
    """Return ([n + 1] ends, for every window of `size` units the smallest hash of its n-grams of half the size)."""
    short = (size + 1) // 2
    short_ends, hashes = windows(found, short)
    ends = np.zeros(len(found.ends), np.int64)
    np.cumsum(np.maximum(np.diff(found.ends) - size + 1, 0), out=ends[1:])
    low = np.empty(ends[-1], np.uint64)
    _slide(short_ends, hashes, size - short + 1, ends, low)
    return ends, low


def _pieces(scan: Scan) -> Iterator[tuple[Int, pa.LargeStringArray]]:
    for rows, texts in scan():
        for start, piece in slices(texts):
            yield rows[start : start + len(piece)], piece


def _in_several(hashes: UInt64, rows: Int32) -> UInt64:
    """Return the hashes that are in more than one row, ascending."""
    order = np.argsort(hashes, kind="stable")
    hashes, rows = hashes[order], rows[order]
    return np.unique(hashes[1:][(hashes[1:] == hashes[:-1]) & (rows[1:] != rows[:-1])])


@parallel
def _slide(ends: Array, hashes: Array, width: int, out_ends: Array, out: Array) -> None:
    """Write the smallest of every `width` successive hashes of a row; of equal hashes, the last counts.

    `at` is the place of the smallest hash of the current window. It is searched again only after it has left the
    window.
    """
    for row in prange(len(ends) - 1):
        begin = ends[row]
        at: Number = np.int64(-1)  # place of the smallest so far
        for first in range(out_ends[row + 1] - out_ends[row]):
            last = begin + first + width - 1
            if at < begin + first:  # it has left the window
                at = begin + first
                for other in range(at + 1, last):
                    if hashes[other] <= hashes[at]:
                        at = other
            if hashes[last] <= hashes[at]:
                at = last
            out[out_ends[row] + first] = hashes[at]


@kernel
def _settle(shared: SharedWindows, size: int, limits: Array, held_by: Array, out: SpanOwners) -> int:
    """Fill `out` and return the number of spans; the windows are sorted by rank of the row, then by place.

    The outer loop takes one row at a time, best first, and `mine` is the number of spans before this row. The inner
    loop visits the windows [at, after) of the row. Windows that a better row holds are joined into spans, up to the
    unit `reach`. If the row is over its limit, it is dropped and its spans are removed. If it stays, it takes the
    windows that no row holds yet.
    """
    count, at = 0, 0
    while at < len(shared.rows):
        row, mine, reach, after = shared.rows[at], count, np.int64(-1), at
        while after < len(shared.rows) and shared.rows[after] == row:
            holder, start = held_by[shared.groups[after]], np.int64(shared.places[after])
            if holder >= 0:
                if start > reach:
                    out.spans[count, 0], out.spans[count, 1] = row, start
                    count, reach = count + 1, start
                if out.lost_to[row] < 0:
                    out.lost_to[row] = holder
                out.covered[row] += start + size - reach
                reach = start + size
                out.spans[count - 1, 2] = reach
            after += 1
        if out.covered[row] > limits[row] * shared.lengths[row]:
            count = mine
        else:
            out.lost_to[row] = -1
            for window in range(at, after):
                if held_by[shared.groups[window]] < 0:
                    held_by[shared.groups[window]] = row
        at = after
    return count
