"""Real DeepSpeed under real Ray Train for each task: what is learned, killed runs, other workers, and what comes
out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data.prepare import HELDOUT, HOLDOUT, PACKED, Bins
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.scorers.loss import Loss
from gristmill.training.evaluate.suites import items
from gristmill.training.job import Train
from gristmill.training.loop.journal import left_out
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.optim import schedule
from gristmill.training.tasks import batches, heads, prepare, reader
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.zero import Batching
from tests.training.conftest import dataset
from tests.training.rehearsal import journal, rehearse
from tests.training.tasks.rows import TASKS, rows_of
from tests.training.tasks.test_tasks import row

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
LORA: dict[str, Any] = {"tuning": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.1}}
FULL: dict[str, Any] = {"tuning": {"kind": "full"}, "learning_rate": 3e-3}
PLANTED: dict[str, Any] = {
    "tuning": {"kind": "full"},
    "learning_rate": 5e-3,
    "steps": 80,
    "eval_steps": 40,
    "keep": "best",
}
FREEZE: dict[str, Any] = {"tuning": {"kind": "freeze", "last_layers": 1}, "neftune_alpha": 5, "label_smoothing": 0.1}
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "class-lora": ("bert", "sequence_classification", 1, LORA),
    "class-split": ("bert", "sequence_classification", 3, LORA),
    "several": ("llama", "multi_label", 1, LORA),
    "entities": ("xlm-roberta", "token_classification", 2, FREEZE),
    "entities-again": ("xlm-roberta", "token_classification", 2, FREEZE),
    "answers": ("distilbert", "question_answering", 3, {**FULL, "micro_batch_size": 2}),
    "planted": ("distilbert", "sequence_classification", 1, PLANTED),
}
"""Base model, task, stage of ZeRO and settings of a run by its name."""

SUITE = (("good", "river", "good"), ("poor", "film", "bad"), ("good", "cat", "good"), ("poor", "lake", "bad"))
"""Words and labels of the rows of a suite."""


def plans(store: Store, bases: dict[str, str], workers: int) -> Iterator[WorkerPlan]:
    for name, (kind, task, stage, own) in RUNS.items():
        given = {
            "model": bases[kind], "task": TASKS[task], "steps": 4, "save_steps": 2, "precision": "fp32", "max_length":
            64, "global_batch_size": 8, "validation": 0.25, "zero": {"stage": stage}, "workers": workers, **own,
        }  # fmt: skip
        job = Train.model_validate(given)
        assert job.check(Path()) == []
        prepare.prepare(store, name, {"samples": f"select-{task}"}, bases[kind], job)
        store.write_json(job.model_dump(mode="json"), name, "settings.json")
        cut = Batching(job.micro_batch_size, 8 // (workers * job.micro_batch_size), workers)
        head = prepare.head(store, name, job)
        yield WorkerPlan(
            job,
            store,
            name,
            bases[kind],
            job.steps or 0,
            cut,
            Need(1),
            f"{store.uri}/logs",
            head,
            eval_steps=int(job.eval_steps),
        )


@pytest.fixture(scope="module")
def store(shelf: Path, bases: dict[str, str], ray_session: None) -> Store:
    """The store in which all runs have been made; `entities-again` in two parts, the other part by a new process."""
    made = Store(str(shelf / "tasks"))
    for task in TASKS:
        dataset(made, rows_of(task, 64), f"select-{task}")
    all_plans = list(plans(made, bases, 2))
    rehearse([*all_plans, *(plan for plan in all_plans if plan.output == "entities-again")], 2)
    return made


def lines(store: Store, name: str, key: str) -> list[Any]:
    return [m[key] for m in journal(store, name) if key in m]


def test_the_loss_of_each_task_falls_and_its_model_is_finished(store: Store) -> None:
    for name in RUNS:
        curve = lines(store, name, "loss")
        assert len(curve) == (80 if name == "planted" else 4), name
        assert lines(store, name, "end"), name
        assert not left_out(journal(store, name))
    assert all(value < 1e-4 for name in ("class-lora", "several") for value in lines(store, name, "merged_difference"))


def test_split_weights_give_the_same_losses(store: Store) -> None:
    for key in ("loss", "holdout_loss"):
        assert lines(store, "class-split", key) == pytest.approx(lines(store, "class-lora", key), abs=1e-5)
    [split], [whole] = (lines(store, name, "measures") for name in ("class-split", "class-lora"))
    assert split == pytest.approx(whole, abs=1e-3)


def test_a_run_that_continues_has_the_losses_of_an_unbroken_one(store: Store) -> None:
    assert lines(store, "entities-again", "start") == [0, 2]
    for key in ("loss", "holdout_loss", "measures"):
        assert lines(store, "entities-again", key) == lines(store, "entities", key)


def test_the_loss_of_a_step_is_that_of_transformers_over_its_rows(store: Store, bases: dict[str, str]) -> None:
    import torch

    plan = next(plan for plan in plans(store, bases, 2) if plan.output == "answers")
    assert plan.head
    bins = Bins.open(store, "answers", PACKED)
    places = schedule.global_batch(0, seed=0, groups=len(bins), batch=8)
    model = heads.load(plan.base, plan.head, "fp32").eval()
    total = 0.0
    for place in places:
        labels = bins.column("labels", int(place)).tolist()
        ids = torch.tensor(np.array([bins.column("input_ids", int(place))])).long()
        with torch.no_grad():
            starts, ends = (torch.tensor([label]) for label in labels)
            total += float(model(input_ids=ids, start_positions=starts, end_positions=ends).loss)
    assert lines(store, "answers", "loss")[0] == pytest.approx(total / len(places), abs=1e-5)
    held = Bins.open(store, "answers", HELDOUT)
    made = heads.load(str(store.folder("answers") / "merged"), plan.head, "fp32").eval()
    with torch.no_grad():
        own = [float(batches.summed(made, plan.job.task, held, np.array([n]))) for n in range(len(held))]
    assert sum(own) / held.trained.sum() == pytest.approx(lines(store, "answers", "holdout_loss")[-1], abs=1e-5)


def test_the_threshold_of_no_answer_is_chosen_on_the_held_out_rows(store: Store) -> None:
    folder = str(store.folder("answers") / "merged")
    head = heads.head_of(folder)
    assert head is not None
    assert isinstance(head.task, QuestionAnswering)
    assert head.task.null_threshold is not None
    rows = from_table(store.read_shard("answers", store.shard("answers", HOLDOUT)))
    assert {bool(one.answer) for one in rows} == {True, False}
    windows = [some for some in reader.Reader(reader.tokenizer(folder), 64).read(
        head.task, [head.task.asked(one) for one in rows], truncate=False
    ) if not isinstance(some, str)]  # fmt: skip
    model = heads.load(folder, head, "fp32").eval()
    every = batches.logits(model, head.task, [window for some in windows for window in some])
    found = head.task.measures(rows, batches.answers(head, rows, windows, every), ())
    assert found == pytest.approx(lines(store, "answers", "measures")[-1])
    assert {"has_answer_f1", "has_answer_exact", "no_answer_exact"} < found.keys()


def test_a_planted_word_is_learned_better_than_the_most_frequent_label(store: Store) -> None:
    """Three in four rows are of one label; the other has the word `good`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = str(store.folder("planted") / "merged")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "bad", 1: "good"}
    held = store.shard("planted", "holdout")
    rows = store.read_shard("planted", held)["messages"].to_pylist()
    hits, majority = 0, 0
    for turns in rows:
        with torch.no_grad():
            said = model(**tokenizer(turns[0]["content"], return_tensors="pt")).logits.argmax().item()
        hits += model.config.id2label[said] == turns[1]["content"]
        majority += turns[1]["content"] == "bad"
    assert hits == len(rows) > majority, f"{hits} of {len(rows)} are right, {majority} are of the most frequent label"


