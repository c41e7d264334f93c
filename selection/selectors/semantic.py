"""Near-duplicates by meaning: of samples whose vectors are closer than a threshold the better one stays; no chains."""

from collections.abc import Mapping
from operator import itemgetter
from random import Random
from typing import ClassVar, Literal, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.models import names as models
from gristmill.cluster.text.keys import words
from gristmill.selection.contracts import Bool, Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.duplicates import copies, groups, neighbours, units
from gristmill.selection.duplicates.neighbours import ROUNDING, Pairs
from gristmill.selection.kernels import kernel

PROBES = 3
"""Number of clusters in which a vector is compared. Of 10^5 generated vectors with an earlier near one, two clusters
find 99.8 % and three find all, in a tenth more time."""
SAME: Mapping[str, tuple[float, float]] = {models.E5: (0.96, 0.95)}
"""(cosine of two samples that count as the same, cosine from which on pairs are stored) of models whose cosines are not
those of `USUAL`. Measured on 120 Chinese reviews, 120 Chinese and 120 English instructions: with multilingual-e5-small
and 0.96, 0.01, 0 and 0 % of random pairs are the same, and 98, 89 and 53 % of copies with every tenth word edited. With
the English MiniLM and 0.95 it is 0.03, 0.04 and 0 % of pairs, and 83, 70 and 8 % of copies. 70 to 100 % of negated
texts are above either threshold, so other rules must distinguish them, see `duplicates.copies`."""
USUAL = (0.95, 0.9)
UInt32 = NDArray[np.uint32]
PAIR = np.dtype([("left", np.int32), ("right", np.int32), ("cosine", np.float32)])


