"""What the page can ask for and do: one method a path. Values are JSON."""

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gristmill.cluster.cli.text import listing
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.gate import GateError, parse
from gristmill.cluster.jobs.run import runs
from gristmill.cluster.refresh.lineage import made_from
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui.decisions import VERDICTS, Decision, Decisions, Verdict
from gristmill.cluster.ui.edit import edited, save
from gristmill.cluster.ui.index import Index, Query
from gristmill.cluster.ui.indexes import Building, Indexes
from gristmill.cluster.ui.views import Funnel, relatives, rows_view, sample_view

PAGE = 50
"""Number of rows of a page."""
ORDERS = ("highest", "lowest")
"""The orders of a list, each followed by a colon and the name of a score."""
Value = dict[str, Any]


class MissingError(JobError):
    """The error for a path, a run, a dataset or a row that does not exist."""


class _Decide(BaseModel):
    """The body of `/api/decide`. An empty verdict withdraws the decision."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dataset: str
    row: int = Field(ge=0)
    verdict: Verdict | None
    note: str = Field(default="", max_length=2_000)
    texts: list[str | None] = Field(default=[])


class _Save(BaseModel):
    """The body of `/api/save`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dataset: str


class Api:
    """The values of one store. All methods may be called from several threads."""

    def __init__(self, store: Store, by: str, cache: Path | None = None) -> None:
        """Read nothing yet. `by` is the name of the person who decides."""
        self._store, self._by = store, by
        self._indexes = Indexes(store, cache)
        self._indexes.sweep()
        self._funnel = Funnel(store)
        self._decisions: dict[str, Decisions] = {}
        self._lock, self._saving = threading.Lock(), threading.Lock()

    def get(self, path: str, query: str) -> Value:
        """Answer a request that changes nothing. The query is that of its URL.

        Raises:
            MissingError: if there is no such path, run, dataset or row.
            JobError: if a value of the query is wrong.
        """
        answers = {
            "/api/store": self._listing,
            "/api/run": self._run,
            "/api/dataset": self._dataset,
            "/api/rows": self._rows,
            "/api/row": self._row,
        }
        if path not in answers:
            raise MissingError(f"{path}: is no path of this page")
        try:
            asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=50))
        except ValueError as error:
            raise JobError(f"the query cannot be read ({error}), must have at most 50 fields") from error
        return answers[path](asked)

    def post(self, path: str, body: str) -> Value:
        """Carry out a decision, or save the new dataset.

        Raises:
            MissingError: if there is no such path, dataset or row.
            JobError: if the body or the decision is wrong.
            BusyError: if another process decides about the dataset.
        """
        kinds: dict[str, tuple[type[BaseModel], Any]] = {
            "/api/decide": (_Decide, self._decide),
            "/api/save": (_Save, self._save),
        }
        if path not in kinds:
            raise MissingError(f"{path}: is no path of this page")
        kind, act = kinds[path]
        try:
            asked = kind.model_validate(parse(body))
        except GateError as error:
            raise JobError(f"the request {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise JobError(f"the request: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        answer: Value = act(asked)
        return answer

    def close(self) -> None:
        """Let other processes decide about the datasets."""
        for decisions in self._decisions.values():
            decisions.close()

    # -- what there is --------------------------------------------------------------------------------------------

    def _listing(self, asked: Mapping[str, str]) -> Value:
        del asked
        found = listing(self._store, runs(self._store)) if self._store.exists() else {"runs": [], "datasets": []}
        return {"store": self._store.uri, "by": self._by, **found}

    def _run(self, asked: Mapping[str, str]) -> Value:
        name = asked.get("name", "")
        if name not in runs(self._store):
            raise MissingError(f"{name}: is no run of {self._store.uri}")
        return self._funnel.run(name)

    def _dataset(self, asked: Mapping[str, str]) -> Value:
        name = self._named(asked)
        manifest = self._store.manifest(name)
        facts = {"dataset": name, "job": manifest.job, "inputs": dict(manifest.inputs), "rows": manifest.rows}
        facts |= {"kept": manifest.kept, "metadata": dict(manifest.metadata), "path": self._store.at(name)}
        index = self._indexes.get(name)
        if isinstance(index, Building):
            return {**facts, "building": index.done}
        return {**facts, **index.offered(), **self._counts(name)}

    def _rows(self, asked: Mapping[str, str]) -> Value:
        name = self._named(asked)
        index = self._index(name)
        begin = time.perf_counter()
        decisions = self._decided(name).all()
        rows = index.find(_query(asked, decisions))
        page = _whole(asked, "page")
        shown = [int(row) for row in rows[page * PAGE : (page + 1) * PAGE]]
        listed = rows_view(index, shown, decisions)
        took = round(1000 * (time.perf_counter() - begin), 1)
        return {"total": len(rows), "page": page, "pages": -(-len(rows) // PAGE), "milliseconds": took, "rows": listed}

    def _row(self, asked: Mapping[str, str]) -> Value:
        name = self._named(asked)
        index, row = self._index(name), _whole(asked, "row")
        if row >= index.num_rows:
            raise MissingError(f"{name}: has {index.num_rows} rows, must have a row {row}")
        [sample] = index.samples([row])
        value = sample_view(row, sample, self._decided(name).all().get(row))
        if asked.get("relatives") != "1":
            return value
        others = {other: self._indexes.get(other) for other in [name, *made_from(self._store, name)]}
        ready = {other: found for other, found in others.items() if isinstance(found, Index)}
        waiting = sorted(others.keys() - ready.keys())
        return {**value, "relatives": relatives(sample, name, ready), "waiting": waiting}

    # -- decisions ------------------------------------------------------------------------------------------------

    def _decide(self, asked: _Decide) -> Value:
        name = self._named({"dataset": asked.dataset})
        index, decisions = self._index(name), self._decided(name)
        if asked.row >= index.num_rows:
            raise MissingError(f"{name}: has {index.num_rows} rows, must have a row {asked.row}")
        if asked.verdict is None:
            decisions.withdraw(asked.row)
            return self._counts(name)
        [sample] = index.samples([asked.row])
        texts = tuple(asked.texts)
        if asked.verdict == "edited":
            edited(sample, texts)
        elif texts:
            raise JobError(f"the request: texts: are there although the verdict is {asked.verdict}, must be absent")
        decisions.put(Decision(sample.id, asked.row, asked.verdict, self._by, asked.note.strip(), texts))
        return self._counts(name)

    def _save(self, asked: _Save) -> Value:
        name = self._named({"dataset": asked.dataset})
        with self._saving:  # one at a time: each holds a shard in memory
            made = save(self._store, name, self._decided(name).all())
        manifest = self._store.manifest(made)
        path = self._store.at(made)
        return {"dataset": made, "rows": manifest.rows, "kept": manifest.kept, "input": f"{path}/shard-*.arrow"}

    def _counts(self, name: str) -> Value:
        found = [decision.verdict for decision in self._decided(name).all().values()]
        return {"decisions": {verdict: found.count(verdict) for verdict in VERDICTS}}

    def _decided(self, name: str) -> Decisions:
        with self._lock:
            if name not in self._decisions:
                self._decisions[name] = Decisions(self._store, name)
            return self._decisions[name]

    # -- datasets -------------------------------------------------------------------------------------------------

    def _named(self, asked: Mapping[str, str]) -> str:
        """Return the name of a complete dataset of samples.

        Raises:
            MissingError: if there is none. A name with a slash, which might lead out of the store, is none.
        """
        name = asked.get("dataset", "")
        if not name or "/" in name or "\0" in name or name.startswith(".") or not self._store.complete(name):
            raise MissingError(f"{name[:100]!r}: is no complete dataset of {self._store.uri}")
        if self._store.manifest(name).kind != "samples":
            raise MissingError(f"{name}: holds {self._store.manifest(name).kind}, must be a dataset of samples")
        return name

    def _index(self, name: str) -> Index:
        index = self._indexes.get(name)
        if isinstance(index, Building):
            raise JobError(f"{name}: its index is being built ({index.done} of {index.rows} rows); wait and ask again")
        return index


def _query(asked: Mapping[str, str], decisions: Mapping[int, Decision]) -> Query:
    """Return the query of a request.

    Raises:
        JobError: if a value is wrong.
    """
    state, decision = asked.get("state", ""), asked.get("decision", "")
    if state not in ("", "kept", "dropped"):
        raise JobError(f"state: is {state!r}, must be kept or dropped")
    if decision not in ("", "any", *VERDICTS):
        raise JobError(f"decision: is {decision!r}, must be any, {', '.join(VERDICTS)}")
    order, _, score = asked.get("sort", "").partition(":")
    chosen = tuple(row for row, one in sorted(decisions.items()) if decision in ("any", one.verdict))
    return Query(
        words=asked.get("words", ""),
        state=state,
        method=asked.get("method", ""),
        reason=asked.get("reason", ""),
        tag=_tag(asked),
        score=asked.get("score", ""),
        low=_number(asked, "low"),
        high=_number(asked, "high"),
        sort=score if order in ORDERS else "",
        ascending=order == "lowest",
        decided=chosen if decision else None,
    )


def _tag(asked: Mapping[str, str]) -> tuple[str, str] | None:
    """Return name and value of the tag that is asked for: a JSON list, because both may hold any sign."""
    text = asked.get("tag", "")
    try:
        match parse(text) if text else None:
            case None:
                return None
            case [str(name), str(value)]:
                return name, value
    except GateError:
        pass  # it is refused below, as any other value that is no pair
    raise JobError(f'tag: is {text[:40]!r}, must be a JSON list of its name and its value, such as ["topic", "rivers"]')


def _number(asked: Mapping[str, str], name: str) -> float | None:
    text = asked.get(name, "")
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise JobError(f"{name}: is {text[:40]!r}, must be a number")
    return number


def _whole(asked: Mapping[str, str], name: str) -> int:
    text = asked.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise JobError(f"{name}: is {text[:40]!r}, must be a whole number from 0")
    return int(text)
