"""Near-duplicates by meaning: of two samples with vectors nearer than a threshold, only the better stays."""

from collections.abc import Mapping
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
"""Number of clusters in which a vector is compared. In 10^5 generated vectors, two clusters find 99.8 % of the vectors
with an earlier near vector; three clusters find all, in a tenth more time."""
SAME: Mapping[str, tuple[float, float]] = {models.E5: (0.96, 0.95)}
"""(least cosine of two samples that count as the same, least cosine of pairs that are stored), for models that need
other cosines than `USUAL`. Measured on 120 Chinese reviews, 120 Chinese instructions and 120 English instructions, in
this order. With multilingual-e5-small and 0.96, 0.01, 0 and 0 % of random pairs count as the same, and 98, 89 and 53 %
of copies with every tenth word edited. With the English MiniLM and 0.95, these are 0.03, 0.04 and 0 % of pairs, and 83,
70 and 8 % of copies. With either model, 70 to 100 % of negated texts count as the same as the text, so other rules must
distinguish them, see `duplicates.copies`."""
USUAL = (0.95, 0.9)
UInt32 = NDArray[np.uint32]
PAIR = np.dtype([("left", np.int32), ("right", np.int32), ("cosine", np.float32)])


class Semantic(Deduplicator):
    """Drop a sample whose vector is too near to that of a kept sample; the best samples are visited first.

    Source: Abbas et al. 2023, SemDeDup, arXiv:2303.09540, section 3. Departures: a vector is compared in its three
    nearest clusters instead of one (`neighbours.pairs`); up to 20,000 samples, all vectors are compared. A sample is
    compared only with kept samples, where the paper compares with every earlier sample. So a chain of samples, each
    near to the next, does not lose its last samples. The better sample stays, instead of the sample farthest from its
    centroid. The two texts must share words (`min_overlap`). A sample in a script that the encoder does not know is not
    compared and stays. Nothing that carries meaning may differ (numbers, negations, opposites, the answer, see
    `duplicates.copies`), because vectors do not show it: of 50 problems with one changed digit, 42 have a cosine above
    0.95 to the original.
    """

    kind: Literal["semantic"] = "semantic"
    revision: ClassVar[int] = 4  # opposites count where one stands for the other
    needs_vectors: ClassVar[bool] = True
    max_pairs: ClassVar[int] = 50_000_000
    """Limit of the pairs. This divided by the number of samples is the largest number of better samples with which a
    sample is paired, in each cluster and for each range of the cosine. Below 7,000 samples no pair is left out. A
    million samples in dense groups take 600 MiB to 3 GiB, at 12 bytes for each pair."""

    min_cosine: float | None = Field(default=None, gt=0, le=1)
    """Least cosine of two samples that count as the same. By default 0.96 for `builtin:multilingual-e5-small`, and 0.95
    for other encoders."""
    floor: float | None = Field(default=None, gt=0, le=1)
    """Least cosine of pairs that are searched for and stored. The next run on the same samples, with another
    `min_cosine` above this floor, reads the stored pairs. If `min_cosine` is lower than this, `min_cosine` is the
    floor. By default 0.95 for `builtin:multilingual-e5-small`, and 0.9 for other encoders."""
    min_overlap: float = Field(default=0.3, ge=0, le=1)
    """Share of words (in Chinese, of pairs of characters) that the two instructions must also have in common; 0 means
    no such rule. It protects data from an encoder that does not know the language. Of 1,000 Chinese reviews at cosine
    0.95, an English encoder drops 231 without the rule and 93 with it."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of the search for pairs."""
        return Cost(num * (1e-5 + 1e-8 * dim) + num**1.5 * 1e-8, num * 700)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `semantic_distance`.

        For a dropped sample, it is 1 - cosine to the sample that it loses to. For a kept sample, it is 1 - cosine to
        the nearest better sample whose cosine is above the floor, or NaN if there is none.
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
        said = copies.answers(view, "instruction", self.answers)
        same = copies.same_near(view, "instruction", (better, worse), units.NOTHING, wording=False)
        same &= said[better] == said[worse]
        better, worse, cosine = better[same], worse[same], cosine[same]
        lost = groups.greedy(order, better, worse, cosine)
        nearest = np.full(len(view), -np.inf, np.float32)
        np.maximum.at(nearest, compared[found.right], found.cosine)
        winning = lost[worse] == better
        nearest[worse[winning]] = cosine[winning]
        return Choice.of(
            lost < 0,
            f"{self.kind}: too near to a better one",
            lost_to=view.ids_of(lost),
            scores={"semantic_distance": np.where(nearest >= 0, 1 - nearest, np.nan).astype(np.float32)},
            figures={
                "min_cosine": min_cosine,
                "pairs": float(len(found.left)),
                "pairs_close": float(len(close)),
                "pairs_alike": len(better),
            },
        )


