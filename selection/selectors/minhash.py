"""Near-duplicates of text, found by bands of MinHash signatures; every pair is verified, and the best sample stays."""

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
"""Reads the texts from the beginning, as (rows, texts of these rows)."""


class MinHash(Deduplicator):
    """Drop every sample whose text is nearly the same as the text of a better sample that stays.

    Two samples are candidates if their signatures agree in a band. They may be copies if, in addition, the Jaccard
    similarity of their sets of shingles is at least `threshold`; the signatures estimate it, with a standard error of
    0.03 at 128 permutations. They are copies if two more things are true. Nothing that carries meaning differs:
    numbers, number words, negations, opposites, signs that calculate, names in code, a short answer, the label. And
    only a few other words differ: none of 15, one of 20, three of 30, nine of 60. Typing errors do not count as
    differences. Text that many samples share (a prompt, a template, a footer) is left out. This is the rule of
    `duplicates.copies`. The score `minhash_similarity` of a dropped sample is its similarity to the sample that it lost
    to.

    Source: Broder 1997, On the resemblance and containment of documents; the bands of Leskovec, Rajaraman & Ullman,
    Mining of Massive Datasets, section 3.4; signatures as in `shingles.sketch`. Departures: candidates are verified,
    and the greedy keep rule decides instead of connected components of all candidates, which can delete nearly all
    samples of one origin. Half of a signature leaves out text that many samples share.
    """

    kind: Literal["minhash"] = "minhash"
    revision: ClassVar[int] = 3  # more typing errors are recognised
    part: Part = "instruction"
    """Part of the conversation that is compared. `instruction` is all user turns, `answer` all assistant turns,
    `conversation` both, and `chat` every turn with its role in front."""
    threshold: float = Field(default=0.4, gt=0, le=1)
    """Least similarity of two copies. It may be low, because words are compared afterwards. For example, if 60 words
    have typing errors in 5 % of their letters, the similarity is 0.65. With three errors in ten words it is 0.6, and
    with eight more words before a text of ten words it is 0.5."""
    unit: Unit = "character"
    """Unit of which shingles consist. A Chinese character counts as three characters, or as one word."""
    shingle: int = Field(default=4, ge=1, le=64)
    """Number of units in a shingle. If the unit is the word, 2 is good for short texts."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """Number of slots of a signature; each slot takes one byte of memory for each sample."""
    bands: int = Field(default=32, ge=1)
    """Number of parts of a signature. Two copies must have at least one equal part. More bands find pairs that are less
    similar."""
    numbers: bool = True
    """Whether samples count as different if their numbers or the signs that calculate differ, or if their numbers are
    next to other words."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.permutations not in {self.bands * slots for slots in (1, 2, 4, 8)}:
            raise ValueError(f"bands is {self.bands}, must be {self.permutations} permutations by 1, 2, 4 or 8")
        return self

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for samples of 300 characters."""
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
        """Return the sketches of all rows; the texts are read once."""
        made = shingles.empty(num, self.permutations)
        for rows, texts in scan():
            some = shingles.sketch(
                texts, known, ShingleSpec(self.unit, self.shingle), self.permutations, numbers=self.numbers
            )
            made.high[rows], made.low[rows] = some.high, some.low
            made.slots[rows], made.kin[rows] = some.slots, some.kin
        return made


def minhash(scan: Scan, num: int, order: Int, step: MinHash, answers: Key) -> tuple[Int, Float32]:
    """Return ([num] the kept row that a row loses to; [num] similarity to that row); -1 and NaN for a row that stays.

    Texts that are equal after normalisation are grouped first, so only one of them is compared by its signature.
    Memory: a signature and 40 bytes for each row, and the texts of the rows that may be copies.

    Args:
        scan: reads the texts; it is called three times.
        num: number of the texts.
        order: all rows, best first.
        step: the settings.
        answers: [num] a hash that is equal for two copies, see `copies.answers`.
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
