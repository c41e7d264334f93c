"""DSIR: the weights and the choice of the authors' code, words of scripts without spaces, and chances of the draw."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gristmill.selection.relevance.dsir import (
    NgramWeights,
    bucket,
    by_ngram,
    choose,
    counts,
    grams,
    log_ratios,
    log_weights,
    shares,
    words,
)
from gristmill.selection.selectors.relevance import Relevance
from tests.selection.made import kept_of, made, view_of

SUBJECTS = ("The miller", "A stranger", "Our teacher", "The old river", "Nobody", "Mr. O'Neill's dog", "This engine")
VERBS = ("counts", "carries", "forgets", "repairs", "sells", "paints", "doesn't see", "asks for")
OBJECTS = (
    "twelve eggs",
    "3.5 kg of flour",
    "a broken clock",
    "her blue coat",
    "the answer (42)",
    "two maps",
    "C++ code",
)
ENDS = (", and then goes home.", "!", "; why?", " before 7:30.", " -- every day...", ".")
TEXTS = ("The river is wide.", "Sort the list!", "请写一首关于秋天的诗", "用 Python 写一个函数", "", "one")


def sentences(seed: int, num: int, subjects: int = len(SUBJECTS)) -> list[str]:
    rng = Random(seed)

    def one() -> str:
        parts = (SUBJECTS[:subjects], VERBS, OBJECTS, ENDS)
        subject, verb, thing, end = (part[int(rng.random() * len(part))] for part in parts)
        return f"{subject} {verb} {thing}{end}"

    return [" ".join(one() for _ in range(1 + int(rng.random() * 6))) for _ in range(num)]


def one_table(texts: Sequence[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def weights_of(
    texts: Sequence[str], *targets: Sequence[str], smoothing: float = 0.0, per_ngram: bool = False
) -> np.ndarray:
    usual = counts(one_table(texts))
    ratios = [log_ratios(counts(one_table(target)), usual, smoothing) for target in targets]
    weights, words_ = log_weights(np.stack(ratios, axis=1), one_table(texts))
    return by_ngram(weights, words_) if per_ngram else weights


RAW, FIRST, SECOND = sentences(1, 120), sentences(2, 6, subjects=2), sentences(3, 9, subjects=4)


@pytest.mark.parametrize(
    ("targets", "smoothing", "expected", "total"),
    [
        ((FIRST,), 0.0, [-177.557527, -325.610726, -107.221362, -340.728811, -627.694127], -29419.794195061084),
        ((FIRST,), 0.5, [-122.529734, -227.242014, -247.304913, -189.665338, -406.296307], -22504.150105858578),
        ((FIRST, SECOND), 0.0, [-177.557527, -182.115704, -325.610726, -272.912295, -107.221362], -49912.56476306908),
    ],
)
def test_weights_are_those_of_the_authors_code(
    targets: tuple[list[str], ...], smoothing: float, expected: list[float], total: float
) -> None:
    """`HashedNgramDSIR` of github.com/p-lambda/dsir at 4802a1c with nltk 3.10.4, on RAW, FIRST and SECOND as files.

    `min_example_length=0`, `target_laplace_smoothing` as here, `separate_targets` for two targets, all tokens fitted.
    """
    found = weights_of(RAW, *targets, smoothing=smoothing)
    np.testing.assert_allclose(found.ravel()[:5], expected, atol=1e-6)
    assert found.sum() == pytest.approx(total, rel=1e-12)
    assert (bucket("the river"), bucket("!")) == (6326, 6338)


@pytest.mark.parametrize(
    ("settings", "two", "expected"),
    [
        ({}, False, [8, 15, 25, 31, 34, 49, 51, 72, 79, 85, 94, 116]),
        ({"min_words": 25}, False, [2, 11, 20, 22, 29, 35, 62, 68, 76, 90, 92, 101]),
        ({"smoothing": 0.5}, False, [8, 15, 34, 49, 51, 54, 59, 72, 79, 94, 100, 116]),
        ({}, True, [7, 8, 15, 20, 49, 51, 54, 59, 72, 79, 107, 116]),
    ],
)
def test_the_samples_chosen_are_those_of_the_authors_code(
    settings: dict[str, Any], two: bool, expected: list[int]
) -> None:
    """As above, with `min_example_length` for `min_words` and `resample(num_to_sample=12, top_k=True)`: 12 of 12."""
    chosen = NgramWeights(top=True, **settings)
    targets = (FIRST, SECOND) if two else (FIRST,)
    found = weights_of(RAW, *targets, smoothing=chosen.smoothing)
    budgets = shares(12, np.array([counts(one_table(target)).sum() for target in targets]))
    allowed = grams(RAW).words >= chosen.min_words
    assert sorted(choose(found, budgets, allowed, None).tolist()) == expected


def test_per_n_gram_length_decides_nothing() -> None:
    """The authors' weights over the number of n-grams, on the scale of a sample of mean length."""
    plain, per_ngram = weights_of(RAW, FIRST), weights_of(RAW, FIRST, per_ngram=True)
    many = 2 * grams(RAW).words - 1
    np.testing.assert_allclose(per_ngram[:, 0], plain[:, 0] / many * many.mean(), rtol=1e-12)
    assert abs(np.corrcoef(plain[:, 0], many)[0, 1]) > 0.8
    assert abs(np.corrcoef(per_ngram[:, 0], many)[0, 1]) < 0.4


