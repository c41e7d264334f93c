"""The review job: votes become labels, the least certain go to people, and what people say comes back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError, SchemaError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.store.store import Store
from gristmill.generation.figures import Agreement, ReviewFigures
from gristmill.generation.labels.job import Review
from tests.generation.reviews import PERSON, ROWS, by_text, label_studio, queue_of, reviewed, voted


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
    assert (figures.rows, figures.kept, figures.dropped) == (5, 5, 0)
    assert figures.labels == {"好评": 3, "差评": 2}
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
        voted(f"text {n}", confidence=None, **{k: (t if rng.random() < p else other[t]) for k, p in skills.items()})
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
    assert figures.queued == 2
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
    assert reviewed(store, Review.model_validate(settings))[0].queued == queued


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
    assert (figures.verdicts, figures.people, figures.settled_by_people) == (2, 1, 2)
    assert figures.accuracy == {"hint": 0.0, "model": 0.0, "rule": 0.5, "majority": 0.0}
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
    assert (figures.people, figures.disputed, figures.settled_by_people) == (4, 1, 2)
    pairs = {(pair.first, pair.second): pair for pair in figures.agreement}
    assert pairs["model", "people"].rows == 2
    assert pairs["model", "people"].agree == 0.5
    assert pairs["person 1", "person 2"].rows == 2
    assert "people" in figures.krippendorff_alpha


def test_the_last_word_of_a_person_counts(store: Store, tmp_path: Path) -> None:
    first = label_studio(tmp_path, "a.json", ("谢谢", 1, "差评"))
    second = label_studio(tmp_path, "b.json", ("谢谢", 1, "好评"))
    _, rows, _ = reviewed(store, Review(verdicts=(first, second)))
    assert by_text(rows)["谢谢"].tags["label"] == "好评"
    _, rows, _ = reviewed(store, Review(verdicts=(second, first)))
    assert by_text(rows)["谢谢"].tags["label"] == "差评"


def test_agreement_is_in_the_figures(store: Store) -> None:
    figures, _, _ = reviewed(store, Review())
    pairs = {(pair.first, pair.second): pair for pair in figures.agreement}
    assert pairs["model", "rule"] == Agreement(first="model", second="rule", rows=4, agree=0.75, kappa=0.5)
    assert set(pairs) == {("hint", "model"), ("hint", "rule"), ("model", "rule")}
    assert set(figures.fleiss_kappa) == set(figures.krippendorff_alpha) == {"annotators"}
    assert ReviewFigures.read(json.loads(json.dumps(figures.to_json(), allow_nan=False))) == figures


def test_verdicts_of_no_sample_are_refused_by_file_and_place_or_left_out(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("谢谢", 1, "差评"), ("stranger", 1, "好评"), ("还行吧", 1, "maybe"))
    settings = Review(verdicts=(path,), labels=("好评", "差评"))
    with pytest.raises(JobError) as caught:
        reviewed(store, settings)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: entry 2: {ids.digest('stranger')} is not the id of an input sample")
    assert lines[1] == f"{path}: entry 3: 'maybe' is no label, must be one of 好评, 差评"
    figures, rows, _ = reviewed(store, settings.model_copy(update={"on_bad_verdict": "skip"}))
    assert (figures.verdicts, figures.bad_verdicts, figures.settled_by_people) == (1, 2, 1)
    assert by_text(rows)["还行吧"].tags["label_source"] == "majority"


def test_samples_that_stay_uncertain_are_dropped_unless_people_settle_them(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("还行吧", 1, "差评"))
    figures, rows, _ = reviewed(store, Review(min_confidence=0.6, verdicts=(path,)))
    dropped = {row.instruction: row.dropped for row in rows if row.dropped}
    assert dropped == {"味道一般，但送得快": "review: not certain enough"}
    assert (figures.kept, figures.dropped) == (4, 1)


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
    assert figures.settled_by_people == 1


def test_no_samples_no_votes_and_ids_that_stand_twice(store: Store, tmp_path: Path) -> None:
    figures, rows, name = reviewed(store, Review(combine="dawid_skene"), [])
    assert (rows, figures.queued, queue_of(store, name)) == ([], 0, [])
    other = Store(str(tmp_path / "other"))
    plain = Sample("e" * 32, (Message("user", "x"), Message("assistant", "y")))
    figures, rows, _ = reviewed(other, Review(combine="dawid_skene"), [plain])
    assert (rows, figures.queued, figures.agreement) == ([plain], 1, ())
    twice = Store(str(tmp_path / "twice"))
    with pytest.raises(SchemaError, match="appears twice"):
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
    assert figures.accuracy == {}
    assert figures.accuracy_by_gold == {"hint": 1.0, "model": 0.6, "rule": 0.5, "majority": 0.6}


def test_free_text_is_not_taken_for_labels(store: Store) -> None:
    rows = [voted(f"text {n}", model=f"answer {n}") for n in range(101)]
    with pytest.raises(JobError, match="101 different labels came in"):
        reviewed(store, Review(), rows)
    assert reviewed(store, Review(question="text"))[0].rows == 101
