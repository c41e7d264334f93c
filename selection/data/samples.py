"""The kept input samples of a job as columns; the texts stay in the store and are read again for each use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import tee
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import SchemaError
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Ids, Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.parts import Parts, Read

Array = np.ndarray[Any, Any]
SILENT = -2
"""Stands in `Samples.row_of` for a kept sample without text, which is no sample of the pool."""
Turns = Sequence[tuple[str, str]]
"""The turns of one conversation, as (role, content)."""


class Memo(Protocol):
    """Stores arrays that are expensive to make; the same name always gives the same array."""

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        """Return the array of a name, made now or earlier. It may be a memory map; do not write to it."""


class MemoryMemo:
    """A memo in memory; its arrays last as long as the process."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        """Return the array of a name, made at the first call."""
        if name not in self._held:
            self._held[name] = make()
        return self._held[name]


@dataclass(frozen=True, eq=False)
class Samples:
    """The kept input samples of a job: columns in memory, texts in the store.

    Memory: 36 bytes for each sample, 4 for its length once it is used, and 4 for each score.
    """

    parts: Parts
    """Functions that read the parts of the dataset, see `parts_of`."""
    ends: Int
    """[parts + 1] row of the dataset at which each part begins; the last entry is the number of all rows."""
    ids: Ids
    """[N] ids of the samples, in ascending order."""
    row_of: NDArray[np.int32]
    """For each row of the dataset: its index in `ids`, `SILENT` for a kept sample without text, -1 for other rows."""
    scores: Mapping[str, Float32]
    """[N] values of each score, by name; NaN for a sample without the score. Scores from the steps of this job are
    added."""
    given: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    """[N] values of each tag that the steps of this job gave, by name; None for a sample without the tag."""
    cut: Mapping[int, Turns] = field(default_factory=dict)
    """The new turns of each sample whose text was shortened in this job, by row. Texts that are read have these turns;
    `lengths` counts the original text."""
    memo: Memo = field(default_factory=MemoryMemo)
    """Arrays that are stored with this dataset, such as an index that later builds use again."""
    row_bytes: int = 0
    """Bytes of a row in memory: the mean of the part in which it is largest."""

    def rows_in(self, part: int) -> NDArray[np.int32]:
        """Return `row_of` for the rows of one part."""
        return self.row_of[self.ends[part] : self.ends[part + 1]]

    def kept_in(self, part: int) -> NDArray[np.bool_]:
        """Return which rows of a part are kept in the dataset, with a text or without."""
        rows = self.rows_in(part)
        found: NDArray[np.bool_] = (rows >= 0) | (rows == SILENT)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that depend on all ids."""
        return ids.digest(len(self.ids), ids.of_bytes(self.ids.data))

    def asks(self, place: NDArray[np.int32] | None = None) -> Iterator[tuple[Int, "Ask"]]:
        """Yield, for each part, (samples in it, what to read of it), in the order of the parts.

        Args:
            place: [N] a number for each sample, which is returned instead of its row; -1 for a sample that is not read.
        """
        for part in range(len(self.ends) - 1):
            rows = self.rows_in(part)
            mine = rows >= 0
            found = rows[mine] if place is None else place[rows[mine]]
            mine[mine] = found >= 0
            yield found[found >= 0].astype(np.int64), Ask(mine, self._cut_of(rows[mine]))

    def scan(self, wanted: Sequence[str]) -> Iterator[tuple[Int, pa.Table]]:
        """Yield (rows, table of exactly these rows), one part at a time, from the beginning to the end."""
        one, two = tee(self.asks())
        tables = self.parts.here().map(partial(read, tuple(wanted)), ((ask,) for _, ask in two))
        yield from zip((rows for rows, _ in one), tables, strict=True)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """[N] characters of the answers in the input; without an answer, of all turns except the system prompt."""
        found = np.zeros(len(self.ids), np.int32)
        one, two = tee(replace(self, cut={}).asks())
        for (rows, _), lengths in zip(one, self.parts.map(_lengths, ((ask,) for _, ask in two)), strict=True):
            found[rows] = lengths
        return found

    def _cut_of(self, rows: NDArray[np.int32]) -> Mapping[int, Turns]:
        """Return the new turns of the shortened samples among some rows, by their place among these."""
        if not self.cut:
            return {}
        return {n: self.cut[row] for n, row in enumerate(rows.tolist()) if row in self.cut}


class Ask(NamedTuple):
    """What to read of one part."""

    mine: NDArray[np.bool_]
    """[rows of the part] the rows to read."""
    cut: Mapping[int, Turns]
    """The new turns of shortened samples, by their place among the rows to read."""


