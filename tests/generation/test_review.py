"""The review job: votes become labels, the least certain go to people, and what people say comes back."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster import ids, report
from cluster.errors import JobError, SchemaError
from cluster.ingest import Source, ingest
from cluster.job import Run, Work
from cluster.ledger import Ledger
from cluster.progress import Screen
from cluster.recipe import load, open_recipe
from cluster.sample import Message, Sample, to_table
from cluster.store import Manifest, Store, place
from cluster.summary import run_lines
from generation.contracts import Snapshot
from generation.methods.annotate import Annotate
from generation.review import Review
from tests.fakes import ScriptedAsk
from tests.invariants import check_dataset, samples_of

PERSON = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
EXAMPLES = Path(__file__).parents[2] / "examples"


def voted(
    text: str, answer: str = "", dropped: str | None = None, confidence: float | None = None, **votes: str
) -> Sample:
    """A sample as annotate leaves it: the label that it chose as the answer and as a tag, a vote a tag."""
    tags = {f"vote:{name}": vote for name, vote in votes.items()} | ({"label": answer} if answer else {})
    messages = (Message("user", text), Message("assistant", answer)) if answer else (Message("user", text),)
    scores = {} if confidence is None else {"confidence": confidence}
    return Sample(ids.digest(text), messages, (), "annotate", 1, scores, {**tags, "language": "zh"}, dropped)


ROWS = [
    voted("很好吃", "好评", model="好评", rule="好评", hint="好评"),
    voted("太慢了", "差评", model="差评", rule="差评", hint="好评"),
    voted("还行吧", "好评", model="好评", rule="差评", confidence=0.6),
    voted("味道一般，但送得快", "差评", model="差评", confidence=0.55),
    voted("谢谢", "好评", model="好评", rule="好评"),
    voted("dropped before", "好评", model="好评", dropped="length: too short"),
]


def put(store: Store, rows: Sequence[Sample], name: str = "generate-x") -> str:
    shard = store.commit_shard(name, "shard-00000", to_table(rows))
    store.commit(Manifest(name, "samples", "generate", "0" * 32, {}, {}, (shard,)))
    return name


def reviewed(store: Store, settings: Review, rows: Sequence[Sample] = ROWS) -> tuple[dict[str, Any], list[Sample], str]:
    """Figures, rows and folder of a review of these rows."""
    samples = "generate-x" if store.complete("generate-x") else put(store, rows)
    name, fingerprint = place("review", settings.identity(), {"samples": samples})
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), None)
    figures = settings.make(run, Work(name, fingerprint, {"samples": samples}))
    return figures, check_dataset(store, name), name


def by_text(rows: Sequence[Sample]) -> dict[str, Sample]:
    return {row.instruction: row for row in rows}


def queue_of(store: Store, name: str) -> list[dict[str, Any]]:
    return list(store.read_json(name, "queue.json"))


def label_studio(folder: Path, name: str, *said: tuple[str, int, str]) -> str:
    """A JSON export of Label Studio: (text, person, label) each."""
    entries: dict[str, dict[str, Any]] = {}
    for text, person, label in said:
        entry = entries.setdefault(text, {"data": {"sample_id": ids.digest(text), "text": text}, "annotations": []})
        result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        entry["annotations"].append({"completed_by": person, "was_cancelled": False, "result": [result]})
    path = folder / name
    path.write_text(json.dumps(list(entries.values()), ensure_ascii=False))
    return str(path)


def test_the_majority_decides_and_an_even_vote_is_broken_by_the_label_that_came_in(store: Store) -> None:
    figures, rows, _ = reviewed(store, Review())
    found = by_text(rows)
    assert [row.instruction for row in rows] == [s.instruction for s in ROWS[:5]], (
        "those that came in dropped stay there"
    )
    assert found["很好吃"].scores["confidence"] == 1
    assert (found["太慢了"].tags["label"], found["太慢了"].answer) == ("差评", "差评")
    assert found["太慢了"].scores["confidence"] == pytest.approx(2 / 3)
    assert (found["还行吧"].tags["label"], found["还行吧"].scores["confidence"]) == ("好评", 0.5)
    assert found["味道一般，但送得快"].scores["confidence"] == pytest.approx(0.55), "one vote agrees with itself"
    assert {row.tags["label_source"] for row in rows} == {"majority"}
    assert (figures["rows"], figures["kept"], figures["dropped"]) == (5, 5, 0)
    assert figures["labels"] == {"好评": 3, "差评": 2}
    before = {s.id: s for s in ROWS}
    assert all((r.parents, r.method, r.round) == (before[r.id].parents, before[r.id].method, 1) for r in rows)


def test_a_label_that_the_votes_overturn_is_overturned_in_the_answer_and_other_answers_stay(store: Store) -> None:
    lost = voted("a", "no", model="no", rule="yes", hint="yes")
    json_answer = Sample("b" * 32, (Message("user", "b"), Message("assistant", '{"label": "no"}')), tags=lost.tags)
    bare = voted("c", model="yes")
    _, rows, _ = reviewed(store, Review(), [lost, json_answer, bare])
    assert [row.answer for row in rows] == ["yes", '{"label": "no"}', "yes"]
    assert {row.tags["label"] for row in rows} == {"yes"}


def test_dawid_skene_learns_whom_to_believe(store: Store) -> None:
    rng = np.random.default_rng(0)
    truth = ["yes" if bit else "no" for bit in rng.integers(0, 2, 400)]
    other = {"yes": "no", "no": "yes"}
    skills = {"a": 0.95, "b": 0.8, "c": 0.55, "d": 0.55, "e": 0.55}
    rows = [
        voted(f"text {n}", **{k: (t if rng.random() < p else other[t]) for k, p in skills.items()})
        for n, t in enumerate(truth)
    ]
    right = {}
    for combine in ("majority", "dawid_skene"):
        _, out, _ = reviewed(store, Review.model_validate({"combine": combine}), rows)
        right[combine] = np.mean([row.tags["label"] == t for row, t in zip(out, truth, strict=True)])
        assert all(0.5 <= row.scores["confidence"] <= 1 for row in out)
    assert right["dawid_skene"] > right["majority"] + 0.03
    assert right["dawid_skene"] > 0.9


def test_the_least_certain_wait_for_people_in_the_form_that_was_asked_for(store: Store) -> None:
    figures, _, name = reviewed(store, Review(queue=2))
    assert [task["data"]["text"] for task in queue_of(store, name)] == ["还行吧", "味道一般，但送得快"]
    assert figures["queued"] == 2
    assert "好评" in store.read_bytes(name, "label_config.xml").decode()
    assert store.manifest(name).metadata == {"queue": "queue.json", "form": "label_studio"}
    _, _, name = reviewed(store, Review(queue=0.5, form="argilla", suggest=False))
    assert [record["fields"]["text"] for record in queue_of(store, name)] == ["还行吧", "味道一般，但送得快", "太慢了"]
    assert store.exists(name, "settings.json")


@pytest.mark.parametrize(
    ("settings", "queued"),
    [({"queue": 0}, 0), ({"queue": 1}, 1), ({"queue": 1.0}, 5), ({"queue": 1.0, "below": 0.6}, 2), ({"queue": 0.1}, 1)],
)
def test_a_whole_number_is_a_count_and_a_fraction_a_share(store: Store, settings: dict[str, Any], queued: int) -> None:
    assert reviewed(store, Review.model_validate(settings))[0]["queued"] == queued


@pytest.mark.parametrize("queue", [-1, 1.5, "many"])
def test_a_queue_that_is_neither_is_refused(queue: object) -> None:
    with pytest.raises(ValidationError, match="queue"):
        Review.model_validate({"queue": queue})


def test_what_people_say_is_the_label_and_another_file_makes_another_dataset(store: Store, tmp_path: Path) -> None:
    verdicts = str(tmp_path / "said-*.json")
    settings = Review(verdicts=(verdicts,), queue=5)
    assert settings.check(tmp_path) == [], "a pattern may match nothing yet"
    _, _, before = reviewed(store, settings)
    label_studio(tmp_path, "said-1.json", ("很好吃", 1, "差评"), ("还行吧", 1, "差评"))
    figures, rows, after = reviewed(store, settings)
    assert after != before
    found = by_text(rows)["很好吃"]
    assert (found.answer, found.tags["label"], found.tags["label_source"]) == ("差评", "差评", "human")
    assert found.scores["human"] == found.scores["confidence"] == 1
    assert "human" not in by_text(rows)["谢谢"].scores
    assert {task["data"]["text"] for task in queue_of(store, after)} == {"太慢了", "味道一般，但送得快", "谢谢"}
    assert (figures["verdicts"], figures["people"], figures["settled_by_people"]) == (2, 1, 2)
    assert figures["accuracy"] == {"hint": 0.0, "model": 0.0, "rule": 0.5, "majority": 0.0}
    moved = tmp_path / "elsewhere.json"
    moved.write_bytes((tmp_path / "said-1.json").read_bytes())
    assert Review(verdicts=(str(moved),), queue=5).fingerprint() == settings.fingerprint(), (
        "content counts, not the name"
    )


def test_several_people_vote_and_where_they_tie_the_sample_waits_again(store: Store, tmp_path: Path) -> None:
    said = [
        ("很好吃", 1, "差评"),
        ("很好吃", 2, "差评"),
        ("很好吃", 3, "好评"),
        ("谢谢", 1, "差评"),
        ("谢谢", 2, "好评"),
    ]
    path = label_studio(tmp_path, "said.json", *said)
    record = {"id": ids.digest("太慢了"), "fields": {}, "responses": {"label": [{"value": "差评", "user_id": PERSON}]}}
    (tmp_path / "argilla.json").write_text(json.dumps([record]))
    settings = Review(verdicts=(path, str(tmp_path / "argilla.json")), queue=1)
    figures, rows, name = reviewed(store, settings)
    found = by_text(rows)
    assert found["很好吃"].tags["label"] == "差评"
    assert found["太慢了"].tags["label_source"] == "human"
    assert found["谢谢"].tags["label_source"] == "majority"
    assert [task["data"]["text"] for task in queue_of(store, name)] == ["谢谢"], "what people dispute comes first"
    assert (figures["people"], figures["disputed"], figures["settled_by_people"]) == (4, 1, 2)
    pairs = {(pair["first"], pair["second"]): pair for pair in figures["agreement"]}
    assert pairs["model", "people"]["rows"] == 2
    assert pairs["model", "people"]["agree"] == 0.5
    assert pairs["person 1", "person 2"]["rows"] == 2
    assert "people" in figures["krippendorff_alpha"]


def test_the_last_word_of_a_person_counts(store: Store, tmp_path: Path) -> None:
    first = label_studio(tmp_path, "a.json", ("谢谢", 1, "差评"))
    second = label_studio(tmp_path, "b.json", ("谢谢", 1, "好评"))
    _, rows, _ = reviewed(store, Review(verdicts=(first, second)))
    assert by_text(rows)["谢谢"].tags["label"] == "好评"
    _, rows, _ = reviewed(store, Review(verdicts=(second, first)))
    assert by_text(rows)["谢谢"].tags["label"] == "差评"


def test_agreement_is_in_the_figures(store: Store) -> None:
    figures, _, _ = reviewed(store, Review())
    pairs = {(pair["first"], pair["second"]): pair for pair in figures["agreement"]}
    assert pairs["model", "rule"] == {"first": "model", "second": "rule", "rows": 4, "agree": 0.75, "kappa": 0.5}
    assert set(pairs) == {("hint", "model"), ("hint", "rule"), ("model", "rule")}
    assert set(figures["fleiss_kappa"]) == set(figures["krippendorff_alpha"]) == {"annotators"}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_verdicts_of_no_sample_are_refused_by_file_and_place_or_left_out(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("谢谢", 1, "差评"), ("stranger", 1, "好评"), ("还行吧", 1, "maybe"))
    settings = Review(verdicts=(path,), labels=("好评", "差评"))
    with pytest.raises(JobError) as caught:
        reviewed(store, settings)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: entry 2: {ids.digest('stranger')} is no sample that came in")
    assert lines[1] == f"{path}: entry 3: 'maybe' is no label, must be one of 好评, 差评"
    figures, rows, _ = reviewed(store, settings.model_copy(update={"on_bad_verdict": "skip"}))
    assert (figures["verdicts"], figures["bad_verdicts"], figures["settled_by_people"]) == (1, 2, 1)
    assert by_text(rows)["还行吧"].tags["label_source"] == "majority"


def test_samples_that_stay_uncertain_are_dropped_unless_people_settle_them(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("还行吧", 1, "差评"))
    figures, rows, _ = reviewed(store, Review(min_confidence=0.6, verdicts=(path,)))
    dropped = {row.instruction: row.dropped for row in rows if row.dropped}
    assert dropped == {"味道一般，但送得快": "review: not certain enough"}
    assert (figures["kept"], figures["dropped"]) == (4, 1)


def test_people_may_write_the_answer_anew(store: Store, tmp_path: Path) -> None:
    row = Sample("c" * 32, (Message("user", "摘要：…"), Message("assistant", "坏摘要")), scores={"confidence": 0.3})
    other = Sample("d" * 32, (Message("user", "Sum up: …"), Message("assistant", "fine")), scores={"confidence": 0.9})
    record = {"id": "c" * 32, "responses": {"label": [{"value": "好摘要", "user_id": PERSON}]}}
    (tmp_path / "said.json").write_text(json.dumps([record], ensure_ascii=False))
    settings = Review(question="text", form="argilla", queue=1)
    _, rows, name = reviewed(store, settings, [row, other])
    assert [r.messages for r in rows] == [row.messages, other.messages]
    assert queue_of(store, name)[0]["suggestions"]["label"]["value"] == "坏摘要"
    figures, rows, _ = reviewed(store, settings.model_copy(update={"verdicts": (str(tmp_path / "said.json"),)}))
    assert [r.answer for r in rows] == ["好摘要", "fine"]
    assert "label" not in rows[0].tags
    assert figures["settled_by_people"] == 1


def test_no_samples_no_votes_and_ids_that_stand_twice(store: Store, tmp_path: Path) -> None:
    figures, rows, name = reviewed(store, Review(combine="dawid_skene"), [])
    assert (rows, figures["queued"], queue_of(store, name)) == ([], 0, [])
    other = Store(str(tmp_path / "other"))
    plain = Sample("e" * 32, (Message("user", "x"), Message("assistant", "y")))
    figures, rows, _ = reviewed(other, Review(combine="dawid_skene"), [plain])
    assert (rows, figures["queued"], figures["agreement"]) == ([plain], 1, [])
    twice = Store(str(tmp_path / "twice"))
    with pytest.raises(SchemaError, match="stands twice"):
        reviewed(twice, Review(), [ROWS[0], ROWS[0]])


def test_how_sure_annotators_are_breaks_even_votes_and_is_the_confidence(store: Store) -> None:
    sample = replace(voted("a", "no", model="no", rule="yes"), scores={"confidence:model": 0.6, "confidence:rule": 0.9})
    outvoted = replace(voted("b", "no", x="no", y="no", z="yes"), scores={"confidence:x": 0.4, "confidence:y": 0.5})
    _, rows, _ = reviewed(store, Review(), [sample, outvoted])
    assert [row.tags["label"] for row in rows] == ["yes", "no"]
    assert [row.scores["confidence"] for row in rows] == pytest.approx([0.45, 0.3])


def test_labels_known_from_the_beginning_measure_the_annotators_too(store: Store) -> None:
    rows = [replace(row, tags={**row.tags, "gold": "好评"}) for row in ROWS]
    figures, _, _ = reviewed(store, Review(), rows)
    assert figures["accuracy"] == {}
    assert figures["accuracy_by_gold"] == {"hint": 1.0, "model": 0.6, "rule": 0.5, "majority": 0.6}


def test_free_text_is_not_taken_for_labels(store: Store) -> None:
    rows = [voted(f"text {n}", model=f"answer {n}") for n in range(101)]
    with pytest.raises(JobError, match="101 different labels came in"):
        reviewed(store, Review(), rows)
    assert reviewed(store, Review(question="text"))[0]["rows"] == 101


def test_the_same_review_makes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    settings = Review(combine="dawid_skene", shard_rows=2)
    for place_ in (store, other):
        _, _, name = reviewed(place_, settings)
    assert [n for n in store.names(name) if n.endswith(".arrow")] == [f"shard-0000{n}.arrow" for n in range(3)]
    for file in store.names(name):
        if file != "figures.json":
            assert store.read_bytes(name, file) == other.read_bytes(name, file)


def test_a_reviewed_dataset_is_input_of_the_next_job_with_its_labels(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("还行吧", 1, "差评"))
    _, _, name = reviewed(store, Review(verdicts=(path,)))
    next_ = Store(str(tmp_path / "next"))
    seeds = samples_of(next_, ingest(next_, Source(path=(store.at(name, "*.arrow"),))))
    assert len(seeds) == 5
    assert {s.tags["label_source"] for s in seeds} == {"human", "majority"}
    last = Store(str(tmp_path / "last"))
    human = samples_of(last, ingest(last, Source(path=(store.at(name, "people.jsonl"),))))
    assert [(s.instruction, s.answer, s.tags["label"]) for s in human] == [("还行吧", "差评", "差评")]
    snapshot = Snapshot(0, seeds=human, documents=[Sample("f" * 32, (Message("user", "好"),))])
    shown = asyncio.run(Annotate(labels=("好评", "差评")).prepare(snapshot, None, ScriptedAsk()))
    for said in ("文字：还行吧", "标签：差评"):
        assert said in repr(shown), "what people said is what the next annotators see first"


RECIPE = """
[review]
input = "voted.jsonl"
combine = "dawid_skene"
queue = 2
verdicts = "said/*.json"
"""


def recipe_in(folder: Path, text: str = RECIPE) -> Path:
    lines = [{"messages": [m._asdict() for m in s.messages], "tags": dict(s.tags)} for s in ROWS[:5]]
    (folder / "voted.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "said").mkdir(exist_ok=True)
    path = folder / "mill.toml"
    path.write_text(f'store = "{folder}/store"\n{text}')
    return path


def test_a_recipe_finds_verdicts_beside_itself_and_they_are_part_of_what_is_made(tmp_path: Path) -> None:
    recipe, works = open_recipe(recipe_in(tmp_path))
    assert recipe.jobs["review"].plan(Store(recipe.store), works["review"]).notes[-1] == "0 files of verdicts"
    label_studio(tmp_path / "said", "a.json", ("谢谢", 1, "差评"))
    again, more = open_recipe(recipe_in(tmp_path))
    assert more["review"].output != works["review"].output
    assert again.jobs["review"].plan(Store(again.store), more["review"]).notes[-1] == "1 files of verdicts"


def test_what_is_wrong_with_verdicts_is_said_before_anything_starts(tmp_path: Path) -> None:
    path = recipe_in(tmp_path)
    (tmp_path / "said" / "a.json").write_text('[{"text": "x"}]')
    with pytest.raises(JobError, match=r"review\.verdicts: .*a\.json: entry 1: has neither"):
        load(path)
    with pytest.raises(JobError, match=r"review\.verdicts: .*gone\.json: no such file"):
        load(path, ['review.verdicts="gone.json"'])
    with pytest.raises(JobError, match=r"review\.labels: one stands twice"):
        load(path, ['review.labels=["a", "a"]', 'review.on_bad_verdict="skip"'])


def test_a_reviewed_dataset_stands_between_generate_and_select(tmp_path: Path) -> None:
    path = recipe_in(tmp_path, '[generate]\ninput = "voted.jsonl"\n[review]\n[select]\nsteps = [{kind = "exact"}]\n')
    _, works = open_recipe(path)
    assert list(works) == ["generate", "review", "select"]
    assert works["review"].inputs["samples"] == works["generate"].output
    assert works["select"].inputs["samples"] == works["review"].output


def test_the_report_and_the_summary_show_who_agrees_with_whom(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("谢谢", 1, "差评"))
    figures, _, name = reviewed(store, Review(min_confidence=0.6, verdicts=(path,)))
    outputs = {"generate": "generate-x", "review": name}
    store.write_json({"name": "x", "jobs": {}, "outputs": outputs}, "runs", "x-1", "recipe.json")
    ledger = Ledger(store, "runs/x-1")
    ledger.append("run_started", jobs=list(outputs))
    for job, output in outputs.items():
        ledger.append("job_started", job=job, output=output)
        ledger.append("job_done", job=job, output=output, figures=figures if job == "review" else {})
    report.write(store, "x-1")
    page = store.read_bytes("runs", "x-1", "report.html").decode()
    table = page[page.index("<h2>Agreement on labels</h2>") : page.index("<h2>From seeds to data</h2>")]
    assert '<td class="">model and rule</td><td class="num">4</td><td class="num">75%</td>' in table
    assert "model, right by what people say" in table
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    rows = {row["instruction"]: row for row in data["samples"]}
    assert rows["谢谢"]["answer"] == "差评", "the page shows the labels after the review"
    assert rows["还行吧"]["fate"] == "dropped before selection"
    said = "\n".join(run_lines(store, "x-1"))
    assert "Krippendorff's alpha of the annotators" in said
    assert "model right 0%" in said


def test_the_example_of_votes_from_elsewhere_is_reviewed_as_it_says(store: Store) -> None:
    recipe = load(EXAMPLES / "review_votes.toml")
    settings = recipe.jobs["review"]
    assert isinstance(settings, Review)
    assert settings.input is not None
    samples = samples_of(store, ingest(store, settings.input))
    figures, rows, name = reviewed(store, settings, samples)
    assert (figures["verdicts"], figures["people"], figures["disputed"]) == (12, 2, 1)
    assert by_text(rows)["Thank you for nothing: the form is still not there."].answer == "complaint"
    assert by_text(rows)["为什么垃圾总是没人收？"].tags["label_source"] == "human"
    assert queue_of(store, name)[0]["fields"]["text"].startswith("Why is nobody"), "what people dispute"
    assert figures["accuracy"]["dawid_skene"] >= figures["accuracy"]["keywords"]


def test_the_example_of_annotate_and_review_loads() -> None:
    recipe, works = open_recipe(EXAMPLES / "review.toml")
    assert list(recipe.jobs) == ["generate", "review"]
    assert works["review"].inputs["samples"] == works["generate"].output
