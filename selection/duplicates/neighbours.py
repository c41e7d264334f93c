"""Neighbours of vectors: all pairs over a cosine, or the nearest few; searched inside clusters, exact for small data.

A search for pairs looks at sketches first. The sketch of a unit row x is its p leading coordinates after a rotation R,
followed by the length of the rest: (Rx, sqrt(|x|^2 - |Rx|^2)). By the inequality of Cauchy and Schwarz the product of
two sketches is never below that of the rows. So a threshold on sketches loses no pair, at p / d of the multiplications,
and only pairs that pass are multiplied in full. Sketches are unit rows too, and they are what is clustered.
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
"""Up to this number of rows there is one cluster, so the search is exact."""
SKETCH_DIM = 96
"""Coordinates of a sketch: a quarter of the multiplications at 384 dimensions."""
TILE_ROWS = 1024
"""Rows on either side of one product: 4 MiB of cosines, which stay in the cache while they are searched."""
SAMPLE_ROWS = 64
"""Number of rows for each cluster in the sample on which k-means is fitted."""
TIERS = (0.998, 0.996, 0.99, 0.975, 0.95, 0.0)
"""Lower bounds of the ranges of cosines, highest first; `most` counts separately in each range."""
Keep = Callable[[str, Callable[[], Array]], Array]


class Pairs(NamedTuple):
    """Pairs of rows over a threshold as columns, in ascending order of (left, right), without repetition."""

    left: Int32
    right: Int32
    cosine: Float32


def _make(name: str, make: Callable[[], Array]) -> Array:
    del name
    return make()


@dataclass(frozen=True, eq=False)
class ClusterIndex:
    """Rows in clusters. There are sqrt(n) clusters, which balances finding a cluster with searching in it."""

    matrix: Matrix
    axes: Float32
    """[d, p] the leading axes of the rotation."""
    sketches: Float32
    """[n, p + 1] unit rows."""
    centroids: Float32
    """[num, p + 1]."""
    near: Int32
    """[n, probes] nearest clusters of each row; the first is the one that holds the row."""

    def probe(self, queries: Matrix, probes: int) -> tuple[Float32, Int32]:
        """Return ([q, p + 1] sketches, [q, probes] nearest clusters) of rows that are not in the index."""
        sketches = sketch(queries, self.axes)
        return sketches, clusters.assign(Matrix(sketches), self.centroids, probes)[0]


def index(
    matrix: Matrix, *, seed: int, probes: int = 1, keep: Keep = _make, exact_rows: int = EXACT_ROWS
) -> ClusterIndex:
    """Return the index of a matrix; its expensive arrays are made through `keep`, such as a memo, by name.

    Cost at 10^6 x 384: 10 CPU seconds; memory: the sketches, 4 x 97 bytes a row.
    """
    num = 1 if len(matrix) <= exact_rows else round(len(matrix) ** 0.5)
    axes = keep("axes", lambda: _axes(matrix, seed))
    sketches = sketch(matrix, axes)
    rows = Matrix(sketches)
    centroids = keep("centroids", lambda: clusters.fit(rows, num, seed=seed, sample=SAMPLE_ROWS * num))
    near = keep("clusters", lambda: clusters.assign(rows, centroids, probes)[0])
    return ClusterIndex(matrix, axes, sketches, centroids, near)


def sketch(matrix: Matrix, axes: Float32) -> Float32:
    """Return [n, p + 1]: the rotated coordinates and the length of the rest."""
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
    """Return [d, p]: the leading eigenvectors of the second moments of a sample, which give the shortest rest."""
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
    """Return the pairs with a cosine of at least `min_cosine` where one row's cluster is among the other's `probes`.

    All pairs up to `exact_rows` rows. `most` limits the number of pairs in large groups; it needs rows in the order
    best first. A row is then paired with the first `most` rows before it in a cluster, for each of six ranges of the
    cosine (see `TIERS`). So ten thousand copies make pairs with only the best of them, and many pairs at 0.91 do not
    displace a copy at 0.99. Cost at 10^6 x 384: see `benchmarks/semantic.json`.

    Source: Abbas et al. 2023, SemDeDup, arXiv:2303.09540, section 3 (pairs inside k-means clusters). Departures: rows
    look into their `probes` nearest clusters (of 10^5 x 384 the share of rows with an earlier near row that one cluster
    finds is 0.970, two 0.998); the sketches; all pairs instead of the nearest.
    """
    built = index(matrix, seed=seed, probes=probes, exact_rows=exact_rows)
    return _join(_Sides(matrix, built.sketches, built.near, built, min_cosine, most or len(matrix), itself=True))


def between(queries: Matrix, base: ClusterIndex, min_cosine: float, *, probes: int = 3, most: int = 64) -> Pairs:
    """Return the pairs (query, base row) over a cosine; `most` is as in `pairs`, for each query."""
    sketches, near = base.probe(queries, probes)
    return _join(_Sides(queries, sketches, near, base, min_cosine, most, itself=False))


def knn(matrix: Matrix, k: int, *, seed: int, probes: int = 2, exact_rows: int = EXACT_ROWS) -> tuple[Int32, Float32]:
    """Return ([n, k] the nearest other rows, nearest first, -1 where fewer are found; their cosines, -1 there).

    A row is compared with all rows of its `probes` nearest clusters, which are all rows up to
    `exact_rows`. Rows at equal distance are in ascending order.
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
    """Return ([q, k] the nearest rows of the base, nearest first, -1 where there are fewer; their cosines, -1 there).

    Exact; equally near rows are in their own order. Cost: q x n x d multiplications, for smaller sides.
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
"""The queries that look into a cluster, and the base rows that are in it."""


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
    """The two sides of a search for pairs, and the threshold."""

    queries: Matrix
    sketches: Float32
    near: Int32
    base: ClusterIndex
    min_cosine: float
    most: int
    itself: bool
    """Whether the queries are the base's own rows: each pair then counts once, lower row first."""