def read(wanted: Sequence[str], part: Read, ask: Ask) -> pa.Table:
    """Return the wanted columns of the rows that are asked of a part."""
    table = part(wanted)
    return shorten(table if ask.mine.all() else table.filter(pa.array(ask.mine)), ask.cut)


def _lengths(part: Read, ask: Ask) -> NDArray[np.int32]:
    found: NDArray[np.int32] = pc.utf8_length(columns.part(read(["messages"], part, ask), "answer")).to_numpy(False)
    return found.astype(np.int32)


def shorten(table: pa.Table, cut: Mapping[int, Turns]) -> pa.Table:
    """Return a table of samples in which the rows in `cut` have their new turns."""
    here = np.array(sorted(cut), np.int64)
    if not len(here) or "messages" not in table.column_names:
        return table
    kind = table.schema.field("messages").type
    old = table["messages"].take(pa.array(here)).to_pylist()
    new = [[*map(_with_text, turns, cut[row])] for turns, row in zip(old, here.tolist(), strict=True)]
    both = pa.concat_arrays([*table["messages"].chunks, pa.array(new, kind)])
    place = np.arange(len(table))
    place[here] = len(table) + np.arange(len(here))
    messages = both.take(pa.array(place))
    return table.set_column(table.column_names.index("messages"), table.schema.field("messages"), messages)


def _with_text(turn: Mapping[str, Any], left: tuple[str, str]) -> Mapping[str, Any]:
    """Return a turn with the text that is left of it.

    A turn with calls or parts is not shortened, because its text is not all of it.
    """
    return turn if turn["tool_calls"] or turn["parts"] else {**turn, "content": left[1]}


class _Opened(NamedTuple):
    """The compact columns of one part, for the kept rows."""

    ids: Ids
    kept: NDArray[np.bool_]
    """[rows of the part] whether a row is kept."""
    has_text: NDArray[np.bool_]
    """[kept] whether a sample has a text."""
    scores: Mapping[str, Float32]
    row_bytes: int
    """Mean bytes of a row in memory."""


def open_samples(parts: Parts, where: str) -> tuple[Samples, int]:
    """Return (the kept samples that have text, the number of the kept samples that have none).

    Raises:
        SchemaError: when two kept samples have the same id; the message begins with `where`.
    """
    opened = list(parts.map(_open))
    ends = np.cumsum([0, *(len(part.kept) for part in opened)])
    kept = np.concatenate([np.zeros(0, np.bool_), *(part.kept for part in opened)])
    places = kept.copy()
    places[kept] = np.concatenate([np.zeros(0, np.bool_), *(part.has_text for part in opened)])
    row_bytes = max((part.row_bytes for part in opened), default=0)
    names = {name for part in opened for name in part.scores}
    held = {name: np.concatenate([_values(part, name) for part in opened]) for name in sorted(names)}
    every = np.empty(int(places.sum()), "S32")
    begin = 0
    opened.reverse()
    while opened:  # each part is freed when it is copied
        some = opened.pop()
        mine = some.ids[some.has_text]
        every[begin : begin + len(mine)] = mine
        begin += len(mine)
    order = np.argsort(every, kind="stable")
    every = every[order]
    twice = np.flatnonzero(every[1:] == every[:-1])
    if len(twice):
        raise SchemaError(f"{where}: id {every[twice[0]].decode()} comes twice, must be unique; make it again")
    row_of, place = np.where(kept, SILENT, -1).astype(np.int32), np.empty(len(every), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    row_of[places] = place
    scores = {name: values[order] for name, values in held.items() if not np.isnan(values).all()}
    return Samples(parts, ends, every, row_of, scores, row_bytes=row_bytes), int(kept.sum()) - len(every)


def _open(part: Read) -> _Opened:
    table = part(["id", "messages", "scores", "dropped"])
    row_bytes = table.nbytes // max(1, len(table))
    kept = pc.is_null(table["dropped"]).to_numpy()
    table = table.filter(pa.array(kept))
    has_text = pc.not_equal(columns.part(table, "conversation"), "").to_numpy(zero_copy_only=False)
    scores = {name: columns.score(table, name) for name in columns.score_names(table)}
    return _Opened(columns.ids(table), kept, has_text, scores, row_bytes)


def _values(part: _Opened, name: str) -> Float32:
    """Return [samples with text] the values of a score, NaN where there is none."""
    found: Float32 = part.scores.get(name, np.full(len(part.has_text), np.nan, np.float32))[part.has_text]
    return found
