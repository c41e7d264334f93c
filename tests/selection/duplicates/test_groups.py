"""Who of a group stays: the greedy rule against a loop written from its words, and groups of equal keys."""

import numpy as np
import pytest

from gristmill.selection.duplicates import groups


def pairs(*edges: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, weight = zip(*edges, strict=True) if edges else ((), (), ())
    return np.array(left, np.int64), np.array(right, np.int64), np.array(weight, np.float32)


def by_the_words(order: list[int], edges: list[tuple[int, int, float]]) -> list[int]:
    """The rule as it stands in the docstring: over all kept rows, for every row."""
    lost = [-1] * len(order)
    kept: list[int] = []
    for row in order:
        near = [(w, -order.index(k), k) for k in kept for a, b, w in edges if {a, b} == {row, k}]
        if near:
            lost[row] = max(near)[2]
        else:
            kept.append(row)
    return lost


def test_the_middle_of_a_chain_goes_alone_when_an_end_is_best() -> None:
    left, right, weight = pairs((0, 1, 0.9), (1, 2, 0.8))
    assert groups.greedy(np.array([0, 1, 2]), left, right, weight).tolist() == [-1, 0, -1]
    assert groups.greedy(np.array([1, 0, 2]), left, right, weight).tolist() == [1, -1, 1]


def test_a_row_loses_to_the_nearest_of_those_that_stay_and_to_the_first_among_equals() -> None:
    left, right, weight = pairs((0, 2, 0.7), (1, 2, 0.9))
    assert groups.greedy(np.array([0, 1, 2]), left, right, weight).tolist() == [-1, -1, 1]
    left, right, weight = pairs((2, 0, 0.7), (1, 2, 0.7))
    assert groups.greedy(np.array([1, 0, 2]), left, right, weight).tolist() == [-1, -1, 1]


def test_pairs_may_repeat_and_a_pair_of_a_row_with_itself_says_nothing() -> None:
    left, right, weight = pairs((0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.5), (0, 1, 0.5))
    assert groups.greedy(np.array([1, 0]), left, right, weight).tolist() == [1, -1]


def test_without_rows_or_pairs_nothing_goes() -> None:
    left, right, weight = pairs()
    assert groups.greedy(np.empty(0, np.int64), left, right, weight).tolist() == []
    assert groups.greedy(np.arange(3), left, right, weight).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("seed", range(20))
def test_greedy_equals_the_rule_in_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 40))
    order = rng.permutation(num)
    edges = [
        (int(a), int(b), float(np.float32(w)))
        for a, b, w in zip(*rng.integers(0, num, (2, 3 * num)), rng.choice([0.5, 0.75, 1.0], 3 * num), strict=True)
        if a != b
    ]
    found = groups.greedy(order, *pairs(*edges))
    assert found.tolist() == by_the_words(order.tolist(), edges)


def test_the_best_of_equal_keys_stands_for_the_others() -> None:
    high = np.array([7, 7, 9, 7, 9], np.uint64)
    low = np.array([1, 1, 1, 2, 1], np.uint64)
    assert groups.first(np.array([4, 3, 1, 0, 2]), high, low).tolist() == [1, -1, 4, -1, -1]
    assert groups.first(np.empty(0, np.int64), high[:0], low[:0]).tolist() == []


def test_keys_that_fall_into_one_slot_are_told_apart() -> None:
    high = (np.arange(50, dtype=np.uint64) % np.uint64(5)) << np.uint64(40)  # equal low bits: one long probe
    found = groups.first(np.arange(50), high, np.zeros(50, np.uint64))
    assert found.tolist() == [-1] * 5 + [row % 5 for row in range(5, 50)]
