"""The step `diversity`: its settings, what it writes, and planted truth for each method."""

from random import Random

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.diversity.cluster_balanced import cluster_balanced
from gristmill.selection.selectors.diversity import WRITES, Diversity
from tests.selection.made import kept_of, made, unit, view_of

STEPS = [
    Diversity(budget=12),
    Diversity(budget=0.3, score="judge", quality=0.5),
    Diversity(budget=12, method="k_center"),
    Diversity(budget=12, method="k_center", first="length"),
    Diversity(budget=12, method="cluster_balanced", clusters=10),
    Diversity(budget=12, method="cluster_balanced", score="judge", quality=0.3),
    Diversity(budget=12, method="mmr", score="judge", quality=0.4),
    Diversity(budget=12, method="dpp"),
    Diversity(budget=12, method="dpp", score="judge", quality=0.4),
]
names = pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.method} {step.score}")


def planted(groups: int = 6, each: int = 15) -> tuple[list[Sample], Float32]:
    """Groups of samples that lie close together, with judgements; some have none."""
    rng = np.random.default_rng(3)
    vectors = np.repeat(np.eye(groups, 12), each, axis=0) + rng.normal(size=(groups * each, 12)) * 0.05
    judged = rng.integers(1, 6, groups * each)
    samples = [
        made(f"主题 {n // each} question {n}", "an answer " * (1 + n % 7), judge=float(judged[n]) if n % 11 else None)
        for n in range(groups * each)
    ]
    return samples, unit(vectors)


@names
def test_the_order_of_the_samples_changes_nothing(step: Diversity) -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    choice = step.pick(view, Random(5))
    kept = kept_of(view, choice)
    shuffled = np.random.default_rng(1).permutation(len(samples))
    again = view_of([samples[row] for row in shuffled], vectors[shuffled])
    other = step.pick(again, Random(5))
    assert kept_of(again, other) == kept
    assert other.lost_to is not None
    assert choice.lost_to is not None
    assert other.lost_to.tolist() == choice.lost_to.tolist()
    assert len(kept) == step.most(len(samples))


@names
def test_every_topic_is_represented_and_the_rest_loses_to_a_chosen_sample(step: Diversity) -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    choice = step.pick(view, Random(5))
    kept = kept_of(view, choice)
    topic = {s.id: s.messages[0].text.split()[1] for s in samples}
    assert {topic[name] for name in kept} == {str(n) for n in range(6)}
    assert choice.lost_to is not None
    lost = {name.decode(): to.decode() for name, to in zip(view.ids, choice.lost_to, strict=True) if to}
    assert len(lost) > 0.9 * (len(samples) - len(kept))
    assert set(lost.values()) <= kept
    assert np.mean([topic[name] == topic[to] for name, to in lost.items()]) > 0.95
    worth = choice.scores[WRITES[step.method]]
    assert np.isnan(worth[~choice.kept]).all()
    assert np.isnan(worth[choice.kept]).sum() == (step.method == "k_center")


@names
def test_no_samples_one_sample_and_too_large_a_budget(step: Diversity) -> None:
    assert len(step.pick(view_of([], np.empty((0, 4), np.float32)), Random(0)).kept) == 0
    lone = [made("one", judge=1.0)]
    view = view_of(lone, unit(np.ones((1, 4))))
    assert kept_of(view, step.pick(view, Random(0))) == {lone[0].id}
    alike = [made(f"subject {n}", judge=2.0) for n in range(7)]
    view = view_of(alike, unit(np.ones((7, 4))))
    all_ = step.model_copy(update={"budget": 1.0})
    assert len(kept_of(view, all_.pick(view, Random(0)))) == 7
    some = step.model_copy(update={"budget": 3})
    assert len(kept_of(view, some.pick(view, Random(0)))) == 3


