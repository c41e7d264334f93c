"""Pairs of a dropped sample and the sample that it lost to, for the report."""

import numpy as np

from gristmill.selection.contracts import Choice, Selector, View
from gristmill.selection.figures import Pair

PAIRS = 40
"""Most dropped samples of one step that are kept as figures, each with the sample that it lost to."""


def pairs(step: Selector, view: View, choice: Choice) -> list[Pair]:
    """Return up to `PAIRS` samples that a step dropped, each with the sample that it lost to and the texts of both."""
    if choice.lost_to is None:
        return []
    lost = np.flatnonzero(choice.lost_to != b"")
    lost = lost[np.linspace(0, len(lost) - 1, min(PAIRS, len(lost))).astype(np.int64)]
    if not len(lost):
        return []
    texts, names = view.some("instruction", lost), view.ids_of(lost)
    others: dict[bytes, str] = {}
    for other in (view, *view.beside.values()):
        rows = other.find(choice.lost_to[lost])
        others |= dict(zip(other.ids_of(rows).tolist(), other.some("instruction", rows), strict=True))
    score = next(iter(choice.scores.values()), None)
    return [
        Pair(
            step=step.kind,
            score=None if score is None or np.isnan(score[row]) else round(float(score[row]), 4),
            id=name.decode(),
            text=text,
            to=choice.lost_to[row].decode(),
            to_text=others.get(bytes(choice.lost_to[row]), ""),
        )
        for row, name, text in zip(lost, names.tolist(), texts, strict=True)
    ]
