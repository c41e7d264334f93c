"""Models with heads: their losses are those of transformers, and every tuning trains the head."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import to_table
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data import packing, tokens
from gristmill.training.data.forecast import forecast
from gristmill.training.data.prepare import HELDOUT, PACKED, Bins
from gristmill.training.job import Train
from gristmill.training.optim import schedule
from gristmill.training.tasks import batches, heads, prepare, reader
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tuning import model as models
from gristmill.training.tuning.freeze import Freeze
from gristmill.training.tuning.lora import Lora
from tests.training.conftest import dataset
from tests.training.tasks.rows import TASKS, rows_of
from tests.training.tasks.test_tasks import row

KINDS = [(base, name) for base in ("bert", "distilbert", "xlm-roberta", "llama") for name in TASKS]


def prepared(store: Store, base: str, name: str, **settings: Any) -> tuple[Train, heads.Head]:
    job = Train.model_validate({"model": base, "task": TASKS[name], "max_length": 48, "validation": 0.2, **settings})
    prepare.prepare(store, name, {"samples": dataset(store, rows_of(name))}, base, job)
    head = prepare.head(store, name, job)
    assert head
    return job, head


@pytest.mark.parametrize(("base", "name"), KINDS)
def test_losses_are_those_of_transformers(store: Store, bases: dict[str, str], base: str, name: str) -> None:
    """Each window alone through the model's own loss, and all together in one padded batch through ours."""
    import torch

    length = 48 if base != "llama" else 200  # of single bytes
    job, head = prepared(store, bases[base], name, max_length=length)
    model = heads.load(bases[base], head, "fp32").eval()
    bins = Bins.open(store, name, PACKED)
    places = np.arange(min(len(bins), 6))
    with torch.no_grad():
        ours = batches.row_losses(model, job.task, bins, places)
        for place, value in zip(places, ours.tolist(), strict=True):
            one = {n: bins.column(n, int(place)) for n in ("input_ids", packing.TYPES, "labels")}
            ids = torch.tensor(np.array([one["input_ids"]]))
            args = {"input_ids": ids.long(), "attention_mask": torch.ones_like(ids)}
            if base == "bert":
                args["token_type_ids"] = torch.tensor(np.array([one[packing.TYPES]])).long()
            labels = torch.tensor(np.array([one["labels"]])).long()
            if name == "question_answering":
                args |= {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
            elif name == "sequence_classification":
                args["labels"] = labels[0]
            else:
                args["labels"] = labels.float() if name == "multi_label" else labels
            wanted = float(model(**args).loss) * int(bins.trained[place])
            assert value == pytest.approx(wanted, abs=1e-6 * max(1, bins.trained[place])), place
    assert bins.weight.sum() == bins.trained.sum()


def test_a_batch_of_one_length_has_the_mean_loss_of_transformers(store: Store, bases: dict[str, str]) -> None:
    import torch

    job, head = prepared(store, bases["bert"], "token_classification")
    model, bins = heads.load(bases["bert"], head, "fp32").eval(), Bins.open(store, "token_classification", PACKED)
    sizes = [len(bins.column("input_ids", place)) for place in range(len(bins))]
    places = np.array([place for place, size in enumerate(sizes) if size == max(set(sizes), key=sizes.count)])
    assert len(places) > 2
    held = {n: torch.tensor(np.stack([bins.column(n, int(p)) for p in places])).long() for n in ("input_ids", "labels")}
    with torch.no_grad():
        wanted = model(**held).loss
        ours = batches.row_losses(model, job.task, bins, places).sum() / bins.trained[places].sum()
    assert float(ours) == pytest.approx(float(wanted), abs=1e-6)


def test_smoothing_and_weights_are_those_of_pytorch(store: Store, bases: dict[str, str]) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    job, head = prepared(store, bases["bert"], "question_answering")
    model, bins = heads.load(bases["bert"], head, "fp32").eval(), Bins.open(store, "question_answering", PACKED)
    ids = torch.tensor(np.array([bins.column("input_ids", 0)])).long()
    types = torch.tensor(np.array([bins.column(packing.TYPES, 0)])).long()
    labels = bins.column("labels", 0)
    with torch.no_grad():
        out = model(input_ids=ids, token_type_ids=types)
        both = zip((out.start_logits, out.end_logits), labels.tolist(), strict=True)
        wanted = sum(float(cross_entropy(v, torch.tensor([n]), label_smoothing=0.2)) for v, n in both) / 2
        ours = batches.row_losses(model, job.task, bins, np.arange(3), 0.2)
    assert float(ours[0]) == pytest.approx(wanted, abs=1e-6)


def test_every_tuning_trains_the_head_and_adapters_have_it(store: Store, bases: dict[str, str], tmp_path: Path) -> None:
    import torch

    for base, kind in (
        ("bert", "sequence_classification"),
        ("distilbert", "question_answering"),
        ("llama", "multi_label"),
    ):
        _, head = prepared(Store(str(tmp_path / base)), bases[base], kind)
        for tuning in (Lora(r=2, alpha=4), Freeze(last_layers=1), Lora(init="pissa", r=2)):
            loaded = heads.load(bases[base], head, "fp32")
            own = loaded.head_weights
            assert own, "no head"
            made = models.trainable(loaded, tuning, 0, recompute=False)
            trained = {name for name, p in made.named_parameters() if p.requires_grad}
            bare = {name.replace("base_model.model.", "").replace("modules_to_save.default.", "") for name in trained}
            assert own <= bare, own - bare
            if not tuning.adapter:
                continue
            assert any(".lora_" in name for name in trained)
            assert not any(".lora_" in name and name.split(".lora_")[0].endswith(tuple(own)) for name in trained)
            first = models.initial(made)
            state = {name: torch.randn_like(p) for name, p in made.named_parameters() if p.requires_grad}
            folder = tmp_path / f"{base}-{getattr(tuning, 'init', '')}"
            models.write_adapter(made, tuning.exported(state, first), folder)
            again = models.adapted(heads.load(bases[base], head, "fp32"), folder)
            for name in own:
                module, _, leaf = name.rpartition(".")
                read = again.get_submodule(f"base_model.model.{module}.modules_to_save.default")
                assert getattr(read, leaf).equal(state[f"base_model.model.{module}.modules_to_save.default.{leaf}"])


def test_a_finished_model_has_its_labels_and_is_loaded_with_the_same_head(
    store: Store, bases: dict[str, str], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForTokenClassification

    _, head = prepared(store, bases["distilbert"], "token_classification")
    made = heads.load(bases["distilbert"], head, "fp32").eval()
    models.write_model(made, reader.tokenizer(bases["distilbert"]), [], tmp_path, auto=heads.auto_class(head.task))
    heads.save(head, tmp_path)
    read = AutoModelForTokenClassification.from_pretrained(str(tmp_path))
    assert read.config.id2label == {0: "O", 1: "B-city", 2: "I-city", 3: "B-person", 4: "I-person"}
    found = heads.head_of(str(tmp_path))
    assert found == replace(head, seed=None), "a trained head needs no first values"
    again = heads.load(str(tmp_path), head, "fp32").eval()
    ids = torch.arange(5, 15)[None]
    assert again(ids).logits.equal(made(ids).logits)
    assert heads.ordered(["person", "city"], str(tmp_path), head.task) == ("city", "person")


def test_the_task_and_its_labels_are_said_in_words() -> None:
    many = tuple(f"l{n}" for n in range(30))
    said = heads.Head(SequenceClassification(), many, 8).said
    assert said.startswith("sequence_classification, 30 labels: l0, l1, ") and said.endswith("l19, …")
    assert heads.Head(QuestionAnswering(), (), 8).said == "question_answering"


def test_first_values_of_a_head_follow_from_the_seed(store: Store, bases: dict[str, str]) -> None:
    _, head = prepared(store, bases["bert"], "sequence_classification")
    one, same = (heads.load(bases["bert"], head, "fp32").classifier.weight for _ in range(2))
    other = heads.load(bases["bert"], heads.Head(head.task, head.names, 48, seed=5), "fp32").classifier.weight
    assert one.equal(same)
    assert not one.equal(other)


def test_in_is_what_is_kept_and_what_is_dropped(store: Store, bases: dict[str, str]) -> None:
    rows = [*rows_of("sequence_classification"), row("film " * 90, "good"), row("film", "unknown")]
    job = Train.model_validate(
        {"model": bases["bert"], "task": {"kind": "sequence_classification", "labels": ["good", "bad", "never"]},
         "max_length": 32, "validation": 0.2}
    )  # fmt: skip
    packed = prepare.prepare(store, "x", {"samples": dataset(store, rows)}, bases["bert"], job)
    assert packed.samples + packed.holdout + sum(packed.drops.values()) == len(rows)
    assert packed.drops == {"too long": 1, "label is none of train.task.labels": 1}
    assert packed.notes == {"labels without a row to train on: never": 1}
    assert packed.bins == packed.samples == packed.trained_tokens
    assert len(Bins.open(store, "x", HELDOUT)) == packed.holdout
    assert prepare.prepare(store, "x", {"samples": "none"}, bases["bert"], job) == packed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(f"film {n}", "good") for n in range(9)], r"1 different labels in 9 rows \(good\), must be at least 2"),
        ([row("film", "")], "0 different labels in 1 rows|no row|at least 2"),
        (
            [row(f"film {n}", f"it is {n}") for n in range(201)],
            "201 different answers in 201 rows, must be at most 200",
        ),
    ],
)
def test_rows_that_have_no_labels_to_learn_are_refused(
    store: Store, bases: dict[str, str], rows: list[Any], message: str
) -> None:
    job = Train.model_validate({"model": bases["bert"], "task": {"kind": "sequence_classification"}})
    with pytest.raises(JobError, match=message):
        prepare.prepare(store, "x", {"samples": dataset(store, rows)}, bases["bert"], job)


