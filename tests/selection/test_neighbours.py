"""Blockwise pairs against brute force."""

import numpy as np
import pytest

from selection.neighbours import above
from tests.selection.made import unit


@pytest.mark.parametrize("tile_rows", [1, 7, 50, 1000])
def test_pairs_over_a_threshold_equal_brute_force_whatever_the_tiles(tile_rows: int) -> None:
    rng = np.random.default_rng(1)
    queries, base = unit(rng.normal(size=(23, 4))), unit(rng.normal(size=(50, 4)))
    near = above(queries, base, 0.8, tile_rows=tile_rows)
    cosines = queries.astype(np.float64) @ base.T.astype(np.float64)
    assert set(zip(near.query.tolist(), near.base.tolist(), strict=True)) == set(
        map(tuple, np.argwhere(cosines >= 0.8).tolist())
    )
    assert len(near.query) > 20
    np.testing.assert_allclose(near.cosine, cosines[near.query, near.base], atol=1e-6)
    np.testing.assert_allclose(near.best, cosines.max(axis=1), atol=1e-6)
    steps = np.diff(near.query) * 10.0 - np.diff(near.cosine)
    assert (steps >= 0).all(), "not by query, highest cosine first"


def test_equal_vectors_count_at_a_threshold_of_one() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(40, 384)))
    near = above(vectors, vectors, 1.0)
    assert near.query.tolist() == near.base.tolist() == list(range(40))


def test_no_base_gives_no_pairs() -> None:
    near = above(np.ones((2, 3), np.float32), np.empty((0, 3), np.float32), 0.5)
    assert len(near.query) == 0
    assert near.best.tolist() == [-1, -1]
