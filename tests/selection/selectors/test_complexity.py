"""Complexity: tags brought to one form, InsTag's passes and MIG's greedy choice against the papers' formulas."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.encoder import Embedding
from gristmill.selection.contracts import Choice, VectorsOf, View
from gristmill.selection.data.matrix import Float32
from gristmill.selection.diversity.mig import mig, propagation
from gristmill.selection.diversity.tags import TagMatrix, form, merge_tags, parse, read_tags, spelling
from gristmill.selection.selectors.complexity import Complexity, count_first
from tests.selection.made import kept_of, made, unit, view_of


def intending(*intents: str | None, judge: Sequence[float] = ()) -> list[Sample]:
    return [
        replace(
            made(f"instruction {n}", judge=judge[n] if judge else 3.0), tags={} if value is None else {"intents": value}
        )
        for n, value in enumerate(intents)
    ]


def letters(names: Sequence[str]) -> Float32:
    """An encoder for tests: the share of each of the letters a to z."""
    return unit(np.array([[1e-6 + name.count(chr(97 + n)) for n in range(26)] for name in names], float))


def pick(step: Complexity, samples: Sequence[Sample]) -> tuple[Choice, list[int]]:
    """The choice, and the places of the samples that stay."""
    view = replace(view_of(samples), encode=letters)
    choice = step.pick(view, Random(0))
    names = kept_of(view, choice)
    return choice, [n for n, sample in enumerate(samples) if sample.id in names]


def rows_of(tags: TagMatrix) -> list[set[str]]:
    return [
        {tags.names[t] for t in tags.tags[start:stop]}
        for start, stop in zip(tags.starts, tags.starts[1:], strict=False)
    ]


def random_tags(num: int, names: int, seed: int) -> TagMatrix:
    rng = np.random.default_rng(seed)
    values = [
        "; ".join(f"tag{t:03d}x" for t in (rng.random(int(rng.integers(0, 6))) ** 2 * names).astype(int))
        for _ in range(num)
    ]
    distinct = sorted(set(values))
    return read_tags(np.array([distinct.index(value) for value in values]), distinct)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["creative writing", "Math"]', ["creative writing", "Math"]),
        ('[{"tag": "math", "explanation": "a; b"}, {"tag": "code"}]', ["math", "code"]),
        ("writing; math", ["writing", " math"]),
        ("写作；数学", ["写作", "数学"]),
        ('["cut off; ', ['["cut off', " "]),
        ("[]", []),
    ],
)
def test_tags_are_read_from_lists_and_from_words_between_semicolons(text: str, expected: list[str]) -> None:
    assert parse(text) == expected


def test_spellings_of_one_tag_have_one_form() -> None:
    for one, other in [
        ("Short Stories", "short_story"),
        ("classes", "Class"),
        ("data-bases", "data base"),
        ("ＳＱＬ  queries", "sql query"),
        ("数学问题", "数学问题。"),
    ]:
        assert form(spelling(one)) == form(spelling(other))
    for one, other in [("c++", "c"), ("c#", "c"), ("css", "cs"), ("analysis", "analysi"), ("physics", "physical")]:
        assert form(spelling(one)) != form(spelling(other))


def test_samples_get_each_tag_once_by_its_most_frequent_spelling_and_rare_tags_go() -> None:
    values = sorted(["Story; stories; math", "stories", '["Stories", "Maths"]', "; ", "chemistry"])
    code = np.array([values.index("stories"), -1, *range(5)])
    found = read_tags(code, values, min_count=2)
    assert found.names == ("math", "stories")
    by_value = dict(zip(values, rows_of(found)[2:], strict=True))
    assert by_value["Story; stories; math"] == set(found.names)
    assert by_value["chemistry"] == by_value["; "] == rows_of(found)[1] == set()
    assert found.counts.sum() == len(found.tags)


def test_near_tags_count_as_the_more_frequent_one_without_chains() -> None:
    vectors = unit(np.array([[1, 0], [0.9, 0.44], [0.62, 0.78]], float))  # 0-1 and 1-2 are near, 0-2 are not
    tags = read_tags(np.array([0, 1, 2, 0, 3]), ["a", "b", "c", "c; b"])
    found = merge_tags(tags, vectors, 0.85)
    assert found.names == ("a", "c")
    assert rows_of(found) == [{"a"}, {"a"}, {"c"}, {"a"}, {"a", "c"}]


def passes(tags: Sequence[set[str]], order: Sequence[int], budget: int) -> list[int]:
    """InsTag's algorithm 1, sample by sample."""
    left = [n for n in order if tags[n]]
    found: list[int] = []
    while left and len(found) < budget:
        seen: set[str] = set()
        for n in list(left):
            if len(seen | tags[n]) > len(seen):
                found.append(n)
                left.remove(n)
                seen |= tags[n]
            if len(found) == budget:
                break
    return found


