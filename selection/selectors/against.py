"""Comparison with other datasets, such as an older release or an evaluation set; only samples that are new stay."""

from collections.abc import Mapping
from pathlib import PurePath
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.secrets import public_uri
from gristmill.cluster.io.ingest import Source
from gristmill.selection.contracts import Choice, Cost, Deduplicator, VectorsOf, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.placed import Placed
from gristmill.selection.data.samples import Array
from gristmill.selection.duplicates import copies, groups, neighbours, normal
from gristmill.selection.duplicates.bands import Signed, pairs, signature
from gristmill.selection.duplicates.units import Common
from gristmill.selection.selectors.minhash import MinHash, common
from gristmill.selection.selectors.semantic import SAME, USUAL, bags_of, fingerprint, same_meaning, shared_words

Way = Literal["exact", "minhash", "semantic"]
REASONS = {
    "exact": "against: has the text of an older one",
    "minhash": "against: nearly has the text of an older one",
    "semantic": "against: means the same as an older one",
}


class Hits(NamedTuple):
    """The rows that an older dataset also has, each with its older sample and the similarity of the two, in [0, 1]."""

    row: Int
    older: Int
    similarity: Float32


class Against(Deduplicator):
    """Drop a sample that one of these datasets already has: the same text, nearly the same text, or the same meaning.

    The rule for copies is that of `duplicates.copies`: for example, a question stays if its label or a number in it
    differs from that of the older question. `prefer` has no effect, because the older sample always stays. Keys,
    signatures, clusters and vectors of an older dataset are stored with it. So the next build against the same release
    uses them again, and a new release only needs its own. `lost_to` is the id in the older dataset. The score
    `against_distance` of a dropped sample is 1 - similarity.

    Source: as `exact`, `minhash` and `semantic`. Departures: a sample is compared in its three nearest clusters,
    because an older sample is in one cluster only.
    """

    kind: Literal["against"] = "against"
    revision: ClassVar[int] = 4  # more typing errors are recognised
    example: ClassVar[Mapping[str, Any]] = {"datasets": ["older.jsonl"]}

    datasets: tuple[Source, ...] = Field(min_length=1)
    """The older datasets: each is a file, or a table with path and format as for the input."""
    by: tuple[Way, ...] = Field(default=("exact", "minhash"), min_length=1)
    """Comparisons to make, one after the other. Samples are embedded only for `semantic`, both of this dataset and of
    the older datasets."""
    part: Part = "instruction"
    """Part of the conversation that `exact` and `minhash` compare; `semantic` compares the part that the job embeds."""
    min_similarity: float = Field(default=0.4, gt=0, le=1)
    """For `minhash`: least Jaccard similarity of two texts that count as the same."""
    min_cosine: float | None = Field(default=None, gt=0, le=1)
    """For `semantic`: least cosine of two samples that count as the same. The default depends on the encoder, as in the
    step `semantic`."""
    min_overlap: float = Field(default=0.3, ge=0, le=1)
    """For `semantic`: share of words that the two instructions must also have in common; see the step `semantic`."""

    def sources(self) -> dict[str, Source]:
        """Return the older datasets, each named by its number and its file."""
        return {f"{n}-{PurePath(public_uri(source.path[0])).name}": source for n, source in enumerate(self.datasets, 1)}

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the job's vectors if meanings are compared."""
        return job if "semantic" in self.by else None

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for older datasets that are each as large as this one."""
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
        answers = np.concatenate(
            [copies.answers(older, self.part, self.answers), copies.answers(view, self.part, self.answers)[rows]]
        )
        first = groups.first(np.arange(len(both)), both[:, 0].copy(), both[:, 1] ^ answers)[len(theirs) :]
        has = np.flatnonzero((first >= 0) & (first < len(theirs)))
        return Hits(rows[has], first[has], np.ones(len(has), np.float32))

    def _minhash(self, view: View, rows: Int, older: View) -> Hits:
        like = MinHash(part=self.part, threshold=self.min_similarity)
        known = _common(older, self.part)
        theirs, mine = _sketches(older, like, known), _sketches(view, like, known)[rows]
        slots, kin = (np.concatenate([theirs[name], mine[name]]) for name in ("slots", "kin"))
        kin ^= np.concatenate(
            [copies.answers(older, self.part, self.answers), copies.answers(view, self.part, self.answers)[rows]]
        )
        signed = Placed.of(Signed(slots, kin), len(slots))
        left, right, similarity = pairs(signed, np.arange(len(slots)), like.bands, like.threshold)
        first, second = np.minimum(left, right), np.maximum(left, right)
        across = np.flatnonzero((first < len(theirs)) & (second >= len(theirs)))
        row, other, similarity = rows[second[across] - len(theirs)], first[across], similarity[across]
        one, two = (
            (copies.candidates(some.scan(self.part), len(some), places), places)
            for some, places in ((view, row), (older, other))
        )
        alike = copies.same(one, two, known, wording=True)
        return _best(row[alike], other[alike], similarity[alike])

    def _semantic(self, view: View, rows: Int, older: View) -> Hits:
        base = older.unit("against")
        rows = rows[view.known[rows]]
        mark = fingerprint(base)
        index = neighbours.index(base, seed=0, keep=lambda name, make: older.memo(f"clusters-{name}-{mark}", make))
        min_cosine = self.min_cosine or SAME.get(base.encoder, USUAL)[0]
        found = neighbours.between(view.unit("against").at(rows), index, min_cosine)
        row, other, cosine = rows[found.left], found.right.astype(np.int64), found.cosine
        known = older.known[other]
        row, other, cosine = row[known], other[known], cosine[known]
        if self.min_overlap and len(row):
            alike = shared_words(bags_of(view, row), bags_of(older, other), row, other) >= self.min_overlap
            row, other, cosine = row[alike], other[alike], cosine[alike]
        same = same_meaning((view, row), (older, other), answers=self.answers)
        return _best(row[same], other[same], cosine[same])


def _keys(view: View, part: Part) -> Array:
    """Return [n, 2] the two halves of the key of each text, made now or by an earlier build."""

    def make() -> Array:
        keys = np.empty((len(view), 2), np.uint64)
        for rows, (high, low) in view.map(normal.keys, part):
            keys[rows, 0], keys[rows, 1] = high, low
        return keys

    return view.memo(f"keys-{part}", make)


def _common(older: View, part: Part) -> Common:
    """Return the runs and words that many texts of an older dataset share, found now or by an earlier build."""

    def make() -> Array:
        found = common(older, part)
        return np.concatenate([np.array([len(found.runs)], np.uint64), found.runs, found.words])

    held = older.memo(f"common-{part}", make)
    return Common(*map(np.array, (held[1 : 1 + int(held[0])], held[1 + int(held[0]) :])))


def _sketches(view: View, like: MinHash, known: Common) -> Array:
    """Return [n] signatures, made now or by an earlier build; their second half leaves out the runs in `known`."""

    def make() -> Array:
        made = np.empty(len(view), [("slots", np.uint8, (like.permutations,)), ("kin", np.uint64)])
        held = like.sketch(view, known, np.zeros(len(view), np.uint64))
        for rows, some in zip(held.cut(np.arange(len(view))), held.parts.map(signature), strict=True):
            made["slots"][rows], made["kin"][rows] = some
        return made

    shape = like.part, like.unit, like.shingle, like.permutations, like.numbers
    return view.memo(f"signatures-{ids.digest(shape, ids.of_bytes(known.runs.tobytes()))}", make)


def _best(row: Int, other: Int, similarity: Float32) -> Hits:
    """Return the most similar pair of each row; of equally similar pairs, the pair with the lower other row."""
    order = np.lexsort((other, -similarity, row))
    first = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    return Hits(row[first], other[first], similarity[first])
