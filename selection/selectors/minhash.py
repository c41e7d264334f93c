"""Near-duplicates of text: MinHash signatures, banded; every pair is verified and the best of each group stays."""

from collections.abc import Callable, Iterable
from random import Random
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from gristmill.selection.contracts import Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.duplicates import copies, groups, shingles, units
from gristmill.selection.duplicates.bands import estimate_jaccard, pairs
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.shingles import ShingleSpec, Sketch, Unit
from gristmill.selection.duplicates.units import Common

Scan = Callable[[], Iterable[tuple[Int, pa.LargeStringArray]]]
"""Reads (rows, their texts) from the beginning."""


class MinHash(Deduplicator):
    """Drop every sample whose text is nearly that of a better sample which stays.

    Two samples may be copies when the sets of their shingles have a Jaccard similarity of at least `threshold`, as
    their signatures estimate it (standard error 0.03 at 128 permutations): agreement in a band only makes a candidate.
    They are copies when, in addition, nothing that carries meaning differs (numbers, number words, negations,
    opposites, signs that calculate, names in code, a short answer, the label), and only a few other words differ: none
    of 15, one of 20, three of 30, nine of 60. Typing errors do not count as differences, and text that many samples
    share (a prompt, a template, a footer) is left out. The rule is that of `duplicates.copies`. The score
    `minhash_similarity` of a sample that goes is its similarity to the one that it lost to.

    Source: Broder 1997, On the resemblance and containment of documents; the bands of Leskovec, Rajaraman & Ullman,
    Mining of Massive Datasets, section 3.4; signatures as in `shingles.sketch`. Departures: verified candidates and the
    greedy keep rule instead of connected components of all candidates, which delete whole sources; half of a signature
    leaves out text that many samples share.
    """

    kind: Literal["minhash"] = "minhash"
    revision: ClassVar[int] = 3  # more typing errors are recognised
    part: Part = "instruction"
    """Part that is compared: all user turns, all assistant turns, both, or every turn with its role in front."""
    threshold: float = Field(default=0.4, gt=0, le=1)
    """Least similarity of two copies. It may be low because words are compared afterwards. Typing errors in five of a
    hundred letters leave a similarity of 0.65 for 60 words; three errors in ten words leave 0.6, and eight words before
    a text of ten words leave 0.5."""
    unit: Unit = "character"
    """Units of a shingle; a Chinese character counts as three characters, or as one word."""
    shingle: int = Field(default=4, ge=1, le=64)
    """Units in a shingle; for words, 2 suits short texts."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """Slots of a signature; each takes a byte of memory a sample."""
    bands: int = Field(default=32, ge=1)
    """Parts of a signature; two copies must have at least one equal part. More bands find less similar pairs."""
    numbers: bool = True
    """Whether samples are different if their numbers or signs that calculate differ, or if the numbers belong to other
    words."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.permutations not in {self.bands * slots for slots in (1, 2, 4, 8)}:
            raise ValueError(f"bands is {self.bands}, must be {self.permutations} permutations by 1, 2, 4 or 8")
        return self

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the step, at 300 characters a sample."""
        del dim
        return Cost(num / 30_000, num * (self.permutations + 200))

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        lost, similarity = minhash(
            lambda: view.scan(self.part),
            len(view),
            view.order(self.prefer),
            self,
            copies.answers(view, self.part, self.answers),
        )
        return Choice.of(
            lost < 0,
            f"minhash: nearly the same {self.part}",
            lost_to=np.where(lost < 0, b"", view.ids[lost]),
            scores={"minhash_similarity": similarity},
        )

    def sketch(self, scan: Scan, num: int, known: Common) -> Sketch:
        """Return the sketch of every row, from one reading of the texts."""
        made = shingles.empty(num, self.permutations)
        for rows, texts in scan():
            some = shingles.sketch(
                texts, known, ShingleSpec(self.unit, self.shingle), self.permutations, numbers=self.numbers
            )
            made.high[rows], made.low[rows] = some.high, some.low
            made.slots[rows], made.kin[rows] = some.slots, some.kin
        return made


def minhash(scan: Scan, num: int, order: Int, step: MinHash, answers: Key) -> tuple[Int, Float32]:
    """Return ([num] the kept row each row loses to, -1 where it stays; [num] similarity to it, NaN where it stays).

    Copies that are equal after normalisation are grouped first and cost nothing in the bands. Memory: a signature and
    40 bytes a row, and the texts of the rows that may be copies.

    Args:
        scan: reads the texts; it is called three times.
        num: number of the texts.
        order: all rows, best first.
        step: the settings.
        answers: [num] what copies must have in common, see `copies.answers`.
    """
    known = units.common(scan(), num)
    made = step.sketch(scan, num, known)
    made.kin[:] ^= answers
    same = groups.first(order, made.high, made.low ^ answers)
    left, right, weight = pairs(made.slots, made.kin, order[same[order] < 0], step.bands, step.threshold)
    texts = copies.candidates(scan(), num, np.concatenate([left, right]))
    alike = copies.same((texts, left), (texts, right), known, wording=True, numbers=step.numbers)
    lost = groups.greedy(order, left[alike], right[alike], weight[alike])
    gone = np.flatnonzero(same >= 0)
    best = same[gone]
    lost[gone] = np.where(lost[best] < 0, best, lost[best])
    gone = np.flatnonzero(lost >= 0)
    similarity = np.full(num, np.nan, np.float32)
    similarity[gone] = estimate_jaccard(made.slots, gone, lost[gone], step.threshold)
    return lost, similarity
