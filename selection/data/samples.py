"""The kept input samples of a job as columns; the texts stay in the store and are read again for each use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import SchemaError
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Ids, Int, Tables
from gristmill.selection.data.matrix import Float32

Array = np.ndarray[Any, Any]
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
    """The kept input samples of a job: columns in memory, texts in the store."""

    tables: Tables
    ids: Ids
    """[N] ids of the samples, in ascending order."""
    row_of: Int
    """For each row of the tables: its index in `ids`, -1 for a row that is not among these samples."""
    scores: Mapping[str, Float32]
    """[N] values of each score, by name; NaN for a sample without the score. Scores from the steps of this job are
    added."""
    given: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    """[N] values of each tag that the steps of this job gave, by name; None for a sample without the tag."""
    cut: Mapping[int, Turns] = field(default_factory=dict)
    """The new turns of each sample whose text was shortened in this job, by row. `scan` gives these turns; `lengths`
    counts the original text."""
    memo: Memo = field(default_factory=MemoryMemo)
    """Arrays that are stored with this dataset, such as an index that later builds use again."""

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that depend on all ids."""
        return ids.digest(len(self.ids), ids.of_bytes(self.ids.tobytes()))

    def scan(self, wanted: Sequence[str]) -> Iterator[tuple[Int, pa.Table]]:
        """Yield (rows, table of exactly these rows), one shard at a time, from the beginning to the end."""
        place = 0
        for table in self.tables(wanted):
            rows = self.row_of[place : place + len(table)]
            place += len(table)
            mine = rows[rows >= 0]
            known = table if len(mine) == len(rows) else table.filter(pa.array(rows >= 0))
            yield mine, shorten(known, mine, self.cut)

    @cached_property
    def lengths(self) -> Int:
        """[N] characters of the answers in the input; without an answer, of all turns except the system prompt."""
        found = np.zeros(len(self.ids), np.int64)
        for rows, table in replace(self, cut={}).scan(["messages"]):
            found[rows] = pc.utf8_length(columns.part(table, "answer")).to_numpy(zero_copy_only=False)
        return found


def shorten(table: pa.Table, rows: Int, cut: Mapping[int, Turns]) -> pa.Table:
    """Return a table of the samples with these rows, in which the samples in `cut` have their new turns."""
    here = np.flatnonzero([int(row) in cut for row in rows]) if cut and "messages" in table.column_names else rows[:0]
    if not len(here):
        return table
    kind = table.schema.field("messages").type
    old = table["messages"].take(pa.array(here)).to_pylist()
    new = [[*map(_with_text, turns, cut[int(row)])] for turns, row in zip(old, rows[here], strict=True)]
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


def open_samples(tables: Tables, where: str) -> tuple[Samples, Ids]:
    """Return (the kept samples that have text, the ids of the kept samples that have none).

    Raises:
        SchemaError: when two kept samples have the same id; the message begins with `where`.
    """
    found: list[Ids] = []
    use: list[Array] = []
    silent: list[Ids] = []
    values: list[dict[str, Float32]] = []
    for table in tables(["id", "messages", "scores", "dropped"]):
        kept = pc.is_null(table["dropped"]).to_numpy()
        has_text = pc.not_equal(columns.part(table, "conversation"), "").to_numpy(zero_copy_only=False)
        names = columns.ids(table)
        found.append(names)
        use.append(kept & has_text)
        silent.append(names[kept & ~has_text])
        values.append({name: columns.score(table, name) for name in columns.score_names(table)})
    every, mine = np.concatenate([np.empty(0, "S32"), *found]), np.concatenate([np.empty(0, np.bool_), *use])
    places = np.flatnonzero(mine)
    places = places[np.argsort(every[places], kind="stable")]
    ordered = every[places]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise SchemaError(f"{where}: id {ordered[twice[0]].decode()} comes twice, must be unique; make it again")
    row_of = np.full(len(every), -1, np.int64)
    row_of[places] = np.arange(len(places))
    scores = {}
    for name in sorted({name for part in values for name in part}):
        parts = [part.get(name, np.full(len(f), np.nan, np.float32)) for part, f in zip(values, found, strict=True)]
        column = np.concatenate(parts)[places]
        if not np.isnan(column).all():
            scores[name] = column
    return Samples(tables, ordered, row_of, scores), np.concatenate([np.empty(0, "S32"), *silent])
