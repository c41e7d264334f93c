"""Exact duplicates: samples whose text is equal after normalisation; the best of each group stays."""

from random import Random
from typing import Literal

import numpy as np

from gristmill.selection.contracts import Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import Part
from gristmill.selection.duplicates import groups, normal


class Exact(Deduplicator):
    """Drop every sample whose text equals that of a better sample; case, width, spacing and punctuation do not count.

    The text is a part of the messages, not the rendered chat, so a system prompt that all samples share does not count.
    Samples are read once, one shard at a time; a sample takes 56 bytes of memory, however long it is.

    Source: common practice; NFKC and the treatment of Chinese are ours, see `gristmill.cluster.text.keys.key`.
    """

    kind: Literal["exact"] = "exact"
    part: Part = "instruction"
    """Part that is compared: all user turns, all assistant turns, both, or every turn with its role in front."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the step, at 400 characters a sample."""
        del dim
        return Cost(num / 400_000, 56 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        high, low = np.empty(len(view), np.uint64), np.empty(len(view), np.uint64)
        for rows, texts in view.scan(self.part):
            high[rows], low[rows] = normal.keys(texts)
        best = groups.first(view.order(self.prefer), high, low)
        return Choice.of(best < 0, f"exact: same {self.part}", lost_to=np.where(best < 0, b"", view.ids[best]))
