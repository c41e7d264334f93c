"""Relevance: turns, tasks and influence by brute force, planted topics, and what a target set must have."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.encoder import Embedding
from gristmill.selection.contracts import VectorsOf, View
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.relevance import less, rds
from gristmill.selection.relevance.gradients import Gradients, TargetGradients
from gristmill.selection.relevance.rds import round_robin
from gristmill.selection.selectors.relevance import HiddenStates, Relevance
from tests.fakes import HAN, WORDS, HashingEncoder
from tests.selection.made import kept_of, made, unit, view_of

RIVERS = [made(f"Tell me of the river {word}, its water and its banks.") for word in WORDS]
POEMS = [made(f"请写一首关于{han}的诗，要押韵。") for han in HAN[:12]]
SUMS = [made(f"What is {n} plus {n + 3}, and twice that sum?") for n in range(12)]


def step(**fields: Any) -> Relevance:
    return Relevance.model_validate({"targets": "targets.jsonl", **fields})


def by_definition(scores: np.ndarray, budget: int) -> list[int]:
    """Groups take turns, each with its next best sample; a turn is lost where another has it. [groups, n] scores."""
    orders = np.argsort(-scores, axis=1, kind="stable").tolist()
    return list(dict.fromkeys(row for turn in zip(*orders, strict=True) for row in turn))[:budget]


def drawn(rows: int, queries: int, seed: int = 0, dim: int = 16) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(rows, dim))), unit(rng.normal(size=(queries, dim)))


@pytest.mark.parametrize(("budget", "held"), [(40, rds.HELD), (40, 14), (300, 14), (999, 7), (1, 1)])
def test_targets_take_turns_as_defined_however_few_candidates_are_held(budget: int, held: int) -> None:
    vectors, queries = drawn(300, 7)
    chosen, nearest = round_robin(Matrix(vectors), queries, np.arange(7), budget, held)
    assert chosen.tolist() == by_definition(queries @ vectors.T, budget)
    np.testing.assert_allclose(nearest, (vectors @ queries.T).max(axis=1), atol=1e-6)


def test_tasks_take_turns_by_the_best_of_their_targets() -> None:
    vectors, queries = drawn(200, 9, seed=1)
    groups = np.array([2, 0, 1, 1, 0, 2, 2, 2, 0])
    scores = queries @ vectors.T
    best = np.stack([scores[groups == group].max(axis=0) for group in range(3)])
    for held in (rds.HELD, 9):
        chosen, _ = round_robin(Matrix(vectors), queries, groups, 50, held)
        assert chosen.tolist() == by_definition(best, 50)


def test_samples_are_chosen_in_the_order_of_the_authors_code() -> None:
    """The loop `max` of get_top_influences.py, hamishivi/automated-instruction-selection, on the same cosines.

    Where no turn is lost, 24 of these 25 are chosen, in another order.
    """
    rng = np.random.default_rng(11)
    vectors = unit(rng.normal(size=(60, 6)))
    queries = unit(rng.normal(size=(1, 6)) + 0.5 * rng.normal(size=(5, 6)))
    expected = [28, 38, 16, 12, 33, 19, 49, 48, 55, 39, 59, 4, 50, 18, 10, 24, 53, 21, 0, 8, 30, 52, 37, 51, 25]
    for held in (rds.HELD, 15, 5):
        assert round_robin(Matrix(vectors), queries, np.arange(5), 25, held)[0].tolist() == expected


def test_many_blocks_of_a_half_precision_matrix_give_what_one_does() -> None:
    vectors, queries = drawn(500, 5, seed=2)
    half = Matrix(vectors.astype(np.float16), np.arange(499, -1, -1))
    whole, nearest = round_robin(half, queries, np.arange(5), 60)
    cut, again = round_robin(half, queries, np.arange(5), 60, scores=5 * 37)
    assert cut.tolist() == whole.tolist()
    np.testing.assert_allclose(again, nearest, atol=1e-6)


def test_equal_samples_are_taken_from_the_lowest_id_on() -> None:
    one = unit(np.ones((1, 8)))
    chosen, nearest = round_robin(Matrix(np.repeat(one, 50, axis=0)), np.concatenate([one, -one]), np.arange(2), 9)
    assert chosen.tolist() == list(range(9))
    np.testing.assert_allclose(nearest, 1, atol=1e-6)


def test_influence_is_the_mean_over_a_task_and_the_highest_over_tasks() -> None:
    vectors, targets = drawn(120, 6, seed=3)
    tasks = np.array([1, 0, 0, 1, 2, 1])
    scores = targets @ vectors.T
    expected = np.stack([scores[tasks == task].mean(axis=0) for task in range(3)]).max(axis=0)
    found = less.influence(Matrix(vectors), targets, tasks)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert less.highest(found, 10).tolist() == np.argsort(-expected)[:10].tolist()
    assert less.highest(np.ones(5, np.float32), 3).tolist() == [0, 1, 2]


def encoded(samples: list[Sample], **beside: View) -> View:
    return view_of(samples, HashingEncoder().encode([s.instruction for s in samples]), **beside)


def tagged(samples: list[Sample], **tags: str) -> list[Sample]:
    return [replace(sample, tags=tags) for sample in samples]


@pytest.mark.parametrize("method", ["nearest", "rds", "less", "dsir"])
@pytest.mark.parametrize("topic", [RIVERS, POEMS, SUMS])
def test_every_method_finds_the_topic_of_its_targets(method: str, topic: list[Sample]) -> None:
    targets, rest = topic[:3], [s for s in (*RIVERS, *POEMS, *SUMS) if s not in topic[:3]]
    view = encoded(rest, targets=encoded(targets))
    choice = step(method=method, budget=9).pick(view, Random(0))
    assert kept_of(view, choice) == {sample.id for sample in topic[3:]}
    scores = choice.scores["relevance"]
    assert scores[choice.kept].min() > scores[~choice.kept].max()
    assert {choice.reasons[r] for r in choice.reason[~choice.kept]} == {"relevance: beyond the budget"}


@pytest.mark.parametrize("method", ["nearest", "less", "dsir"])
def test_the_order_of_samples_and_targets_changes_nothing(method: str) -> None:
    samples, targets = [*RIVERS, *POEMS, *SUMS], [*RIVERS[:2], *SUMS[:2]]
    kept = []
    for seed in range(3):
        Random(seed).shuffle(samples)
        Random(seed).shuffle(targets)
        view = encoded(samples, targets=encoded(targets))
        kept.append(kept_of(view, step(method=method, budget=0.3).pick(view, Random(5))))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 11


def test_tasks_share_the_budget_though_one_has_more_targets() -> None:
    targets = [*tagged(RIVERS[:9], subject="rivers"), *tagged(SUMS[:1], subject="sums")]
    view = encoded([*RIVERS, *POEMS, *SUMS], targets=encoded(targets))
    sums, rivers = {s.id for s in SUMS}, {s.id for s in RIVERS}
    by_task = kept_of(view, step(budget=10, task="subject").pick(view, Random(0)))
    assert (len(by_task & sums), len(by_task & rivers)) == (5, 5)
    by_target = kept_of(view, step(budget=10).pick(view, Random(0)))
    assert (len(by_target & sums), len(by_target & rivers)) == (1, 9)


def test_targets_without_the_tag_are_a_task_of_their_own() -> None:
    targets = [*tagged(RIVERS[:3], subject="rivers"), *SUMS[:1]]
    view = encoded([*RIVERS, *SUMS], targets=encoded(targets))
    kept = kept_of(view, step(budget=6, task="subject").pick(view, Random(0)))
    assert len(kept & {s.id for s in SUMS}) == 3
    with pytest.raises(JobError, match=r"relevance\.task: no target has the tag 'topic'"):
        step(budget=6, task="topic").pick(view, Random(0))


@pytest.mark.parametrize("method", ["nearest", "less", "dsir"])
def test_views_of_nothing_of_one_and_of_copies(method: str) -> None:
    targets = encoded(RIVERS[:2])
    for samples, budget, kept in (([], 3, 0), (SUMS[:1], 3, 1), (SUMS[:1], 0.1, 1), (SUMS, 12, 12), (SUMS, 99, 12)):
        view = encoded(samples, targets=targets) if samples else replace(view_of([]), beside={"targets": targets})
        assert len(kept_of(view, step(method=method, budget=budget).pick(view, Random(0)))) == kept
    copies = [made("What is 1 plus 4?", f"{n}") for n in range(20)]
    view = encoded(copies, targets=targets)
    assert len(kept_of(view, step(method=method, budget=7).pick(view, Random(0)))) == 7


def test_a_target_set_must_hold_something_and_have_vectors() -> None:
    view = encoded(SUMS, targets=view_of([]))
    with pytest.raises(JobError, match=r"relevance\.targets: no sample has any text"):
        step(budget=3).pick(view, Random(0))
    with pytest.raises(JobError, match="the samples have no vectors"):
        step(budget=3).pick(replace(view, beside={"targets": view_of(SUMS)}), Random(0))


def unreadable(view: View, *samples: Sample) -> View:
    """The view with these samples in a script that the encoder does not know."""
    assert view.vectors is not None
    names = [sample.id.encode() for sample in samples]
    return replace(view, vectors=replace(view.vectors, readable=~np.isin(view.ids, names)))


@pytest.mark.parametrize("method", ["nearest", "rds"])
def test_what_the_encoder_cannot_read_is_not_chosen_and_has_no_turn(method: str) -> None:
    strange = RIVERS[3]
    view = unreadable(encoded([*RIVERS[2:], *SUMS]), strange)
    target = unreadable(encoded([RIVERS[0], SUMS[0]]), SUMS[0])
    choice = step(method=method, budget=5).pick(replace(view, beside={"targets": target}), Random(0))
    kept = kept_of(view, choice)
    assert len(kept) == 5
    assert kept <= {sample.id for sample in RIVERS[2:]} - {strange.id}
    row = int(np.flatnonzero(view.ids == strange.id.encode())[0])
    assert np.isnan(choice.scores["relevance"][row])
    assert choice.reasons[choice.reason[row]] == "relevance: in a script that the encoder does not know"
    with pytest.raises(JobError, match="the encoder knows the script of none"):
        step(method=method, budget=5).pick(
            replace(view, beside={"targets": unreadable(target, RIVERS[0], SUMS[0])}), Random(0)
        )


def test_each_method_asks_for_its_own_vectors() -> None:
    job = VectorsOf(Embedding(), "instruction")
    assert step(budget=1).wants(job) == step(budget=1).wants_beside(job) == job
    assert step(budget=1, method="dsir").wants(job) is None
    hidden = step(budget=1, method="rds", encoder={"model": "/my/model"}).wants(job)
    assert hidden == VectorsOf(HiddenStates(model="/my/model"), "chat")
    assert isinstance(hidden.encoder, Embedding)
    assert (hidden.encoder.pooling, hidden.encoder.max_tokens) == ("weighted_mean", 2048)
    paid = step(budget=1, method="less", gradients={"dim": 512, "warmup": {"epochs": 2}})
    mine, theirs = paid.wants(job), paid.wants_beside(job)
    assert mine is not None
    assert theirs is not None
    assert type(mine.encoder) is Gradients
    assert theirs == VectorsOf(TargetGradients(dim=512, warmup=mine.encoder.warmup), "chat")


def test_settings_of_other_methods_do_not_decide_the_choice() -> None:
    plain = step(budget=5)
    assert plain.fingerprint() == step(budget=5, encoder={"batch": 3}, gradients={"dim": 9}).fingerprint()
    assert plain.fingerprint() != step(budget=5, method="rds").fingerprint()
    rds_step = step(budget=5, method="rds")
    assert rds_step.fingerprint() != step(budget=5, method="rds", encoder={"max_tokens": 9}).fingerprint()
    assert plain.sources() == {"targets": plain.targets}
    assert (plain.most(3), plain.most(9)) == (3, 5)
    assert all(step(budget=0.1, method=m).cost(10**6, 384).cpu_s > 1 for m in ("nearest", "rds", "dsir", "less"))
