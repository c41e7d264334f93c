"""ITEMS tables, which hold every value of every item; and the rows of a suite, which are read when they are needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.contract.schema import ITEMS
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements

BLOCK = 1_024
"""Number of rows that are Python objects at once when all rows are gone through."""
T = TypeVar("T")


class Rows(Sequence[T]):
    """Some rows of a SAMPLES table as objects that are made anew each time they are read.

    The table of a local store is mapped into memory, so that a row takes 8 bytes until it is read.
    """

    def __init__(self, table: pa.Table, places: NDArray[np.int64], make: Callable[[Sample], T]) -> None:
        """Take a table, the indices of the rows, ascending, and the function that makes an object of a sample."""
        self._table, self._places, self._make = table, places, make

    def __len__(self) -> int:
        return len(self._places)

    def some(self, places: NDArray[np.int64]) -> "Rows[T]":
        """Return some of the rows, by their ascending indices."""
        return Rows(self._table, self._places[places], self._make)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...

    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        if isinstance(place, int):
            row = int(self._places[place])
            return self._make(from_table(self._table.slice(row, 1))[0])
        rows = self._places[place]
        if not len(rows):
            return ()
        first = int(rows[0])
        samples = from_table(self._table.slice(first, int(rows[-1]) + 1 - first))
        return tuple(self._make(samples[row - first]) for row in rows.tolist())

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]


def some(rows: Sequence[T], places: NDArray[np.int64]) -> Sequence[T]:
    """Return some rows by their ascending indices; those of a table are read when they are needed."""
    return rows.some(places) if isinstance(rows, Rows) else [rows[place] for place in places.tolist()]


class Judged(NamedTuple):
    """One item with the values of one model's reply to it."""

    item: Item
    scores: Judgements


def rows(model: str, suite: str, kind: str, judged: Sequence[Judged]) -> pa.Table:
    """Return an ITEMS table with one row for each value of each item."""
    found = [
        (model, suite, item.id, item.digest, f"{kind}.{name}" if name else kind, score.value, score.reply)
        for item, scores in judged
        for name, score in scores.items()
    ]
    columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in ITEMS]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, ITEMS, strict=True)], schema=ITEMS
    )


def read(store: Store, name: str) -> pa.Table:
    """Return the ITEMS of a complete evaluation; in a local store they are mapped into memory."""
    shards = [shard for shard in store.manifest(name).shards if shard.name.endswith(".arrow")]
    return pa.concat_tables([ITEMS.empty_table(), *(store.read_shard(name, shard) for shard in shards)])


def scores_of(table: pa.Table) -> dict[tuple[str, str], dict[str, Judgements]]:
    """Return the values by (model, suite), then by item, then by their name."""
    found: dict[tuple[str, str], dict[str, dict[str, Judgement]]] = {}
    for row in table.to_pylist():
        name = row["scorer"].partition(".")[2] or OWN
        by_item = found.setdefault((row["model"], row["suite"]), {})
        by_item.setdefault(row["item"], {})[name] = Judgement(row["value"], row["reply"])
    return {key: dict(by_item) for key, by_item in found.items()}