def test_a_mixture_of_datasets_has_their_labels_and_shares(store: Store, bases: dict[str, str]) -> None:
    """Of the second dataset, which counts three times, all rows have one label; a seventh row of it does not fit."""
    built = [row(f"film {n}", ("good", "bad")[n % 2]) for n in range(20)]
    people = [*(row(f"lake {n}", "fine") for n in range(5)), row("", "fine")]
    names = {
        "samples": dataset(store, built),
        "mixture": dataset(store, people, "ingest-000000000001"),
        "validation": dataset(store, [row("river", "good"), row("sea", "fine")], "ingest-000000000002"),
    }
    given = {"mixture": [{"input": "people.jsonl", "weight": 3.0}], "validation": "held.jsonl", "epochs": 1}
    asked = {"model": bases["bert"], "task": {"kind": "sequence_classification"}, **given, "max_length": 32}
    job = Train.model_validate(asked)
    assert job.check(Path()) == []
    made = prepare.prepare(store, "mixed", names, bases["bert"], job)
    head = prepare.head(store, "mixed", job)
    assert head and head.names == ("bad", "fine", "good")
    assert (made.bins, made.samples, made.holdout, made.epoch_rows) == (25, 25, 2, 25)
    assert sum(made.drops.values()) == 1
    assert [(one["name"], one["samples"], one["epoch_rows"]) for one in made.sources] == [
        ("input", 20, 14), ("people.jsonl", 5, 11)
    ], "20 and 3 x 5 of 35"  # fmt: skip
    bins = Bins.open(store, "mixed", PACKED)
    labels = [int(bins.column("labels", place)[0]) for place in range(25)]
    assert [label == 1 for label in labels] == [False] * 20 + [True] * 5
    epoch = schedule.global_batch(0, seed=0, groups=bins.groups, batch=25)
    assert (epoch >= 20).sum() == 11 and len({*epoch[epoch < 20].tolist()}) == 14
    found = forecast(store, {role: names[role] for role in ("samples", "mixture")}, 25, job)
    assert found.steps == 7, "25 rows, 4 in a step"


