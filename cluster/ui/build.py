"""Build of the index of a dataset: its rows uncompressed, its texts in lower case, and its columns as codes.

    rows.arrow     the rows of the dataset, uncompressed, in batches of `BATCH` rows or fewer
    text.bin       the searched text of each row in lower case, one after the other, then `PADDING` bytes
    *.npy          one number a row: ends of the texts, kept, codes of words, scores
    facts.json     counts of rows by word, ranges of scores; written last

The index takes about twice the bytes of the texts on disk. A reader maps it into memory and loads none of it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import ipc

from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.report.material import plain_reason
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui.scan import PADDING

VERSION = 1
"""Version of the files. An index of another version is built again."""
BATCH = 4_096
MOST_WORDS = 2_000
"""Most different methods and most different reasons that a filter offers. The rest is one word, `OTHER`."""
OTHER = "(other)"
MOST_VALUES, MOST_NAMES = 200, 64
"""A tag with more values than this is no filter, only searched text. So are names of tags and scores after the 64th."""
BINS = 24


@dataclass
class _Words:
    """One word of each row, as a code. A row without a word has -1."""

    num_rows: int
    most: int
    overflow: bool
    """Whether words beyond the limit become `OTHER`. If not, the column is closed: it is no filter."""
    words: dict[str, int] = field(default_factory=dict)
    closed: bool = False

    def __post_init__(self) -> None:
        self.codes: NDArray[np.int16] = np.full(self.num_rows, -1, np.int16)

    def put(self, rows: NDArray[np.int64], values: pa.Array, change: Callable[[str], str] = str) -> None:
        """Set the words of rows. A null is no word."""
        if self.closed or not len(rows):
            return
        coded = values.dictionary_encode()
        table = np.array([-1, *(self._code(change(word)) for word in coded.dictionary.to_pylist())], np.int16)
        places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        self.codes[rows] = table[places + 1]

    def _code(self, word: str) -> int:
        if word not in self.words and len(self.words) >= self.most:
            if not self.overflow:
                self.closed = True
                return -1
            word = OTHER
        return self.words.setdefault(word, len(self.words))

    def counts(self, kept: NDArray[np.bool_]) -> list[list[Any]]:
        """Return [word, number of kept rows, number of dropped rows] of each word, by code."""
        codes, size = self.codes.astype(np.int64) + 1, len(self.words) + 1
        inside, out = (np.bincount(codes[chosen], minlength=size)[1:].tolist() for chosen in (kept, ~kept))
        return [list(row) for row in zip(self.words, inside, out, strict=True)]


class _Columns:
    """The columns of the index, which are filled shard by shard."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows, self.done = num_rows, 0
        self.kept: NDArray[np.bool_] = np.zeros(num_rows, np.bool_)
        self.method = _Words(num_rows, MOST_WORDS, overflow=True)
        self.reason = _Words(num_rows, MOST_WORDS, overflow=True)
        self.tags: dict[str, _Words] = {}
        self.scores: dict[str, NDArray[np.float32]] = {}

    def add(self, table: pa.Table) -> None:
        """Add the rows of the next shard."""
        column = {name: table[name].combine_chunks() for name in ("method", "dropped", "tags", "scores")}
        rows = np.arange(self.done, self.done + table.num_rows)
        self.kept[rows] = column["dropped"].is_null().to_numpy(zero_copy_only=False)
        self.method.put(rows, column["method"])
        self.reason.put(rows, column["dropped"], plain_reason)
        for name, where, values in _by_key(column["tags"], self.tags):
            words = self.tags.setdefault(name, _Words(self.num_rows, MOST_VALUES, overflow=False))
            words.put(rows[where], values)
        for name, where, values in _by_key(column["scores"], self.scores):
            numbers = self.scores.setdefault(name, np.full(self.num_rows, np.nan, np.float32))
            numbers[rows[where]] = values.to_numpy(zero_copy_only=False)
        self.done += table.num_rows

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the columns, and return the facts about them."""
        np.save(folder / "kept.npy", self.kept)
        np.save(folder / "method.npy", self.method.codes)
        np.save(folder / "reason.npy", self.reason.codes)
        tags, scores = {name: words for name, words in self.tags.items() if not words.closed}, self.scores
        for place, words in enumerate(tags.values()):
            np.save(folder / f"tag-{place}.npy", words.codes)
        for place, numbers in enumerate(scores.values()):
            np.save(folder / f"score-{place}.npy", numbers)
        return {
            "method": self.method.counts(self.kept),
            "reason": self.reason.counts(self.kept),
            "tags": {name: words.counts(self.kept) for name, words in tags.items()},
            "scores": {name: _range(numbers, self.kept) for name, numbers in scores.items()},
        }


def build(store: Store, name: str, folder: Path, progress: Callable[[int], None]) -> None:
    """Build the index of a complete dataset of samples in an empty folder.

    `progress` is called with the number of rows so far. Memory holds one shard, and the columns.

    Raises:
        StoreError: if the dataset is absent or was altered.
    """
    num_rows = store.manifest(name).rows
    columns = _Columns(num_rows)
    ends, firsts, done = np.zeros(num_rows + 1, np.int64), list[int](), 0
    with (folder / "text.bin").open("wb") as text, ipc.new_file(str(folder / "rows.arrow"), SAMPLES) as writer:
        for table in store.scan(name):
            for start in range(0, table.num_rows, BATCH):
                piece = table.slice(start, BATCH)
                [batch] = piece.combine_chunks().to_batches()
                writer.write_batch(batch)
                data, sizes = _lower(batch)
                ends[done + 1 : done + 1 + batch.num_rows] = ends[done] + np.cumsum(sizes)
                text.write(data)
                firsts.append(done)
                done += batch.num_rows
                progress(done)
            columns.add(table)
        text.write(b"\0" * PADDING)
    np.save(folder / "ends.npy", ends)
    facts = {"version": VERSION, "rows": num_rows, "firsts": firsts, **columns.write(folder)}
    (folder / "facts.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _lower(batch: pa.RecordBatch) -> tuple[pa.Buffer, NDArray[np.int32]]:
    """Return the searched texts of the rows in lower case, one after the other, and the number of bytes of each."""
    tags = batch["tags"]
    first, last = tags.offsets[0].as_py(), tags.offsets[-1].as_py()
    keys, items = tags.keys.slice(first, last - first), tags.items.slice(first, last - first)
    pairs = _lines(tags.offsets, pc.binary_join_element_wise(keys, items, "="))
    parts = [batch["id"], batch["dropped"], pairs, _said(batch["messages"]), batch["tools"]]
    whole = pc.binary_join_element_wise(*parts, "\n", null_handling="skip")
    lower = pc.utf8_lower(whole.cast(pa.large_string()))
    offsets = np.frombuffer(lower.buffers()[1], np.int64)[: len(lower) + 1]
    data = lower.buffers()[2] or pa.py_buffer(b"")
    return data.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), np.diff(offsets).astype(np.int32)


def _said(messages: pa.ListArray) -> pa.Array:
    """Return everything that is said in each conversation: contents, thoughts and calls."""
    turns = messages.flatten()
    calls = turns.field("tool_calls")
    inner = calls.flatten()
    texts = pc.binary_join_element_wise(inner.field("name"), inner.field("arguments"), "\n")
    called = _lines(calls.offsets, texts)
    content, thought = pc.struct_field(turns, "content"), pc.struct_field(turns, "reasoning")
    return _lines(messages.offsets, pc.binary_join_element_wise(thought, content, called, "\n", null_handling="skip"))


def _lines(offsets: pa.Array, texts: pa.Array) -> pa.Array:
    """Return the texts of each list as lines of one text. `offsets` are those of the lists."""
    return pc.binary_join(pa.ListArray.from_arrays(pc.subtract(offsets, offsets[0]), texts), "\n")


def _by_key(column: pa.MapArray, known: Mapping[str, Any]) -> list[tuple[str, NDArray[np.int64], pa.Array]]:
    """Return (key, places of the rows that have it, their values) of each key that is known or may still be added."""
    offsets = column.offsets.to_numpy()
    first, last = int(offsets[0]), int(offsets[-1])
    keys, items = column.keys.slice(first, last - first).dictionary_encode(), column.items.slice(first, last - first)
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    codes = keys.indices.to_numpy(zero_copy_only=False)
    names = keys.dictionary.to_pylist()
    new = [name for name in names if name not in known][: max(0, MOST_NAMES - len(known))]
    found = []
    for code, name in enumerate(names):
        if name in known or name in new:
            chosen = codes == code
            found.append((name, rows[chosen], items.filter(pa.array(chosen))))
    return found


def _range(numbers: NDArray[np.float32], kept: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the range of a score, and the number of kept and of dropped rows in each of `BINS` parts of it."""
    there = np.isfinite(numbers)
    if not there.any():
        return {"low": 0.0, "high": 0.0, "kept": [], "dropped": []}
    low, high = float(numbers[there].min()), float(numbers[there].max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    inside, out = (np.histogram(numbers[there & chosen], edges)[0].tolist() for chosen in (kept, ~kept))
    return {"low": low, "high": high, "kept": inside, "dropped": out}
