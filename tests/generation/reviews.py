"""Samples with votes, a review of them, and what people said, as the tests of reviews need them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store, place
from gristmill.generation.figures import ReviewFigures
from gristmill.generation.labels.job import Review
from tests.invariants import check_dataset

PERSON = "3fa85f64-5717-4562-b3fc-2c963f66afa6"


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


def reviewed(store: Store, settings: Review, rows: Sequence[Sample] = ROWS) -> tuple[ReviewFigures, list[Sample], str]:
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
