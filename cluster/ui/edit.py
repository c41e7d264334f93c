"""A new dataset from an existing one and a person's decisions about its rows.

Every row of the existing dataset is in the new one. A row without a decision is unchanged. A row with one has the tags
`decision` (`accepted`, `rejected` or `edited`), `decided_by` and, if the person wrote one, `decision_note`.

- accepted: the row is kept. If it was dropped, the tag `dropped_before` has the reason.
- rejected: the row is dropped with the reason `person: rejected`, or keeps the reason that it was dropped for.
- edited: the row is dropped with the reason `person: replaced by ID`, and the row `ID` follows it. That row has the new
  texts, the old row as its parent and the method `edit`. Of the scores it has the weight alone, because the other
  scores are those of the old text.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.contract.sample import WEIGHT, Message, Origin, Sample, from_table, to_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Shard, Store, place
from gristmill.cluster.ui.decisions import VERDICTS, Decision

log = logging.getLogger(__name__)
JOB = "edit"
REVISION = 1
"""Increased when the same decisions make other rows."""


def save(store: Store, dataset: str, decisions: Mapping[int, Decision]) -> str:
    """Make the dataset of these decisions, by row, and return its name. If the store has it, nothing is done.

    Raises:
        JobError: if there is no decision.
        StoreError: if a decision is about another row than the dataset has.
    """
    if not decisions:
        raise JobError(f"{dataset}: has no decisions, must have one; accept, reject or edit a row first")
    source = store.manifest(dataset)
    said = [[d.row, d.sample, d.verdict, d.by, d.note, list(d.texts)] for _, d in sorted(decisions.items())]
    identity = {"revision": REVISION, "decisions": ids.digest(said)}
    inputs = {"samples": dataset}
    name, fingerprint = place(JOB, identity, inputs)
    with making(store, name, say=log.info):
        if store.complete(name):
            return name
        shards, first = [], 0
        for number, shard in enumerate(source.shards):
            mine = {row - first: decisions[row] for row in range(first, first + shard.rows) if row in decisions}
            shards.append(_write(store, (dataset, shard), (name, f"shard-{number:05d}"), mine))
            first += shard.rows
        counts = Counter(d.verdict for d in decisions.values())
        metadata: dict[str, str] = {verdict: str(counts[verdict]) for verdict in VERDICTS}
        metadata["decided_by"] = ", ".join(sorted({d.by for d in decisions.values()}))
        manifest = Manifest(name, "samples", JOB, fingerprint, inputs, identity, tuple(shards), metadata=metadata)
        store.commit(manifest, Figures(rows=manifest.rows, kept=manifest.kept).to_json())
    return name


def _write(
    store: Store, source: tuple[str, Shard], target: tuple[str, str], decisions: Mapping[int, Decision]
) -> Shard:
    """Write a shard with the decisions about its rows, whose numbers begin at 0."""
    table = store.read_shard(*source)
    if decisions:
        table = to_table(row for n, old in enumerate(from_table(table)) for row in _decided(old, decisions.get(n)))
    return store.commit_shard(*target, table)


def _decided(sample: Sample, decision: Decision | None) -> Iterator[Sample]:
    """Yield the row after a decision, and then the row that an edit made of it."""
    if decision is None:
        yield sample
        return
    if decision.sample != sample.id:
        raise StoreError(f"{decision.sample}: is not the sample of its row, {sample.id} is; withdraw the decision")
    tags = {**sample.tags, "decision": decision.verdict, "decided_by": decision.by}
    tags |= {"decision_note": decision.note} if decision.note else {}
    if decision.verdict == "rejected":
        yield replace(sample, tags=tags).drop("person: rejected")
        return
    if decision.verdict == "accepted":
        before = {"dropped_before": sample.dropped} if sample.dropped else {}
        yield replace(sample, tags=tags | before, dropped=None)
        return
    messages = edited(sample, decision.texts)
    made = ids.made_id(ids.digest(JOB, REVISION, list(decision.texts), decision.by), [sample.id], 0)
    yield replace(sample, tags=tags).drop(f"person: replaced by {made}")
    yield replace(
        sample,
        id=made,
        messages=messages,
        parents=(sample.id,),
        method=JOB,
        scores={name: value for name, value in sample.scores.items() if name == WEIGHT},
        tags=tags,
        dropped=None,
        origin=Origin("", JOB, "person", 0, 0, 0, ""),
    )


def edited(sample: Sample, texts: Sequence[str | None]) -> tuple[Message, ...]:
    """Return the turns of a sample with other contents.

    Raises:
        JobError: if the texts are not those of its turns, are all as before, or change a turn that cannot be edited.
    """
    if len(texts) != len(sample.messages):
        raise JobError(f"{sample.id}: {len(texts)} texts, must be one for each of its {len(sample.messages)} turns")
    turns = []
    for number, (turn, text) in enumerate(zip(sample.messages, texts, strict=True), 1):
        if text != turn.content:
            if not editable(turn):
                raise JobError(f"{sample.id}: turn {number} has parts that are no text, must be left as it is")
            if text is None or not text.strip():
                raise JobError(f"{sample.id}: turn {number} is empty, must have a text; reject the row instead")
        turns.append(turn._replace(content=text))
    if tuple(turns) == sample.messages:
        raise JobError(f"{sample.id}: is as before, must differ; accept the row instead")
    return tuple(turns)


def editable(turn: Message) -> bool:
    """Say whether the content of a turn is its whole text. Lengths of texts in `parts` would not fit an edited one."""
    return turn.content is not None and turn.parts is None