def test_a_heavier_score_chooses_better_samples() -> None:
    samples, vectors = planted()
    judged = {s.id: s.scores.get("judge", 0.0) for s in samples}
    view = view_of(samples, vectors)
    for method in ("facility_location", "mmr", "dpp"):
        means = []
        for quality in (0.05, 0.95):
            step = Diversity(budget=12, method=method, score="judge", quality=quality)
            means.append(np.mean([judged[name] for name in kept_of(view, step.pick(view, Random(0)))]))
        assert means[0] < means[1], method
        assert means[1] > 4.5, method


def test_cluster_balanced_takes_the_best_of_all_then_of_each_cluster_in_turn() -> None:
    rng = np.random.default_rng(2)
    vectors = unit(np.repeat(np.eye(4, 8), [40, 30, 20, 10], axis=0) + rng.normal(size=(100, 8)) * 0.01)
    quality = rng.permutation(100) / 100.0
    quality[:40] += 1  # the best of all lie in the first group
    best = np.argsort(-quality)
    group = np.repeat(np.arange(4), [40, 30, 20, 10])
    found = cluster_balanced(Matrix(vectors), 13, num=4, seed=1, quality=quality, trade=5 / 13)
    first = set(best[:5].tolist())
    each = {g: best[group[best] == g].tolist() for g in range(4)}
    # five of the first group stand for its first five turns; the others give two or three for the eight that are left
    wanted = first | {row for g in (1, 2, 3) for row in each[g][:2]}
    third = sorted((each[g][2] for g in (1, 2, 3)), key=lambda row: -quality[row])
    assert set(found.chosen.tolist()) == wanted | set(third[:2])
    assert found.figures == {"clusters": 4.0, "clusters_chosen": 4.0}


def test_cluster_balanced_without_a_score_takes_what_lies_nearest_to_the_centroids() -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    choice = Diversity(budget=6, method="cluster_balanced", clusters=6).pick(view, Random(0))
    worth, kept = choice.scores["centroid_cosine"], choice.kept
    assert kept.sum() == 6
    assert view.vectors is not None
    within = view.vectors.whole() @ view.vectors.whole()[kept].T
    groups = within.argmax(axis=1)
    for place, row in enumerate(np.flatnonzero(kept)):
        mean = view.vectors.whole()[groups == place].mean(axis=0)
        cosine = view.vectors.whole()[groups == place] @ (mean / np.linalg.norm(mean))
        assert worth[row] == pytest.approx(cosine.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mmr"}, "mmr: has nothing to weigh against similarity"),
        ({"method": "mmr", "score": "judge"}, "mmr: has nothing to weigh against similarity"),
        ({"method": "k_center", "score": "judge"}, "score: has no meaning for k_center"),
        ({"first": "judge"}, "first: has no meaning for facility_location"),
        ({"clusters": 5}, "clusters: has no meaning for facility_location"),
        ({"method": "dpp", "quality": 0.5}, "quality: weighs no score"),
        ({"score": "judge"}, "score: judge has weight 0"),
        ({"method": "dpp", "score": "judge", "quality": 1.0}, "less than 1"),
        ({"budget": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_when_they_are_read(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Diversity.model_validate({"budget": 5, **settings})


def test_a_score_that_no_sample_has_is_refused() -> None:
    view = view_of([made("a", judge=1.0)], unit(np.ones((1, 4))))
    with pytest.raises(JobError, match=r"no sample has the score 'ifd', must be one of \['length', 'judge'\]"):
        Diversity(budget=1, score="ifd", quality=0.5).pick(view, Random(0))


def test_samples_without_vectors_are_refused() -> None:
    with pytest.raises(JobError, match="no vectors"):
        Diversity(budget=1).pick(view_of([made("a")]), Random(0))


def test_the_estimate_grows_with_the_samples() -> None:
    for step in STEPS:
        small, large = step.cost(10_000, 384), step.cost(1_000_000, 384)
        assert 0 < small.cpu_s < large.cpu_s
        assert 0 < small.peak_bytes <= large.peak_bytes