def _join(sides: _Sides) -> Pairs:
    """Multiply the queries with the base rows in the clusters that they look into."""
    none = Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    found = [none, *in_threads(partial(_search, sides), _visits(sides.near, sides.base))]
    left, right, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
    del found
    order = np.argsort(left.astype(np.int64) << 32 | right, kind="stable")
    return Pairs(left[order], right[order], cosine[order])


def _search(sides: _Sides, visit: Visit) -> Pairs:
    """Return the pairs of one cluster, tile by tile."""
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
    """Return (the vectors of the rows that are used, for each use the index of its row among them)."""
    used = np.zeros(len(rows), np.bool_)
    used[at] = True
    return matrix.take(rows[used]), (np.cumsum(used) - 1)[at]


@kernel
def _over(tile: Float32, floor: np.float32, left: int, right: int, held: Int32, bounds: Float32) -> int:
    """Write the place and the value of every number that is at least `floor`; return their number.

    `tile` is a block of a product whose corner is at (left, right). Numbers are first compared 64 at a time without a
    branch, since nearly all blocks of 64 have none that passes.
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
    """Return the first of `TIERS` that the cosine reaches."""
    tier = 0
    while tier < len(TIERS) - 1 and cosine < TIERS[tier]:
        tier += 1
    return tier


@kernel
def _fresh(over: Int32, bounds: Float32, visit: Visit, near: Int32, itself: bool, counts: Int32, most: int) -> int:
    """Move the candidates that count to the front, and return their number.

    Two kinds are left out. If a matrix is searched with itself, a pair is found twice when the cluster of each row is
    among the other's probes; it counts in the cluster of the later row. And a row that has `most` pairs of a tier takes
    no more of them. `over` holds places in the visit; a cluster's own rows come first among its queries.
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
    """Return the cosines of pairs of rows; the order of the sums is left to the compiler."""
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
    """Return the places of the pairs over the threshold: at most `most` of each row and tier, over all tiles."""
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
    """Insert cosines into the sorted list of each row: highest first, equal ones by column.

    `cosines` is [rows, columns] of one block. Free places hold -1. With `others` a row does not count for itself.
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
