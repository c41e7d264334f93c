"""The decision on every sample of a selection, as columns, and how decisions are written to the output."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.store.store import Shard, Store
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Ids, Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.samples import Samples, Turns, shorten

NO_TEXT = "select: no text in the conversation"

SHARD_BYTES = 1 << 29
"""A shard ends when it has more bytes than this, even if it has few rows. A shard of the input has at most 1 GiB, and
an Arrow column can hold 2 GiB."""


class Decisions:
    """The decisions on all samples: reasons, samples that they lost to, new scores and tags, shortened turns."""

    def __init__(self, pool: Samples, silent: Ids) -> None:
        """Begin with all samples kept; `silent` are the ids of samples without text, which will be dropped."""
        size = len(pool.ids)
        self._samples, self._silent = pool, silent
        self._reason, self._reasons = np.full(size, -1, np.int32), list[str]()
        self._lost_to = np.zeros(size, "S32")
        self.scores: dict[str, Float32] = {}
        """[N] values of each new score, by name; NaN for a sample that got no such score."""
        self.tags: dict[str, NDArray[np.object_]] = {}
        """[N] values of each new tag, by name; None for a sample that got no such tag."""
        self.cut: dict[int, Turns] = {}
        """The new turns of each sample whose text was shortened, by row."""

    def enter(self, view: View, choice: Choice) -> None:
        """Record the choice of a selector among the samples of its view."""
        rows, gone = view.rows, ~choice.kept
        self._reason[rows[gone]] = choice.reason[gone] + len(self._reasons)
        self._reasons += choice.reasons
        if choice.lost_to is not None:
            self._lost_to[rows[gone]] = choice.lost_to[gone]
        for name, values in choice.scores.items():
            column = self.scores.setdefault(name, np.full(len(self._reason), np.nan, np.float32))
            known = ~np.isnan(values)
            column[rows[known]] = values[known]
        for name, words in choice.tags.items():
            self.tag(name, words, rows)
        self.cut |= {int(rows[row]): turns for row, turns in choice.cut.items()}

    def tag(self, name: str, words: Sequence[str | None], rows: Any = slice(None)) -> None:  # noqa: ANN401 - numpy index
        """Give samples a tag; for a sample with None, the earlier value stays."""
        column = self.tags.setdefault(name, np.full(len(self._reason), None, np.object_))
        given, known = np.array(words, np.object_), np.array([word is not None for word in words], np.bool_)
        mine = column[rows]
        mine[known] = given[known]
        column[rows] = mine

    def write(self, store: Store, output: str, samples: str, shard_rows: int) -> tuple[Shard, ...]:
        """Write the kept samples of the input, each with its decision, in the order of the input; return the shards."""
        shards: list[Shard] = []
        held = SAMPLES.empty_table()
        for table in self._decided(store, samples):
            held = pa.concat_tables([held, table])
            while len(held) >= shard_rows or held.nbytes > SHARD_BYTES:
                shards.append(self._commit(store, output, len(shards), held.slice(0, shard_rows)))
                held = held.slice(shard_rows)
        if len(held) or not shards:
            shards.append(self._commit(store, output, len(shards), held))
        return tuple(shards)

    def _commit(self, store: Store, output: str, number: int, table: pa.Table) -> Shard:
        return store.commit_shard(output, f"shard-{number:05d}", table)

    def _decided(self, store: Store, samples: str) -> Iterator[pa.Table]:
        place = 0
        for table in store.scan(samples):
            rows = self._samples.row_of[place : place + len(table)]
            place += len(table)
            silent = np.isin(columns.ids(table), self._silent) & pc.is_null(table["dropped"]).to_numpy()
            mine = (rows >= 0) | silent
            yield self._of(table if mine.all() else table.filter(pa.array(mine)), rows[mine])

    def _of(self, table: pa.Table, rows: Int) -> pa.Table:
        """Return a table of samples with their decisions; `rows` is the row of each sample, -1 for one without text."""
        known = rows >= 0
        reason = np.where(known, self._reason[rows], len(self._reasons))
        said = pa.array([*self._reasons, NO_TEXT], pa.string()).take(pa.array(reason, mask=reason < 0))
        scores, tags = {}, {}
        for name, column in self.scores.items():
            scores[name] = pa.array(column[rows], mask=~known | np.isnan(column[rows]))
        for name, words in self.tags.items():
            tags[name] = pa.array(words[rows], pa.string(), mask=~known)
        winner = self._lost_to[rows]
        tags["lost_to"] = pa.array(winner, mask=~known | (winner == b"")).cast(pa.string())
        changed = {
            "scores": merge_maps(table["scores"], scores),
            "tags": merge_maps(table["tags"], tags),
            "dropped": said,
        }
        table = shorten(table, rows, self.cut)
        for name, column in changed.items():
            table = table.set_column(SAMPLES.get_field_index(name), SAMPLES.field(name), column)
        return table


def merge_maps(maps: pa.ChunkedArray, new: Mapping[str, pa.Array]) -> pa.MapArray:
    """Return a column of maps with new entries; an entry replaces an older one with its name, and a null adds none."""
    given = {name: values for name, values in new.items() if values.null_count < len(values)}
    old = pa.concat_arrays([pa.array([], maps.type), *maps.chunks])
    begin = old.offsets.to_numpy()
    parent = np.repeat(np.arange(len(old)), np.diff(begin))
    keys, items = (part.slice(begin[0], len(parent)) for part in (old.keys, old.items))
    stay = np.ones(len(keys), np.bool_)
    for name, values in given.items():
        here = pc.equal(keys, name).to_numpy(zero_copy_only=False)
        stay &= ~(here & values.is_valid().to_numpy(zero_copy_only=False)[parent])
    parents, names, found = [parent[stay]], [keys.filter(pa.array(stay))], [items.filter(pa.array(stay))]
    for name, values in given.items():
        rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        parents.append(rows)
        names.append(pa.repeat(pa.scalar(name, maps.type.key_type), len(rows)))
        found.append(values.drop_null().cast(maps.type.item_type))
    parent, keys, items = np.concatenate(parents), pa.concat_arrays(names), pa.concat_arrays(found)
    encoded = keys.dictionary_encode()
    rank = np.argsort(np.argsort(encoded.dictionary.to_numpy(zero_copy_only=False)))
    order = np.lexsort((rank[encoded.indices.to_numpy(zero_copy_only=False)] if len(keys) else parent, parent))
    ends = np.zeros(len(old) + 1, np.int32)
    np.cumsum(np.bincount(parent, minlength=len(old)), out=ends[1:])
    return pa.MapArray.from_arrays(pa.array(ends), keys.take(pa.array(order)), items.take(pa.array(order)), maps.type)
