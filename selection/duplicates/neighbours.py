"""Neighbours of vectors: all pairs above a cosine, or the few nearest rows. The search is exact for small data.

Larger data is searched inside clusters. A search for pairs compares sketches first. The sketch of a unit row x consists
of its first p coordinates after a rotation R, and of the length of the rest: (Rx, sqrt(|x|^2 - |Rx|^2)). By the
inequality of Cauchy and Schwarz, the product of two sketches is never below the product of the rows. So a threshold on
sketches loses no pair and needs only p / d of the multiplications. Only pairs above it are multiplied completely.
Sketches are unit rows too, and the clusters are clusters of sketches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import BLOCK_ROWS, Float32, Matrix
from gristmill.selection.data.samples import Array
from gristmill.selection.duplicates import clusters
from gristmill.selection.duplicates.clusters import Int32, in_threads
from gristmill.selection.kernels import kernel, kernel_with

ROUNDING = 1e-6
"""The float32 product of two equal unit vectors can be less than 1 by a few of its last digits."""
EXACT_ROWS = 20_000
"""Up to this number of rows there is only one cluster, so the search is exact."""
SKETCH_DIM = 96
"""Number of coordinates of a sketch; with 384 dimensions it takes a quarter of the multiplications."""
TILE_ROWS = 1024
"""Number of rows on each side of one product. The cosines take 4 MiB, which stay in the cache while they are
searched."""
SAMPLE_ROWS = 64
"""The sample on which k-means is fitted has this many rows for each cluster."""
TIERS = (0.998, 0.996, 0.99, 0.975, 0.95, 0.0)
"""Lower bounds of the ranges of cosines, highest first; the limit `most` is for each range."""
Keep = Callable[[str, Callable[[], Array]], Array]


class Pairs(NamedTuple):
    """Pairs of rows above a threshold, as columns in ascending order of (left, right), each pair once."""

    left: Int32
    right: Int32
    cosine: Float32


def _make(name: str, make: Callable[[], Array]) -> Array:
    del name
    return make()


@dataclass(frozen=True, eq=False)
class ClusterIndex:
    """Rows in sqrt(n) clusters: then finding a cluster and searching in it cost about the same."""

    matrix: Matrix
    axes: Float32
    """[d, p] the first axes of the rotation."""
    sketches: Float32
    """[n, p + 1] sketches of the rows, which are unit rows."""
    centroids: Float32
    """[num, p + 1] centroids of the clusters of sketches."""
    near: Int32
    """[n, probes] nearest clusters of each row, nearest first; the first cluster holds the row."""

    def probe(self, queries: Matrix, probes: int) -> tuple[Float32, Int32]:
        """Return ([q, p + 1] sketches, [q, probes] nearest clusters) of rows that are not in the index."""
        sketches = sketch(queries, self.axes)
        return sketches, clusters.assign(Matrix(sketches), self.centroids, probes)[0]


def index(
    matrix: Matrix, *, seed: int, probes: int = 1, keep: Keep = _make, exact_rows: int = EXACT_ROWS
) -> ClusterIndex:
    """Return the index of a matrix; `keep(name, make)`, such as a memo, makes or finds its expensive arrays.

    Cost with 10^6 x 384 numbers: 10 CPU seconds. Memory: the sketches, 4 x 97 bytes for each row.
    """
    num = 1 if len(matrix) <= exact_rows else round(len(matrix) ** 0.5)
    axes = keep("axes", lambda: _axes(matrix, seed))
    sketches = sketch(matrix, axes)
    rows = Matrix(sketches)
    centroids = keep("centroids", lambda: clusters.fit(rows, num, seed=seed, sample=SAMPLE_ROWS * num))
    near = keep("clusters", lambda: clusters.assign(rows, centroids, probes)[0])
    return ClusterIndex(matrix, axes, sketches, centroids, near)


def sketch(matrix: Matrix, axes: Float32) -> Float32:
    """Return [n, p + 1] the sketches of the rows: p rotated coordinates, and the length of the rest."""
    found = np.empty((len(matrix), axes.shape[1] + 1), np.float32)

    def work(start: int) -> None:
        block = matrix.block(start, min(start + BLOCK_ROWS, len(matrix)))
        rotated = block @ axes
        rest = np.einsum("ij,ij->i", block, block) - np.einsum("ij,ij->i", rotated, rotated)
        found[start : start + len(block), :-1] = rotated
        found[start : start + len(block), -1] = np.sqrt(np.maximum(rest, 0))

    list(in_threads(work, range(0, len(matrix), BLOCK_ROWS)))
    return found


def _axes(matrix: Matrix, seed: int) -> Float32:
    """Return [d, p] the first eigenvectors of the second moments of a sample; with these axes the rest is shortest."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(matrix))[:EXACT_ROWS])
    rows = matrix.take(drawn)
    [(_, vectors)] = in_threads(np.linalg.eigh, [(rows.T @ rows).astype(np.float64)])
    return np.ascontiguousarray(vectors[:, ::-1][:, :SKETCH_DIM], np.float32)


