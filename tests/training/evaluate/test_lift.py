"""The lift job: arms, what is recommended, what is left out, and what goes on to training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, from_table, to_table
from gristmill.cluster.report.sections import presentation_of
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.evaluate import arms
from gristmill.training.evaluate.lift import LIFT, Lift, LiftActor, figures_of
from tests.test_figures import page_of
from tests.training.evaluate.reviews import review, reviews, texts

SETTINGS: Mapping[str, Any] = {"seeds": "s.jsonl", "test": "t.jsonl", "probe": {"features": "characters"}}


def put(store: Store, name: str, samples: Sequence[Sample]) -> str:
    shard = store.commit_shard(name, "shard-00000", to_table(samples))
    store.commit(Manifest(name, "samples", "ingest", "f", {}, {}, (shard,)), {})
    return name


def measured(
    store: Store, rows: Mapping[str, Sequence[Sample]], **settings: object
) -> tuple[dict[str, Any], list[Sample], list[str]]:
    """What the job finds, the rows that it hands on, and what it says of rows that take no part."""
    job = Lift.model_validate({**SETTINGS, **settings})
    inputs = {role: put(store, f"{role}-1", samples) for role, samples in rows.items()}
    actor = LiftActor(job, store, inputs, None)
    number, lines = actor.open()
    actor.embed(0, number)
    for run in range(actor.measure()):
        actor.fine_tune(run)
    found, shard = actor.finish("lift-1")
    return found, from_table(store.read_shard("lift-1", shard)), lines


def arm(found: Mapping[str, Any], name: str, part: str = "test") -> Any:
    return next(result for result in found[part] if result["arm"] == name)


def test_rows_that_help_are_recommended_with_an_interval_above_zero(store: Store) -> None:
    rows = {"seeds": reviews(8, 1), "test": reviews(600, 2), "samples": reviews(200, 3, method="targeted")}
    found, kept, _ = measured(store, rows, validation=0.4)
    assert found["recommended"] == "seeds + built"
    assert found["verdict"] == "helps"
    assert arm(found, "seeds + built")["low"] > 0
    assert found["items"] + found["validation_items"] == 600
    assert sorted(texts(kept)) == sorted(texts([*rows["seeds"], *rows["samples"]]))


def test_rows_with_wrong_labels_are_never_recommended_and_the_seeds_go_on(store: Store) -> None:
    rows = {"seeds": reviews(40, 1), "test": reviews(600, 2), "samples": reviews(200, 3, wrong=0.9)}
    found, kept, _ = measured(store, rows)
    assert (found["recommended"], found["verdict"]) == ("seeds", "no arm helps")
    assert arm(found, "seeds + built")["high"] < 0
    assert sorted(texts(kept)) == sorted(texts(rows["seeds"]))
    [method] = found["methods"]
    assert method["agreement"] < 0.4


def test_texts_without_a_label_help_through_self_training(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(600, 2), "unlabelled": reviews(400, 4)}
    found, kept, _ = measured(store, rows | {"labelled": reviews(400, 5)})
    assert found["recommended"] == "seeds + self-training"
    assert found["verdict"] == "helps"
    assert found["gap_share"] > 0.4
    added = [sample for sample in kept if sample.method == "self_training"]
    assert 198 <= len(added) <= 200
    truth = {sample.instruction: sample.answer for sample in rows["unlabelled"]}
    assert np.mean([truth[sample.instruction] == sample.answer for sample in added]) > 0.9
    assert all(sample.tags["label_source"] == "self_training" and sample.parents for sample in added)


def test_self_training_keeps_to_the_shares_of_the_validation_items_or_of_the_recipe(store: Store) -> None:
    pool, items = reviews(400, 4), reviews(480, 2)  # good and bad by turns
    rows = {
        "seeds": reviews(12, 1),
        "test": [*items[:160:2], *items[1::2]],
        "unlabelled": [*pool[:120:2], *pool[1:360:2]],
    }
    for number, (settings, low, high) in enumerate([({}, 20, 40), ({"shares": {"good": 1, "bad": 3}}, 30, 30)]):
        _, kept, _ = measured(Store(store.at(f"s{number}")), rows, validation=0.5, **settings)
        count = sum(sample.answer == "good" for sample in kept if sample.method == "self_training")
        assert low <= count <= high, settings


def test_shares_of_labels_that_no_seed_has_are_refused(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(200, 2), "unlabelled": reviews(20, 4)}
    with pytest.raises(JobError, match=r"lift.shares: numbers for fine, good, must be for the labels of the seeds"):
        measured(store, rows, shares={"good": 0.5, "fine": 0.5})


def test_built_samples_and_texts_without_a_label_are_an_arm_together(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(200, 2), "samples": reviews(30, 3), "unlabelled": reviews(100, 4)}
    found, _, _ = measured(store, rows, shares="seeds")
    assert arm(found, "seeds + built + self-training")["rows"] == 12 + 30 + 50


def test_the_same_texts_may_come_with_and_without_peoples_labels(store: Store) -> None:
    texts_of_both = reviews(200, 4)
    rows = {"seeds": reviews(12, 1), "test": reviews(200, 2), "unlabelled": texts_of_both, "labelled": texts_of_both}
    found, _, lines = measured(store, rows)
    assert lines == []
    assert arm(found, "people's labels")["rows"] == 12 + 200
    assert 12 + 98 <= arm(found, "seeds + self-training")["rows"] <= 12 + 100


def test_labels_of_unlabelled_texts_are_not_read(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(300, 2)}
    right, _, _ = measured(store, rows | {"unlabelled": reviews(100, 4)})
    wrong, _, _ = measured(Store(store.at("other")), rows | {"unlabelled": reviews(100, 4, wrong=1.0)})
    assert right["test"] == wrong["test"]


def test_each_method_is_an_arm_and_random_drafts_are_drawn_from_the_dropped_too(store: Store) -> None:
    good, bad = reviews(60, 3, method="targeted"), reviews(60, 4, method="annotate", wrong=0.9)
    dropped = [review(s.answer, f"{s.instruction} again", dropped="length: short") for s in reviews(30, 5)]
    rows = {"seeds": reviews(8, 1), "test": reviews(600, 2), "samples": [*good, *bad, *dropped]}
    found, _, _ = measured(store, rows)
    assert [result["arm"] for result in found["test"]] == [
        "seeds",
        "seeds + built",
        "seeds + random",
        "seeds + annotate",
        "seeds + targeted",
    ]
    assert arm(found, "seeds + random")["rows"] == 8 + 120
    assert found["recommended"] == "seeds + targeted"
    assert [(m["method"], m["rows"]) for m in found["methods"]] == [("annotate", 60), ("targeted", 60)]


def test_what_takes_no_part_is_counted_and_no_test_item_is_learned_from(store: Store) -> None:
    seeds, test = reviews(10, 1), reviews(100, 2)
    strange = review("good", "The queue was long.", said="neutral")
    leaked = [review(s.answer, f"  {s.instruction.upper()}") for s in test[:7]]
    rows = {"seeds": seeds, "test": test, "samples": [*reviews(40, 3), *leaked, *seeds[:2], strange]}
    found, kept, lines = measured(store, rows)
    assert lines == [
        "samples: 1 of 50 rows take no part: label that no seed has",
        "samples: 2 of 50 rows take no part: text of seeds",
        "samples: 7 of 50 rows take no part: text of test",
    ]
    assert found["left_out"]["samples"] == {"label that no seed has": 1, "text of seeds": 2, "text of test": 7}
    assert not {*texts(kept)} & {*texts(leaked), *texts(test)}


def test_a_family_of_items_is_in_one_part_and_one_observation(store: Store) -> None:
    test = reviews(400, 2)
    for place in range(0, 400, 4):
        for n in range(place, place + 4):
            tags = {**test[n].tags, "group": str(place)}
            test[n] = review(test[n].answer, test[n].instruction)
            object.__setattr__(test[n], "tags", tags)
    found, _, _ = measured(store, {"seeds": reviews(8, 1), "test": test, "samples": reviews(100, 3)})
    assert found["validation_items"] == 120


def test_the_same_rows_give_the_same_figures(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(200, 2), "unlabelled": reviews(100, 4)}
    first, kept, _ = measured(store, rows)
    again, kept_again, _ = measured(Store(store.at("other")), {r: list(reversed(s)) for r, s in rows.items()})
    assert {s.id for s in kept} == {s.id for s in kept_again}
    assert first["recommended"] == again["recommended"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"seeds": reviews(8, 1)[::2], "test": reviews(100, 2)}, "1 different labels, must be two or more"),
        ({"seeds": reviews(8, 1), "test": reviews(50, 2)}, "of which one part has 1., must have 30 or more"),
    ],
)
def test_too_little_is_refused(store: Store, rows: Mapping[str, Sequence[Sample]], message: str) -> None:
    with pytest.raises(JobError, match=message):
        measured(store, rows)


def test_a_label_whose_seeds_are_all_test_items_is_refused(store: Store) -> None:
    seeds, test = reviews(6, 1), reviews(200, 2)
    rows = {"seeds": [*seeds[::2], *(review("bad", s.instruction) for s in test[1:4:2])], "test": test}
    with pytest.raises(JobError, match=r"no text is left with the label bad \(text of test: 2\), each label must have"):
        measured(store, rows)


def test_a_job_with_nothing_to_compare_is_refused() -> None:
    job = Lift.model_validate(SETTINGS)
    with pytest.raises(JobError, match="nothing to compare with the seeds"):
        job.needs({})
    assert job.needs({"generate": "generate-1", "select": "select-1"}) == {"samples": "select-1"}


def test_the_page_and_the_summary_show_what_lift_measured(store: Store) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(300, 2), "samples": reviews(100, 3, method="targeted")}
    job = Lift.model_validate(SETTINGS)
    actor = LiftActor(job, store, {role: put(store, f"{role}-1", samples) for role, samples in rows.items()}, None)
    texts, _ = actor.open()
    assert actor.measure() == 0
    found, shard = actor.finish("lift-1")
    figures = figures_of(found, texts, shard, 1.0)
    store.write_json(found, "lift-1", LIFT)
    store.commit(Manifest("lift-1", "samples", "lift", "f", {}, {}, (shard,)), figures.to_json())
    page = page_of(store, {"lift": "lift-1"}, {"lift": job.model_dump(mode="json")})
    assert "Did the data help?" in page and "Lift by arm" in page
    assert f"({figures.accuracy_seeds:.3f})" in page and "agrees with people" in page
    [line, note] = presentation_of(Lift.presentation).summary(figures)
    assert line.startswith("seeds + built helps: accuracy ") and "probe" in note


def framed(samples: Sequence[Sample], head: str) -> list[Sample]:
    """The samples with an instruction before their text, as the rows of `targeted`."""
    return [replace(s, messages=(Message("user", head + s.instruction), *s.messages[1:])) for s in samples]


def test_the_instruction_of_a_method_is_removed_from_its_rows_and_named(store: Store) -> None:
    bare = reviews(200, 3, method="targeted")
    head = "Which label fits this text: bad, good?\n\n"
    rows = {"seeds": reviews(8, 1), "test": reviews(600, 2)}
    found, kept, lines = measured(store, rows | {"samples": framed(bare, head)}, validation=0.4)
    assert found["verdict"] == "helps"
    assert sorted(texts(kept)) == sorted(texts([*rows["seeds"], *bare])), "training gets the texts as people write them"
    assert len({sample.id for sample in kept}) == len(kept)
    assert any("targeted" in line and head.strip() in line for line in lines)
    [method] = found["methods"]
    assert method["two_sample_accuracy"] < 0.7, "the instruction would give the method away"


@pytest.mark.parametrize("case", ["people have it too", "one row has none", "one row", "no text after it"])
def test_a_first_paragraph_that_is_no_instruction_stays(case: str) -> None:
    head = "Dear shop,\n\n"
    built, people = framed(reviews(20, 3, method="targeted"), head), reviews(8, 1)
    if case == "people have it too":
        people = framed(people[:1], head) + people[1:]
    elif case == "one row has none":
        built += reviews(1, 9, method="targeted")
    elif case == "one row":
        built = built[:1]
    else:
        built = [replace(s, messages=(Message("user", head), *s.messages[1:])) for s in built]
    assert arms.without_instruction(built, people) == (built, {})


def test_texts_that_a_method_labelled_are_labelled_by_self_training_too(store: Store) -> None:
    pool = reviews(400, 4)
    annotated = [replace(s, id=f"{s.id}-a", method="annotate") for s in pool[:300]]
    rows = {"seeds": reviews(12, 1), "test": reviews(600, 2), "unlabelled": pool, "samples": annotated}
    found, _, lines = measured(store, rows)
    assert not [line for line in lines if line.startswith("unlabelled")]
    assert arm(found, "seeds + built")["rows"] == 312
    assert arm(found, "seeds + self-training")["rows"] > 200, "all 400 texts are there to be labelled"
    both = arm(found, "seeds + built + self-training")["rows"]
    assert 312 < both <= 412, "a text is not learned from twice"
    found, _, _ = measured(Store(f"{store.root}/whole"), rows | {"unlabelled": pool[:300]})
    assert "seeds + built + self-training" not in [line["arm"] for line in found["test"]], "no text is left for it"


def test_a_kept_row_takes_part_though_a_dropped_one_has_its_text() -> None:
    kept = reviews(20, 3, method="retrieve")
    dropped = [replace(s, id=f"0-{s.id}", dropped="exact: same instruction") for s in kept]
    corpus = arms.corpus_of({"seeds": reviews(8, 1), "test": reviews(60, 2), "samples": [*dropped, *kept]})
    assert len(corpus.kept("samples")) == 20
