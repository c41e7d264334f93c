"""Intervals hold the truth as often as they say, and tests give the values of textbooks."""

import numpy as np
import pytest

from gristmill.training.evaluate import statistics
from tests.proof import intervals


@pytest.mark.parametrize("scenario", intervals.SCENARIOS)
def test_intervals_hold_the_truth_in_95_of_100_drawn_comparisons(scenario: str) -> None:
    """In small; `make proof` has the whole. 200 trials err by 0.03 (two standard errors)."""
    for count in (10, 40):
        found = intervals.coverage(scenario, count, trials=200, draws=200)
        assert 0.89 <= found["covered"] <= 0.99, (count, found)
        assert found["equal models told apart"] <= 0.1, (count, found)


def test_rows_of_one_family_taken_for_separate_ones_make_intervals_too_narrow() -> None:
    found = intervals.coverage("augmented", 40, trials=200, draws=200)
    assert found["covered by rows"] < 0.85 < found["covered"]


def test_an_interval_of_few_families_is_students() -> None:
    """By hand: values 1, 2, 3, 6 of equal weight have the mean 3 and the standard error sqrt(14 / 3) / 2."""
    found = statistics.interval(np.array([1.0, 2, 3, 6]), np.ones(4), draws=10, seed=0)
    assert (found.kind, found.families, found.value) == ("student", 4, 3)
    assert found.error == pytest.approx((14 / 3) ** 0.5 / 2)
    assert found.high is not None
    assert found.high - 3 == pytest.approx(
        3.182446 * (14 / 3) ** 0.5 / 2, abs=1e-5
    )  # Student's t, 3 degrees of freedom


def test_one_large_family_among_small_ones_widens_students_interval() -> None:
    values, even, uneven = np.array([1.0, 2, 3, 6]), np.ones(4), np.array([1.0, 1, 1, 97])
    wide, narrow = (statistics.interval(values * size, size, draws=10, seed=0) for size in (uneven, even))
    assert wide.error is not None
    assert narrow.error is not None
    assert (wide.high - wide.value) / wide.error > 2 * (narrow.high - narrow.value) / narrow.error  # type: ignore[operator]


def test_one_family_has_no_interval() -> None:
    found = statistics.interval(np.array([-3.0]), np.array([2.0]), draws=10, seed=0)
    assert (found.value, found.low, found.high, found.kind, found.differs) == (-1.5, None, None, "none", False)


def test_equal_scores_differ_by_nothing() -> None:
    for count in (5, 50):
        found = statistics.interval(np.zeros(count), np.ones(count), draws=50, seed=0)
        assert (found.low, found.high, found.differs) == (0, 0, False)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert statistics.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert statistics.mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 512)
    assert statistics.mcnemar(3, 3) == 1
    assert statistics.mcnemar(0, 0) == 1
    assert statistics.mcnemar(40_000, 60_000) < 1e-100


def test_holm_gives_the_values_of_its_paper() -> None:
    """By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then no less than the one before."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []
    assert statistics.holm([0.6, 0.7]) == [1, 1]


def test_power_says_what_can_be_seen_and_how_many_families_it_takes() -> None:
    """(1.96 + 0.84) standard errors; a tenth of the effect takes a hundred times the families."""
    assert statistics.detectable(0.1) == pytest.approx(0.28, abs=1e-3)
    found = statistics.Interval(0.0, -0.2, 0.2, "bootstrap", 100, 0.1)
    assert statistics.families_needed(found, statistics.detectable(0.1)) == pytest.approx(100, abs=1)
    assert statistics.families_needed(found, statistics.detectable(0.1) / 10) == pytest.approx(10_000, abs=1)
    assert statistics.families_needed(statistics.interval(np.ones(1), np.ones(1), draws=1, seed=0), 0.1) is None


def test_a_p_value_is_below_5_percent_exactly_where_the_interval_leaves_out_0() -> None:
    rng = np.random.default_rng(7)
    for count in (8, 40):
        agreed = [
            (found.p is not None and found.p < 0.05) == found.differs
            for found in (
                statistics.interval(rng.normal(shift, 1, count), np.ones(count), draws=400, seed=n)
                for n, shift in enumerate(np.linspace(0, 1, 60))
            )
        ]
        assert sum(agreed) >= 58, "one draw may be exactly at the border"
    assert statistics.interval(np.zeros(30), np.ones(30), draws=99, seed=0).p == 1
    assert statistics.interval(np.ones(30), np.ones(30), draws=99, seed=0).p == 0.01, "no draw is as far: 1 / 100"
    assert statistics.interval(np.array([1.0, 2, 3, 6]), np.ones(4), draws=1, seed=0).p == pytest.approx(
        0.0687, abs=1e-3
    )


def test_items_needed_are_those_of_the_usual_formula() -> None:
    """By hand: (1.96 + 0.8416)^2 / 0.05^2 = 3,139.6 items of variance 1."""
    assert statistics.items_needed(0.05, 0.3) == pytest.approx(3139.6 * (0.3 - 0.0025), abs=1)
    assert statistics.items_needed(0.05, 0.0) == pytest.approx(3139.6 * (0.05 - 0.0025), abs=1)
