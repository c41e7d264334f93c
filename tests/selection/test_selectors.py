"""Every selector against planted truth, brute force and permutation."""

from collections.abc import Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.errors import JobError
from cluster.sample import Sample
from selection.contracts import Choice, Float32, Selector
from selection.selectors import AnySelector
from selection.selectors.exact import Exact
from selection.selectors.k_center import KCenter, k_center
from selection.selectors.random_ import RandomChoice
from selection.selectors.semantic import Semantic, semantic
from selection.selectors.top_score import TopScore
from tests.selection.made import made, unit, view_of


def planted(rows: int = 60, seed: int = 3) -> tuple[list[Sample], Float32]:
    """Samples of which every third is a near copy of the one before it, with random judgements."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 16))
    vectors[2::3] = vectors[1::3] + rng.normal(size=vectors[2::3].shape) * 0.02
    samples = [
        made(
            f"tell me about subject {row if row % 3 < 2 else row - 1}", f"answer {row}", judge=float(rng.integers(1, 4))
        )
        for row in range(rows)
    ]
    return samples, unit(vectors)


def outcome(
    step: Selector, samples: Sequence[Sample], vectors: Float32
) -> dict[str, tuple[str | None, dict[str, float]]]:
    """What a step says of each sample by id."""
    choice = step.pick(view_of(samples, vectors), Random(5))
    return {
        s.id: (choice.reasons.get(row), {n: float(v[row]) for n, v in choice.scores.items() if not np.isnan(v[row])})
        for row, s in enumerate(samples)
    }


STEPS = [
    Exact(),
    Semantic(),
    Semantic(min_cosine=0.5, min_overlap=0, prefer=()),
    KCenter(budget=13),
    KCenter(budget=0.4, first="judge"),
    TopScore(budget=7),
    RandomChoice(budget=0.5),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
def test_the_order_of_the_rows_changes_nothing(step: Selector) -> None:
    samples, vectors = planted()
    before = outcome(step, samples, vectors)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(len(samples))
        assert outcome(step, [samples[row] for row in shuffled], vectors[shuffled]) == before
    assert any(reason for reason, _ in before.values())
    assert any(reason is None for reason, _ in before.values())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
def test_no_samples_make_no_choice(step: Selector) -> None:
    choice = step.pick(view_of([], np.empty((0, 4), np.float32)), Random(0))
    assert len(choice.kept) == 0


def test_exact_keeps_the_best_of_each_group_in_two_languages() -> None:
    low = made("Name three rivers.", "short", judge=1.0)
    high = made("name  three rivers", "also short", judge=4.0)
    zh_short, zh_long = made("列举三条河流。", "长江"), made("列举 三条河流", "长江、黄河、珠江")
    other = made("列举四条河流。", "长江")
    choice = Exact().pick(view_of([low, high, zh_short, zh_long, other]), Random(0))
    assert choice.kept.tolist() == [False, True, False, True, True]
    assert choice.reasons == {
        0: f"exact: same instruction as {high.id}",
        2: f"exact: same instruction as {zh_long.id}",
    }
    assert choice.lost_to == {0: 1, 2: 3}


def test_exact_on_the_conversation_keeps_two_answers_to_one_question() -> None:
    samples = [made("Name a river", "Elbe"), made("Name a river", "Rhine"), made("Name a river!", "rhine")]
    assert Exact(part="conversation").pick(view_of(samples), Random(0)).kept.sum() == 2


def test_semantic_finds_exactly_the_planted_copies_and_keeps_the_better() -> None:
    samples, vectors = planted()
    choice = Semantic().pick(view_of(samples, vectors), Random(0))
    assert len(choice.lost_to) == len(samples) // 3
    for lost, to in choice.lost_to.items():
        assert sorted((lost, to)) == [min(lost, to), min(lost, to) + 1]
        assert max(lost, to) % 3 == 2
        assert samples[to].scores["judge"] >= samples[lost].scores["judge"]
        assert choice.reasons[lost].startswith("semantic: cosine 1.00 to ")
        assert choice.reasons[lost].endswith(samples[to].id)


def greedy_oracle(vectors: Float32, min_cosine: float) -> list[int]:
    """The definition, one pair at a time."""
    winner: list[int] = []
    for row in range(len(vectors)):
        kept = [k for k in range(row) if winner[k] < 0]
        cosines = {k: float(vectors[row].astype(np.float64) @ vectors[k].astype(np.float64)) for k in kept}
        best = max(cosines, key=lambda k: (cosines[k], -k), default=-1)
        winner.append(best if cosines.get(best, -1) >= min_cosine else -1)
    return winner


@pytest.mark.parametrize("min_cosine", [0.3, 0.6, 0.9])
def test_semantic_equals_the_definition_over_several_blocks(min_cosine: float) -> None:
    vectors = unit(np.random.default_rng(4).normal(size=(2300, 6)))
    winner, cosine = semantic(vectors, min_cosine)
    assert winner.tolist() == greedy_oracle(vectors, min_cosine)
    kept = np.flatnonzero(winner < 0)
    among = vectors[kept] @ vectors[kept].T - 2 * np.eye(len(kept), dtype=np.float32)
    assert among.max() < min_cosine
    lost = np.flatnonzero(winner >= 0)
    assert len(lost) > 100
    assert (cosine[lost] >= min_cosine - 1e-5).all()
    assert np.isnan(cosine[0])


def test_semantic_makes_no_chains() -> None:
    angles = np.deg2rad([0, 15, 30, 45])  # each within 0.95 of its neighbour only
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    winner, _ = semantic(vectors, 0.95)
    assert winner.tolist() == [-1, 0, -1, 2]


def test_semantic_keeps_strangers_that_the_encoder_takes_for_one() -> None:
    samples = [made("为恐怖电影写一个开场场景"), made("推荐一部周末观影的电影"), made("为恐怖电影写一个开场的场景")]
    vectors = unit(np.ones((3, 4)))
    assert Semantic(min_overlap=0).pick(view_of(samples, vectors), Random(0)).kept.sum() == 1
    assert Semantic().pick(view_of(samples, vectors), Random(0)).kept.sum() == 2


def test_k_center_is_within_twice_the_best_radius() -> None:
    vectors = unit(np.random.default_rng(6).normal(size=(14, 3)))

    def radius(centres: Sequence[int]) -> float:
        return float(np.linalg.norm(vectors[:, None] - vectors[list(centres)][None], axis=2).min(axis=1).max())

    chosen, _ = k_center(vectors, 4)
    best = min(radius(centres) for centres in combinations(range(14), 4))
    assert best <= radius(chosen.tolist()) <= 2 * best


def test_k_center_takes_one_of_each_planted_group_first() -> None:
    rng = np.random.default_rng(7)
    vectors = unit(np.repeat(np.eye(8), 20, axis=0) + rng.normal(size=(160, 8)) * 0.02)
    chosen, cosine = k_center(vectors, 8)
    assert sorted(row // 20 for row in chosen.tolist()) == list(range(8))
    assert np.nanmin(np.delete(cosine, chosen)) > 0.95


def test_k_center_with_a_budget_beyond_the_samples_keeps_all_even_copies() -> None:
    samples = [made(f"subject {n}") for n in range(5)]
    choice = KCenter(budget=9).pick(view_of(samples, unit(np.ones((5, 3)))), Random(0))
    assert choice.kept.all()
    assert KCenter(budget=3).pick(view_of(samples, unit(np.ones((5, 3)))), Random(0)).kept.sum() == 3


def test_k_center_can_begin_with_the_highest_score() -> None:
    samples, vectors = planted()
    best = max(range(len(samples)), key=lambda row: (samples[row].scores["judge"], [-ord(c) for c in samples[row].id]))
    choice = KCenter(budget=1, first="judge").pick(view_of(samples, vectors), Random(0))
    assert choice.kept.tolist().index(True) == best


def test_top_score_keeps_the_highest_and_puts_the_unscored_last() -> None:
    samples = [made("a", judge=2.0), made("b"), made("c", judge=3.0), made("d", "a much longer answer", judge=1.0)]
    assert TopScore(budget=2).pick(view_of(samples), Random(0)).kept.tolist() == [True, False, True, False]
    assert TopScore(budget=3).pick(view_of(samples), Random(0)).kept.tolist() == [True, False, True, True]
    assert TopScore(score="length", budget=1).pick(view_of(samples), Random(0)).kept.tolist()[3]


def test_top_score_refuses_a_score_that_no_sample_has() -> None:
    with pytest.raises(JobError, match=r"no sample has 'ifd', must be one of \['length', 'judge'\]"):
        TopScore(score="ifd", budget=1).pick(view_of([made("a", judge=2.0)]), Random(0))


def test_a_selector_without_its_vectors_says_so() -> None:
    with pytest.raises(JobError, match="no vectors"):
        Semantic().pick(view_of([made("a")]), Random(0))


def test_another_seed_draws_other_samples() -> None:
    samples, _ = planted()
    picks = {tuple(RandomChoice(budget=20).pick(view_of(samples), Random(seed)).kept.tolist()) for seed in range(5)}
    assert len(picks) == 5
    assert all(sum(pick) == 20 for pick in picks)


def test_an_unknown_kind_is_answered_with_the_legal_ones() -> None:
    with pytest.raises(ValidationError, match="'exact', 'semantic', 'k_center', 'top_score', 'random'"):
        TypeAdapter(AnySelector).validate_python({"kind": "minhash"})


@pytest.mark.parametrize("budget", [0, -1, 1.5, 0.0])
def test_a_budget_is_a_whole_number_or_a_share(budget: float) -> None:
    with pytest.raises(ValidationError):
        KCenter(budget=budget)


def test_a_choice_gives_a_reason_for_exactly_the_rows_that_go() -> None:
    with pytest.raises(AssertionError):
        Choice(np.array([True, False]), {})
