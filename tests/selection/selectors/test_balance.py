"""Balance and its quotas: exact budgets, largest remainders, turns, floors and ceilings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.selection.diversity.quota import allocate, first_of_groups, largest_remainder, powers
from gristmill.selection.selectors.balance import Balance, evenness
from tests.selection.made import kept_of, made, view_of


def labelled(**sizes: int) -> list[Sample]:
    """Samples by label; those of `_` have none."""
    return [
        replace(made(f"{label} number {n}", judge=float(n % 5)), tags={} if label == "_" else {"label": label})
        for label, size in sizes.items()
        for n in range(size)
    ]


def counts(step: Balance, samples: Sequence[Sample]) -> dict[str, int]:
    """How many samples of each label stay."""
    view = view_of(samples)
    names = kept_of(view, step.pick(view, Random(0)))
    return dict(Counter(s.tags.get("label", "_") for s in samples if s.id in names))


def hamilton(weights: Sequence[int], total: int) -> list[int]:
    """Largest remainders in fractions, ties to the earlier."""
    exact = [Fraction(w * total, sum(weights)) for w in weights]
    whole = [int(e) for e in exact]
    for n in sorted(range(len(weights)), key=lambda n: (whole[n] - exact[n], n))[: total - sum(whole)]:
        whole[n] += 1
    return whole


def turns(sizes: Sequence[int], budget: int) -> list[int]:
    """Round robin: one of each group that has any left, again and again."""
    given = [0] * len(sizes)
    while sum(given) < min(budget, sum(sizes)):
        for group, size in enumerate(sizes):
            if given[group] < size and sum(given) < budget:
                given[group] += 1
    return given


def test_shares_become_whole_by_largest_remainders() -> None:
    rng = Random(4)
    for _ in range(200):
        weights = [rng.randint(1, 50) for _ in range(rng.randint(1, 9))]
        total = rng.randint(1, 10**5)
        bounds = np.zeros(len(weights), np.int64), np.full(len(weights), 10**6)
        assert allocate(np.array(weights, float), bounds, total).tolist() == hamilton(weights, total)


def test_equal_weights_are_turns() -> None:
    rng = Random(5)
    for _ in range(200):
        sizes = np.array([rng.randint(0, 40) for _ in range(rng.randint(1, 12))], np.int64)
        budget = rng.randint(0, 300)
        found = allocate(powers(sizes, 0.0), (np.zeros_like(sizes), sizes), budget)
        assert found.tolist() == turns(sizes.tolist(), budget)


def test_bounds_hold_and_the_sum_is_exact_whatever_the_weights() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        num = int(rng.integers(1, 30))
        upper = rng.integers(0, 1000, num)
        lower = np.minimum(upper, rng.integers(0, 20, num))
        weights = np.where(rng.random(num) < 0.3, 0, rng.random(num) ** 8)
        budget = int(rng.integers(lower.sum(), upper.sum() + 50))
        found = allocate(weights, (lower, upper), budget)
        assert found.sum() == min(budget, upper.sum())
        assert (found >= lower).all()
        assert (found <= upper).all()
        spare = (weights == 0) & (found > lower)
        assert not spare.any() or (found == upper)[weights > 0].all()


def test_the_temperature_is_that_of_the_papers() -> None:
    sizes = np.array([10_000, 1_000, 10], np.int64)
    shares = np.array([10_000**0.3, 1_000**0.3, 10**0.3])
    found = allocate(powers(sizes, 0.3), (np.zeros_like(sizes), np.full(3, 10**6)), 1000)
    assert found.tolist() == largest_remainder(1000 * shares / shares.sum(), 1000).tolist()
    assert found.tolist() == [615, 308, 77]


def test_each_label_gets_the_same_and_what_a_short_one_lacks_goes_to_the_others() -> None:
    samples = labelled(a=100, b=40, c=3)
    assert counts(Balance(by="label", budget=33), samples) == {"a": 15, "b": 15, "c": 3}
    assert counts(Balance(by="label", budget=100), samples) == {"a": 57, "b": 40, "c": 3}
    assert counts(Balance(by="label", budget=500), samples) == {"a": 100, "b": 40, "c": 3}


def test_proportions_stay_as_they_are_with_alpha_one() -> None:
    assert counts(Balance(by="label", budget=20, alpha=1.0), labelled(a=60, b=30, c=10)) == {"a": 12, "b": 6, "c": 2}


def test_quotas_name_shares_and_a_star_shares_out_the_rest() -> None:
    samples = labelled(a=50, b=50, c=50, d=50)
    step = Balance(by="label", budget=40, quotas={"a": 0.5, "b": 0.25, "*": 0.25})
    assert counts(step, samples) == {"a": 20, "b": 10, "c": 5, "d": 5}
    assert counts(Balance(by="label", budget=30, quotas={"a": 20, "b": 10}), samples) == {"a": 20, "b": 10}


def test_groups_without_a_quota_fill_what_the_named_ones_lack() -> None:
    samples = labelled(a=5, b=50, c=50)
    step = Balance(by="label", budget=25, quotas={"a": 1, "fr": 3})
    assert counts(step, samples) == {"a": 5, "b": 10, "c": 10}
    assert step.pick(view_of(samples), Random(0)).figures["no_samples"] == "fr"


def test_samples_without_the_tag_are_a_group_of_their_own() -> None:
    samples = labelled(a=10, _=10)
    assert counts(Balance(by="label", budget=6), samples) == {"a": 3, "_": 3}
    assert counts(Balance(by="label", budget=6, quotas={"a": 2, "": 1}), samples) == {"a": 4, "_": 2}


def test_floors_lift_and_ceilings_cut() -> None:
    samples = labelled(a=90, b=8, c=2)
    assert counts(Balance(by="label", budget=20, alpha=1.0, floor=4), samples) == {"a": 14, "b": 4, "c": 2}
    assert counts(Balance(by="label", budget=20, ceiling=5), samples) == {"a": 5, "b": 5, "c": 2}


def test_the_best_of_each_group_stay() -> None:
    samples = labelled(a=20, b=20)
    view = view_of(samples)
    names = kept_of(view, Balance(by="label", budget=8).pick(view, Random(0)))
    assert {s.scores["judge"] for s in samples if s.id in names} == {4.0}


def test_the_first_of_each_group_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(2)
    group, order = rng.integers(0, 6, 200), rng.permutation(200)
    wanted = np.array([0, 3, 50, 1, 20, 7])
    left, expected = wanted.copy(), np.zeros(200, np.bool_)
    for row in order:
        expected[row] = left[group[row]] > 0
        left[group[row]] -= expected[row]
    assert np.array_equal(first_of_groups(group, order, wanted), expected)


def test_methods_are_groups_too_and_chinese_labels_are_labels() -> None:
    samples = [replace(s, method="evol") if n % 4 == 0 else s for n, s in enumerate(labelled(a=40))]
    view = view_of(samples)
    names = kept_of(view, Balance(by="method", budget=10).pick(view, Random(0)))
    assert Counter(s.method for s in samples if s.id in names) == {"evol": 5, "self_instruct": 5}
    assert counts(Balance(by="label", budget=4), labelled(数学=9, 写作=9)) == {"数学": 2, "写作": 2}


def test_the_order_of_the_samples_changes_nothing() -> None:
    samples = labelled(a=30, b=11, c=5, _=7)
    step, shuffled = Balance(by="label", budget=0.5, alpha=0.5), Random(8).sample(samples, len(samples))
    views = view_of(samples), view_of(shuffled)
    assert kept_of(views[0], step.pick(views[0], Random(0))) == kept_of(views[1], step.pick(views[1], Random(1)))


def test_nothing_and_a_single_sample_are_handled() -> None:
    assert counts(Balance(by="label", budget=3), []) == {}
    assert counts(Balance(by="label", budget=0.1), labelled(a=1)) == {"a": 1}


def test_mistakes_are_errors() -> None:
    with pytest.raises(JobError, match="no sample has the tag 'languag'"):
        counts(Balance(by="languag", budget=3), labelled(a=3))
    with pytest.raises(JobError, match="5 of each of 2 groups are 10 samples"):
        counts(Balance(by="label", budget=9, floor=5), labelled(a=6, b=6))


@pytest.mark.parametrize("wrong", [{"floor": 3, "ceiling": 2}, {"quotas": {"a": 0.0}}, {"alpha": 1.5}, {"by": ""}])
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Balance(**{"by": "label", "budget": 3, **wrong})


def test_the_figures_tell_how_even_the_groups_are() -> None:
    figures = Balance(by="label", budget=20).pick(view_of(labelled(a=90, b=10)), Random(0)).figures
    assert figures["given"] == "a 10 of 90, b 10 of 10"
    assert figures["evenness"] == 1.0
    assert figures["evenness_before"] == pytest.approx(-(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1)), abs=1e-4)
    assert evenness(np.array([7])) == 1.0