@pytest.mark.parametrize("budget", [1, 17, 150, 400])
def test_passes_over_the_tags_are_those_of_the_paper(budget: int) -> None:
    tags = random_tags(300, 40, seed=4)
    order = np.argsort(-tags.per_row, kind="stable")
    assert count_first(tags, order, budget).tolist() == passes(rows_of(tags), order.tolist(), budget)


def test_count_covers_all_tags_before_it_repeats_any() -> None:
    samples = intending("a; b; c", "a; b", "b; c", "d", "d; a", "c", None)
    choice, kept = pick(Complexity(budget=2, min_count=1), samples)
    assert kept == [0, 4]
    assert choice.figures == {
        "tags": 4,
        "tags_per_sample_before": round(11 / 7, 3),
        "tags_per_sample": 2.5,
        "coverage": 1.0,
    }
    assert pick(Complexity(budget=3, min_count=1), samples)[1] in ([0, 1, 4], [0, 2, 4])  # the next pass begins


def test_samples_without_tags_go_and_say_so() -> None:
    samples = intending("a; b", None, "", "rare", "b; a")
    choice, kept = pick(Complexity(budget=1.0), samples)
    assert kept == [0, 4]
    assert sorted(choice.reasons[why] for why in choice.reason if why >= 0) == ["complexity: no tags"] * 3
    assert sorted(choice.scores["tag_count"].tolist()) == [0, 0, 0, 2, 2]


def dense_mig(tags: TagMatrix, quality: np.ndarray, vectors: Float32, min_cosine: float, budget: int) -> list[int]:
    """MIG with whole matrices: argmax u . phi'(x) over what is left."""
    v = np.zeros((len(quality), len(tags.names)))
    v[tags.rows, tags.tags] = (quality / np.maximum(tags.per_row, 1))[tags.rows]
    cosines = (vectors @ vectors.T).astype(float)
    w = np.where(cosines >= min_cosine, cosines, 0.0)
    np.fill_diagonal(w, 1.0)
    u = v @ (w / w.sum(axis=0))
    x, open_ = np.zeros(len(tags.names)), tags.per_row > 0
    found: list[int] = []
    while open_.any() and len(found) < budget:
        gain = np.where(open_, u @ (0.8 * (x + 1e-6) ** -0.2), -1)
        best = int(gain.argmax())
        found.append(best)
        open_[best] = False
        x += u[best]
    return found


@pytest.mark.parametrize("min_cosine", [0.5, 0.9, 1.0])
def test_the_lazy_choice_of_mig_equals_the_dense_one(min_cosine: float) -> None:
    tags = random_tags(400, 60, seed=6)
    rng = np.random.default_rng(6)
    quality, vectors = rng.uniform(1, 5, 400), unit(rng.normal(size=(len(tags.names), 4)))
    found = mig(tags, quality, propagation(vectors, min_cosine), 250)
    assert found.chosen.tolist() == dense_mig(tags, quality, vectors, min_cosine, 250)


