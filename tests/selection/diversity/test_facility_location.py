"""Facility location and DPP against their formulas, by trying every row at every turn."""

from collections.abc import Callable

import numpy as np
import pytest

from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.blocks import GRID, BlockChoice, blocks, merge_choices
from gristmill.selection.diversity.dpp import WIDTH, dpp
from gristmill.selection.diversity.facility_location import facility_location
from tests.selection.diversity.test_k_center import lumpy
from tests.selection.made import unit


def coverage(vectors: Float32, chosen: list[int]) -> float:
    """The mean over all rows of the cosine to their nearest chosen row."""
    return float(np.clip(vectors @ vectors[chosen].T, 0, 1).max(axis=1).mean(dtype=np.float64))


def cover_oracle(vectors: Float32, budget: int, quality: np.ndarray, trade: float) -> list[int]:
    """Greedy on (1 - trade) x mean coverage + trade x mean quality, every gain computed anew at every turn."""
    rounded = np.rint(vectors * np.float32(GRID)).astype(np.float64) / GRID
    cosines = np.clip(rounded @ rounded.T, 0, 1)
    nearest = np.zeros(len(vectors))
    chosen: list[int] = []
    for _ in range(budget):
        gain = (1 - trade) / len(vectors) * np.maximum(cosines - nearest, 0).sum(axis=1) + trade / budget * quality
        gain[chosen] = -np.inf
        chosen.append(int(np.flatnonzero(gain >= gain.max() - 1e-9)[0]))
        nearest = np.maximum(nearest, cosines[chosen[-1]])
    return chosen


@pytest.mark.parametrize("trade", [0.0, 0.4])
def test_facility_location_equals_the_definition_in_one_block(trade: float) -> None:
    vectors = lumpy(700)
    quality = np.random.default_rng(5).random(700)
    found = facility_location(Matrix(vectors), 40, seed=1, quality=quality, trade=trade)
    wanted = cover_oracle(vectors, 40, quality, trade)
    assert found.chosen.tolist() == wanted
    assert found.figures["facility_location"] == pytest.approx(coverage(vectors, wanted), abs=1e-4)
    cosines = np.clip(vectors @ vectors[wanted].T, 0, 1)
    assert found.stand_in.tolist() == [wanted[place] for place in _nearest(cosines, found.stand_in, wanted)]
    assert (np.diff(found.worth) <= 0).all()


def _nearest(cosines: np.ndarray, said: np.ndarray, chosen: list[int]) -> list[int]:
    """The place of the nearest chosen row; what was said where that is as near."""
    place = {row: n for n, row in enumerate(chosen)}
    return [
        place[int(row)] if cosines[n, place[int(row)]] >= cosines[n].max() - 1e-3 else int(cosines[n].argmax())
        for n, row in enumerate(said)
    ]


def test_facility_location_in_blocks_comes_close_to_the_definition() -> None:
    vectors = lumpy(1500, dim=16)
    found = facility_location(Matrix(vectors), 60, seed=1, block_rows=400)
    whole = coverage(vectors, cover_oracle(vectors, 60, np.zeros(len(vectors)), 0.0))
    chance = coverage(vectors, np.random.default_rng(0).permutation(len(vectors))[:60].tolist())
    assert found.figures["blocks"] > 1
    assert coverage(vectors, found.chosen.tolist()) > whole - 0.15 * (whole - chance)


def test_facility_location_takes_one_of_each_planted_group_and_no_stranger() -> None:
    rng = np.random.default_rng(7)
    groups = np.repeat(np.eye(8, 16), 30, axis=0) + rng.normal(size=(240, 16)) * 0.1
    found = facility_location(Matrix(unit(np.concatenate([groups, np.eye(16)[8:]]))), 8, seed=0)
    assert sorted(row // 30 for row in found.chosen.tolist()) == list(range(8))


def log_det_oracle(vectors: Float32, budget: int, quality: np.ndarray, trade: float) -> list[int]:
    """Greedy on trade x sum of quality + (1 - trade) x log det, every determinant computed anew."""
    exact = vectors.astype(np.float64)
    kernel = np.exp((np.minimum(exact @ exact.T, 1) - 1) / WIDTH)
    chosen: list[int] = []
    for _ in range(budget):
        value = np.full(len(vectors), -np.inf)
        for row in set(range(len(vectors))) - set(chosen):
            some = [*chosen, row]
            sign, log_det = np.linalg.slogdet(kernel[np.ix_(some, some)])
            if sign > 0:
                value[row] = trade * quality[some].sum() + (1 - trade) * log_det
        chosen.append(int(np.flatnonzero(value >= value.max() - 1e-9)[0]))
    return chosen


@pytest.mark.parametrize("trade", [0.0, 0.6])
def test_dpp_equals_the_definition_in_one_block(trade: float) -> None:
    vectors = unit(np.random.default_rng(8).normal(size=(120, 5)))
    quality = np.random.default_rng(9).random(120)
    found = dpp(Matrix(vectors), 12, seed=0, quality=quality, trade=trade)
    assert found.chosen.tolist() == log_det_oracle(vectors, 12, quality, trade)
    some = vectors[found.chosen].astype(np.float64)
    log_det = np.linalg.slogdet(np.exp((np.minimum(some @ some.T, 1) - 1) / WIDTH))[1]
    assert found.figures["log_det"] == pytest.approx(log_det, abs=1e-4)


def test_dpp_chooses_more_rows_than_the_vectors_have_dimensions_and_copies_last() -> None:
    vectors = unit(np.random.default_rng(8).normal(size=(60, 4)))
    vectors[30:] = vectors[:30]
    found = dpp(Matrix(vectors), 40, seed=0)
    assert len(set(found.chosen.tolist())) == 40
    assert {int(row) % 30 for row in found.chosen[:30]} == set(range(30))


def test_blocks_hold_every_row_once_and_no_more_than_they_may() -> None:
    vectors = lumpy(3000)
    vectors[:900] = vectors[0]
    parts = blocks(Matrix(vectors), 3, most=200)
    assert sorted(np.concatenate(parts).tolist()) == list(range(3000))
    assert max(len(rows) for rows in parts) <= 200
    assert all((np.diff(rows) > 0).all() for rows in parts)


def test_the_merged_choice_is_the_greedy_choice_of_all() -> None:
    rng = np.random.default_rng(4)
    gains = -np.sort(-(rng.random((7, 50)) ** np.arange(1, 8)[:, None]), axis=1)  # of rows of each block, falling
    parts = [np.arange(50) + 50 * block for block in range(7)]
    asked: list[int] = []

    def choose(rows: np.ndarray, most: int) -> BlockChoice:
        asked.append(most)
        return BlockChoice(rows[:most], gains[rows[0] // 50][:most])

    for budget in (1, 60, 349, 350):
        found = merge_choices(parts, choose, budget)
        wanted = np.argsort(-gains.ravel(), kind="stable")[:budget]
        assert found.chosen.tolist() == wanted.tolist()
    assert min(asked) < 50


@pytest.mark.parametrize("method", [facility_location, dpp])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_budget_beyond_the_rows_takes_all_even_copies(method: Callable[..., Spread], rows: int) -> None:
    found = method(Matrix(unit(np.ones((rows, 4)))), 9, seed=0)
    assert sorted(found.chosen.tolist()) == list(range(rows))
    assert found.stand_in.tolist() == list(range(rows))