def _pairs(view: View, order: Int, floor: float, max_pairs: int) -> Pairs:
    """Return the pairs with a cosine of at least `floor`, as places in `order`, made now or by an earlier build.

    The better sample of a pair is left.
    """
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
    """Return 32 hex digits of a few rows; another encoder or another part of the texts gives other digits."""
    rows = np.linspace(0, len(vectors) - 1, min(16, len(vectors))).astype(np.int64)
    return ids.of_bytes(vectors.take(rows).tobytes())


def same_meaning(left: tuple[View, Int], right: tuple[View, Int], *, answers: bool) -> Bool:
    """Say for each pair of rows whether their instructions and answers differ in nothing that carries meaning."""
    one, other = ((copies.candidates(view.scan("instruction"), len(view), rows), rows) for view, rows in (left, right))
    said, other_said = (copies.answers(view, "instruction", answers)[rows] for view, rows in (left, right))
    found: Bool = (said == other_said) & copies.same(one, other, units.NOTHING, wording=False)
    return found


class Bags(NamedTuple):
    """The words of some rows as ascending hashes; row i has `words[ends[i] : ends[i + 1]]`, empty for other rows."""

    ends: Int
    words: UInt32


def bags_of(view: View, rows: Int) -> Bags:
    """Return the words of the instructions of some rows; the instructions are read one shard at a time."""
    wanted = np.zeros(len(view), np.bool_)
    wanted[rows] = True
    wanted_rows, sizes = np.flatnonzero(wanted), np.zeros(len(view) + 1, np.int64)
    parts: list[tuple[Int, Int, UInt32]] = []
    for seen, (many, hashes) in view.take(wanted).map(_hashes, "instruction"):
        sizes[wanted_rows[seen] + 1] = many
        parts.append((wanted_rows[seen], many, hashes))
    ends = np.cumsum(sizes)
    found = np.empty(ends[-1], np.uint32)
    for seen, many, hashes in parts:
        begins = np.repeat(ends[seen], many)
        found[begins + np.arange(len(hashes)) - np.repeat(np.cumsum(many) - many, many)] = hashes
    return Bags(ends, found)


def _hashes(texts: pa.LargeStringArray) -> tuple[Int, UInt32]:
    """Return ([n] number of different words of each text; their hashes, ascending in each text)."""
    said = (words(text) for text in texts.to_pylist())
    bags = [np.unique(np.array([crc32(w.encode("utf-8", "surrogatepass")) for w in some], np.uint32)) for some in said]
    return np.array([len(bag) for bag in bags], np.int64), np.concatenate([np.empty(0, np.uint32), *bags])


def shared_words(one: Bags, other: Bags, left: Int, right: Int) -> Float32:
    """Return [pairs] the overlap of the two texts of each pair, computed as by `keys.overlap`."""
    found: Float32 = _shared(one.ends, one.words, other.ends, other.words, left, right)
    return found


@kernel
def _shared(ends: Int, words: UInt32, other_ends: Int, other_words: UInt32, left: Int, right: Int) -> Float32:
    """Return, for each pair, the share of the smaller bag of words that the other bag has too; 1 if a bag is empty.

    Both bags are ascending, so one pass with two pointers counts the common words. Each step moves the pointer at the
    lower word, or both pointers if the words are equal.
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
