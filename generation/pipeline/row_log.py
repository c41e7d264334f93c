"""The log of the finished rows of shards in the making, so that a killed process costs only the rows in flight.

    <output>/rows/00007-1f0c9a3e.jsonl     the rows that one worker has finished of the shard with place 7

Each line has the checksum of the rest of the line, and then the rows of one draw as JSON. A line is written in one call
when a draw is finished, so it survives the death of the process. The file is flushed every `SYNC_S` seconds, so older
lines survive the loss of the machine. A line that was cut, or whose checksum is wrong, does not count. Each attempt at
a shard has its own file, because a process that is thought to be dead may still write. Object stores cannot append, and
have no logs.
"""

import asyncio
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Origin, Sample
from gristmill.cluster.store.store import Store

log = logging.getLogger(__name__)
FOLDER = "rows"
SYNC_S = 5.0
"""Seconds between two flushes of a log to disk."""


class LoggedDraw(NamedTuple):
    """The finished rows of one draw."""

    id: str
    """Id of the draw, which is the id of its first row."""
    cost: float
    """What the requests for these rows have cost."""
    rows: tuple[Sample, ...]


_LINE = TypeAdapter(LoggedDraw)
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=float)  # scores may be numbers of numpy


class RowLog:
    """The log of one attempt at a shard, and the rows that earlier attempts have logged. Use it with `async with`."""

    def __init__(self, store: Store, output: str, place: int) -> None:
        """Read the logs of earlier attempts at the shard with this place. A file of its own begins with the first row.

        Raises:
            StoreError: if the folder of the logs cannot be read or made.
        """
        self._folder = None if store.local is None else store.folder(f"{output}/{FOLDER}")
        self._place, self._file, self._synced = place, -1, 0.0
        self._syncing: asyncio.Future[None] | None = None
        self.found: Mapping[str, LoggedDraw] = {}
        """The draws that earlier attempts have finished, by id."""
        if self._folder is not None:
            self.found = {draw.id: draw for path in _logs(self._folder, place) for draw in read(path)}
            self._path = self._folder / f"{place:05d}-{uuid4().hex[:8]}.jsonl"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file. It stays, because the shard may not be committed."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        if self._file >= 0:
            os.close(self._file)

    def append(self, id_: str, cost: float, rows: Sequence[Sample]) -> None:
        """Append the finished rows of one draw.

        Raises:
            StoreError: if the file cannot be written, as on a full disk.
        """
        if self._folder is None:
            return
        line = _ENCODER.encode([id_, cost, [_fields(row) for row in rows]]).encode()
        try:
            if self._file < 0:
                self._file, self._synced = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), time.monotonic()
            os.write(self._file, b"%08x %b\n" % (zlib.crc32(line), line))
        except OSError as error:
            must = "must be writable, with room for the rows; make room and run again"
            raise StoreError(f"{self._path}: cannot be written ({error.strerror}), {must}") from error
        if (now := time.monotonic()) - self._synced > SYNC_S and (self._syncing is None or self._syncing.done()):
            self._synced = now
            self._syncing = asyncio.get_running_loop().run_in_executor(None, self._sync)

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:  # the rows are written; only the loss of the machine could cost them
            log.warning("%s: not flushed to disk: %s", self._path, error)


def delete_logs(store: Store, output: str, place: int | None = None) -> None:
    """Delete the logs of one shard, or those of all shards with their folder."""
    if store.local is None or not store.exists(output, FOLDER):
        return
    if place is None:
        store.delete_folder(f"{output}/{FOLDER}")
        return
    folder = Path(store.path(output, FOLDER))
    for path in _logs(folder, place):
        path.unlink(missing_ok=True)


def read(path: Path) -> Iterator[LoggedDraw]:
    """Yield the draws of one log whose lines are whole."""
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
                log.warning("%s: a line is not whole, its rows are made again", path)
                continue
            try:
                draw: LoggedDraw = _LINE.validate_json(line[9:-1], strict=True)
            except ValidationError as error:
                log.warning("%s: a line is no draw, its rows are made again: %s", path, error)
                continue
            yield draw


def _logs(folder: Path, place: int) -> list[Path]:
    return sorted(path for path in folder.glob(f"{place:05d}-*.jsonl"))


def _fields(row: Sample) -> dict[str, object]:
    """Return the fields of a row. They are written out because `dataclasses.asdict` takes ten times as long."""
    o = row.origin
    return {
        "id": row.id,
        "messages": row.messages,
        "parents": row.parents,
        "method": row.method,
        "round": row.round,
        "scores": dict(row.scores),
        "tags": dict(row.tags),
        "dropped": row.dropped,
        "origin": o and _origin(o),
        "tools": row.tools,
    }


def _origin(origin: Origin) -> dict[str, object]:
    return {
        "run": origin.run,
        "step": origin.step,
        "model": origin.model,
        "seed": origin.seed,
        "prompt_tokens": origin.prompt_tokens,
        "reply_tokens": origin.reply_tokens,
        "finish": origin.finish,
    }
