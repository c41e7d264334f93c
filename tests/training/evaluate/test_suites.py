"""Suites are frozen, asked of every model once, reduced and compared; engines are scripted."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, from_table, seed
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Choose, Reply, Request, Write
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Scorer
from gristmill.training.evaluate.suites import ask, compare, items, reducers
from gristmill.training.evaluate.suites.bench import Bench
from gristmill.training.evaluate.suites.freeze import Suite, contamination, freeze, place_of
from gristmill.training.evaluate.suites.items import Judged
from tests.training.conftest import dataset
from tests.training.evaluate.items import Models, item, likes, says
from tests.training.evaluate.test_scorers import scorer

DRAWS = compare.Draws(200, 0)


def rows(count: int = 8, *, odd: str = "bad") -> list[Sample]:
    """Labelled texts, one after the other good and bad."""
    texts = (
        "lovely soup",
        "stale bread",
        "warm rice",
        "cold tea",
        "fresh fish",
        "rude driver",
        "crisp salad",
        "tiny cake",
    )
    pairs = [(f"Number {n}: {texts[n % 8]}", odd if n % 2 else "good") for n in range(count)]
    return [seed([Message("user", text), Message("assistant", label)]) for text, label in pairs]


def frozen(
    store: Store, kind: str = "labels", samples: Sequence[Sample] = (), name: str = "mine", **settings: Any
) -> Suite:
    return freeze(store, name, scorer(kind, **settings), dataset(store, list(samples) or rows(), f"ingest-{name:0>12}"))


# -- freeze -------------------------------------------------------------------------------------------------------


def test_a_suite_has_prompts_families_and_reasons_and_is_made_once(store: Store) -> None:
    made = [
        *rows(4),
        seed([Message("user", "no answer")]),
        seed([Message("user", "Weather?"), Message("assistant", "mixed")]),
        seed([Message("user", "Number 0: lovely soup "), Message("assistant", "bad")]).drop("row: bad"),
    ]
    settings: dict[str, Any] = {"labels": ["good", "bad"], "prompt": "Good or bad?\n{prompt}\n---\nIt is "}
    suite = frozen(store, samples=made, **settings)
    assert dict(suite.dropped) == {"no answer": 1, "answer is none of the labels": 1, "row: bad": 1}
    assert suite.items[0].prompt[-1].text == "Good or bad?\nNumber 0: lovely soup"
    assert {one.prefix for one in suite.items} == {"It is "}
    assert [one.answer for one in suite.items] == ["good", "bad", "good", "bad"]
    assert len({one.digest for one in suite.items}) == 4 == len(set(suite.families.tolist()))
    before = store.manifest(suite.folder)
    again = frozen(store, samples=made, **settings)
    assert again.items == suite.items and store.manifest(again.folder) == before
    assert before.kind == "samples" and before.rows == 7 and before.kept == 4


def test_the_same_items_have_the_same_fingerprint_whatever_is_said_of_them(store: Store) -> None:
    plain = place_of(scorer("labels"), "ingest-1")
    assert place_of(scorer("labels", role="retention", made=True, effect=0.2), "ingest-1") == plain
    assert place_of(scorer("labels", prompt="Well: {prompt}"), "ingest-1") != plain
    assert place_of(scorer("labels"), "ingest-2") != plain


def test_two_rows_with_one_prompt_are_one_item(store: Store) -> None:
    made = [*rows(2), seed([Message("user", "Number 0: lovely soup"), Message("assistant", "bad")])]
    assert dict(frozen(store, samples=made).dropped) == {"asked before": 1}


def test_a_suite_without_items_is_refused(store: Store) -> None:
    with pytest.raises(JobError, match=r"evaluate.suites.mine: none of the rows can be judged .*no answer.*: 2"):
        frozen(store, samples=[seed([Message("user", text)]) for text in ("a", "b")])


def test_checks_need_no_answer_and_tags_come_from_files(store: Store, tmp_path: Path) -> None:
    lines = [{"instruction": "Name a river.", "tags": {"checks": '{"max_words": 1}'}, "output": "Elbe"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    folder = ingest(store, Source.model_validate(str(tmp_path / "test.jsonl")))
    [one] = freeze(store, "form", scorer("checks"), folder).items
    judge = scorer("checks")
    assert [judge.score(one, [says(text)], ())[OWN].value for text in ("Elbe", "the Elbe")] == [1, 0]


def test_rows_trained_on_that_are_near_an_item_are_counted(store: Store) -> None:
    words = "the quick brown fox jumps over a lazy dog near the old mill by the river"
    one = seed([Message("user", f"Rate it: {words}."), Message("assistant", "good")])
    copied = seed([Message("user", f"Rate it: {words}!"), Message("assistant", "good")])
    suite = frozen(store, samples=[one, *rows(4)], prompt="Of this say good or bad. {prompt}")
    trained = store.read(dataset(store, [copied, *rows(20, odd="sour")[10:]], "select-000000000009"))
    same = frozen(store, "exact_match", [one], "same")
    other = frozen(store, "exact_match", rows(2), "other")
    assert contamination(store, [suite, same, other], trained) == {"mine": (1, 1), "same": (1, 1), "other": (0, 0)}


# -- ask ----------------------------------------------------------------------------------------------------------


def answers(right: Callable[[Request], str]) -> Callable[[Request], Reply]:
    """A model that answers by a rule, whichever way it is asked."""

    def reply(request: Request) -> Reply:
        said = right(request)
        if isinstance(request, Choose):
            return likes(**{label: 0.9 if label == said else 0.1 for label in request.choices})
        return says(said)

    return reply


def knows(request: Request) -> str:
    good = ("lovely", "warm", "fresh", "crisp")
    return "good" if any(word in request.messages[-1].text for word in good) else "bad"


def bench(store: Store, suites: Sequence[Suite], output: str = "evaluate-1") -> Bench:
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), None)
    return Bench(run, output, {"base": "b", "tuned": "t"}, suites)


def models(fail_at: int = 0) -> Models:
    return Models(fail_at, b=answers(lambda _: "good"), t=answers(knows))


def test_all_models_get_the_same_requests_and_every_value_is_in_the_items(store: Store) -> None:
    suite = frozen(store)
    engines = models()
    assert bench(store, [suite]).run_models(engines.open, None) > 0
    assert engines.opened == ["t", "b"]
    by_folder = {folder: [request for name, request in engines.asked if name == folder] for folder in "tb"}
    assert by_folder["t"] == by_folder["b"]
    assert len(by_folder["t"]) == 3 + 2 * 8, "texts without content once, then two requests an item"
    table = ask.committed(store, "evaluate-1")
    assert table.num_rows == 2 * 8 * 3
    own = {(row["model"], row["item"]): row["value"] for row in table.to_pylist() if row["scorer"] == "labels"}
    assert sum(own[("tuned", one.id)] for one in suite.items) == 8
    assert sum(own[("base", one.id)] for one in suite.items) == 4
    assert {row["prompt_digest"] for row in table.to_pylist()} == {one.digest for one in suite.items}


def test_an_interrupted_evaluation_asks_only_what_is_not_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "AT_ONCE", 3)
    suites = [frozen(store), frozen(store, "exact_match", name="words")]
    bench(store, suites, "evaluate-2").run_models((whole := models()).open, None)
    killed = models(fail_at=len(whole.asked) // 2)
    with pytest.raises(KeyboardInterrupt):
        bench(store, suites).run_models(killed.open, None)
    done = store.committed("evaluate-1")
    assert 0 < len(done) < len(bench(store, suites).parts)
    rest = models()
    bench(store, suites).run_models(rest.open, None)
    assert len(rest.asked) < len(whole.asked)
    table = ask.committed(store, "evaluate-1")
    assert table.equals(ask.committed(store, "evaluate-2"))
    nothing = models()
    assert bench(store, suites).run_models(nothing.open, None) == 0
    assert nothing.opened == []


def test_an_item_that_an_engine_refuses_is_left_out_for_all_models(store: Store) -> None:
    suite = frozen(store, "exact_match")

    def refuses(request: Request) -> Reply:
        long = "soup" in request.messages[-1].text
        return Reply("", "error: too long", 0, 0) if long else says(knows(request))

    engines = Models(b=answers(knows), t=refuses)
    bench(store, [suite]).run_models(engines.open, None)
    scores = items.scores_of(ask.committed(store, "evaluate-1"))
    [found] = compare.compare([suite], ["base", "tuned"], scores, {}, DRAWS)
    assert (found.items, found.unasked) == (7, 1)
    assert [model.value for model in found.models] == [1, 1]


def test_a_judge_compares_every_model_with_the_base(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gristmill.training.evaluate.suites import bench as benches

    suite = frozen(store, "pairwise")
    ground = bench(store, [suite])
    ground.run_models(models().open, None)
    judge = Models(judge=lambda request: likes(**{" A": 0.9, " B": 0.1}))
    monkeypatch.setattr(benches, "serving", lambda engine, logs, name, where: judge.open("judge", name))
    ground.run_judges()
    table = ask.committed(store, "evaluate-1")
    [found] = compare.compare([suite], ["base", "tuned"], items.scores_of(table), {}, DRAWS)
    base, tuned = found.models
    differ = sum(knows(Write(one.prompt, 1, 0)) != "good" for one in suite.items)
    assert base.value == tuned.value == 0.5
    assert tuned.measures["flip_rate"] == differ / 8 > 0
    assert len(judge.asked) == 2 * differ, "equal replies are not judged"
    ground.run_judges()
    assert len(judge.asked) == 2 * differ, "verdicts are not asked for again"


# -- reduce -------------------------------------------------------------------------------------------------------


def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    """The example in the documentation of precision_recall_fscore_support, and its own values."""
    from sklearn.metrics import precision_recall_fscore_support

    truth, said = ["cat", "dog", "pig", "cat", "dog", "pig"], ["cat", "pig", "dog", "cat", "cat", "dog"]
    names = ["cat", "dog", "pig"]
    found = reducers.classified(truth, said, names)
    for average in ("macro", "micro"):
        expected = precision_recall_fscore_support(truth, said, average=average, labels=names, zero_division=0)
        assert [found[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert found["macro_f1"] == pytest.approx(0.26, abs=0.01)
    assert found["accuracy"] == pytest.approx(1 / 3)
    nothing = reducers.classified(["cat", "dog"], ["cat", reducers.NO_LABEL], ["cat", "dog"])
    assert (nothing["accuracy"], nothing["micro_precision"], nothing["micro_recall"]) == (0.5, 1, 0.5)


def test_the_area_under_the_roc_curve_is_that_of_scikit_learn() -> None:
    chances = [{"p": p, "n": 1 - p} for p in (0.1, 0.4, 0.35, 0.8)]
    assert reducers.roc_auc(["n", "n", "p", "p"], chances, ["n", "p"]) == pytest.approx(0.75)
    assert reducers.roc_auc(["n", "n"], chances[:2], ["n"]) is None
    tied = [{"p": 0.5, "n": 0.5}] * 4
    assert reducers.roc_auc(["n", "n", "p", "p"], tied, ["n", "p"]) == 0.5


def test_the_confusion_counts_pairs_of_right_and_given_labels() -> None:
    assert dict(reducers.confusion(["a", "a", "b"], ["a", "b", "b"])) == {("a", "a"): 1, ("a", "b"): 1, ("b", "b"): 1}


def told(judge: Scorer, *pairs: tuple[Item, Reply]) -> list[Judged]:
    return [Judged(one, judge.score(one, [reply], ())) for one, reply in pairs]


def test_bleu_and_chrf_are_those_of_sacrebleus_readme() -> None:
    references = (
        ("The dog bit the man.", "The dog had bit the man."),
        ("It was not unexpected.", "No one was surprised."),
        ("The man bit him first.", "The man had bitten the dog."),
    )
    said = ("The dog bit the man.", "It wasn't surprising.", "The man had just bitten him.")
    judge = scorer("translation")
    pairs = [
        (item(f"{n}", right[0], answers=json.dumps(right)), says(one))
        for n, (right, one) in enumerate(zip(references, said, strict=True))
    ]
    found = reducers.measures(judge, told(judge, *pairs), [])
    assert found["bleu"] == pytest.approx(48.530827009929865)
    chinese = told(judge, *[(item("x", "狗咬了那个人。"), says("狗咬了那个人。"))])
    assert reducers.measures(judge, chinese, [])["bleu"] == pytest.approx(100)


def test_entities_are_counted_over_all_items() -> None:
    judge = scorer("entities")
    pairs = [
        (item("x", '{"PER": ["Ada"]}'), says('{"PER": ["Ada", "Bob"]}')),
        (item("y", '{"PER": ["Cy"]}'), says("[]")),
    ]
    found = reducers.measures(judge, told(judge, *pairs), [])
    assert found == {"micro_precision": 0.5, "micro_recall": 0.5, "micro_f1": 0.5}


def test_perplexity_is_over_tokens_not_over_items() -> None:
    judged = [
        Judged(item("x"), {OWN: Judgement(-1.0), "tokens": Judgement(3.0)}),
        Judged(item("y"), {OWN: Judgement(-2.0), "tokens": Judgement(1.0)}),
    ]
    found = reducers.measures(scorer("loss"), judged, [])
    assert found == {"loss": pytest.approx(1.25), "perplexity": pytest.approx(np.exp(1.25))}


def test_wins_that_come_from_length_alone_are_no_wins_at_equal_length() -> None:
    rng = np.random.default_rng(0)
    longer = rng.normal(60, 100, 4000)  # most replies of the model are longer
    wins = (rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))).astype(np.float64)
    assert wins.mean() > 0.6
    assert reducers.equal_length_rate(wins, longer) == pytest.approx(0.5, abs=0.03)
    assert reducers.equal_length_rate(np.ones(50), longer[:50]) > 0.9
    assert reducers.equal_length_rate(wins, np.zeros(4000)) == wins.mean()


def test_measures_have_intervals_over_families(store: Store) -> None:
    suite = frozen(store, samples=rows(40))
    bench(store, [suite]).run_models(
        Models(b=answers(lambda r: knows(r) if "1" in said_of(r) else "good"), t=answers(knows)).open, None
    )
    scores = items.scores_of(ask.committed(store, "evaluate-1"))
    [found] = compare.compare([suite], ["base", "tuned"], scores, {}, DRAWS)
    base, tuned = found.models
    low, high = base.bounds["macro_f1"]
    assert low < base.measures["macro_f1"] < high <= 1 and high - low > 0.1
    assert tuned.bounds["accuracy"] == (1, 1)
    some = frozen(store, samples=rows(8), name="few")
    [few] = compare.compare([some], ["base"], {("base", "few"): scores["base", "mine"]}, {}, DRAWS)
    assert few.items == 8 and few.models[0].measures and few.models[0].bounds == {}


def said_of(request: Request) -> str:
    return request.messages[-1].text


# -- compare ------------------------------------------------------------------------------------------------------


def a_suite(count: int, name: str = "mine", families: Sequence[int] | None = None, **settings: Any) -> Suite:
    made = tuple(item(f"question {n}", "a") for n in range(count))
    kin = np.array(families if families is not None else range(count), np.int64)
    return Suite(name, "suite-1", scorer("exact_match", **settings), made, kin, {})


def compared(suites: Sequence[Suite], *values: Sequence[Sequence[float]]) -> Any:
    """Compare models: for each its values in each suite."""
    names = ["base", "tuned", "other"][: len(values)]
    scores = {
        (name, suite.name): {one.id: {OWN: Judgement(float(v))} for one, v in zip(suite.items, mine, strict=True)}
        for name, each in zip(names, values, strict=True)
        for suite, mine in zip(suites, each, strict=True)
    }
    return compare.compare(suites, names, scores, {}, DRAWS)


def test_right_and_wrong_answers_are_compared_by_mcnemar_and_adjusted_over_suites() -> None:
    """By hand: 8 of 9 that changed got better, p = 2 (1 + 9) / 512; the other suite's p = 1; Holm doubles the first."""
    before, after = [0] * 9 + [1] * 21, [1] * 8 + [0] + [1] * 20 + [0]
    suites = [a_suite(30, "first"), a_suite(30, "second")]
    first, second = compared(suites, [before, before], [after, before])
    tuned = first.models[1]
    assert (tuned.better, tuned.worse, tuned.verdict) == (8, 1, "no difference shown")
    assert tuned.p == pytest.approx(20 / 512)
    assert tuned.p_adjusted == pytest.approx(40 / 512)
    assert (second.models[1].p, second.models[1].p_adjusted) == (1, 1)
    [alone] = compared(suites[:1], [before], [after])
    assert (alone.models[1].p_adjusted, alone.models[1].verdict) == (pytest.approx(20 / 512), "better")
    assert alone.models[0].verdict == "" and alone.models[0].difference is None


