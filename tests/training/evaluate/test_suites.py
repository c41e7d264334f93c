"""Suites are frozen, asked of every model once, reduced and compared; engines are scripted."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, from_table, seed
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Choose, Reply, Request, Write
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.scorers.contract import OWN
from gristmill.training.evaluate.suites import ask, compare, items
from gristmill.training.evaluate.suites.bench import Bench
from gristmill.training.evaluate.suites.freeze import Suite, contamination, freeze, place_of
from tests.training.conftest import dataset
from tests.training.evaluate.items import Models, gathered_from, gathered_of, likes, says
from tests.training.evaluate.test_scorers import scorer

DRAWS = compare.Draws(200, 0)


def said_of(request: Request) -> str:
    return request.messages[-1].text


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
    assert tuple(again.items) == tuple(suite.items) and store.manifest(again.folder) == before
    assert before.kind == "samples" and before.rows == 7 and before.kept == 4


def test_only_a_scorer_of_answers_in_a_context_takes_items_without_one(store: Store) -> None:
    none = seed([Message("user", "Who?\n\nAnna lives."), Message("assistant", "")], {"answers": "[]"})
    blank = seed([Message("user", "Where?\n\nAnna lives."), Message("assistant", "")])
    has = seed([Message("user", "Who lives?\n\nAnna lives."), Message("assistant", "Anna")])
    suite = frozen(store, "squad", [none, blank, has])
    assert {one.answers for one in suite.items} == {("",), ("Anna",)}
    assert suite.dropped == {"no answer": 1}
    assert frozen(store, "exact_match", [none, blank, has]).dropped == {"no answer": 2}


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
    assert len(by_folder["t"]) == 8 + 2 * 8, "each item once for the calibration, then two requests an item"
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
    values = gathered_from(store, "evaluate-1", [suite])
    [found] = compare.compare([suite], ["base", "tuned"], values, {}, DRAWS)
    assert (found.items, found.unasked) == (7, 1)
    assert [model.value for model in found.models] == [1, 1]


def test_a_judge_compares_every_model_with_the_base(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gristmill.training.evaluate.suites import bench as benches

    suite = frozen(store, "pairwise")
    ground = bench(store, [suite])
    ground.run_models(models().open, None)
    judge = Models(judge=lambda request: likes(**{" A": 0.9, " B": 0.1}))
    monkeypatch.setattr(benches, "serving", lambda engine, run, name, where: judge.open("judge", name))
    ground.run_judges()
    [found] = compare.compare([suite], ["base", "tuned"], gathered_from(store, "evaluate-1", [suite]), {}, DRAWS)
    base, tuned = found.models
    differ = sum(knows(Write(one.prompt, 1, 0)) != "good" for one in suite.items)
    assert base.value == tuned.value == 0.5
    assert tuned.measures["flip_rate"] == differ / 8 > 0
    assert len(judge.asked) == 2 * (8 + differ), "8 right answers test the judge, and equal replies are not judged"
    ground.run_judges()
    assert len(judge.asked) == 2 * (8 + differ), "verdicts are not asked for again"
    assert (tuned.verdict, tuned.p, tuned.p_adjusted) == ("no verdict", None, None)
    assert found.undecided.startswith(
        "the judge is not shown to tell right answers from wrong ones: of 8 it prefers 0 "
    )


def test_a_judge_that_knows_right_answers_gives_a_verdict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gristmill.training.evaluate.suites import bench as benches

    def rate(request: Request) -> Reply:
        """Return the choice of a judge that likes the reply `good` for the items that have this answer."""
        assert isinstance(request, Choose)
        right = "good" if any(f"{word} " in request.prefix for word in ("soup", "rice", "fish", "salad")) else "bad"
        first = request.prefix.rpartition("Reply A: ")[2].startswith(right)
        return likes(**{" A": 0.9 if first else 0.1, " B": 0.1 if first else 0.9})

    made = [seed([Message("user", f"{one.messages[0].text} ({n})"), one.messages[1]]) for n, one in enumerate(rows(24))]
    suite = frozen(store, "pairwise", made)
    ground = bench(store, [suite])
    ground.run_models(models().open, None)
    monkeypatch.setattr(benches, "serving", lambda engine, run, name, where: Models(judge=rate).open("judge", name))
    ground.run_judges()
    [found] = compare.compare([suite], ["base", "tuned"], gathered_from(store, "evaluate-1", [suite]), {}, DRAWS)
    assert found.unfit == ""
    assert found.models[1].verdict == "better" and found.models[1].measures["flip_rate"] == 0


def test_measures_have_intervals_over_families(store: Store) -> None:
    suite = frozen(store, samples=rows(40))
    bench(store, [suite]).run_models(
        Models(b=answers(lambda r: knows(r) if "1" in said_of(r) else "good"), t=answers(knows)).open, None
    )
    values = gathered_from(store, "evaluate-1", [suite])
    [found] = compare.compare([suite], ["base", "tuned"], values, {}, DRAWS)
    base, tuned = found.models
    low, high = base.bounds["macro_f1"]
    assert low < base.measures["macro_f1"] < high <= 1 and high - low > 0.1
    assert tuned.bounds["accuracy"] == (1, 1)
    some = frozen(store, samples=rows(8), name="few")
    scores = items.scores_of(ask.committed(store, "evaluate-1"))["base", "mine"]
    [few] = compare.compare([some], ["base"], gathered_of([some], {("base", "few"): scores}), {}, DRAWS)
    assert few.items == 8 and few.models[0].measures and few.models[0].bounds == {}


def test_samples_of_a_suite_can_be_read_as_any_dataset(store: Store) -> None:
    suite = frozen(store)
    samples = from_table(store.read(suite.folder))
    assert [sample.answer for sample in samples if sample.dropped is None] == [one.answer for one in suite.items]
