"""The snapshots from which rounds draw, read from the store. Samples are parsed from Arrow tables when needed."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Shard, Store
from gristmill.generation.contracts import Snapshot

PARSED_AT_ONCE = 64
"""Number of rows of one block. Parsing rows one by one takes ten times as long."""
BLOCKS = 256
"""Number of parsed blocks that are cached: the most recently used blocks."""
KNOWN_ROUNDS = 2
"""Number of rounds with snapshots that a worker may need at the same time."""


class StoredSamples(Sequence[Sample]):
    """Samples in Arrow tables, parsed block by block when they are needed. They need the memory of their text."""

    def __init__(self, tables: Sequence[pa.Table] = ()) -> None:
        """Take tables of SAMPLES in their order."""
        self._tables = [table for table in tables if table.num_rows]
        self._ends = list(accumulate(table.num_rows for table in self._tables))
        self._block = lru_cache(BLOCKS)(self._parsed)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        """Return one sample, or the samples of a slice."""
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"{place}: there are {len(self)} samples")
        which = bisect_right(self._ends, place)
        inside = place - (self._ends[which - 1] if which else 0)
        return self._block(which, inside // PARSED_AT_ONCE)[inside % PARSED_AT_ONCE]

    def __iter__(self) -> Iterator[Sample]:
        for which, table in enumerate(self._tables):
            for block in range(-(-table.num_rows // PARSED_AT_ONCE)):
                yield from self._parsed(which, block)

    def _parsed(self, which: int, block: int) -> list[Sample]:
        return from_table(self._tables[which].slice(block * PARSED_AT_ONCE, PARSED_AT_ONCE))


class Snapshots:
    """The snapshots of a job, read from the store when rounds need them."""

    def __init__(self, store: Store, output: str, seeds: str | None, documents: str | None) -> None:
        """Take the names of the job's output and of its input datasets. Nothing is read yet."""
        self._store, self._output, self._inputs = store, output, (seeds, documents)
        self._read: tuple[StoredSamples, StoredSamples] | None = None
        self._tables: list[pa.Table] = []  # one for each settled shard, in order
        self._known: dict[int, Snapshot] = {}

    @property
    def seeds(self) -> StoredSamples:
        """The kept rows of the seeds."""
        return self._given()[0]

    @property
    def documents(self) -> StoredSamples:
        """The kept rows of the documents."""
        return self._given()[1]

    def at(self, round_: int, settled: Sequence[Shard]) -> Snapshot:
        """Return the snapshot of a round with exactly these settled shards."""
        if round_ not in self._known:
            for shard in settled[len(self._tables) :]:
                self._tables.append(self._store.read_shard(self._output, shard))
            seen = self._tables[: len(settled)]
            kept = [pc.is_null(table["dropped"]) for table in seen]
            made = StoredSamples([table.filter(mask) for table, mask in zip(seen, kept, strict=True)])
            refused = StoredSamples([table.filter(pc.invert(mask)) for table, mask in zip(seen, kept, strict=True)])
            self._known = {r: s for r, s in self._known.items() if r > round_ - KNOWN_ROUNDS}
            self._known[round_] = Snapshot(round_, self.seeds, self.documents, made, refused)
        return self._known[round_]

    def _given(self) -> tuple[StoredSamples, StoredSamples]:
        if self._read is None:
            seeds, documents = (StoredSamples(self._kept(name) if name else ()) for name in self._inputs)
            self._read = seeds, documents
        return self._read

    def _kept(self, dataset: str) -> list[pa.Table]:
        return [table.filter(pc.is_null(table["dropped"])) for table in self._store.scan(dataset)]