def test_a_plan_counts_windows_and_says_which_rows_do_not_fit(store: Store, bases: dict[str, str]) -> None:
    rows = [*rows_of("question_answering"), row("who?\n\nanna went", "the cat")]
    asked = {"task": {"kind": "question_answering"}, "max_length": 32, "epochs": 1, "validation": 0.5}
    job = Train.model_validate({"model": bases["bert"], **asked})
    found = forecast(store, {"samples": dataset(store, rows)}, len(rows), job)
    assert found.steps == 5, "18 of 36 windows, 4 in a step"
    assert found.notes == ("1 of 37 rows do not fit: answer is not in the context",)
    few = [row(f"film {n}", "good") for n in range(9)]
    classes = Train.model_validate({"model": bases["bert"], "task": {"kind": "sequence_classification"}})
    with pytest.raises(JobError, match="1 different labels in 9 rows"):
        forecast(store, {"samples": dataset(store, few, "select-000000000001")}, 9, classes)


def refused(base: str, **settings: Any) -> list[str]:
    given = {"model": base, "workers": 1, "max_length": 64, "task": {"kind": "sequence_classification"}}
    return Train.model_validate({**given, **settings}).check(Path())


def test_plan_refuses_what_cannot_work(bases: dict[str, str], tmp_path: Path) -> None:
    assert refused(bases["bert"]) == refused(bases["llama"]) == []
    [line] = refused(bases["bert"], task={"kind": "sequence_classification", "labels": ["one"]})
    assert line.startswith("task.labels: 1 label, must be at least 2")
    [line] = refused(bases["bert"], template_args={"a": 1}, logits_at_once=3)
    assert line.startswith("logits_at_once, template_args: is set, must not be with task.kind sequence_classification")
    [line] = refused(bases["bert"], task={"kind": "question_answering", "stride": 8}, too_long="truncate")
    assert line == "too_long: is set, must not be with task.kind question_answering; long texts are read in windows"
    [line] = refused(bases["bert"], task={"kind": "question_answering", "stride": 64})
    assert line.startswith("task.stride: 64 tokens, must be below max_length, 64")
    [line] = refused(bases["xlm-roberta"], max_length=129)
    assert "must be at most 128; " in line, "130 positions, of which padding takes two"
    assert refused(bases["xlm-roberta"], max_length=128) == []
    mamba = tmp_path / "mamba"
    mamba.mkdir()
    (mamba / "config.json").write_text('{"model_type": "mamba"}')
    [line] = refused(str(mamba), task={"kind": "token_classification", "stride": 8})
    assert line.startswith(f"model: {mamba}: transformers has no mamba model for token_classification, must be")


