"""The baselines: random and longest."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Sample
from gristmill.selection.contracts import Selector
from gristmill.selection.selectors.longest import Longest
from gristmill.selection.selectors.random_ import RandomChoice
from tests.selection.made import kept_of, made, view_of

BUDGETS = [(0, 3, 0), (0, 0.5, 0), (1, 0.1, 1), (9, 4, 4), (9, 1.0, 9), (9, 99, 9)]


def samples_of(num: int) -> list[Sample]:
    return [made(f"tell me about {n}", "word " * (1 + n % 7)) for n in range(num)]


def kept(step: Selector, samples: Sequence[Sample], seed: int = 5) -> set[str]:
    view = view_of(samples)
    return kept_of(view, step.pick(view, Random(seed)))


@pytest.mark.parametrize("kind", [RandomChoice, Longest])
def test_the_order_of_the_samples_changes_nothing(kind: type[RandomChoice] | type[Longest]) -> None:
    samples = samples_of(50)
    shuffled = Random(1).sample(samples, len(samples))
    assert kept(kind(budget=0.3), samples) == kept(kind(budget=0.3), shuffled)


@pytest.mark.parametrize("kind", [RandomChoice, Longest])
@pytest.mark.parametrize(
    ("num", "budget", "expected"), [(0, 3, 0), (0, 0.5, 0), (1, 0.1, 1), (9, 4, 4), (9, 1.0, 9), (9, 99, 9)]
)
def test_the_budget_is_met_exactly(
    kind: type[RandomChoice] | type[Longest], num: int, budget: float, expected: int
) -> None:
    step = kind(budget=budget)
    assert len(kept(step, samples_of(num))) == expected == step.most(num)


def test_a_larger_random_choice_holds_the_smaller_one() -> None:
    samples = samples_of(40)
    assert kept(RandomChoice(budget=10), samples) < kept(RandomChoice(budget=25), samples)


def test_random_draws_evenly_and_other_samples_for_other_seeds() -> None:
    samples = samples_of(20)
    counts = dict.fromkeys((s.id for s in samples), 0)
    for seed in range(400):
        for name in kept(RandomChoice(budget=5), samples, seed):
            counts[name] += 1
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 60  # each is expected 100 times, with a standard deviation of 8.7
    assert max(counts.values()) < 140


def test_longest_keeps_the_longest_answers_counted_in_characters() -> None:
    samples = [made("short", "a" * 3), made("long", "b " * 40), made("中文", "好" * 50), made("middle", "c" * 20)]
    assert kept(Longest(budget=2), samples) == {samples[1].id, samples[2].id}


def test_of_equally_long_answers_the_lower_id_stays() -> None:
    samples = [made(f"same length {n}", "equal") for n in range(8)]
    assert kept(Longest(budget=3), samples) == set(sorted(s.id for s in samples)[:3])


@pytest.mark.parametrize("step", [RandomChoice(budget=2), Longest(budget=2)], ids=lambda step: step.kind)
def test_who_goes_has_a_reason(step: Selector) -> None:
    choice = step.pick(view_of(samples_of(5)), Random(1))
    assert np.bincount(choice.reason[~choice.kept]).tolist() == [3]
    assert choice.reasons == (f"{step.kind}: beyond the budget",)
