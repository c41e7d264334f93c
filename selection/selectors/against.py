"""Comparison with other datasets, such as an older release or an evaluation set; only what is new stays."""

from collections.abc import Mapping
from pathlib import PurePath
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.io.ingest import Source
from gristmill.selection.contracts import Choice, Cost, Deduplicator, VectorsOf, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.samples import Array
from gristmill.selection.duplicates import bands, groups, neighbours, normal, shared, shingles
from gristmill.selection.duplicates.shared import Blocks
from gristmill.selection.duplicates.shingles import ShingleSpec
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.semantic import bags_of, fingerprint, shared_words

Way = Literal["exact", "minhash", "semantic"]
REASONS = {
    "exact": "against: has the text of an older one",
    "minhash": "against: nearly has the text of an older one",
    "semantic": "against: means the same as an older one",
}


class Hits(NamedTuple):
    """Rows that an older dataset also has, each once: the older sample, and the similarity of the two, in [0, 1]."""

    row: Int
    older: Int
    similarity: Float32


class Against(Deduplicator):
    """Drop a sample that one of these datasets already has: the same text, nearly the same text, or the same meaning.

    The older sample always stays, whatever `prefer` says. Keys, signatures and clusters of an older dataset are stored
    with it, like its vectors. So the next build against the same release finds them, and one more release costs one
    more index. `lost_to` is the id in the older dataset; the score `against_distance` of a sample that goes is 1 -
    similarity.

    Source: as `exact`, `minhash` and `semantic`. Departures: a sample is compared in its three nearest clusters,
    because an older one is in one cluster only.
    """

    kind: Literal["against"] = "against"
    example: ClassVar[Mapping[str, Any]] = {"datasets": ["older.jsonl"]}

    datasets: tuple[Source, ...] = Field(min_length=1)
    """The older datasets: files, or tables with path and format as for the input."""
    by: tuple[Way, ...] = Field(default=("exact", "minhash"), min_length=1)
    """Comparisons to make, one after the other. Only `semantic` embeds this dataset and the older ones."""
    part: Part = "instruction"
    """Part that `exact` and `minhash` compare; `semantic` compares what the job embeds."""
    min_similarity: float = Field(default=0.65, gt=0, le=1)
    """`minhash`: Jaccard similarity at which two texts count as the same, or above."""
    min_cosine: float = Field(default=0.95, gt=0, le=1)
    """`semantic`: cosine at which two samples count as the same, or above."""
    min_overlap: float = Field(default=0.3, ge=0, le=1)
    """`semantic`: share of words that the two instructions must also have in common; see `Semantic`."""

    def sources(self) -> dict[str, Source]:
        """Return the datasets by number and file."""
        return {f"{n}-{PurePath(source.path[0]).name}": source for n, source in enumerate(self.datasets, 1)}

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the job's vectors where meanings are compared."""
        return job if "semantic" in self.by else None

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the step against older datasets of the same size."""
        return Cost(len(self.datasets) * (num * 2e-5 * len(self.by) + num**1.5 * 2e-11 * dim), num * 700)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        ways = {"exact": self._exact, "minhash": self._minhash, "semantic": self._semantic}
        reason, lost_to = np.full(len(view), -1, np.int64), np.zeros(len(view), "S32")
        distance = np.full(len(view), np.nan, np.float32)
        figures: dict[str, float] = {}
        for name in self.sources():
            older = view.beside[name]
            for place, way in enumerate(self.by):
                rows = np.flatnonzero(reason < 0)
                found = ways[way](view, rows, older) if len(rows) and len(older) else None
                if found is not None:
                    reason[found.row], lost_to[found.row] = place, older.ids[found.older]
                    distance[found.row] = 1 - found.similarity
                    figures[f"{way} {name}"] = len(found.row)
        return Choice(
            reason, [REASONS[way] for way in self.by], lost_to, {"against_distance": distance}, figures=figures
        )

    def _exact(self, view: View, rows: Int, older: View) -> Hits:
        mine, theirs = _keys(view, self.part)[rows], _keys(older, self.part)
        both = np.concatenate([theirs, mine])
        first = groups.first(np.arange(len(both)), both[:, 0].copy(), both[:, 1].copy())[len(theirs) :]
        has = np.flatnonzero((first >= 0) & (first < len(theirs)))
        return Hits(rows[has], first[has], np.ones(len(has), np.float32))

    def _minhash(self, view: View, rows: Int, older: View) -> Hits:
        like = MinHash(part=self.part, threshold=self.min_similarity)
        blocks = _blocks(older, self.part)
        theirs, mine = _sketches(older, like, blocks), _sketches(view, like, blocks)[rows]
        slots, kin = (np.concatenate([theirs[name], mine[name]]) for name in ("slots", "kin"))
        left, right, similarity = bands.pairs(slots, kin, np.arange(len(slots)), like.bands, like.threshold)
        first, second = np.minimum(left, right), np.maximum(left, right)
        across = np.flatnonzero((first < len(theirs)) & (second >= len(theirs)))
        return _best(rows[second[across] - len(theirs)], first[across], similarity[across])

    def _semantic(self, view: View, rows: Int, older: View) -> Hits:
        base = older.unit("against")
        mark = fingerprint(base)
        index = neighbours.index(base, seed=0, keep=lambda name, make: older.memo(f"clusters-{name}-{mark}", make))
        found = neighbours.between(view.unit("against").at(rows), index, self.min_cosine)
        row, other, cosine = rows[found.left], found.right.astype(np.int64), found.cosine
        if self.min_overlap and len(row):
            alike = shared_words(bags_of(view, row), bags_of(older, other), row, other) >= self.min_overlap
            row, other, cosine = row[alike], other[alike], cosine[alike]
        return _best(row, other, cosine)


def _keys(view: View, part: Part) -> Array:
    """Return [n, 2] halves of the keys of a part of the texts, made now or by an earlier build."""

    def make() -> Array:
        keys = np.empty((len(view), 2), np.uint64)
        for rows, texts in view.scan(part):
            keys[rows, 0], keys[rows, 1] = normal.keys(texts)
        return keys

    return view.memo(f"keys-{part}", make)


def _blocks(older: View, part: Part) -> Blocks:
    """Return the leading blocks that texts of an older dataset share, made now or by an earlier build."""

    def make() -> Array:
        found = shared.find(older.scan(part), len(older))
        return np.concatenate([np.array([found.deepest, len(found.hashes)], np.uint64), found.hashes, found.begun])

    held = older.memo(f"blocks-{part}", make)
    return Blocks(held[2 : 2 + int(held[1])], held[2 + int(held[1]) :], int(held[0]))


def _sketches(view: View, like: MinHash, blocks: Blocks) -> Array:
    """Return [n] signatures without the blocks of an older dataset, made now or by an earlier build."""

    def make() -> Array:
        made = np.empty(len(view), [("slots", np.uint8, (like.permutations,)), ("kin", np.uint64)])
        for rows, texts in view.scan(like.part):
            begin = shared.starts(texts, blocks)
            some = shingles.sketch(
                texts, begin, ShingleSpec(like.unit, like.shingle), like.permutations, numbers=like.numbers
            )
            made["slots"][rows], made["kin"][rows] = some.slots, some.kin
        return made

    shape = like.part, like.unit, like.shingle, like.permutations, like.numbers
    return view.memo(f"signatures-{ids.digest(shape, ids.of_bytes(blocks.hashes.tobytes()))}", make)


def _best(row: Int, other: Int, similarity: Float32) -> Hits:
    """Return the most similar pair of each row; among equal ones that with the lower other row."""
    order = np.lexsort((other, -similarity, row))
    first = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    return Hits(row[first], other[first], similarity[first])