def test_words_are_runs_of_letters_and_of_signs_and_single_characters_where_there_are_no_spaces() -> None:
    said = ["mr", ".", "o", "'", "neill", "'", "s", "3", ".", "5", "kg_x", "--", "é", "!"]
    assert words("Mr. O'Neill's 3.5 kg_x -- É!") == said
    assert words("用 Python写，好") == ["用", "python", "写", "，", "好"]
    found = grams(["a b", "", "写诗"])
    assert found.rows.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.words.tolist() == [2, 0, 2]
    assert found.buckets.tolist() == [bucket(g) for g in ("a", "b", "a b", "写", "诗", "写 诗")]


def test_tables_in_any_cut_give_the_same() -> None:
    whole = one_table(TEXTS)
    cut = [whole.slice(0, 1), whole.slice(1, 3), whole.slice(4)]
    np.testing.assert_array_equal(sum(map(counts, cut)), counts(whole))
    ratios = log_ratios(counts(one_table(TEXTS[:1])), counts(whole))[:, None]
    for found, expected in zip(
        zip(*(log_weights(ratios, some) for some in cut), strict=True), log_weights(ratios, whole), strict=True
    ):
        np.testing.assert_array_equal(np.concatenate(found), expected)
    assert log_weights(ratios, whole)[0][4] == 0


def drawn(weights: np.ndarray, budget: int, seed: int) -> list[int]:
    return [int(row) for row in choose(weights[:, None], [budget], np.ones(len(weights), np.bool_), seed)]


def test_the_first_one_drawn_has_chances_by_its_weight() -> None:
    weights = np.log(np.array([1.0, 2.0, 5.0]))
    first = np.bincount([drawn(weights, 1, seed)[0] for seed in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(first, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


def test_the_second_one_drawn_has_chances_among_those_that_are_left() -> None:
    weights = np.log(np.array([1.0, 2.0, 5.0]))
    pairs = [drawn(weights, 2, seed) for seed in range(4000)]
    share = np.mean([second == 1 for first, second in pairs if first == 2])
    assert share == pytest.approx(2 / 3, abs=0.04)
    assert all(first != second for first, second in pairs)


def test_a_draw_is_repeatable_and_may_ask_for_more_than_there_is() -> None:
    weights = np.zeros(50)
    assert drawn(weights, 10, 3) == drawn(weights, 10, 3)
    assert set(drawn(weights, 10, 3)) != set(drawn(weights, 10, 4))
    assert sorted(drawn(weights, 99, 3)) == list(range(50))
    assert drawn(np.zeros(0), 5, 0) == []


def test_samples_that_are_too_short_have_no_score_and_a_reason_of_their_own() -> None:
    view = view_of([made(text) for text in RAW], targets=view_of([made(text) for text in FIRST]))
    step = Relevance.model_validate(
        {"targets": "t.jsonl", "method": "dsir", "budget": 110, "dsir": {"min_words": 25, "top": True}}
    )
    choice = step.pick(view, Random(0))
    short = np.isnan(choice.scores["relevance"])
    assert 0 < short.sum() == 120 - len(kept_of(view, choice))
    assert {choice.reasons[r] for r in choice.reason[short]} == {"relevance: shorter than min_words"}
    assert step.fingerprint() != step.model_copy(update={"dsir": NgramWeights()}).fingerprint()