class Semantic(Deduplicator):
    """Drop a sample that is too near to a kept one; the best samples are visited first.

    Source: Abbas et al. 2023, SemDeDup, arXiv:2303.09540, section 3. Departures: a vector is compared in its three
    nearest clusters instead of one (`neighbours.pairs`, exact up to 20,000 samples). It is compared with samples that
    are kept, where the paper compares with any earlier one, so that a chain of small steps does not delete its far end.
    The better sample stays, instead of the one farthest from its centroid. The two texts must share words
    (`min_overlap`). A sample in a script that the encoder does not know is not compared and stays. Nothing that carries
    meaning may differ (numbers, negations, opposites, the answer, see `duplicates.copies`), because vectors do not show
    it: of 50 problems with one changed digit, 42 are nearer than 0.95.
    """

    kind: Literal["semantic"] = "semantic"
    revision: ClassVar[int] = 4  # opposites count where one stands for the other
    needs_vectors: ClassVar[bool] = True
    max_pairs: ClassVar[int] = 50_000_000
    """This divided by the number of samples is the number of better ones with which a sample is paired at most in a
    cluster, for each range of the cosine. Below 7,000 samples nothing is left out; a million in crowds take 600 MiB to
    3 GiB at 12 bytes a pair."""

    min_cosine: float | None = Field(default=None, gt=0, le=1)
    """Two samples with this cosine, or a higher one, count as the same. By default that of the encoder: 0.96 for
    `builtin:multilingual-e5-small`, 0.95 for others."""
    floor: float | None = Field(default=None, gt=0, le=1)
    """Least cosine of pairs that are searched for and stored. So the next run on the same samples, with another
    `min_cosine` above it, finds them at once. If `min_cosine` is lower, it is the floor. By default 0.95 for
    `builtin:multilingual-e5-small`, 0.9 for others."""
    min_overlap: float = Field(default=0.3, ge=0, le=1)
    """Share of words (pairs of characters in Chinese) that the two instructions must also have in common; 0 turns it
    off. It protects data from an encoder that does not know the language: of 1,000 Chinese reviews an English encoder
    drops 231 at cosine 0.95 without it and 93 with it."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the step."""
        return Cost(num * (1e-5 + 1e-8 * dim) + num**1.5 * 1e-8, num * 700)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `semantic_distance`.

        For a sample that goes, it is 1 - cosine to the sample that it loses to. For one that stays, it is 1 - cosine to
        the nearest better sample above the floor, or NaN without one.
        """
        del rng  # clusters have a fixed seed, so that every run can use the stored pairs
        order = view.order(self.prefer)
        compared = order[view.known[order]]
        usual, floor = SAME.get(view.unit(self.kind).encoder, USUAL)
        min_cosine = self.min_cosine or usual
        found = _pairs(view, compared, min(self.floor or floor, min_cosine), self.max_pairs)
        close = np.flatnonzero(found.cosine >= min_cosine - ROUNDING)
        better, worse, cosine = compared[found.left[close]], compared[found.right[close]], found.cosine[close]
        if self.min_overlap:
            bags = bags_of(view, np.concatenate([better, worse]))
            alike = shared_words(bags, bags, better, worse) >= self.min_overlap
            better, worse, cosine = better[alike], worse[alike], cosine[alike]
        same = same_meaning((view, better), (view, worse), answers=self.answers)
        better, worse, cosine = better[same], worse[same], cosine[same]
        lost = groups.greedy(order, better, worse, cosine)
        nearest = np.full(len(view), -np.inf, np.float32)
        np.maximum.at(nearest, compared[found.right], found.cosine)
        winning = lost[worse] == better
        nearest[worse[winning]] = cosine[winning]
        return Choice.of(
            lost < 0,
            f"{self.kind}: too near to a better one",
            lost_to=np.where(lost < 0, b"", view.ids[lost]) if len(view) else view.ids,
            scores={"semantic_distance": np.where(nearest >= 0, 1 - nearest, np.nan).astype(np.float32)},
            figures={
                "min_cosine": min_cosine,
                "pairs": float(len(found.left)),
                "pairs_close": float(len(close)),
                "pairs_alike": len(better),
            },
        )


def _pairs(view: View, order: Int, floor: float, max_pairs: int) -> Pairs:
    """Return the pairs over a cosine as places in the order, the better one left; made now or by an earlier build."""
    vectors = view.unit("semantic").at(order)
    most = max(1, max_pairs // max(1, len(vectors)))

    def make() -> NDArray[np.void]:
        found = neighbours.pairs(vectors, floor, seed=0, probes=PROBES, most=most)
        held = np.empty(len(found.left), PAIR)
        held["left"], held["right"], held["cosine"] = found
        return held

    name = ids.digest(floor, fingerprint(vectors), ids.of_bytes(order.tobytes()))[: ids.SHORT_HEX]
    held = view.memo(f"semantic-pairs-{name}", make)
    return Pairs(held["left"], held["right"], held["cosine"])


def fingerprint(vectors: Matrix) -> str:
    """Return 32 hex digits of a few rows, which differ for another encoder or another part of the texts."""
    rows = np.linspace(0, len(vectors) - 1, min(16, len(vectors))).astype(np.int64)
    return ids.of_bytes(vectors.take(rows).tobytes())


def same_meaning(left: tuple[View, Int], right: tuple[View, Int], *, answers: bool) -> Bool:
    """Say for each pair of rows whether nothing that carries meaning differs in instructions and answers."""
    one, other = ((copies.candidates(view.scan("instruction"), len(view), rows), rows) for view, rows in (left, right))
    said, other_said = (copies.answers(view, "instruction", answers)[rows] for view, rows in (left, right))
    found: Bool = (said == other_said) & copies.same(one, other, units.NOTHING, wording=False)
    return found


class Bags(NamedTuple):
    """The words of texts as sorted hashes; row i has `words[ends[i] : ends[i + 1]]`, which is empty for most rows."""

    ends: Int
    words: UInt32


def bags_of(view: View, rows: Int) -> Bags:
    """Return the words of the instructions of some rows; they are read one shard at a time."""
    wanted = np.zeros(len(view), np.bool_)
    wanted[rows] = True
    found: list[tuple[int, UInt32]] = []
    for seen, texts in view.scan("instruction"):
        here = wanted[seen]
        for row, text in zip(seen[here].tolist(), texts.filter(pa.array(here)).to_pylist(), strict=True):
            hashes = {crc32(word.encode("utf-8", "surrogatepass")) for word in words(text)}
            found.append((row, np.array(sorted(hashes), np.uint32)))
    found.sort(key=itemgetter(0))
    ends = np.zeros(len(view) + 1, np.int64)
    ends[[row + 1 for row, _ in found]] = [len(bag) for _, bag in found]
    return Bags(np.cumsum(ends), np.concatenate([np.empty(0, np.uint32), *(bag for _, bag in found)]))


def shared_words(one: Bags, other: Bags, left: Int, right: Int) -> Float32:
    """Return the overlap of the texts of each pair, as `keys.overlap` does."""
    found: Float32 = _shared(one.ends, one.words, other.ends, other.words, left, right)
    return found


@kernel
def _shared(ends: Int, words: UInt32, other_ends: Int, other_words: UInt32, left: Int, right: Int) -> Float32:
    """Return the share of the smaller bag of words that the other one has; 1 where a bag is empty.

    Both bags are ascending, so one pass with two pointers counts what they have in common: each step moves the pointer
    with the lower word, or both where the words are equal.
    """
    found = np.ones(len(left), np.float32)
    for n in range(len(left)):
        i, stop = ends[left[n]], ends[left[n] + 1]
        j, other_stop = other_ends[right[n]], other_ends[right[n] + 1]
        smaller, both = min(stop - i, other_stop - j), 0
        while i < stop and j < other_stop:
            both += words[i] == other_words[j]
            one, two = words[i], other_words[j]
            i += one <= two
            j += two <= one
        if smaller:
            found[n] = both / smaller
    return found
