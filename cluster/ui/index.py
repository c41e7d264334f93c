"""The index of a dataset: rows by text, filters and order, and the rows that made another one."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import ipc

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.ui import scan
from gristmill.cluster.ui.build import VERSION

REMEMBERED = 12
"""Number of queries whose rows are kept in memory, for the next page. Each takes up to 8 bytes a row."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Query:
    """What rows are asked for. An empty value asks for all."""

    words: str = ""
    """Text that a row contains somewhere, in any case of letters: id, turns, thoughts, calls, tools, tags, reason."""
    state: str = ""
    """`kept` or `dropped`."""
    method: str = ""
    reason: str = ""
    """A drop reason without its ids and numbers, or what is before its colon: all reasons of a filter."""
    tag: tuple[str, str] | None = None
    score: str = ""
    """A score that a row must have."""
    low: float | None = None
    high: float | None = None
    sort: str = ""
    """Name of a score by which rows are sorted, the highest first. Rows without it are last."""
    ascending: bool = False
    decided: tuple[int, ...] | None = None
    """Only these rows."""


class Index:
    """An index in a folder. All methods may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open an index.

        Raises:
            OSError: if it is absent.
            ValueError: if it is of another version, or damaged.
        """
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if self.facts["version"] != VERSION:
            raise ValueError(f"{folder}: version {self.facts['version']}, must be {VERSION}")
        self.num_rows = int(self.facts["rows"])
        self._folder = folder
        reader = ipc.open_file(pa.memory_map(str(folder / "rows.arrow")))
        self._parts = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        self._table = pa.Table.from_batches(self._parts, SAMPLES)
        self._firsts = np.array(self.facts["firsts"], np.int64)
        self._text = np.asarray(np.memmap(folder / "text.bin", np.uint8, "r"))
        self._ends = self._load("ends")
        self._kept = self._load("kept")
        self._codes = {"method": self._load("method"), "reason": self._load("reason")}
        self._tags = {name: self._load(f"tag-{n}") for n, name in enumerate(self.facts["tags"])}
        self._scores = {name: self._load(f"score-{n}") for n, name in enumerate(self.facts["scores"])}
        self._orders: dict[tuple[str, bool], Rows] = {}
        self._found: OrderedDict[Query, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def _load(self, name: str) -> NDArray[Any]:
        return np.asarray(np.load(self._folder / f"{name}.npy", mmap_mode="r"))

    def find(self, query: Query) -> Rows:
        """Return the numbers of the rows that a query asks for, in its order.

        A query that names no word or score of the dataset finds nothing. Time: at most about 0.1 s for 10^6 rows of 400
        bytes; a query of the last `REMEMBERED` ones takes none.
        """
        with self._lock:
            if query in self._found:
                self._found.move_to_end(query)
                return self._found[query]
        found = self._ordered(query, self._searched(query, self._filtered(query)))
        with self._lock:
            self._found[query] = found
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return found

    def _filtered(self, query: Query) -> NDArray[np.bool_]:
        chosen = np.ones(self.num_rows, np.bool_)
        if query.decided is not None:
            chosen[:] = False
            chosen[list(query.decided)] = True
        if query.state:
            chosen &= self._kept if query.state == "kept" else ~self._kept
        if query.method:
            chosen &= self._coded("method", self.facts["method"], query.method)
        if query.reason:
            chosen &= self._coded("reason", self.facts["reason"], query.reason)
        if query.tag:
            name, value = query.tag
            codes = [n for n, entry in enumerate(self.facts["tags"].get(name, [])) if entry[0] == value]
            chosen &= self._tags[name] == codes[0] if codes else False
        if query.score:
            numbers = self._scores.get(query.score)
            low = -np.inf if query.low is None else query.low
            high = np.inf if query.high is None else query.high
            chosen &= (numbers >= np.float32(low)) & (numbers <= np.float32(high)) if numbers is not None else False
        return chosen

    def _coded(self, column: str, entries: Sequence[Sequence[Any]], word: str) -> NDArray[np.bool_]:
        """Return the rows with a word in a column, or with a word that begins with it and a colon."""
        wanted = [n for n, (name, *_) in enumerate(entries) if name == word or name.startswith(f"{word}: ")]
        codes = self._codes[column]
        return np.isin(codes, wanted) if len(wanted) > 1 else codes == (wanted[0] if wanted else len(entries))

    def _searched(self, query: Query, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the chosen rows that contain the words."""
        if not query.words:
            return chosen
        needle = pc.utf8_lower(pa.scalar(query.words)).as_py().encode()
        if len(needle) > scan.MAX_NEEDLE:
            return np.zeros_like(chosen)
        return scan.containing(self._text, self._ends, chosen, needle)

    def _ordered(self, query: Query, chosen: NDArray[np.bool_]) -> Rows:
        if query.sort not in self._scores:
            return np.flatnonzero(chosen)
        key = (query.sort, query.ascending)
        if key not in self._orders:
            numbers = self._scores[query.sort]
            self._orders[key] = np.argsort(numbers if query.ascending else -numbers, kind="stable")  # NaN is last
        order = self._orders[key]
        return order[chosen[order]]

    def samples(self, rows: Iterable[int]) -> list[Sample]:
        """Return rows by their numbers."""
        found = []
        for row in rows:
            part = int(np.searchsorted(self._firsts, row, side="right")) - 1
            found.append(self._parts[part].slice(row - int(self._firsts[part]), 1))
        return from_table(pa.Table.from_batches(found, SAMPLES))

    def rows_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of the rows with these ids, by id. It takes about 20 ms for 10^6 rows."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        places = np.flatnonzero(pc.is_in(self._table["id"], wanted).to_numpy())
        return {self._table["id"][int(row)].as_py(): int(row) for row in places}

    def children_of(self, ids: Iterable[str], limit: int) -> list[int]:
        """Return the numbers of the first rows, at most `limit`, of which one of these ids is a parent."""
        wanted, found = pa.array(sorted(set(ids)), pa.string()), list[int]()
        for first, part in zip(self._firsts, self._parts, strict=True):
            chunk = part["parents"]
            hits = np.flatnonzero(pc.is_in(chunk.flatten(), wanted).to_numpy(zero_copy_only=False))
            if len(hits):
                lists = np.searchsorted(chunk.offsets.to_numpy() - chunk.offsets[0].as_py(), hits, side="right") - 1
                found += (int(first) + np.unique(lists)).tolist()
            if len(found) >= limit:
                break
        return found[:limit]

    def offered(self) -> Mapping[str, Any]:
        """Return what can be filtered: words with their counts, and scores with their ranges."""
        return {name: self.facts[name] for name in ("rows", "method", "reason", "tags", "scores")}
