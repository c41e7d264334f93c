"""Clusters of vectors by spherical k-means, fitted on a sample of the rows; searches for near vectors use them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.kernels import kernel, threads

Item = TypeVar("Item")
Result = TypeVar("Result")
Int32 = NDArray[np.int32]
TILE = 1 << 20
"""Number of cosines in one product. They take 4 MiB, which stay in the cache while they are searched."""


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of `work` in the order of the items, with one thread for each core.

    A product of matrices inside `work` uses only one core. Products of blocks that fit in a cache are too small for
    several threads: with two threads for each product, 10^5 rows took 2.6 CPU seconds instead of 1.0, most of it
    waiting, and ten times as long on a busy machine.
    """
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads()) as pool:
        yield from pool.map(work, items)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def fit(matrix: Matrix, num: int, *, seed: int, sample: int = 100_000, iterations: int = 12) -> Float32:
    """Return [num, d] unit centroids; if there are fewer rows than `num`, one for each row.

    The first centroids are random rows of the sample. The new centroid of an empty cluster is the row that is farthest
    from its own centroid; of equally far rows, the first. The search ends early if no row changes its cluster. The seed
    decides all draws. Cost: sample x num x d x iterations multiplications.

    Source: Dhillon and Modha 2001, Concept decompositions for large sparse text data using clustering, Machine Learning
    42, section 3 (spherical k-means). Departures: a sample instead of all rows; empty clusters are filled.
    """
    drawn = np.random.default_rng(seed).permutation(len(matrix))[: max(sample, num)]
    centroids = matrix.take(drawn[:num])
    rows = matrix.take(np.sort(drawn))
    labels = np.full(len(rows), -1, np.int32)
    for _ in range(iterations if len(rows) else 0):
        before = labels
        near, cosine = assign(Matrix(rows), centroids)
        labels = near[:, 0]
        if (labels == before).all():
            break
        sums = _sums(rows, labels, len(centroids))
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
        sums[empty] = rows[np.argsort(cosine[:, 0], kind="stable")[: len(empty)]]
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centroids).astype(np.float32)
    return centroids


def assign(matrix: Matrix, centroids: Float32, top: int = 1, tile: int = TILE) -> tuple[Int32, Float32]:
    """Return ([n, top] nearest clusters of each row, the nearest first; [n, top] cosines to their centroids).

    If there are fewer clusters than `top`, all are returned. Equally near clusters are in ascending order. Cost: n x
    num x d multiplications; the matrix is read once.
    """
    top = min(top, len(centroids))
    near = np.zeros((len(matrix), top), np.int32)
    cosine = np.full((len(matrix), top), -np.inf, np.float32)
    rows = max(1, tile // max(1, len(centroids)))

    def work(start: int) -> None:
        block = matrix.block(start, min(start + rows, len(matrix)))
        _best(block @ centroids.T, near[start : start + rows], cosine[start : start + rows])

    list(in_threads(work, range(0, len(matrix), rows)))
    return near, cosine


def members(labels: Int32, num: int) -> tuple[Int, Int]:
    """Return (rows by cluster, ascending in each cluster; [num + 1] index at which each cluster begins).

    If labels are [n, top], a cluster lists first the rows for which it is the nearest cluster, then the rows for which
    it is the second nearest, and so on.
    """
    by_place = labels.T.ravel()
    ends = np.zeros(num + 1, np.int64)
    np.cumsum(np.bincount(by_place, minlength=num), out=ends[1:])
    return np.argsort(by_place, kind="stable") % max(1, len(labels)), ends


@kernel
def _sums(rows: Float32, labels: Int32, num: int) -> NDArray[np.float64]:
    """Return [num, d] the sum of the rows of each cluster, in float64; rows are added in their order."""
    sums = np.zeros((num, rows.shape[1]))
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            sums[labels[row], column] += rows[row, column]
    return sums


@kernel
def _best(cosines: Float32, near: Int32, best: Float32) -> None:
    """Insert cosines into the sorted list of each row, highest first; of equal cosines, the earlier column is first."""
    top = near.shape[1]
    for row in range(len(cosines)):
        for column in range(cosines.shape[1]):
            cosine = cosines[row, column]
            if cosine > best[row, top - 1]:
                place = top - 1
                while place > 0 and cosine > best[row, place - 1]:
                    best[row, place], near[row, place] = best[row, place - 1], near[row, place - 1]
                    place -= 1
                best[row, place], near[row, place] = cosine, column
