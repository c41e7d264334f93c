"""Near-duplicates by meaning against the definition, planted truth and permutation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.keys import overlap, words
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.duplicates import neighbours
from gristmill.selection.selectors.semantic import Semantic, bags_of, shared_words
from tests.selection.made import kept_of, made, unit, view_of


def named(number: int) -> str:
    return "q" + str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def planted(rows: int = 60, seed: int = 3) -> tuple[list[Sample], Float32]:
    """Samples of which every third is a near copy of the one before it, with random judgements."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 16))
    vectors[2::3] = vectors[1::3] + rng.normal(size=vectors[2::3].shape) * 0.02
    subjects = [row if row % 3 < 2 else row - 1 for row in range(rows)]
    samples = [
        made(f"tell me about subject {named(subject)}", f"answer {row}", judge=float(rng.integers(1, 4)))
        for row, subject in enumerate(subjects)
    ]
    return samples, unit(vectors)


def pick(step: Semantic, view: View) -> Choice:
    return step.model_copy(update={"answers": False}).pick(view, Random(0))


def lost_by_id(view: View, choice: Choice) -> dict[str, str]:
    assert choice.lost_to is not None
    gone = np.flatnonzero(~choice.kept)
    return {view.ids[row].decode(): choice.lost_to[row].decode() for row in gone}


def test_exactly_the_planted_copies_go_and_the_better_stay() -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    choice = pick(Semantic(), view)
    kept_of(view, choice)
    place = {sample.id: n for n, sample in enumerate(samples)}
    lost = {place[a]: place[b] for a, b in lost_by_id(view, choice).items()}
    assert len(lost) == len(samples) // 3
    for row, to in lost.items():
        assert {row, to} == {min(row, to), min(row, to) + 1}
        assert max(row, to) % 3 == 2
        assert samples[to].scores["judge"] >= samples[row].scores["judge"]
    distance = choice.scores["semantic_distance"]
    assert (distance[~choice.kept] < 0.05).all()
    assert np.isnan(distance[choice.kept]).all(), "others are farther than the floor"


def oracle(vectors: Float32, order: Sequence[int], min_cosine: float) -> dict[int, tuple[int, float]]:
    """The definition, one pair at a time: who each row loses to, and how near."""
    lost: dict[int, tuple[int, float]] = {}
    for place, row in enumerate(order):
        kept = [other for other in order[:place] if other not in lost]
        near = {other: float(vectors[row].astype(np.float64) @ vectors[other].astype(np.float64)) for other in kept}
        best = max(near, key=near.__getitem__, default=-1)
        if best >= 0 and near[best] >= min_cosine:
            lost[row] = best, near[best]
    return lost


@pytest.mark.parametrize("min_cosine", [0.3, 0.6, 0.95])
def test_the_choice_equals_the_definition(min_cosine: float) -> None:
    rng = np.random.default_rng(4)
    samples = [made(f"question {named(n)}", judge=float(rng.integers(1, 5))) for n in range(500)]
    view = view_of(samples, unit(rng.normal(size=(500, 6))))
    choice = pick(Semantic(min_cosine=min_cosine, min_overlap=0), view)
    lost = oracle(view.unit("test").whole(), view.order(("judge", "length")).tolist(), min_cosine)
    assert lost_by_id(view, choice) == {view.ids[a].decode(): view.ids[b].decode() for a, (b, _) in lost.items()}
    assert len(lost) > 10
    found = choice.scores["semantic_distance"][list(lost)]
    np.testing.assert_allclose(found, [1 - cosine for _, cosine in lost.values()], atol=1e-5)


def test_there_are_no_chains() -> None:
    angles = np.deg2rad([0, 15, 30, 45])  # each within 0.95 of its neighbour only
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    samples = [made("turn the wheel", str(n), judge=4.0 - n) for n in range(4)]
    view = view_of(samples, vectors)
    assert kept_of(view, pick(Semantic(), view)) == {samples[0].id, samples[2].id}


def test_a_sample_that_stays_is_told_how_near_the_nearest_better_one_is() -> None:
    angles = np.deg2rad([0, 20])  # 0.94
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    view = view_of([made("turn", "a", judge=2.0), made("turn", "b", judge=1.0)], vectors)
    choice = pick(Semantic(), view)
    assert choice.kept.all()
    best = int(np.argmax(view.scores["judge"]))
    assert np.isnan(choice.scores["semantic_distance"][best])
    assert choice.scores["semantic_distance"][1 - best] == pytest.approx(1 - np.cos(np.deg2rad(20)), abs=1e-6)


