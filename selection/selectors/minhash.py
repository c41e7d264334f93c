"""Near-duplicates of text: MinHash signatures, banded; every pair is verified and the best of each group stays."""

from random import Random
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gristmill.selection.contracts import Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.duplicates import groups, shared, shingles
from gristmill.selection.duplicates.bands import estimate_jaccard, pairs
from gristmill.selection.duplicates.shingles import ShingleSpec, Sketch, Unit


class MinHash(Deduplicator):
    """Drop every sample whose text is nearly that of a better sample which stays.

    Two samples are copies when the sets of their shingles have a Jaccard similarity of at least `threshold`. It is
    estimated from whole signatures (standard error 0.03 at 128 permutations); agreement in a band only makes a pair a
    candidate. A leading block that many samples share (a prompt, a tool description, a template) is set aside first,
    and samples after different blocks are different. Unless `numbers` is off, so are samples whose numbers differ,
    however similar their words: "15 + 27" and "15 + 28" share 10 of 12 shingles. The score `minhash_similarity` of a
    sample that goes is its similarity to the one that it lost to.

    A short text has few shingles, so that one changed word weighs much: a text in which a word of five letters differs
    is a copy from 47 characters on.

    Source: Broder 1997, On the resemblance and containment of documents; the bands of Leskovec, Rajaraman & Ullman,
    Mining of Massive Datasets, section 3.4; signatures as in `shingles.sketch`. Departures: candidates are verified,
    and the greedy keep rule replaces connected components of everything that shares a band, which delete whole sources.
    """

    kind: Literal["minhash"] = "minhash"
    part: Part = "instruction"
    """Part that is compared: all user turns, all assistant turns, both, or every turn with its role in front."""
    threshold: float = Field(default=0.65, gt=0, le=1)
    """Least similarity of two copies."""
    unit: Unit = "character"
    """Unit of shingles. With `character` a Chinese character counts as three, with `word` as one."""
    shingle: int = Field(default=5, ge=1, le=64)
    """Units in a shingle; for words, 2 suits short texts."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """Slots of a signature; each takes a byte of memory a sample."""
    bands: int = Field(default=32, ge=1)
    """Parts of a signature; two copies must agree in at least one. More bands find less similar pairs."""
    numbers: bool = True
    """Whether samples with different numbers, or the same numbers in another order, are different samples."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.permutations not in {self.bands * slots for slots in (1, 2, 4, 8)}:
            raise ValueError(f"bands is {self.bands}, must be {self.permutations} permutations by 1, 2, 4 or 8")
        return self

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the step, at 300 characters a sample."""
        del dim
        return Cost(num / 250_000, num * (self.permutations + 200))

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        lost, similarity = minhash(self.sketch(view), view.order(self.prefer), self.bands, self.threshold)
        return Choice.of(
            lost < 0,
            f"minhash: nearly the same {self.part}",
            lost_to=np.where(lost < 0, b"", view.ids[lost]),
            scores={"minhash_similarity": similarity},
        )

    def sketch(self, view: View) -> Sketch:
        """Return the sketch of every row; the samples are read twice."""
        blocks = shared.find(view.scan(self.part), len(view))
        made = shingles.empty(len(view), self.permutations)
        shape = ShingleSpec(self.unit, self.shingle)
        for rows, texts in view.scan(self.part):
            begin = shared.starts(texts, blocks)
            some = shingles.sketch(texts, begin, shape, self.permutations, numbers=self.numbers)
            made.high[rows], made.low[rows] = some.high, some.low
            made.slots[rows], made.kin[rows] = some.slots, some.kin
        return made


def minhash(sketch: Sketch, order: Int, bands: int, threshold: float) -> tuple[Int, Float32]:
    """Return ([n] the kept row each row loses to, -1 where it stays; [n] similarity to it, NaN where it stays).

    Copies that are exact after normalisation are grouped first, so the bands compare only one of each group.
    """
    same = groups.first(order, sketch.high, sketch.low)
    left, right, weight = pairs(sketch.slots, sketch.kin, order[same[order] < 0], bands, threshold)
    lost = groups.greedy(order, left, right, weight)
    copies = np.flatnonzero(same >= 0)
    best = same[copies]
    lost[copies] = np.where(lost[best] < 0, best, lost[best])
    gone = np.flatnonzero(lost >= 0)
    similarity = np.full(len(lost), np.nan, np.float32)
    similarity[gone] = estimate_jaccard(sketch.slots, gone, lost[gone])
    return lost, similarity
