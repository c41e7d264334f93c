"""What the page shows, as JSON values: runs with their funnel, rows, and one row with its relatives."""

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.jobs.job import SAMPLE_JOBS
from gristmill.cluster.jobs.state import recipe_of, state_of
from gristmill.cluster.refresh.lineage import generations
from gristmill.cluster.report.material import plain_reason
from gristmill.cluster.store.ledger import JobState
from gristmill.cluster.store.store import Shard, Store
from gristmill.cluster.ui.decisions import Decision
from gristmill.cluster.ui.edit import editable
from gristmill.cluster.ui.index import Index

BRIEF = 480
"""Most characters of a text in a list of rows."""
LONGEST = 200_000
"""Most characters of a turn on the page. A longer turn is cut there, and cannot be edited."""
RELATIVES = 50
"""Most rows of one kind of relatives."""
GENERATIONS = 6
"""Most generations of parents."""
COUNTING_S = 1.0
"""Seconds of a request in which shards are read for their drop reasons. The next request goes on with the others."""
TRIES = 3
_ID = re.compile(r"\b[0-9a-f]{32}\b")


class Funnel:
    """Counts of kept and dropped rows of the shards of a store. Each shard is read once."""

    def __init__(self, store: Store) -> None:
        """Count nothing yet."""
        self._store = store
        self._known: dict[tuple[str, str], Counter[str]] = {}
        self._lock = threading.Lock()

    def run(self, run_id: str) -> dict[str, Any]:
        """Return the state of a run and the counts of its jobs so far.

        Raises:
            StoreError: if there is no such run.
        """
        deadline = time.monotonic() + COUNTING_S
        state, recipe = state_of(self._store, run_id), recipe_of(self._store, run_id)
        waiting = {name: JobState(output=folder) for name, folder in recipe.outputs.items() if name not in state.jobs}
        return {
            "run": run_id,
            "name": recipe.name or run_id,
            "state": state.state,
            "error": state.error,
            "started": state.started,
            "ended": state.ended,
            "now": time.time(),
            "attempts": state.attempts,
            "jobs": [self._job(name, job, deadline) for name, job in (state.jobs | waiting).items()],
        }

    def _job(self, name: str, job: JobState, deadline: float) -> dict[str, Any]:
        complete = bool(job.output) and self._store.complete(job.output)
        found = {
            "job": name,
            "state": "reused" if job.reused else job.state,
            "output": job.output,
            "complete": complete,
            "shards": job.shards,
            "shards_done": job.shards_done,
        }
        if name not in SAMPLE_JOBS or not job.output:
            return found
        shards = self._store.manifest(job.output).shards if complete else self._committed(job.output)
        rows, kept, reasons = sum(shard.rows for shard in shards), sum(shard.kept for shard in shards), Counter[str]()
        for shard in shards:
            reasons += self._reasons(job.output, shard, deadline)
        uncounted = rows - kept - reasons.total()
        return {**found, "rows": rows, "kept": kept, "reasons": reasons.most_common(), "uncounted": uncounted}

    def _committed(self, dataset: str) -> list[Shard]:
        """Return the shards of a job that has not ended: the final ones, and the raw ones that become final later."""
        for left in reversed(range(TRIES)):
            try:
                final, raw = (self._store.committed(dataset, prefix) for prefix in ("shard-", "raw-"))
            except StoreError:  # the job deleted a raw shard after it was listed
                if not left:
                    raise
            else:
                places = {
                    name.removeprefix("shard-") for name in final
                }  # a raw shard is deleted after its final one is there
                waiting = (shard for name, shard in raw.items() if name[4:].partition(".")[0] not in places)
                return [*final.values(), *waiting]
        return []

    def _reasons(self, dataset: str, shard: Shard, deadline: float) -> Counter[str]:
        """Return the drop reasons of a shard. They are empty after the deadline, and if the job has deleted it."""
        key = (dataset, shard.digest)
        with self._lock:
            if key in self._known:
                return self._known[key]
        counts = Counter[str]()
        if shard.kept < shard.rows:
            if time.monotonic() > deadline:
                return counts
            try:
                column = self._store.read_shard(dataset, shard, ["dropped"])["dropped"]
            except StoreError:
                if self._store.exists(dataset, shard.name):
                    raise
                return counts
            for entry in column.value_counts().to_pylist():
                if entry["values"] is not None:
                    counts[plain_reason(entry["values"])] += entry["counts"]
        with self._lock:
            self._known[key] = counts
        return counts