def pairs(
    matrix: Matrix,
    min_cosine: float,
    *,
    seed: int,
    probes: int = 2,
    most: int | None = None,
    exact_rows: int = EXACT_ROWS,
) -> Pairs:
    """Return the pairs of rows with a cosine of at least `min_cosine`.

    Up to `exact_rows` rows these are all such pairs. With more rows, a pair is found if the cluster of one row is among
    the `probes` nearest clusters of the other row. `most` limits the number of pairs in large groups; then the rows
    must be in the order best first. In each cluster, a row is paired with at most the first `most` rows before it, for
    each of six ranges of the cosine (see `TIERS`). So ten thousand copies make pairs only with the best of them, and
    many pairs at 0.91 do not replace a copy at 0.99. Cost with 10^6 x 384 numbers: see `benchmarks/semantic.json`.

    Source: Abbas et al. 2023, SemDeDup, arXiv:2303.09540, section 3 (pairs inside k-means clusters). Departures: a row
    is compared in its `probes` nearest clusters. Of the rows with an earlier near row, in 10^5 x 384, one cluster finds
    the share 0.970, and two clusters find 0.998. Sketches are used, and all pairs are returned instead of the nearest.
    """
    built = index(matrix, seed=seed, probes=probes, exact_rows=exact_rows)
    return _join(_Sides(matrix, built.sketches, built.near, built, min_cosine, most or len(matrix), itself=True))


def between(queries: Matrix, base: ClusterIndex, min_cosine: float, *, probes: int = 3, most: int = 64) -> Pairs:
    """Return the pairs (query, base row) above a cosine; `most` is as in `pairs`, for each query."""
    sketches, near = base.probe(queries, probes)
    return _join(_Sides(queries, sketches, near, base, min_cosine, most, itself=False))


def knn(matrix: Matrix, k: int, *, seed: int, probes: int = 2, exact_rows: int = EXACT_ROWS) -> tuple[Int32, Float32]:
    """Return ([n, k] the nearest other rows of each row, nearest first; [n, k] their cosines).

    If fewer rows are found, the other entries are -1. A row is compared with all rows of its `probes` nearest clusters;
    up to `exact_rows` rows, these are all rows. Equally near rows are in ascending order.
    """
    built = index(matrix, seed=seed, probes=probes, exact_rows=exact_rows)
    near, cosine = np.full((len(matrix), k), -1, np.int32), np.full((len(matrix), k), -1, np.float32)

    def work(visit: Visit) -> None:
        rows, columns = visit
        base = matrix.take(columns)
        for left in range(0, len(rows), TILE_ROWS):
            some = rows[left : left + TILE_ROWS]
            queries = matrix.take(some)
            for right in range(0, len(columns), BLOCK_ROWS):
                part = slice(right, right + BLOCK_ROWS)
                _merge(queries @ base[part].T, some, columns[part], near, cosine, True)

    for probe in range(built.near.shape[1]):  # with one probe, no two clusters have a row in common
        list(in_threads(work, _visits(built.near[:, probe : probe + 1], built)))
    return near, cosine


def nearest(queries: Matrix, base: Matrix, k: int) -> tuple[Int32, Float32]:
    """Return ([q, k] the nearest base rows of each query, nearest first; [q, k] their cosines).

    If there are fewer rows, the other entries are -1. The result is exact. Equally near rows are in ascending order.
    Cost: q x n x d multiplications, so use it for small numbers of rows.
    """
    near, cosine = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -1, np.float32)

    def work(start: int) -> None:
        some = queries.block(start, min(start + BLOCK_ROWS, len(queries)))
        rows = np.arange(start, start + len(some))
        for first, block in base.blocks(TILE_ROWS):
            _merge(some @ block.T, rows, np.arange(first, first + len(block)), near, cosine, False)

    list(in_threads(work, range(0, len(queries), BLOCK_ROWS)))
    return near, cosine


