"""Lazy k-center and MMR against their definitions, one pair at a time."""

from itertools import combinations

import numpy as np
import pytest

from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.diversity.k_center import Sizes, k_center
from gristmill.selection.diversity.mmr import mmr
from tests.selection.made import unit


def lumpy(rows: int, dim: int = 24, seed: int = 3) -> Float32:
    """Groups of unequal size and width, with strangers and exact copies among them."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.2, rows), 12)
    vectors = rng.normal(size=(13, dim))[group] + rng.normal(size=(rows, dim)) * (0.05 + 0.1 * group[:, None])
    vectors[rng.permutation(rows)[: rows // 10]] = vectors[0]
    return unit(vectors)


def greedy_oracle(vectors: Float32, budget: int, first: int, bonus: np.ndarray, weight: float) -> list[int]:
    """Choose argmin of weight x (max cosine to the chosen) - bonus, ties to the lower row, all cosines in float64."""
    exact = vectors.astype(np.float64)
    nearest, chosen = exact @ exact[first], [first]
    while len(chosen) < budget:
        penalty = weight * nearest - bonus
        penalty[chosen] = np.inf
        chosen.append(int(np.flatnonzero(penalty <= penalty.min() + 1e-12)[0]))
        nearest = np.maximum(nearest, exact @ exact[chosen[-1]])
    return chosen


@pytest.mark.parametrize("pool", [16, 100, 5000])
def test_k_center_equals_the_definition_whatever_the_pool(pool: int) -> None:
    vectors = lumpy(1500)
    found = k_center(Matrix(vectors), 300, 7, Sizes(pool, rows=33, centres=50))
    wanted = greedy_oracle(vectors, 300, 7, np.zeros(1500), 1.0)
    assert found.chosen.tolist() == wanted
    distance = 1 - (vectors.astype(np.float64) @ vectors[wanted].T.astype(np.float64)).max(axis=1)
    assert found.figures["radius"] == pytest.approx(np.delete(distance, wanted).max(), abs=1e-9)


def test_k_center_reads_float16_and_a_part_of_a_matrix_as_it_stands() -> None:
    vectors = lumpy(800).astype(np.float16)
    rows = np.sort(np.random.default_rng(1).permutation(800)[:500])
    found = k_center(Matrix(vectors, rows), 60, first=0)
    assert found.chosen.tolist() == greedy_oracle(vectors[rows].astype(np.float32), 60, 0, np.zeros(500), 1.0)


def test_every_row_has_a_chosen_one_within_the_radius() -> None:
    vectors = lumpy(3000)
    found = k_center(Matrix(vectors), 100)
    distance = 1 - np.einsum("ij,ij->i", vectors, vectors[found.stand_in])
    assert distance.max() <= found.figures["radius"] + 1e-6
    assert set(found.stand_in.tolist()) <= set(found.chosen.tolist())
    assert (found.stand_in[found.chosen] == found.chosen).all()
    assert np.isnan(found.worth[0])
    assert (np.diff(found.worth[1:]) <= 1e-9).all()


def test_the_radius_is_within_twice_the_best() -> None:
    vectors = unit(np.random.default_rng(6).normal(size=(14, 3)))

    def radius(centres: tuple[int, ...]) -> float:
        return float(np.linalg.norm(vectors[:, None] - vectors[list(centres)][None], axis=2).min(axis=1).max())

    chosen = tuple(k_center(Matrix(vectors), 4).chosen.tolist())
    best = min(radius(centres) for centres in combinations(range(14), 4))
    assert best <= radius(chosen) <= 2 * best


def test_the_first_is_the_row_nearest_to_the_mean() -> None:
    vectors = lumpy(400)
    assert k_center(Matrix(vectors), 1).chosen.tolist() == [int(np.argmax(vectors @ vectors.mean(axis=0)))]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_budget_beyond_the_rows_takes_all_even_copies(rows: int) -> None:
    found = k_center(Matrix(unit(np.ones((rows, 4)))), 9)
    assert sorted(found.chosen.tolist()) == list(range(rows))
    assert found.figures["radius"] == 0


@pytest.mark.parametrize("trade", [0.2, 0.7])
def test_mmr_equals_the_definition(trade: float) -> None:
    vectors = lumpy(6000, dim=8)
    quality = np.random.default_rng(2).random(6000)
    found = mmr(Matrix(vectors), 200, quality, trade)
    first = int(np.argmax(quality))
    wanted = greedy_oracle(vectors, 200, first, trade * quality, 1 - trade)
    assert found.chosen.tolist() == wanted
    exact = vectors.astype(np.float64)
    last = trade * quality[wanted[-1]] - (1 - trade) * (exact[wanted[:-1]] @ exact[wanted[-1]]).max()
    assert found.worth[-1] == pytest.approx(last)
    assert found.worth[0] == pytest.approx(trade * quality[first])
