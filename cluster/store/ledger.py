"""The ledger of a run: one JSON line for each event. Only the driver writes it.

    <store>/runs/<run>/ledger.jsonl         files: each event is appended
                       ledger-00000.jsonl   objects, to which nothing can be appended: a segment of the events, which is
                                            written again with each event until it is full; then the next one begins

The state of a run follows from its ledger.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Required

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.store.backend import in_words
from gristmill.cluster.store.lease import driver_lives, only_driver
from gristmill.cluster.store.store import Store

LEDGER = "ledger.jsonl"
SEGMENT = "ledger-"
LOCK = ".lock"
SEGMENT_BYTES = 1 << 16
"""Bytes of a segment. With larger ones, more bytes are written again with each event; with smaller ones, a ledger has
more objects to read: about 200 after 100,000 shards."""
SHARD_DONE = "shard_done"
SOON_S = 1.0
"""Seconds for which events of finished shards may wait for others, so that one request writes them all. A killed driver
loses these lines alone, not the shards."""
State = Literal["running", "stopped", "done", "failed"]
"""State of a run or job. `stopped` means that a signal or a busy cluster ended the run, or that its driver was killed.
The same command continues such a run."""

ENDS: Mapping[str, State] = {"run_done": "done", "run_failed": "failed", "run_stopped": "stopped"}
"""The events that end a run, with the state after them."""


class Ledger:
    """The ledger of one run, to which events are appended.

    In a folder, each line is on disk before `append` returns. In an object store, the lines of finished shards may be
    written up to `SOON_S` later, with the next event.
    """

    def __init__(self, store: Store, folder: str) -> None:
        """Open the ledger in a run's folder. If there is none, the first event makes it."""
        self._store, self._folder = store, folder
        self._lines = read_lines(store, folder)
        self._segment: list[str] = []
        self._number = 0
        self._written = 0.0
        if store.local is None:
            self._number = len(_segments(store, folder))  # a segment of an earlier execution is never written again
        elif store.exists(folder, LEDGER) and not store.read_bytes(folder, LEDGER).endswith(b"\n"):
            # a kill cut the last line: remove it, or the next event would be written onto it and lost
            store.write_bytes("".join(f"{line}\n" for line in self._lines).encode(), folder, LEDGER)

    @property
    def lines(self) -> Sequence[str]:
        """The lines so far, including those of earlier executions."""
        return self._lines

    def append(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append one event with its time, in seconds since 1970, and its facts, which are JSON values."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False)
        self._lines.append(line)
        if self._store.local is None:
            self._segment.append(line)
            if event != SHARD_DONE or time.monotonic() - self._written > SOON_S:
                self._write_segment()
            return
        path = self._store.folder(self._folder) / LEDGER
        with in_words(str(path)), path.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
            out.flush()
            os.fsync(out.fileno())

    def _write_segment(self) -> None:
        data = "".join(f"{line}\n" for line in self._segment).encode()
        self._store.write_bytes(data, self._folder, f"{SEGMENT}{self._number:05d}.jsonl")
        self._written = time.monotonic()
        if len(data) >= SEGMENT_BYTES:
            self._segment, self._number = [], self._number + 1


@contextmanager
def lock(store: Store, folder: str) -> Iterator[None]:
    """Let only one driver at a time write a run. The lock ends with the driver's process, even if that is killed.

    In an object store it is a lease (`lease.py`): after a kill on another machine, it ends within a minute.

    Raises:
        BusyError: if another process has the lock.
    """
    if store.local is None:
        with only_driver(store, folder):
            yield
        return
    path = store.folder(folder) / LOCK
    with in_words(str(path)):
        handle = path.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{folder}: another process is executing this run; wait for it or end it") from error
        yield


def _held(store: Store, folder: str) -> bool:
    """Say whether a driver is working on a run."""
    if store.local is None:
        return driver_lives(store, folder)
    path = store.local / folder / LOCK
    if not path.exists():
        return False
    with (
        in_words(str(path)),
        path.open() as handle,
    ):  # a shared lock needs no right to write, and several processes may hold it at once
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def state(store: Store, folder: str) -> "RunState":
    """Return the state of a run. It follows from its ledger, and from whether its driver still runs."""
    run = fold(read_lines(store, folder))
    if run.state == "running" and not _held(store, folder):
        run.state = "stopped"
        _end_jobs(run)
    return run


def _end_jobs(run: "RunState") -> None:
    """Give the jobs that were running the state of the run, which has ended."""
    for job in run.jobs.values():
        job.state = run.state if job.state == "running" else job.state


def read_lines(store: Store, folder: str) -> list[str]:
    """Return the lines of a ledger that are events. A last line that was cut when the driver was killed is left out."""
    names = _segments(store, folder) if store.local is None else [LEDGER] if store.exists(folder, LEDGER) else []
    texts = (store.read_bytes(folder, name).decode(errors="replace") for name in names)
    # `splitlines` would also split inside a JSON string, at U+2028 and others
    return [line for text in texts for line in text.split("\n") if _read(line) is not None]


def _segments(store: Store, folder: str) -> list[str]:
    """Return the names of the segments of a ledger in an object store, in their order."""
    return [name for name in store.names(folder) if name.startswith(SEGMENT) and name.endswith(".jsonl")]


class _Event(TypedDict, total=False):
    """The facts of an event that the state of a run follows from. An event may have further ones."""

    time: Required[Annotated[float, Field(ge=0, le=1e11)]]
    event: Required[str]
    job: str
    output: str
    shards: int
    committed: int
    figures: dict[str, Any]
    reused: bool
    error: str


_EVENTS = TypeAdapter(_Event)


def _read(line: str) -> _Event | None:
    """Return the event of a line, or None if it is no event, as a line that was cut or altered."""
    try:
        return _EVENTS.validate_json(line, strict=True)
    except ValidationError:
        return None


@dataclass
class JobState:
    """The state of one job of a run."""

    state: State | Literal["waiting"] = "waiting"
    output: str = ""
    shards_done: int = 0
    shards: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    reused: bool = False


@dataclass
class RunState:
    """The state of a run. `started` and `ended` are seconds since 1970, `ended` is the time of the last event."""

    state: State = "running"
    attempts: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    jobs: dict[str, JobState] = field(default_factory=dict)


def fold(lines: Iterable[str]) -> RunState:
    """Return the state of a run from the lines of its ledger."""
    run = RunState()
    for event in filter(None, map(_read, lines)):
        _apply(run, event)
    return run


def _apply(run: RunState, event: _Event) -> None:
    run.ended = event["time"]
    if event["event"] == "run_started":
        run.state, run.error = "running", ""
        run.attempts += 1
        run.started = run.started or event["time"]
        return
    if event["event"] in ENDS:
        run.state = ENDS[event["event"]]
        _end_jobs(run)
        run.error = event.get("error", "")
        return
    if "job" not in event:
        return
    job = run.jobs.setdefault(event["job"], JobState())
    match event["event"]:
        case "job_started":
            job.state, job.output = "running", event.get("output", "")
        case "shards_planned":
            job.shards, job.shards_done = event.get("shards", 0), event.get("committed", 0)
        case "shard_done":
            job.shards_done += 1
        case "job_done":
            job.state, job.output = "done", event.get("output", job.output)
            job.figures, job.reused = event.get("figures", {}), event.get("reused", False)
        case "job_failed":
            job.state = "failed"
        case "job_stopped":
            job.state = "stopped"