Visit = tuple[Int, Int]
"""The queries that search in one cluster, and the base rows in that cluster."""


def _visits(near: Int32, base: ClusterIndex) -> Iterator[Visit]:
    """Yield the visit of each cluster that has both queries and base rows."""
    num = len(base.centroids)
    rows, row_ends = clusters.members(near, num)
    columns, column_ends = clusters.members(base.near[:, :1], num)
    for cluster in range(num):
        of = slice(row_ends[cluster], row_ends[cluster + 1]), slice(column_ends[cluster], column_ends[cluster + 1])
        if of[0].start < of[0].stop and of[1].start < of[1].stop:
            yield rows[of[0]], columns[of[1]]


class _Sides(NamedTuple):
    """The two sides of a search for pairs (queries and base rows), the threshold, and the limits."""

    queries: Matrix
    sketches: Float32
    near: Int32
    base: ClusterIndex
    min_cosine: float
    most: int
    itself: bool
    """Whether the queries are the base rows themselves. Each pair then counts once, with the lower row first."""


def _join(sides: _Sides) -> Pairs:
    """Return the pairs of queries and base rows in all clusters in which the queries search."""
    none = Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    found = [none, *in_threads(partial(_search, sides), _visits(sides.near, sides.base))]
    left, right, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
    del found
    order = np.argsort(left.astype(np.int64) << 32 | right, kind="stable")
    return Pairs(left[order], right[order], cosine[order])


def _search(sides: _Sides, visit: Visit) -> Pairs:
    """Return the pairs of one cluster; its products are computed tile by tile."""
    rows, columns = visit
    row_sketches, column_sketches = sides.sketches[rows], sides.base.sketches[columns]
    floor = np.float32(sides.min_cosine - 10 * ROUNDING)  # the products of sketches have rounding errors too
    held, bounds = np.empty((2, TILE_ROWS * TILE_ROWS), np.int32), np.empty(TILE_ROWS * TILE_ROWS, np.float32)
    counts = np.zeros((len(rows), len(TIERS)), np.int32)
    found: list[tuple[Int32, Float32]] = [(np.empty((2, 0), np.int32), np.empty(0, np.float32))]
    for right in range(0, len(columns), TILE_ROWS):
        for left in range(0, len(rows), TILE_ROWS):
            if sides.itself and right + TILE_ROWS <= left and left + TILE_ROWS <= len(columns):
                continue  # only below the diagonal, for a cluster with itself; its own rows come first
            tile = row_sketches[left : left + TILE_ROWS] @ column_sketches[right : right + TILE_ROWS].T
            num = _over(tile, floor, left, right, held, bounds)
            num = _fresh(held[:, :num], bounds, visit, sides.near, sides.itself, counts, sides.most)
            over = held[:, :num]
            one, other = _gather(sides.queries, rows, over[0]), _gather(sides.base.matrix, columns, over[1])
            cosine = _products(one[0], other[0], one[1], other[1])
            floor_ = sides.min_cosine - ROUNDING
            chosen = _first(over, cosine, floor_, visit, sides.itself, counts, sides.most)
            found.append((over[:, chosen], cosine[chosen]))
    over, cosine = np.concatenate([f[0] for f in found], axis=1), np.concatenate([f[1] for f in found])
    one_, other_ = rows[over[0]].astype(np.int32), columns[over[1]].astype(np.int32)
    if sides.itself:
        one_, other_ = np.minimum(one_, other_), np.maximum(one_, other_)
    return Pairs(one_, other_, cosine)


def _gather(matrix: Matrix, rows: Int, at: Int32) -> tuple[Float32, Int]:
    """Return (the vectors of the rows that `at` uses, [len(at)] the index of each used row among them)."""
    used = np.zeros(len(rows), np.bool_)
    used[at] = True
    return matrix.take(rows[used]), (np.cumsum(used) - 1)[at]