def test_families_that_all_change_alike_show_no_more_than_their_signs() -> None:
    """By hand: 4 of 4 better has p = 2 / 16, though nothing varies; an interval would be a point, so there is none."""
    [found] = compared([a_suite(4)], [[0.5] * 4], [[1.0] * 4])
    tuned = found.models[1]
    assert (tuned.p, tuned.verdict, tuned.ci_low, tuned.ci_high) == (0.125, "no difference shown", None, None)
    assert (tuned.value, tuned.low) == (1, None)
    [kin] = compared([a_suite(8, families=[0, 0, 1, 1, 2, 2, 3, 3])], [[0.0] * 8], [[1.0] * 8])
    assert kin.models[1].p == 0.125


def test_an_interval_of_shares_ends_where_shares_do() -> None:
    [found] = compared([a_suite(3)], [[0, 0, 1]], [[0, 1, 1]])
    assert (found.models[0].low, found.models[0].high) == (0, 1)
    assert (found.models[1].ci_low or 0) >= -1 and (found.models[1].ci_high or 0) <= 1


def test_kin_are_one_observation() -> None:
    families = [n // 6 for n in range(36)]
    before, after = [0] * 36, [1] * 24 + [0] * 12
    [single] = compared([a_suite(36)], [before], [after])
    [kin] = compared([a_suite(36, families=families)], [before], [after])
    assert (single.families, kin.families) == (36, 6)
    assert single.models[1].p < 1e-6
    assert kin.models[1].p > 0.01


def test_a_suite_that_is_too_small_for_its_effect_says_so_with_the_number_needed() -> None:
    before = [0, 1] * 20
    after = [1, 1, 0, 0] * 10
    [found] = compared([a_suite(40, effect=0.1)], [before], [after])
    tuned = found.models[1]
    assert tuned.needed is not None and tuned.needed > 40
    assert f"about {tuned.needed:,} are needed" in found.undecided and "40 families" in found.undecided
    [same] = compared([a_suite(40, effect=0.1)], [before], [before])
    assert same.models[1].needed is not None, "no item differs, yet up to 3 in 40 may"
    [coarse] = compared([a_suite(40, effect=0.6)], [before], [after])
    assert coarse.undecided == ""


def test_two_equal_models_show_no_difference_in_95_of_100_comparisons() -> None:
    """300 trials of two suites err by 0.025 (two standard errors); over 600 with 1,000 draws it was 5.2 %."""
    rng = np.random.default_rng(11)
    suites = [a_suite(60, "first"), a_suite(60, "second", [n // 2 for n in range(60)])]
    told_apart = 0
    for _ in range(300):
        drawn = [[(rng.random(60) < 0.6).astype(int).tolist() for _ in suites] for _ in range(2)]
        told_apart += any(suite.models[1].verdict != "no difference shown" for suite in compared(suites, *drawn))
    assert told_apart / 300 <= 0.075


def test_a_better_model_is_found_in_a_suite_that_is_large_enough() -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(50):
        before = (rng.random(300) < 0.5).astype(int)
        after = np.where(rng.random(300) < 0.25, 1, before)
        [suite] = compared([a_suite(300)], [before.tolist()], [after.tolist()])
        found += suite.models[1].verdict == "better"
    assert found == 50


def test_samples_of_a_suite_can_be_read_as_any_dataset(store: Store) -> None:
    suite = frozen(store)
    samples = from_table(store.read(suite.folder))
    assert [sample.answer for sample in samples if sample.dropped is None] == [one.answer for one in suite.items]
