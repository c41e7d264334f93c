"""Pairs and nearest rows against brute force, exactly for small data and by recall where clusters are searched."""

import numpy as np
import pytest

from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.duplicates import neighbours
from tests.selection.made import unit


def planted(rows: int, dim: int, seed: int = 0) -> Float32:
    """Topics, with a fifth of the rows copies of others at cosines from 0.9 to 0.999."""
    rng = np.random.default_rng(seed)
    found = unit(rng.normal(size=(40, dim))[rng.integers(0, 40, rows)] + rng.normal(size=(rows, dim)) * 0.8)
    copies, bases = rng.permutation(rows)[: rows // 5], rng.integers(0, rows, rows // 5)
    cosine, aside = rng.uniform(0.9, 0.999, (rows // 5, 1)), unit(rng.normal(size=(rows // 5, dim)))
    found[copies] = unit(cosine * found[bases] + np.sqrt(1 - cosine**2) * aside)
    return found


def brute(rows: Float32, min_cosine: float) -> list[tuple[int, int]]:
    cosines = np.triu(rows.astype(np.float64) @ rows.T.astype(np.float64), 1)
    return [(int(a), int(b)) for a, b in np.argwhere(cosines >= min_cosine)]


def listed(found: neighbours.Pairs) -> list[tuple[int, int]]:
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


def test_the_product_of_sketches_is_never_below_that_of_the_rows() -> None:
    rows = planted(400, 200)
    built = neighbours.index(Matrix(rows), seed=0)
    assert built.sketches.shape == (400, 97)
    products, cosines = built.sketches @ built.sketches.T, rows @ rows.T
    assert (products >= cosines - 1e-5).all()
    np.testing.assert_allclose(np.diag(products), 1, atol=1e-5)
    assert (products - cosines).mean() < 0.3


@pytest.mark.parametrize("dim", [5, 200])
@pytest.mark.parametrize("min_cosine", [0.7, 0.9, 0.95])
def test_pairs_of_small_data_equal_brute_force_over_several_tiles(dim: int, min_cosine: float) -> None:
    rows = planted(2500, dim)
    found = neighbours.pairs(Matrix(rows), min_cosine, seed=1)
    assert listed(found) == brute(rows, min_cosine)
    assert len(found.left) > 100
    np.testing.assert_allclose(found.cosine, (rows[found.left] * rows[found.right]).sum(axis=1), atol=1e-5)


def test_clusters_find_nearly_all_pairs_each_once() -> None:
    rows = planted(5000, 100)
    found = neighbours.pairs(Matrix(rows), 0.95, seed=1, probes=3, exact_rows=1000)
    assert listed(found) == sorted(set(listed(found)))
    true = set(brute(rows, 0.95))
    assert len(true) > 400
    assert set(listed(found)) <= true
    assert len(found.left) >= 0.998 * len(true)
    fewer = neighbours.pairs(Matrix(rows), 0.95, seed=1, probes=1, exact_rows=1000)
    assert 0.8 * len(true) < len(fewer.left) < len(found.left)
    assert set(listed(fewer)) <= set(listed(found))


def test_equal_rows_are_pairs_at_a_threshold_of_one() -> None:
    rows = np.repeat(unit(np.random.default_rng(2).normal(size=(20, 384))), 2, axis=0)
    found = neighbours.pairs(Matrix(rows), 1.0, seed=0)
    assert listed(found) == [(n, n + 1) for n in range(0, 40, 2)]
    assert found.cosine.max() <= 1


def test_a_crowd_makes_a_star_and_does_not_displace_a_copy() -> None:
    rng = np.random.default_rng(3)
    centre, copy = unit(rng.normal(size=(2, 100)))
    crowd = unit(np.sqrt(0.93) * centre + np.sqrt(0.07) * unit(rng.normal(size=(3000, 100))))
    rows = np.concatenate([crowd[:2000], crowd[:1], np.repeat(copy[None], 1000, axis=0)])
    found = neighbours.pairs(Matrix(rows), 0.85, seed=0, most=5)
    assert len(found.left) <= 5 * len(neighbours.TIERS) * len(rows)
    assert (0, 2000) in listed(found)  # behind 2,000 that are nearer to the front than the copy
    star = [(left, right) for left, right in listed(found) if left == 2001]
    assert star == [(2001, right) for right in range(2002, 3001)]


@pytest.mark.parametrize("k", [1, 7])
def test_nearest_neighbours_equal_a_sort(k: int) -> None:
    rows = planted(1500, 30)
    near, cosine = neighbours.knn(Matrix(rows), k, seed=0)
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(cosine, -np.sort(-cosines, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(cosine, np.take_along_axis(cosines, near.astype(np.int64), axis=1), atol=1e-6)
    assert all(len(set(row)) == k for row in near.tolist())


def test_where_fewer_rows_than_neighbours_are_there_the_rest_is_empty() -> None:
    near, cosine = neighbours.knn(Matrix(np.eye(3, dtype=np.float32)), 4, seed=0)
    assert near.tolist() == [[1, 2, -1, -1], [0, 2, -1, -1], [0, 1, -1, -1]]
    assert cosine.tolist() == [[0, 0, -1, -1]] * 3
    assert neighbours.knn(Matrix(np.eye(1, dtype=np.float32)), 2, seed=0)[0].tolist() == [[-1, -1]]
    assert neighbours.knn(Matrix(np.empty((0, 3), np.float32)), 2, seed=0)[0].shape == (0, 2)


def test_neighbours_in_clusters_are_mostly_the_nearest() -> None:
    rows = planted(5000, 48)
    near, cosine = neighbours.knn(Matrix(rows), 5, seed=0, exact_rows=1000)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    expected = np.argpartition(-cosines, 5, axis=1)[:, :5]
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(near.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shares) > 0.8
    assert (np.diff(cosine, axis=1) <= 0).all()
    assert (near != np.arange(5000)[:, None]).all()


def test_nearest_of_another_matrix_equal_a_sort_over_several_blocks() -> None:
    rng = np.random.default_rng(5)
    queries, base = unit(rng.normal(size=(1100, 6))), unit(rng.normal(size=(9000, 6)))
    near, cosine = neighbours.nearest(Matrix(queries), Matrix(base), 4)
    cosines = queries.astype(np.float64) @ base.T
    np.testing.assert_allclose(cosine, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_allclose(cosine, np.take_along_axis(cosines, near.astype(np.int64), axis=1), atol=1e-6)
    assert neighbours.nearest(Matrix(queries[:2]), Matrix(base[:0]), 2)[0].tolist() == [[-1, -1]] * 2


def test_equally_near_rows_stand_in_their_order() -> None:
    base = np.eye(4, dtype=np.float32)[[3, 0, 1, 0, 2, 0]]
    near, cosine = neighbours.nearest(Matrix(base[1:2]), Matrix(base), 5)
    assert near.tolist() == [[1, 3, 5, 0, 2]]
    assert cosine.tolist() == [[1, 1, 1, 0, 0]]
    assert neighbours.knn(Matrix(base), 3, seed=0)[0].tolist()[3] == [1, 5, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pairs_between_two_matrices_equal_brute_force(dtype: type) -> None:
    rows = planted(3000, 200)
    base, queries = rows[:1800], rows[1800:]
    index = neighbours.index(Matrix(base.astype(dtype)), seed=0)
    found = neighbours.between(Matrix(queries), index, 0.95, most=len(base))
    expected = np.argwhere(queries @ base.astype(dtype).astype(np.float32).T >= 0.95)
    assert listed(found) == [tuple(pair) for pair in expected.tolist()]
    assert len(expected) > 50


def test_what_is_dear_in_an_index_is_kept_and_found_again() -> None:
    rows, kept = planted(500, 20), dict[str, np.ndarray]()

    def keep(name: str, make: object) -> np.ndarray:
        assert callable(make)
        return kept.setdefault(name, np.asarray(kept[name] if name in kept else make()))

    first = neighbours.between(Matrix(rows), neighbours.index(Matrix(rows), seed=0, keep=keep), 0.9)
    held = dict(kept)
    again = neighbours.between(Matrix(rows), neighbours.index(Matrix(rows), seed=0, keep=keep), 0.9)
    assert sorted(kept) == ["axes", "centroids", "clusters"]
    assert all(kept[name] is held[name] for name in kept)
    assert listed(first) == listed(again)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_pairs_without_two_rows(rows: int) -> None:
    matrix = Matrix(unit(np.ones((rows, 5))))
    assert listed(neighbours.pairs(matrix, 0.5, seed=0)) == []
    assert listed(neighbours.between(matrix, neighbours.index(Matrix(unit(np.ones((0, 5)))), seed=0), 0.5)) == []