def rows_view(index: Index, rows: Sequence[int], decisions: Mapping[int, Decision]) -> list[dict[str, Any]]:
    """Return rows for a list."""
    return [brief(row, sample, decisions.get(row)) for row, sample in zip(rows, index.samples(rows), strict=True)]


def brief(row: int, sample: Sample, decision: Decision | None = None) -> dict[str, Any]:
    """Return a row for a list: the beginnings of its texts."""
    return {
        "row": row,
        "id": sample.id,
        "instruction": sample.instruction[:BRIEF],
        "answer": sample.reply[:BRIEF],
        "method": sample.method,
        "dropped": sample.dropped,
        "scores": {
            name: value if math.isfinite(value) else str(value) for name, value in sorted(sample.scores.items())
        },
        "verdict": decision.verdict if decision else "",
    }


def sample_view(row: int, sample: Sample, decision: Decision | None) -> dict[str, Any]:
    """Return a whole row, with the decision about it."""
    origin = sample.origin
    return {
        **brief(row, sample, decision),
        "turns": [_turn(turn) for turn in sample.messages],
        "tools": (sample.tools or "")[:LONGEST],
        "tags": dict(sorted(sample.tags.items())),
        "round": sample.round,
        "parents": list(sample.parents),
        "origin": {name: getattr(origin, name) for name in ("run", "model", "seed", "finish")} if origin else {},
        "tokens": [origin.prompt_tokens, origin.reply_tokens] if origin else [],
        "decision": {"by": decision.by, "note": decision.note, "texts": decision.texts} if decision else None,
    }


def _turn(turn: Message) -> dict[str, Any]:
    content = turn.content
    cut = len(content or "") > LONGEST
    return {
        "role": turn.role,
        "name": turn.name,
        "content": content[:LONGEST] if content is not None else None,
        "cut": cut,
        "editable": editable(turn) and not cut,
        "reasoning": (turn.reasoning or "")[:LONGEST],
        "calls": [{"name": call.name, "arguments": call.arguments[:LONGEST]} for call in turn.tool_calls],
        "parts": (turn.parts or "")[:LONGEST],
        "train": turn.train,
    }


def relatives(sample: Sample, here: str, indexes: Mapping[str, Index]) -> dict[str, Any]:
    """Return the parents upwards, the children, the other children of the parents, and the rows that the reason names.

    `indexes` are those of the datasets in which parents may be, by name: this dataset first, then its inputs.
    """
    mine = indexes[here]
    above, known = [], dict[str, Sample | None]()

    def parents_of(ids: Sequence[str]) -> list[str]:
        return [parent for one in ids if (row := known[one]) for parent in row.parents]

    for level in islice(generations(sample.parents, parents_of, RELATIVES), GENERATIONS):
        found = _named(level, indexes)
        known |= {one: row for one, (_, row) in zip(level, found, strict=True)}
        above.append([entry for entry, _ in found])
    children = mine.children_of([sample.id], RELATIVES)
    beside = [row for row in mine.children_of(sample.parents, RELATIVES + 1) if mine.samples([row])[0].id != sample.id]
    return {
        "parents": above,
        "children": [{"dataset": here, **entry} for entry in rows_view(mine, children, {})],
        "siblings": [{"dataset": here, **entry} for entry in rows_view(mine, beside[:RELATIVES], {})],
        "named": [entry for entry, _ in _named(_ID.findall(sample.dropped or ""), indexes)],
    }


def _named(ids: Sequence[str], indexes: Mapping[str, Index]) -> list[tuple[dict[str, Any], Sample | None]]:
    """Return the rows with these ids, each from the first dataset that has it. An unknown one has its id alone."""
    found: dict[str, tuple[dict[str, Any], Sample | None]] = {}
    for name, index in indexes.items():
        left = [one for one in ids if one not in found]
        rows = index.rows_of(left)
        for (one, row), sample in zip(rows.items(), index.samples(rows.values()), strict=True):
            found[one] = ({"dataset": name, **brief(row, sample)}, sample)
    return [found.get(one, ({"id": one}, None)) for one in dict.fromkeys(ids)]