def test_an_evaluation_compares_the_head_with_an_untrained_one_on_held_out_rows_and_a_suite(store: Store) -> None:
    plan = Train.model_validate({**store.read_json("planted", "settings.json")})
    inputs = {"samples": "select-sequence_classification"}
    store.commit(
        Manifest(
            "planted", "model", "train", "f", inputs, plan.model_dump(mode="json"), (store.shard("planted", "holdout"),)
        )
    )
    rows = [row(f"{word} {thing} {n}", label) for n in range(6) for word, thing, label in SUITE]
    asked = {"suites.films": dataset(store, rows, "ingest-000000000001")}
    suites = {"films": {"kind": "labels", "input": "films.jsonl", "prompt": "Good or bad? {prompt}"}}
    job = Evaluate.model_validate({"precision": "fp32", "bootstrap": 200, "suites": suites})
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), f"{store.uri}/runs/test/logs")
    figures = job.make(run, Work("evaluate-x", job.fingerprint(), {"model": "planted", **asked}))
    assert figures.measures_after["accuracy"] == 1 > figures.measures_before["accuracy"]
    assert lines(store, "planted", "measures")[-1] == pytest.approx(figures.measures_after, abs=1e-6)
    assert figures.unit == "text"
    assert figures.loss_after == pytest.approx(lines(store, "planted", "holdout_loss")[-1], abs=1e-5)
    assert figures.smoke_replies == 0
    [suite] = figures.suites
    base, tuned = suite.models
    assert (tuned.model, tuned.measures["roc_auc"]) == ("planted", 1), "all good films above all bad ones"
    assert tuned.value == tuned.measures["raw_accuracy"] == tuned.measures["written_accuracy"] > 0.7 > base.value
    said = [
        json.loads(one["reply"]) for one in items.read(store, "evaluate-x").to_pylist() if one["scorer"] == "labels"
    ]
    assert all(sum(chances.values()) == pytest.approx(1, abs=1e-5) for chances in said)
    refused = job.model_copy(update={"suites": {"films": Loss(input=job.suites["films"].input)}})
    with pytest.raises(JobError, match=r"suites\.films\.kind: loss, must be another kind, such as labels"):
        refused.make(run, Work("evaluate-y", refused.fingerprint(), {"model": "planted", **asked}))
