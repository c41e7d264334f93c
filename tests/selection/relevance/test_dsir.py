"""DSIR: counts and weights by the paper's formulas, and a draw whose chances are as they should be."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from gristmill.selection.relevance.dsir import BUCKETS, counts, draw, log_ratios, log_weights

TEXTS = (
    "The river is wide, and the river is deep.",
    "Sort the list of numbers!",
    "请写一首关于秋天的诗",
    "用 Python 写一个函数",
    "",
    "one",
)


def one_table(texts: Sequence[str]) -> list[tuple[np.ndarray, pa.LargeStringArray]]:
    return [(np.arange(len(texts)), pa.array(texts, pa.large_string()))]


def bag(words: Sequence[str], between: str = " ") -> np.ndarray:
    """Counts of words and pairs, each pair's bucket found by hashing it with its words and taking these away."""
    single = {word: counts(one_table([word])) for word in words}
    total = sum((single[word] for word in words), np.zeros(BUCKETS, np.int64))
    for left, right in pairwise(words):
        total = total + counts(one_table([left + between + right])) - single[left] - single[right]
    return total


def test_a_bag_holds_every_word_and_every_pair_of_neighbours() -> None:
    words = ["the", "river", "is", "wide", "and", "the", "river", "is", "deep"]
    np.testing.assert_array_equal(counts(one_table(TEXTS[:1])), bag(words))
    assert counts(one_table(TEXTS[:1])).sum() == 2 * len(words) - 1


def test_a_chinese_character_is_a_word() -> None:
    np.testing.assert_array_equal(counts(one_table([TEXTS[2]])), bag(list(TEXTS[2]), between=""))
    mixed = ["用", "python", "写", "一", "个", "函", "数"]
    np.testing.assert_array_equal(counts(one_table([TEXTS[3]])), bag(mixed))


def test_weights_are_the_formula_of_the_paper() -> None:
    """log p_target(z) - log p_raw(z), p(z) = Π γ[j]^z[j], γ the share of the bucket; with one count more each."""
    targets, samples = counts(one_table(TEXTS[2:4])), counts(one_table(TEXTS))
    gammas = [(found + 1) / (found + 1).sum() for found in (targets, samples)]
    expected = []
    for text in TEXTS:
        z = counts(one_table([text]))
        expected.append(float(z @ (np.log(gammas[0]) - np.log(gammas[1]))))
    ratios = log_ratios(targets, samples)
    found = log_weights(one_table(TEXTS), ratios, len(TEXTS))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[4] == 0
    assert min(found[2:4]) > 0 > max(found[:2])


def test_tables_in_any_cut_and_order_give_the_same() -> None:
    whole = one_table(TEXTS)
    cut = [(rows, whole[0][1].take(pa.array(rows))) for rows in (np.array([4, 1]), np.array([5, 0, 3]), np.array([2]))]
    np.testing.assert_array_equal(counts(cut), counts(whole))
    ratios = log_ratios(counts(one_table(TEXTS[:1])), counts(whole))
    np.testing.assert_array_equal(log_weights(cut, ratios, 6), log_weights(whole, ratios, 6))
    sliced = [(np.arange(3), whole[0][1].slice(2, 3))]
    np.testing.assert_array_equal(log_weights(sliced, ratios, 3), log_weights(whole, ratios, 6)[2:5])


def test_the_first_one_drawn_has_chances_by_its_weight() -> None:
    weights = np.log(np.array([1.0, 2.0, 5.0]))
    first = np.bincount([draw(weights, 1, seed)[0] for seed in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(first, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


def test_the_second_one_drawn_has_chances_among_those_that_are_left() -> None:
    weights = np.log(np.array([1.0, 2.0, 5.0]))
    pairs = [tuple(draw(weights, 2, seed)) for seed in range(4000)]
    share = np.mean([second == 1 for first, second in pairs if first == 2])
    assert share == pytest.approx(2 / 3, abs=0.04)
    assert all(first != second for first, second in pairs)


def test_a_draw_is_repeatable_and_may_ask_for_more_than_there_is() -> None:
    weights = np.zeros(50)
    np.testing.assert_array_equal(draw(weights, 10, 3), draw(weights, 10, 3))
    assert set(draw(weights, 10, 3)) != set(draw(weights, 10, 4))
    assert sorted(draw(weights, 99, 3)) == list(range(50))
    assert len(draw(np.zeros(0), 5, 0)) == 0