@kernel
def _over(tile: Float32, floor: np.float32, left: int, right: int, held: Int32, bounds: Float32) -> int:
    """Write the place and the value of every number that is at least `floor`; return how many there are.

    `tile` is a block of a product; its first number is at (left, right) of the product. 64 numbers at a time are first
    compared without a branch, because in nearly all such groups no number is high enough.
    """
    found = 0
    for row in range(tile.shape[0]):
        for start in range(0, tile.shape[1], 64):  # this many are compared at once without a branch
            stop = min(start + 64, tile.shape[1])
            some = 0
            for column in range(start, stop):
                some += tile[row, column] >= floor
            if some:
                for column in range(start, stop):
                    if tile[row, column] >= floor:
                        held[0, found], held[1, found] = left + row, right + column
                        bounds[found] = tile[row, column]
                        found += 1
    return found


@kernel
def _tier(cosine: float) -> int:
    """Return the index of the first of `TIERS` that a cosine reaches."""
    tier = 0
    while tier < len(TIERS) - 1 and cosine < TIERS[tier]:
        tier += 1
    return tier


@kernel
def _fresh(over: Int32, bounds: Float32, visit: Visit, near: Int32, itself: bool, counts: Int32, most: int) -> int:
    """Move the candidates that count to the front of `over`, and return their number.

    Two kinds of candidates do not count. If a matrix is searched with itself, a pair is found in two clusters when the
    cluster of each row is among the other row's probes; it then counts only once. And a row that has `most` pairs of a
    tier gets no more pairs of this tier. `over` holds places in the visit, where the rows of the cluster come first
    among its queries.
    """
    rows, columns = visit
    num = 0
    for n in range(over.shape[1]):
        i, j = over[0, n], over[1, n]
        later = i
        if itself and rows[i] < columns[j]:
            later = j
        elif itself:
            twice = False
            for probe in range(near.shape[1]):
                twice |= near[columns[j], probe] == near[rows[i], 0]
            if twice:
                continue
        if counts[later, _tier(bounds[n])] < most:
            over[0, num], over[1, num] = i, j
            num += 1
    return num


@kernel_with(fastmath=True)
def _products(left: Float32, right: Float32, left_at: Int, right_at: Int) -> Float32:
    """Return [pairs] the cosines of pairs of rows; the compiler chooses the order in which products are added."""
    cosine = np.empty(len(left_at), np.float32)
    for n in range(len(left_at)):
        one, other = left[left_at[n]], right[right_at[n]]
        total = np.float32(0)
        for column in range(len(one)):
            total += one[column] * other[column]
        cosine[n] = min(total, np.float32(1))
    return cosine


@kernel
def _first(
    over: Int32, cosine: Float32, min_cosine: float, visit: Visit, itself: bool, counts: Int32, most: int
) -> Int:
    """Return the places of the pairs above the threshold: over all tiles, at most `most` for each row and tier."""
    rows, columns = visit
    chosen = np.empty(len(cosine), np.int64)
    num = 0
    for n in range(len(cosine)):
        if cosine[n] >= min_cosine:
            i, j, tier = over[0, n], over[1, n], _tier(cosine[n])
            later = j if itself and rows[i] < columns[j] else i
            if counts[later, tier] < most:
                counts[later, tier] += 1
                chosen[num] = n
                num += 1
    return chosen[:num]


@kernel
def _merge(cosines: Float32, rows: Int, columns: Int, near: Int32, best: Float32, others: bool) -> None:
    """Insert cosines into the sorted list of each row: the highest first, equal cosines in the order of their columns.

    `cosines` is [rows, columns], one block. Free places hold -1. If `others` is true, a row is not inserted for itself.
    """
    last = near.shape[1] - 1
    for i in range(len(rows)):
        row = rows[i]
        for j in range(len(columns)):
            cosine, column = cosines[i, j], columns[j]
            if (cosine < best[row, last] and near[row, last] >= 0) or (others and column == row):
                continue
            place = last + 1
            while place > 0 and (
                near[row, place - 1] < 0
                or cosine > best[row, place - 1]
                or (cosine == best[row, place - 1] and column < near[row, place - 1])
            ):
                place -= 1
            for n in range(last, place, -1):
                best[row, n], near[row, n] = best[row, n - 1], near[row, n - 1]
            if place <= last:
                best[row, place], near[row, place] = cosine, column
