"""Quality: cuts, shares, ranks, and DEITA's filter against a loop over single samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.encoder import Embedding
from gristmill.selection.contracts import VectorsOf
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.diversity.representation import BLOCK_ROWS, representation_filter
from gristmill.selection.selectors.quality import Quality, ranks
from tests.selection.made import kept_of, made, unit, view_of


def scored(*scores: Mapping[str, float]) -> list[Sample]:
    return [replace(made(f"instruction {n}", f"answer {n}"), scores=found) for n, found in enumerate(scores)]


def kept(step: Quality, samples: Sequence[Sample], vectors: Float32 | None = None) -> list[int]:
    """Places of the samples that stay."""
    view = view_of(samples, vectors)
    names = kept_of(view, step.pick(view, Random(0)))
    return [n for n, sample in enumerate(samples) if sample.id in names]


def reasons(step: Quality, samples: Sequence[Sample]) -> list[str | None]:
    view = view_of(samples)
    choice = step.pick(view, Random(0))
    by_id = {
        name.decode(): choice.reasons[why] if why >= 0 else None
        for name, why in zip(view.ids, choice.reason, strict=True)
    }
    return [by_id[sample.id] for sample in samples]


def test_alpagasus_keeps_grades_from_its_cut_on() -> None:
    samples = scored({"judge": 4.49}, {"judge": 4.5}, {"judge": 5.0}, {"judge": 1.0}, {})
    step = Quality(scores="judge", min_score=4.5)
    assert kept(step, samples) == [1, 2]
    assert reasons(step, samples) == [
        "quality: below min_score",
        None,
        None,
        "quality: below min_score",
        "quality: no score",
    ]


def test_a_cut_that_float32_can_not_hold_still_keeps_the_score_on_it() -> None:
    assert kept(Quality(min_score=0.9), scored({"judge": 0.9}, {"judge": 0.8999})) == [0]
    assert kept(Quality(below=0.9), scored({"judge": 0.9}, {"judge": 0.8999})) == [1]


def test_superfiltering_takes_the_top_share_of_all_among_those_below_one() -> None:
    ratios = [0.2, 1.0, 1.7, 0.95, 0.6, 0.9, 0.99, 0.4, 0.3, 0.1]
    step = Quality(scores="ifd", below=1.0, budget=0.3)
    samples = scored(*({"ifd": ratio} for ratio in ratios))
    assert kept(step, samples) == [3, 5, 6]
    assert reasons(step, samples)[1:3] == ["quality: not below the upper bound"] * 2
    assert reasons(step, samples)[0] == "quality: beyond the budget"


def test_a_weighted_rank_is_the_one_of_its_formula() -> None:
    rng = np.random.default_rng(3)
    judge, reward = rng.integers(1, 6, 40).astype(float), rng.normal(size=40) * 100
    samples = scored(*({"judge": j, "reward": r} for j, r in zip(judge, reward, strict=True)))
    step = Quality(scores={"judge": 3.0, "reward": -1.0}, combine="rank", budget=10)
    value = [
        (3 * np.mean(judge <= judge[n]) - np.mean(np.float32(reward) <= np.float32(reward[n]))) / 4 for n in range(40)
    ]
    best = sorted(range(40), key=lambda n: (-np.float32(value[n]), samples[n].id))[:10]
    assert kept(step, samples) == sorted(best)


def test_ranks_are_the_same_for_equal_scores_and_leave_out_the_missing_ones() -> None:
    found = ranks(np.array([5, np.nan, 1, 5, 2], np.float32))
    assert np.array_equal(found, np.array([1, np.nan, 0.25, 1, 0.5], np.float32), equal_nan=True)


def test_length_is_a_score_like_any_other_and_needs_no_filter() -> None:
    samples = [made("a", "x" * 5), made("b", "一二三"), made("c", "x" * 9)]
    assert kept(Quality(scores="length", min_score=5), samples) == [0, 2]


def visited_one_by_one(vectors: Float32, order: Sequence[int], max_cosine: float, budget: int) -> list[int]:
    """The paper's loop: best first, stays when no kept one is nearer than the bound."""
    found: list[int] = []
    for row in order:
        if len(found) == budget:
            break
        if not found or (vectors[found] @ vectors[row]).max() <= max_cosine:
            found.append(row)
    return found


