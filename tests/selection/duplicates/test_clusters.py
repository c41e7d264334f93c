"""Spherical k-means against its formula, planted topics and awkward data."""

import numpy as np
import pytest

from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.duplicates import clusters
from tests.selection.made import unit


def topics(rows: int = 600, num: int = 6, dim: int = 12, seed: int = 0) -> tuple[Float32, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num, rows)
    return unit(np.eye(num, dim)[labels] + rng.normal(size=(rows, dim)) * 0.05), labels


def test_every_row_is_assigned_to_the_planted_topic_that_it_is_of() -> None:
    rows, labels = topics()
    first = np.array([rows[labels == topic][0] for topic in range(6)])
    near, cosine = clusters.assign(Matrix(rows), first)
    assert near[:, 0].tolist() == labels.tolist()
    assert cosine.min() > 0.8


def test_fitted_centroids_are_the_unit_means_of_their_rows() -> None:
    rows, _ = topics()
    centroids = clusters.fit(Matrix(rows), 6, seed=1, iterations=50)
    labels = clusters.assign(Matrix(rows), centroids)[0][:, 0]
    means = np.array([rows[labels == cluster].sum(axis=0) for cluster in range(6)])
    np.testing.assert_allclose(centroids, unit(means), atol=1e-6)


def test_more_iterations_bring_rows_nearer_to_their_centroids() -> None:
    rows = unit(np.random.default_rng(2).normal(size=(2000, 8)))
    fits = (clusters.fit(Matrix(rows), 20, seed=3, iterations=n) for n in (0, 1, 2, 5, 10))
    sums = [float(clusters.assign(Matrix(rows), centroids)[1].sum()) for centroids in fits]
    assert sums == sorted(sums)
    assert sums[-1] > sums[0] * 1.05


@pytest.mark.parametrize("tile", [1, 50, 1 << 20])
def test_nearest_clusters_equal_a_sort_whatever_the_blocks(tile: int) -> None:
    rng = np.random.default_rng(4)
    rows, centroids = unit(rng.normal(size=(100, 5))), unit(rng.normal(size=(9, 5)))
    near, cosine = clusters.assign(Matrix(rows), centroids, 3, tile)
    expected = np.argsort(-(rows.astype(np.float64) @ centroids.T), axis=1, kind="stable")[:, :3]
    assert near.tolist() == expected.tolist()
    np.testing.assert_allclose(cosine, np.take_along_axis(rows @ centroids.T, expected, axis=1), atol=1e-6)


def test_of_equal_centroids_the_first_is_nearest() -> None:
    rows = unit(np.ones((3, 4)))
    near, _ = clusters.assign(Matrix(rows), np.repeat(rows[:1], 3, axis=0), 2)
    assert near.tolist() == [[0, 1]] * 3


def test_clusters_that_equal_rows_leave_empty_are_filled_with_the_farthest_rows() -> None:
    rows = np.concatenate([np.repeat(unit(np.ones((1, 6))), 95, axis=0), np.eye(6, dtype=np.float32)[:5]])
    centroids = clusters.fit(Matrix(rows), 6, seed=0)
    labels, cosine = clusters.assign(Matrix(rows), centroids)
    assert len(np.unique(labels[:95])) == 1
    assert cosine.min() > 0.999


def test_a_sample_of_the_rows_is_enough() -> None:
    rows, _ = topics(5000)
    whole = clusters.assign(Matrix(rows), clusters.fit(Matrix(rows), 6, seed=1))[1].mean()
    part = clusters.assign(Matrix(rows), clusters.fit(Matrix(rows), 6, seed=1, sample=300))[1].mean()
    assert part > whole - 0.02


def test_the_seed_alone_decides() -> None:
    rows = unit(np.random.default_rng(5).normal(size=(300, 8)))
    fits = [clusters.fit(Matrix(rows), 10, seed=seed) for seed in (1, 1, 2)]
    assert (fits[0] == fits[1]).all()
    assert not (fits[0] == fits[2]).all()


def test_half_precision_and_chosen_rows_are_read_as_they_are() -> None:
    rows, _ = topics()
    stored = Matrix(rows.astype(np.float16), np.arange(599, -1, -1))
    near, _ = clusters.assign(stored, clusters.fit(Matrix(rows), 6, seed=1))
    assert near[::-1].tolist() == clusters.assign(Matrix(rows), clusters.fit(Matrix(rows), 6, seed=1))[0].tolist()


def test_fewer_rows_than_clusters_make_a_cluster_each_and_no_rows_none() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert clusters.fit(Matrix(rows), 10, seed=0).shape == (3, 3)
    assert clusters.fit(Matrix(rows[:0]), 10, seed=0).shape == (0, 3)
    assert clusters.assign(Matrix(rows[:0]), rows, 2)[0].shape == (0, 2)


def test_members_stand_by_cluster_first_choices_first() -> None:
    near = np.array([[1, 0], [0, 1], [1, 0], [2, 1]], np.int32)
    rows, ends = clusters.members(near, 3)
    by_cluster = [rows[ends[n] : ends[n + 1]].tolist() for n in range(3)]
    assert by_cluster == [[1, 0, 2], [0, 2, 1, 3], [3]]