def test_columns_of_the_propagation_sum_up_to_one() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(1500, 3)))
    found = propagation(vectors, 0.95)
    assert np.bincount(found.tags, weights=found.weights, minlength=1500) == pytest.approx(np.ones(1500))
    assert len(found.tags) > 3000


def test_mig_prefers_good_samples_of_tags_not_covered_yet() -> None:
    samples = intending("math", "math", "poem", "code", None, "math", judge=[5, 4, 2, 3, 5, 5])
    choice, kept = pick(Complexity(budget=3, rule="mig", min_count=1), samples)
    assert len({samples[n].tags["intents"] for n in kept}) == 3
    assert set(kept) - {0, 5} == {2, 3}
    gains = choice.scores["mig_gain"]
    assert np.array_equal(np.isnan(gains), ~choice.kept)
    assert (gains[choice.kept] > 0).all()


def test_mig_without_scores_says_so_and_can_do_without() -> None:
    samples = [replace(s, scores={}) if n else s for n, s in enumerate(intending("a", "b", "c"))]
    choice, kept = pick(Complexity(budget=3, rule="mig", min_count=1), samples)
    assert kept == [0]
    assert [choice.reasons[why] for why in choice.reason if why >= 0] == ["complexity: no score"] * 2
    assert pick(Complexity(budget=3, rule="mig", min_count=1, score=""), samples)[1] == [0, 1, 2]


def test_the_order_of_the_samples_changes_nothing() -> None:
    rng = Random(3)
    intents = [
        "; ".join(rng.sample(["math", "poems", "code", "翻译", "写作", "history"], rng.randint(1, 3)))
        for _ in range(60)
    ]
    samples = intending(*intents, judge=[float(rng.randint(1, 3)) for _ in intents])
    shuffled = rng.sample(samples, len(samples))
    for step in (Complexity(budget=20), Complexity(budget=20, rule="mig"), Complexity(budget=9, merge_cosine=0.9)):
        assert {samples[n].id for n in pick(step, samples)[1]} == {shuffled[n].id for n in pick(step, shuffled)[1]}


@pytest.mark.parametrize("rule", ["count", "mig"])
def test_nothing_and_a_single_sample_and_equal_samples_are_handled(rule: Any) -> None:
    step = Complexity(budget=4, rule=rule, min_count=1)
    assert pick(step, [])[1] == []
    assert pick(step, intending("a"))[1] == [0]
    assert len(pick(step, intending(*["a; b"] * 9))[1]) == 4
    assert pick(Complexity(budget=4, rule=rule), intending("a", "b"))[1] == []  # all tags are rare


def test_mistakes_are_errors() -> None:
    with pytest.raises(JobError, match="no sample has the tag 'intents'"):
        pick(Complexity(budget=1), intending(None))
    with pytest.raises(JobError, match="no sample has the score 'reward'"):
        pick(Complexity(budget=1, rule="mig", score="reward"), intending("a", "a"))
    with pytest.raises(JobError, match="must not be negative"):
        pick(Complexity(budget=1, rule="mig"), intending("a", "a", judge=[-1, 2]))
    view: View = view_of(intending("a", "a"))
    with pytest.raises(JobError, match="no encoder"):
        Complexity(budget=1, rule="mig").pick(view, Random(0))


@pytest.mark.parametrize("wrong", [{"score": "judge"}, {"min_cosine": 0.8}, {"rule": "mig", "prefer": ["judge"]}])
def test_a_setting_of_the_other_rule_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must be left out"):
        Complexity(budget=3, **wrong)


def test_it_asks_for_the_encoder_only_where_tags_are_compared() -> None:
    job = VectorsOf(Embedding(), "instruction")
    assert not Complexity(budget=3).encodes()
    for step in (Complexity(budget=3, rule="mig"), Complexity(budget=3, merge_cosine=0.9)):
        assert step.encodes()
        assert step.wants(job) is None, "no sample is embedded for it"
