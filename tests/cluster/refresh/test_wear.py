"""Suites wear out with decisions, and sooner with promotions."""

import pytest

from gristmill.cluster.refresh.registry import Decision
from gristmill.cluster.refresh.wear import warning, wear, worn


def test_the_bound_counts_histories() -> None:
    """By hand: 3 decisions with 1 promotion have 1 + 2 + 3 histories before them, each with a test of its own."""
    assert wear(3, 1, 0.01) == pytest.approx(0.06)
    assert wear(52, 0, 0.05 / 52) == pytest.approx(0.05), "what the line planned to spend"
    assert [next(n for n in range(600) if wear(n, won, 0.05 / 52) >= 0.5) for won in range(4)] == [520, 32, 15, 11]
    assert warning("facts", 31, 1, 0.05 / 52) == ""
    assert warning("facts", 32, 1, 0.05 / 52).startswith("suite facts: 32 decisions with 1 promotions were taken")


def test_decisions_on_other_items_do_not_wear_a_suite() -> None:
    def decision(number: int, dataset: str) -> Decision:
        verdict = "promote" if number % 10 == 0 else "inconclusive"
        return Decision(number, verdict, "", "train-1", {}, {}, {dataset: {}}, {}, "1")

    line = [decision(number, "input-old" if number < 20 else "input-new") for number in range(40)]
    assert list(worn(line, {"facts": "input-new"}, 0.05 / 52)) == [
        warning("facts", 20, 2, 0.05 / 52)
    ] and "20 decisions with 2 promotions" in warning("facts", 20, 2, 0.05 / 52)
    assert list(worn(line[:30], {"facts": "input-new"}, 0.05 / 52)) == []
