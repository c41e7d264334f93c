"""Exact duplicates: samples whose text is equal after normalisation; the best of each group stays."""

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Literal

import numpy as np

from selection.contracts import Choice, Int, Selector, View
from selection.texts import Part, key


class Exact(Selector):
    """Drop every sample whose text equals a better sample's, case, spacing and punctuation aside.

    Source: common practice; NFKC and the treatment of Chinese are ours. Departures: the text is a part of the messages,
    never the rendered chat, so that a system prompt shared by all does not count.
    """

    kind: Literal["exact"] = "exact"
    part: Part = "instruction"
    """What is compared: all user turns, all assistant turns, or both."""
    prefer: tuple[str, ...] = ("judge", "length")
    """Which of equal samples stays: highest score of these names in turn (`length`: of the answer), then lowest id."""

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        winners = exact(view.texts(self.part), view.order(self.prefer))
        lost_to = {row: int(winner) for row, winner in enumerate(winners) if winner != row}
        reasons = {row: f"exact: same {self.part} as {view.ids[winner]}" for row, winner in lost_to.items()}
        return Choice(winners == np.arange(len(view)), reasons, lost_to)


def exact(texts: Sequence[str], order: Int) -> Int:
    """Return [n] int64: for each text the row that stands for its group, the first in `order`; itself where it stays.

    Keys are 128-bit hashes: at 10^8 texts a collision has a chance of 10^-23.
    """
    winners = np.empty(len(texts), np.int64)
    first: dict[bytes, int] = {}
    for row in order.tolist():
        name = blake2b(key(texts[row]).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        winners[row] = first.setdefault(name, row)
    return winners