def test_the_task_is_part_of_the_identity_but_the_default_is_not(bases: dict[str, str]) -> None:
    plain = Train(model=bases["llama"])
    assert "task" not in plain.identity()["fields"]
    other = Train.model_validate({"model": bases["llama"], "task": {"kind": "sequence_classification"}})
    assert other.fingerprint() != plain.fingerprint()
    assert other.learning_rate == 1e-3
    full = {"model": bases["bert"], "tuning": {"kind": "full"}}
    assert Train.model_validate({**full, "task": {"kind": "question_answering"}}).learning_rate == 5e-5
    assert Train.model_validate(full).learning_rate == 1e-4


def test_every_task_has_the_name_that_the_hub_gives_it() -> None:
    from transformers.pipelines import SUPPORTED_TASKS

    from gristmill.training.card import PIPELINES

    kinds = {"causal_lm", *(task["kind"] for task in TASKS.values())}
    assert set(PIPELINES) == kinds
    assert PIPELINES["token_classification"] in SUPPORTED_TASKS
    assert {PIPELINES["causal_lm"], PIPELINES["sequence_classification"]} <= {*SUPPORTED_TASKS}


def shards_of(store: Store) -> str:
    """Return a dataset of three shards: rows of several windows, rows with weights, and rows that do not fit."""
    made = [replace(one, scores={"weight": 1.0 + n % 3}) for n, one in enumerate(rows_of("question_answering", 90))]
    made[7] = replace(made[7], scores={"weight": 0.0})
    made[40] = row(f"where lives anna?\n\n{'the lake is blue . ' * 20} anna lives in berlin.", "berlin")
    made[50] = row("where lives anna?\n\nanna lives.", "paris")
    name = "select-000000000009"
    shards = [store.commit_shard(name, f"shard-{n:05d}", to_table(made[n * 30 : n * 30 + 30])) for n in range(3)]
    store.commit(Manifest(name, "samples", "select", "0" * 32, {}, {}, tuple(shards)))
    return name


def require_equal(store: Store, one: str, other: str) -> None:
    """Require that two preparations wrote the same bytes, and nothing but them."""
    names = [name for name in store.names(one) if name.endswith(".arrow")]
    assert len(names) == 3 and not any(name.startswith(tokens.TOKENS) for name in store.names(other))
    for name in names:
        assert store.read_bytes(one, name) == store.read_bytes(other, name), name


SHARDED: dict[str, Any] = {"task": {"kind": "question_answering", "stride": 8}, "max_length": 32, "validation": 0.2}


def test_rows_that_are_read_block_by_block_give_the_same_windows(
    store: Store, bases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, job = {"samples": shards_of(store)}, Train.model_validate({"model": bases["bert"], **SHARDED})
    one = prepare.prepare(store, "train-x", inputs, bases["bert"], job)
    monkeypatch.setattr(prepare, "BLOCK", 7)
    monkeypatch.setattr(tokens, "TASK_ROWS", 1)  # without a Ray session there are no tasks
    other = prepare.prepare(store, "train-y", inputs, bases["bert"], job)
    assert one == other and one.drops == {"weight 0": 1, "answer is not in the context": 1}
    assert one.bins > one.samples and one.notes[prepare.SEVERAL] == 1
    assert one.samples + one.holdout + 2 == 90
    require_equal(store, "train-x", "train-y")
    bins = Bins.open(store, "train-x", PACKED)
    owners = [int(bins.column("samples", place)[0]) for place in range(len(bins))]
    assert owners == sorted(owners) and len(set(owners)) == one.samples
    assert {float(bins.column("weights", place)[0]) for place in range(len(bins))} == {1.0, 2.0, 3.0}
    assert Bins.open(store, "train-x", HELDOUT).alike


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_shards_that_tasks_read_give_the_windows_of_one_process(
    store: Store, bases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, job = {"samples": shards_of(store)}, Train.model_validate({"model": bases["bert"], **SHARDED})
    one = prepare.prepare(store, "train-x", inputs, bases["bert"], job)
    monkeypatch.setattr(tokens, "TASK_ROWS", 1)
    assert prepare.prepare(store, "train-y", inputs, bases["bert"], job) == one
    require_equal(store, "train-x", "train-y")
