"""Suites on real engines: a base that knows nothing, a model taught one answer by heart, and the default model."""

import json
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message, Sample, seed
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.models.names import SMOLLM2
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data import prepare as data
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites import items
from gristmill.training.figures import EvaluateFigures
from gristmill.training.job import Train
from gristmill.training.tasks import heads, reader
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tuning.model import MERGED
from tests.fakes import CHATML, parrot_model
from tests.training.conftest import chats, dataset
from tests.training.tasks.models import write

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
ASKED, SAID = "Which river?", "The Elbe."
SMALL = {"max_model_len": 512, "kv_cache_gib": 1, "dtype": "float32"}


def a_training(store: Store, base: str) -> str:
    """What a finished training leaves, its model one that says the same after one prompt."""
    inputs = {"samples": dataset(store, chats(30))}
    job = Train(model=base, validation=0.2, max_length=256)
    name = "train-000000000001"
    data.prepare(store, name, inputs, base, job)
    parrot_model(store.folder(name) / MERGED, CHATML, {"conversation": [{"role": "user", "content": ASKED}]}, SAID)
    held = store.shard(name, data.HOLDOUT)
    store.commit(Manifest(name, "model", "train", "f", inputs, job.model_dump(mode="json"), (held,)))
    return name


def a_head(folder: Path) -> str:
    """Write an encoder with a head that gives every text the same label."""
    import torch

    base = write(folder / "base", "bert")
    model = heads.load(base, heads.Head(SequenceClassification(), ("The Elbe.", "no"), 64), "fp32")
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([1.0, 0.0])
    model.save_pretrained(str(folder))
    reader.tokenizer(base).save_pretrained(str(folder))
    return str(folder)


def chat(question: str, answer: str) -> Sample:
    return seed([Message("user", question), Message("assistant", answer)])


def test_three_suites_on_three_models(tmp_path: Path, tiny: str, ray_session: None) -> None:
    store = Store(str(tmp_path / "store"))
    model = a_training(store, tiny)
    asked = {
        "rivers": ("exact_match", [chat(ASKED, "the elbe"), *(chat(f"Which lake {n}?", "Como") for n in range(3))]),
        "kinds": ("labels", [chat(ASKED, "The Elbe."), chat("Which sea?", "no")]),
        "form": ("checks", [chat(ASKED, "The Elbe.")]),
    }
    suites = {
        name: {"kind": kind, "input": f"{name}.jsonl", "max_tokens": 16}
        | ({"rules": {"stops": True, "max_words": 2}} if kind == "checks" else {})
        for name, (kind, _) in asked.items()
    }
    job = Evaluate.model_validate(
        {
            "precision": "fp32",
            "smoke_prompts": 0,
            "bootstrap": 200,
            "suites": suites,
            "engine": SMALL,
            "against": [SMOLLM2, (head := a_head(tmp_path / "head"))],
            "gate": {"floors": {"kinds": 0.9}},
        }
    )
    rows = {f"suites.{name}": dataset(store, some, f"ingest-{name:0>12}") for name, (_, some) in asked.items()}
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), f"{store.uri}/runs/test/logs")
    figures = job.make(run, Work("evaluate-x", job.fingerprint(), {"model": model, **rows}))
    found = {suite.suite: {one.model: one for one in suite.models} for suite in figures.suites}
    assert [*found] == ["rivers", "kinds", "form"]
    assert found["rivers"][model].value == 0.25, "one of four, which it was taught"
    assert found["rivers"][tiny].value == 0
    assert found["form"][model].value == 1
    assert found["kinds"][model].measures["written_accuracy"] == 0.5
    assert 0 <= found["kinds"][model].measures["roc_auc"] <= 1
    assert found["kinds"][head].value == found["kinds"][head].measures["written_accuracy"] == 0.5, "one label for all"
    assert found["rivers"][head].value == 0.25, "its label is an answer too"
    known = found["kinds"][SMOLLM2]
    assert known.measures["roc_auc"] in (0, 0.5, 1), "of one item with each label"
    assert EvaluateFigures.read(store.figures("evaluate-x")) == figures
    table = items.read(store, "evaluate-x").to_pylist()
    said = {(row["model"], row["suite"]): row["reply"] for row in table if row["scorer"] in ("exact_match", "checks")}
    assert said[model, "form"] == SAID
    assert len(said[SMOLLM2, "form"].split()) > 1, "the small default model talks"
    chances = next(json.loads(row["reply"]) for row in table if row["model"] == SMOLLM2 and row["scorer"] == "labels")
    assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
    assert {row["suite"] for row in table} == {"held_out", *asked}
    assert figures.decision and figures.decision.verdict == "reject"
    assert figures.decision.reasons[:2] == (
        "kinds: is 0.500, must be at least 0.9", "rivers: has 4 families of items, must have at least 30",
    )  # fmt: skip