@pytest.mark.parametrize("budget", [1, 37, 400, 5000])
def test_the_representation_filter_in_blocks_equals_the_loop(budget: int) -> None:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(500, 12))
    vectors = unit(
        centres[rng.integers(0, 500, 2 * BLOCK_ROWS + 300)] + rng.normal(size=(2 * BLOCK_ROWS + 300, 12)) * 0.15
    )
    order = rng.permutation(len(vectors))[: 2 * BLOCK_ROWS + 200]
    found = representation_filter(Matrix(vectors), order, 0.9, budget)
    kept_rows = order[: len(found.kept)][found.kept]
    assert kept_rows.tolist() == visited_one_by_one(vectors, order.tolist(), 0.9, budget)
    for place in rng.permutation(len(found.kept))[:200]:
        row, before = order[place], order[:place][found.kept[:place]]
        if len(before):
            cosines = vectors[before] @ vectors[row]
            assert found.cosine[row] == pytest.approx(cosines.max(), abs=1e-5)
            assert found.nearest[row] == before[int(cosines.argmax())]


def test_deita_multiplies_the_scores_and_goes_by_them_past_near_samples() -> None:
    vectors = unit(np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1], [0.1, 0, 1]], float))
    grades = [(3, 3), (4, 4), (5, 1), (2, 2), (1, 3)]  # products 9, 16, 5, 4, 3
    samples = scored(*({"complexity": c, "judge": j} for c, j in grades))
    step = Quality(scores=["complexity", "judge"], combine="product", max_cosine=0.9, budget=3)
    assert kept(step, samples, vectors) == [1, 2, 3]
    view = view_of(samples, vectors)
    choice = step.pick(view, Random(0))
    place = {name.decode(): row for row, name in enumerate(view.ids)}
    assert choice.lost_to is not None
    assert choice.lost_to[place[samples[0].id]].decode() == samples[1].id
    assert choice.reasons[choice.reason[place[samples[0].id]]] == "quality: too near to a better one"
    assert choice.reasons[choice.reason[place[samples[4].id]]] == "quality: beyond the budget"
    assert choice.scores["quality"][place[samples[0].id]] == 9
    assert choice.scores["quality_distance"][place[samples[0].id]] == pytest.approx(1 - 1 / np.sqrt(1.01), abs=1e-6)


def test_the_order_of_the_samples_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    samples = scored(*({"judge": float(grade)} for grade in rng.integers(1, 4, 60)))
    vectors = unit(rng.normal(size=(60, 3)))
    shuffle = rng.permutation(60)
    for step in (Quality(budget=0.4), Quality(max_cosine=0.8), Quality(combine="rank", min_score=0.5)):
        one = {samples[n].id for n in kept(step, samples, vectors)}
        other = [samples[n] for n in shuffle]
        assert one == {other[n].id for n in kept(step, other, vectors[shuffle])}


def test_nothing_and_a_single_sample_and_equal_samples_are_handled() -> None:
    step = Quality(max_cosine=0.9, budget=5)
    assert kept(step, [], np.empty((0, 4), np.float32)) == []
    same = scored(*([{"judge": 3.0}] * 6))
    assert kept(step, same[:1], unit(np.ones((1, 4)))) == [0]
    assert len(kept(step, same, unit(np.ones((6, 4))))) == 1
    assert len(kept(Quality(budget=99), same)) == 6


def test_a_score_that_no_sample_has_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(JobError, match=r"no sample has the score 'reward'.*'length', 'judge'"):
        kept(Quality(scores="reward", budget=3), scored({"judge": 1.0}, {}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_score": 2.0, "below": 2.0},
        {"scores": {"judge": 0.0}, "budget": 3},
        {"scores": {"judge": 2.0, "ifd": 1.0}, "combine": "product", "budget": 3},
        {"scores": [], "budget": 3},
        {"budget": 1.5},
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Quality(**settings)


def test_it_asks_for_vectors_only_where_it_compares_them() -> None:
    job = VectorsOf(Embedding(), "instruction")
    assert Quality(budget=3).wants(job) is None
    assert Quality(max_cosine=0.9).wants(job) == job
    assert Quality(budget=10).most(100) == 10
    assert Quality(min_score=1.0).most(100) == 100
