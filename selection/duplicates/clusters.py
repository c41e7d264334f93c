"""Clusters of vectors by spherical k-means, fitted on a sample; all searches in blocks are built on them."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.kernels import kernel

Item = TypeVar("Item")
Result = TypeVar("Result")
Int32 = NDArray[np.int32]
TILE = 1 << 20
"""Number of cosines of one product: 4 MiB, which stay in the cache while they are searched."""


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items. There is one thread for each core, and each product uses one core.

    Products of blocks that fit in a cache are too small to be shared out: with two threads in each of them 10^5 rows
    took 2.6 CPU seconds instead of 1.0, most of it waiting, and ten times as long beside other work.
    """
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(work, items)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def fit(matrix: Matrix, num: int, *, seed: int, sample: int = 100_000, iterations: int = 12) -> Float32:
    """Return [num, d] unit centroids; one for each row if there are fewer rows than `num`.

    Rows of the sample, drawn with the seed, are the first centroids. An empty cluster starts again at the row that is
    farthest from its own centroid (of equally far ones, at the first). The search ends early when no row changes its
    cluster. Cost: sample x num x d x iterations multiplications.

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
    """Return ([n, top] clusters, nearest first; their cosines); `top` is cut to the number of clusters.

    Clusters at equal distance are in ascending order. Cost: n x num x d multiplications; the matrix is read once.
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
    """Return (rows by cluster, ascending in each; [num + 1] where each cluster begins in them).

    Labels may be [n, top]: then a cluster first lists the rows of which it is the nearest cluster, and after them those
    of which it is the second.
    """
    by_place = labels.T.ravel()
    ends = np.zeros(num + 1, np.int64)
    np.cumsum(np.bincount(by_place, minlength=num), out=ends[1:])
    return np.argsort(by_place, kind="stable") % max(1, len(labels)), ends


@kernel
def _sums(rows: Float32, labels: Int32, num: int) -> NDArray[np.float64]:
    """Return [num, d] the sum of the rows of each cluster, in float64 and in the order of the rows."""
    sums = np.zeros((num, rows.shape[1]))
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            sums[labels[row], column] += rows[row, column]
    return sums


@kernel
def _best(cosines: Float32, near: Int32, best: Float32) -> None:
    """Insert cosines into the sorted list of each row, highest first; of equal ones the earlier column comes first."""
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
