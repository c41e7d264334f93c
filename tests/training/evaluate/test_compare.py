"""Models are compared item by item, and families of items are the observations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gristmill.training.evaluate.scorers.contract import OWN, Judgement
from gristmill.training.evaluate.suites import compare
from gristmill.training.evaluate.suites.freeze import Suite
from tests.training.evaluate.items import gathered_of, item
from tests.training.evaluate.test_scorers import scorer

DRAWS = compare.Draws(200, 0)


def a_suite(count: int, name: str = "mine", families: Sequence[int] | None = None, **settings: Any) -> Suite:
    made = tuple(item(f"question {n}", "a") for n in range(count))
    kin = np.array(families if families is not None else range(count), np.int64)
    return Suite(name, "suite-1", scorer("exact_match", **settings), made, kin, {})


def compared(suites: Sequence[Suite], *values: Sequence[Sequence[float]]) -> Any:
    """Compare models: for each its values in each suite."""
    names = ["base", "tuned", "other"][: len(values)]
    scores = {
        (name, suite.name): {one.id: {OWN: Judgement(float(v))} for one, v in zip(suite.items, mine, strict=True)}
        for name, each in zip(names, values, strict=True)
        for suite, mine in zip(suites, each, strict=True)
    }
    return compare.compare(suites, names, gathered_of(suites, scores), {}, DRAWS)


def test_right_and_wrong_answers_are_compared_by_mcnemar_and_adjusted_over_suites() -> None:
    """By hand: 8 of 9 that changed got better, p = 2 (1 + 9) / 512; the other suite's p = 1; Holm doubles the first."""
    before, after = [0] * 9 + [1] * 21, [1] * 8 + [0] + [1] * 20 + [0]
    suites = [a_suite(30, "first"), a_suite(30, "second")]
    first, second = compared(suites, [before, before], [after, before])
    tuned = first.models[1]
    assert (tuned.better, tuned.worse, tuned.verdict) == (8, 1, "no difference shown")
    assert tuned.p == pytest.approx(20 / 512)
    assert tuned.p_adjusted == pytest.approx(40 / 512)
    assert (second.models[1].p, second.models[1].p_adjusted) == (1, 1)
    [alone] = compared(suites[:1], [before], [after])
    assert (alone.models[1].p_adjusted, alone.models[1].verdict) == (pytest.approx(20 / 512), "better")
    assert alone.models[0].verdict == "" and alone.models[0].difference is None


def test_families_that_all_change_alike_show_no_more_than_their_signs() -> None:
    """By hand: 4 of 4 better has p = 2 / 16, though nothing varies; an interval would be a point, so there is none."""
    [found] = compared([a_suite(4)], [[0.5] * 4], [[1.0] * 4])
    tuned = found.models[1]
    assert (tuned.p, tuned.verdict, tuned.ci_low, tuned.ci_high) == (0.125, "no difference shown", None, None)
    assert (tuned.value, tuned.low) == (1, None)
    [kin] = compared([a_suite(8, families=[0, 0, 1, 1, 2, 2, 3, 3])], [[0.0] * 8], [[1.0] * 8])
    assert kin.models[1].p == 0.125


def test_an_interval_of_shares_ends_where_shares_do() -> None:
    [found] = compared([a_suite(3)], [[0, 0, 1]], [[0, 1, 1]])
    assert (found.models[0].low, found.models[0].high) == (0, 1)
    assert (found.models[1].ci_low or 0) >= -1 and (found.models[1].ci_high or 0) <= 1


def test_kin_are_one_observation() -> None:
    families = [n // 6 for n in range(36)]
    before, after = [0] * 36, [1] * 24 + [0] * 12
    [single] = compared([a_suite(36)], [before], [after])
    [kin] = compared([a_suite(36, families=families)], [before], [after])
    assert (single.families, kin.families) == (36, 6)
    assert single.models[1].p < 1e-6
    assert kin.models[1].p > 0.01


def test_a_suite_that_is_too_small_for_its_effect_says_so_with_the_number_needed() -> None:
    before = [0, 1] * 20
    after = [1, 1, 0, 0] * 10
    [found] = compared([a_suite(40, effect=0.1)], [before], [after])
    tuned = found.models[1]
    assert tuned.needed is not None and tuned.needed > 40
    assert f"about {tuned.needed:,} are needed" in found.undecided and "40 families" in found.undecided
    [same] = compared([a_suite(40, effect=0.1)], [before], [before])
    assert same.models[1].needed is not None, "no item differs, yet up to 3 in 40 may"
    [coarse] = compared([a_suite(40, effect=0.6)], [before], [after])
    assert coarse.undecided == ""


def test_two_equal_models_show_no_difference_in_95_of_100_comparisons() -> None:
    """300 trials of two suites err by 0.025 (two standard errors); over 600 with 1,000 draws it was 5.2 %."""
    rng = np.random.default_rng(11)
    suites = [a_suite(60, "first"), a_suite(60, "second", [n // 2 for n in range(60)])]
    told_apart = 0
    for _ in range(300):
        drawn = [[(rng.random(60) < 0.6).astype(int).tolist() for _ in suites] for _ in range(2)]
        told_apart += any(suite.models[1].verdict != "no difference shown" for suite in compared(suites, *drawn))
    assert told_apart / 300 <= 0.075


def test_a_better_model_is_found_in_a_suite_that_is_large_enough() -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(50):
        before = (rng.random(300) < 0.5).astype(int)
        after = np.where(rng.random(300) < 0.25, 1, before)
        [suite] = compared([a_suite(300)], [before.tolist()], [after.tolist()])
        found += suite.models[1].verdict == "better"
    assert found == 50
