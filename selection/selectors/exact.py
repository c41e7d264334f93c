"""Exact duplicates: of samples with the same text and answer after normalisation, only the best stays."""

from random import Random
from typing import ClassVar, Literal

import numpy as np

from gristmill.selection.contracts import Bool, Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.duplicates import copies, groups, normal
from gristmill.selection.duplicates.groups import Key


class Exact(Deduplicator):
    """Drop every sample whose text equals that of a better sample; case, width, spacing and punctuation do not count.

    Signs with a meaning do count, see `gristmill.cluster.text.keys.key`. Samples also differ if their short answers,
    the stated results of their longer answers, or their labels differ, see `duplicates.copies`: two samples with one
    question and two labels are no copies. The text is a part of the messages and not the rendered chat, so a system
    prompt that all samples share does not count. Samples are read twice, one shard at a time. A sample of any length
    takes 64 bytes of memory.

    Source: common practice; the normal form is ours.
    """

    kind: Literal["exact"] = "exact"
    revision: ClassVar[int] = 2  # parts that carry meaning must not differ
    part: Part = "instruction"
    """Part of the conversation that is compared. `instruction` is all user turns, `answer` all assistant turns,
    `conversation` both, and `chat` every turn with its role in front."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for samples of 400 characters."""
        del dim
        return Cost(num / 100_000, 64 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        order, answers = view.order(self.prefer), copies.answers(view, self.part, self.answers)
        best, equal = _best(view, self.part, order, answers)
        others = np.count_nonzero(equal & (best < 0))
        return Choice.of(
            best < 0,
            f"exact: same {self.part}",
            lost_to=view.ids_of(best),
            figures={"kept, with another answer": float(others)} if others else {},
        )


def _best(view: View, part: Part, order: Int, answers: Key) -> tuple[Int, Bool]:
    """Return ([n] the best row with the same text and answer, -1 if that is itself; [n] whether a text repeats)."""
    high, low = np.empty(len(view), np.uint64), np.empty(len(view), np.uint64)
    for rows, (one, other) in view.map(normal.keys, part):
        high[rows], low[rows] = one, other
    equal = groups.first(order, high, low) >= 0
    low ^= answers
    return groups.first(order, high, low), equal
