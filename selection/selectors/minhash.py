"""Near-duplicates of text, found by bands of MinHash signatures; every pair is verified, and the best sample stays."""

from functools import partial
from random import Random
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from gristmill.selection.contracts import Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.placed import Placed
from gristmill.selection.duplicates import copies, groups, shingles, units
from gristmill.selection.duplicates.bands import pairs, similarities
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.shingles import ShingleSpec, Sketch, Unit
from gristmill.selection.duplicates.units import Common


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
        lost, similarity = minhash(view, view.order(self.prefer), self, copies.answers(view, self.part, self.answers))
        return Choice.of(
            lost < 0,
            f"minhash: nearly the same {self.part}",
            lost_to=view.ids_of(lost),
            scores={"minhash_similarity": similarity},
        )

    def sketch(self, view: View, known: Common, answers: Key) -> Placed:
        """Return a `Sketch` of the rows of each part; the texts are read once.

        Args:
            view: the samples.
            known: runs that many texts share; the second half of a signature leaves them out.
            answers: [n] a hash that is mixed with that of the numbers of each text.
        """
        shape = ShingleSpec(self.unit, self.shingle)
        make = partial(_sketch, known, shape, self.permutations, self.numbers)
        return view.hold(make, self.part, given=[answers])


def _sketch(
    known: Common, shape: ShingleSpec, permutations: int, numbers: bool, texts: pa.LargeStringArray, answers: Key
) -> Sketch:
    made = shingles.sketch(texts, known, shape, permutations, numbers=numbers)
    return made._replace(kin=made.kin ^ answers)


def _key(sketch: Sketch) -> tuple[Key, Key]:
    return sketch.high, sketch.low


def common(view: View, part: Part) -> Common:
    """Return the runs and words that many samples share, from a sample of their texts."""
    sample = view.take(units.in_sample(len(view)))
    return units.common(found for _, found in sample.map(units.occurring, part))


def minhash(view: View, order: Int, step: MinHash, answers: Key) -> tuple[Int, Float32]:
    """Return ([n] the kept row that a row loses to; [n] similarity to that row); -1 and NaN for a row that stays.

    Texts that are equal after normalisation are grouped first, so only one of them is compared by its signature.
    Memory of this process: 80 bytes for each row, 8 for each candidate pair of eight bands, and 30 for each pair of
    similar rows. A signature for each row, and the texts of rows that may be copies, are in this process or in Ray's
    object store.

    Args:
        view: the samples.
        order: all rows, best first.
        step: the settings.
        answers: [n] a hash that is equal for two copies, see `copies.answers`.
    """
    known = common(view, step.part)
    made = step.sketch(view, known, answers)
    same = _equal(made, order, answers)
    left, right, weight = pairs(made, order[same[order] < 0], step.bands, step.threshold)
    alike = copies.same_near(view, step.part, (left, right), known, wording=True, numbers=step.numbers)
    lost = groups.greedy(order, left[alike], right[alike], weight[alike])
    gone = np.flatnonzero(same >= 0)
    best = same[gone]
    lost[gone] = np.where(lost[best] < 0, best, lost[best])
    gone = np.flatnonzero(lost >= 0)
    similarity = np.full(len(view), np.nan, np.float32)
    similarity[gone] = similarities(made, gone, lost[gone], step.threshold)
    return lost, similarity


def _equal(made: Placed, order: Int, answers: Key) -> Int:
    """Return [n] the best row with the same normal form and answer as each row, -1 if that is the row itself."""
    high, low = (np.empty(len(answers), np.uint64) for _ in range(2))
    rows = made.cut(np.arange(len(answers)))
    for here, (one, other) in zip(rows, made.parts.map(_key), strict=True):
        high[here], low[here] = one, other
    low ^= answers
    return groups.first(order, high, low)