def test_strangers_that_the_encoder_takes_for_one_stay() -> None:
    samples = [made("为恐怖电影写一个开场场景"), made("推荐一部周末观影的电影"), made("为恐怖电影写一个开场的场景")]
    view = view_of(samples, unit(np.ones((3, 4))))
    assert len(kept_of(view, pick(Semantic(min_overlap=0), view))) == 1
    kept = kept_of(view, pick(Semantic(), view))
    assert len(kept) == 2
    assert samples[1].id in kept


def test_shared_words_are_what_overlap_says() -> None:
    rng = np.random.default_rng(5)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 12, rng.integers(1, 9))) for _ in range(40)]
    texts += ["写一首关于春天的诗", "写一首关于秋天的诗", "!?", "推荐一本书"]
    view = view_of([made(text, str(n)) for n, text in enumerate(texts)])
    found = view.texts("instruction").to_pylist()
    left, right = (side.ravel() for side in np.meshgrid(np.arange(len(texts)), np.arange(len(texts))))
    bags = bags_of(view, np.arange(len(texts)))
    expected = [overlap(words(found[a]), words(found[b])) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(shared_words(bags, bags, left, right), expected, atol=1e-6)


@pytest.mark.parametrize("step", [Semantic(), Semantic(min_cosine=0.5, min_overlap=0, prefer=())])
def test_the_order_of_the_samples_changes_nothing(step: Semantic) -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    before = lost_by_id(view, pick(step, view))
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(len(samples))
        view = view_of([samples[row] for row in shuffled], vectors[shuffled])
        assert lost_by_id(view, pick(step, view)) == before
    assert before


class Counting:
    """A memo that says how often it had to make something."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.held:
            self.held[name] = make()
        return self.held[name]


def test_another_threshold_over_the_floor_looks_for_no_pairs_again() -> None:
    samples, vectors = planted(300)
    view = view_of(samples, vectors + np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32) * 0.03)
    view = replace(view, vectors=Matrix(unit(view.unit("test").whole())))
    memo = Counting()
    kept = replace(view, samples=replace(view.samples, memo=memo))
    for min_cosine in (0.95, 0.97, 0.98, 0.9):
        step = Semantic(min_cosine=min_cosine)
        assert kept_of(kept, pick(step, kept)) == kept_of(view, pick(step, replace(view)))
        assert len(memo.held) == 1
    pick(Semantic(), replace(kept, vectors=Matrix(view.unit("test").whole()[:, ::-1])))
    assert len(memo.held) == 2, "the numbers of another encoder"
    pick(Semantic(prefer=()), kept)
    assert len(memo.held) == 3


class Sparing(Semantic):
    max_pairs = 2500 * 3


def test_many_copies_of_one_sample_all_lose_to_the_best() -> None:
    rng = np.random.default_rng(6)
    vectors = unit(np.concatenate([np.ones((2000, 20)), rng.normal(size=(500, 20))]))
    samples = [made("the same" if n < 2000 else f"other {n}", str(n), judge=float(n)) for n in range(2500)]
    view = view_of(samples, vectors.astype(np.float16).astype(np.float32))
    choice = pick(Sparing(), view)
    assert kept_of(view, choice) == {sample.id for sample in samples[1999:]}
    assert set(lost_by_id(view, choice).values()) == {samples[1999].id}
    assert float(choice.figures["pairs"]) < Sparing.max_pairs * 7


def test_clusters_lose_hardly_a_copy() -> None:
    rows, copies = neighbours.EXACT_ROWS + 1000, 1000  # so many that only clusters are searched
    rng = np.random.default_rng(7)
    topics = rng.normal(size=(50, 64))[rng.integers(0, 50, rows)]
    vectors = unit(topics + rng.normal(size=(rows, 64)) * 0.8)
    vectors[-copies:] = unit(vectors[:copies] + rng.normal(size=(copies, 64)) * 0.03)
    view = view_of([made(f"question {named(n)}", f"answer {n:05d}") for n in range(rows)], vectors)
    choice = pick(Semantic(min_overlap=0), view)
    assert copies - 2 <= (~choice.kept).sum() <= copies


def test_no_samples_one_sample_and_no_vectors() -> None:
    assert len(pick(Semantic(), view_of([], np.empty((0, 4), np.float32))).kept) == 0
    assert pick(Semantic(), view_of([made("a")], unit(np.ones((1, 4))))).kept.tolist() == [True]
    with pytest.raises(JobError, match="no vectors"):
        pick(Semantic(), view_of([made("a")]))
