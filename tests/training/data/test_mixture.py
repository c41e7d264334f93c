"""Shares, epochs and stages of a mixture, with values worked out by hand."""

import numpy as np
import pytest

from gristmill.training.data import mixture
from gristmill.training.data.mixture import Group
from gristmill.training.optim.schedule import global_batch


def test_whole_numbers_add_up_and_are_nearest_to_the_shares() -> None:
    assert mixture.apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert mixture.apportion(7, [0.5, 0.25, 0.25]) == [3, 2, 2]
    assert mixture.apportion(100, [1, 99]) == [1, 99]


@pytest.mark.parametrize(
    ("rows", "weights", "temperature", "replay", "wanted"),
    [
        ([80, 20], [1, 1], 1, 0, [80, 20]),  # every row once
        ([80, 20], [1, 4], 1, 0, [50, 50]),
        ([81, 1], [1, 1], 2, 0, [74, 8]),  # roots 9 to 1
        ([60, 30, 10], [1, 1, 1], 1e9, 0, [34, 33, 33]),
        ([80, 50], [1], 1, 0.2, [80, 20]),  # 20 of 100
        ([80, 20, 5], [1, 1], 1, 0.5, [80, 20, 100]),
        ([1000, 1], [1, 0.001], 1, 0, [1001, 1]),  # no dataset is left out
    ],
)
def test_an_epoch_takes_rows_by_weight_size_and_temperature(
    rows: list[int], weights: list[float], temperature: float, replay: float, wanted: list[int]
) -> None:
    assert mixture.taken(rows, weights, temperature, replay) == wanted


@pytest.mark.parametrize(
    ("rows", "replay", "least", "wanted"),
    [
        ([90, 10], 0.0, [0, 0.2], [80, 20]),
        ([90, 10], 0.0, [0, 0.05], [90, 10]),  # it has more than that
        ([90, 10, 5], 0.2, [0, 0.2], [75, 25, 25]),  # 25 of 125
        ([80, 20, 0], 0.0, [0, 0.5, 0.3], [50, 50, 0]),  # no rows, no share
        ([98, 1, 1], 0.0, [0, 0.3, 0.3], [40, 30, 30]),
        ([1, 40, 59], 0.0, [0.5, 0, 0.4], [50, 10, 40]),  # the last is too small after the first is raised
    ],
)
def test_a_dataset_is_repeated_up_to_its_smallest_share(
    rows: list[int], replay: float, least: list[float], wanted: list[int]
) -> None:
    weights = [1.0] * len(least)
    assert mixture.taken(rows, weights, 1, replay, least) == wanted


def test_one_dataset_is_read_as_it_always_was() -> None:
    one = (Group(0, 0, 10, 10),)
    for number in range(7):
        old = global_batch(number, seed=3, groups=10, batch=4)
        assert global_batch(number, seed=3, groups=one, batch=4).tolist() == old.tolist()


def test_epochs_take_their_shares_and_use_every_row_before_any_row_again() -> None:
    found = mixture.groups([[30], [12], [5]], [15, 12, 10])
    epochs = [mixture.epoch(0, n, found) for n in range(4)]
    for rows in epochs:
        assert [int(((rows >= a) & (rows < b)).sum()) for a, b in ((0, 30), (30, 42), (42, 47))] == [15, 12, 10]
    two = np.concatenate(epochs[:2])
    assert sorted(two[two < 30].tolist()) == list(range(30)), "two halves are the whole"
    assert np.unique(epochs[0][epochs[0] >= 42], return_counts=True)[1].tolist() == [2] * 5
    assert epochs[0].tolist() != epochs[2].tolist()
    assert (np.diff(epochs[0] >= 30) != 0).sum() > 4, "datasets are mixed"
    stream = np.concatenate([global_batch(n, seed=0, groups=found, batch=5) for n in range(15)])
    assert stream[:74].tolist() == np.concatenate(epochs[:2]).tolist()


def test_stages_follow_each_other_in_every_epoch_and_mix_the_datasets() -> None:
    found = mixture.groups([[6, 6], [2, 2]], [12, 4])
    assert [group.taken for group in found] == [6, 6, 2, 2]
    for number in range(3):
        rows = mixture.epoch(0, number, found)
        assert set(rows[:8].tolist()) == {0, 1, 2, 3, 4, 5, 12, 13}
        assert set(rows[8:].tolist()) == {6, 7, 8, 9, 10, 11, 14, 15}


def test_samples_are_put_into_stages_by_their_score() -> None:
    scores = np.array([5.0, 1.0, np.nan, 3.0, 3.0, 0.0])
    assert mixture.stages(scores, 2, descending=False).tolist() == [1, 0, 1, 0, 1, 0]
    assert mixture.stages(scores, 3, descending=True).tolist() == [0, 1, 2, 0, 1, 2]
    assert mixture.stages(np.full(2, np.nan), 3, descending=False).tolist() == [2, 2]
