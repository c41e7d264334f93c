"""The decision on every sample of a selection, as columns, and how decisions are written to the output."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.store.store import Shard, Store
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data.columns import Ids, Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.parts import Parts, Read
from gristmill.selection.data.samples import Samples, Turns, shorten

NO_TEXT = "select: no text in the conversation"

SHARD_BYTES = 1 << 29
"""Shards have fewer rows if they would have more bytes than this. A shard of the input has at most 1 GiB, and an Arrow
column can hold 2 GiB."""


class Decisions:
    """The decisions on all samples: reasons, samples that they lost to, new scores and tags, shortened turns."""

    def __init__(self, pool: Samples) -> None:
        """Begin with all samples kept; samples without text will be dropped."""
        size = len(pool.ids)
        self._samples = pool
        self._reason, self._reasons = np.full(size, -1, np.int32), list[str]()
        self._winners: list[tuple[Int, Ids]] = []
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
            self._winners.append((rows[gone], choice.lost_to[gone]))
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

    def write(self, store: Store, output: str, shard_rows: int) -> tuple[Shard, ...]:
        """Write the kept samples of the input, each with its decision, in the order of the input; return the shards.

        A shard has `shard_rows` rows, or fewer if the rows of a part have so many bytes on average that it would have
        more than `SHARD_BYTES`. The shards that begin in one part are written together, in this process or in a task.
        """
        samples = self._samples
        each = max(1, min(shard_rows, SHARD_BYTES // max(1, samples.row_bytes)))
        counts = [int(samples.kept_in(part).sum()) for part in range(len(samples.parts))]
        before = np.cumsum([0, *counts])
        firsts = -(-before // each)
        spans: list[tuple[int, int, int]] = []  # (first shard, first part and last part that are read)
        for part in np.flatnonzero(np.diff(firsts)).tolist():
            last = int(np.searchsorted(before, min(firsts[part + 1] * each, before[-1]))) - 1
            spans.append((int(firsts[part]), part, max(part, last)))

        def decided(first: int, begin: int, last: int) -> list[Verdicts]:
            rows = first * each, int(firsts[begin + 1]) * each
            return [self._verdicts(part, rows, int(before[part])) for part in range(begin, last + 1)]

        reads = [tuple(samples.parts.values[part].pieces[0] for part in range(a, b + 1)) for _, a, b in spans]
        further = ((decided(*span), span[0]) for span in spans)
        made = Parts.of(reads, samples.parts.tasks).map(partial(_write, (store, output, each)), further)
        shards = [shard for some in made for shard in some]
        return tuple(shards or [store.commit_shard(output, "shard-00000", SAMPLES.empty_table())])

    def _verdicts(self, part: int, span: tuple[int, int], before: int) -> "Verdicts":
        """Return the decisions on the samples of a part that are among the kept samples in `span`.

        `before` is the number of kept samples in earlier parts.
        """
        mine = self._samples.kept_in(part)
        number = before + np.cumsum(mine) - 1
        mine &= (span[0] <= number) & (number < span[1])
        rows = self._samples.rows_in(part)[mine].astype(np.int64)
        known = rows >= 0
        there = rows[known]
        reason = np.full(len(rows), len(self._reasons), np.int64)
        reason[known] = self._reason[there]
        said = pa.array([*self._reasons, NO_TEXT], pa.string()).take(pa.array(reason, mask=reason < 0))
        scores, tags = {}, {}
        for name, column in self.scores.items():
            values = np.full(len(rows), np.nan, np.float32)
            values[known] = column[there]
            scores[name] = pa.array(values, mask=np.isnan(values))
        for name, words in self.tags.items():
            given = np.full(len(rows), None, np.object_)
            given[known] = words[there]
            tags[name] = pa.array(given, pa.string())
        winner = self._winner(rows)
        tags["lost_to"] = pa.array(winner, mask=~known | (winner == b"")).cast(pa.string())
        cut = {n: self.cut[row] for n, row in enumerate(rows.tolist()) if row in self.cut} if self.cut else {}
        return Verdicts(mine, said, scores, tags, cut)

    def _winner(self, rows: Int) -> Ids:
        """Return the id of the sample that each row lost to, empty if there is none."""
        found = np.zeros(len(rows), "S32")
        for lost, winners in self._winners:
            place = np.minimum(np.searchsorted(lost, rows), max(0, len(lost) - 1))
            here = np.flatnonzero(lost[place] == rows) if len(lost) else place[:0]
            found[here] = winners[place[here]]
        return found


class Verdicts(NamedTuple):
    """The decisions on the samples of one part that are written together."""

    mine: NDArray[np.bool_]
    """[rows of the part] whether a row is among these samples."""
    said: pa.StringArray
    """[n] reason of a dropped sample, null for one that stays."""
    scores: Mapping[str, pa.Array]
    """[n] values of each new score, null where there is none."""
    tags: Mapping[str, pa.Array]
    cut: Mapping[int, Turns]
    """The new turns of each sample whose text was shortened, by its place among these samples."""


def _write(to: tuple[Store, str, int], parts: Sequence[Read], verdicts: Sequence[Verdicts], first: int) -> list[Shard]:
    """Write the decided samples of some parts as shards, from the number `first` on; `to` is (store, folder, rows)."""
    store, output, each = to
    held, shards = SAMPLES.empty_table(), list[Shard]()

    def commit(rows: int) -> None:
        nonlocal held
        some = held.take(pa.array(np.arange(rows)))  # a slice would keep the layout of its shards in its bytes
        shards.append(store.commit_shard(output, f"shard-{first + len(shards):05d}", some))
        held = held.slice(rows)

    for part, some in zip(parts, verdicts, strict=True):
        held = pa.concat_tables([held, _decided(part(SAMPLES.names).filter(pa.array(some.mine)), some)])
        while len(held) >= each:
            commit(each)
    if len(held):
        commit(len(held))
    return shards


def _decided(table: pa.Table, verdicts: Verdicts) -> pa.Table:
    """Return a table of samples with their decisions."""
    changed = {
        "scores": merge_maps(table["scores"], verdicts.scores),
        "tags": merge_maps(table["tags"], verdicts.tags),
        "dropped": verdicts.said,
    }
    table = shorten(table, verdicts.cut)
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
