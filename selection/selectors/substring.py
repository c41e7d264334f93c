"""Long spans that several samples share: only the best sample keeps a span, and the others are shortened or dropped."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from gristmill.selection.contracts import Choice, Cost, Deduplicator, View
from gristmill.selection.data.columns import ROLES, Int, said
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.samples import Turns
from gristmill.selection.duplicates.ngrams import Units, units
from gristmill.selection.duplicates.spans import SpanOwners, settle, shared_windows

SHARED = "substring: a long span is in a better sample"


class Substring(Deduplicator):
    """Keep a long span only in the best sample that has it; cut the span from the other samples, or drop them.

    Source: Lee et al. 2022, Deduplicating Training Data Makes Language Models Better, arXiv:2107.06499, section 4.1
    (ExactSubstr: spans of 50 tokens). Departures: a token is a word or a Chinese character; its case and the
    punctuation around it do not count. Windows of `min_units` tokens are found by winnowing and compared by hash,
    instead of by a suffix array of all text. The best sample keeps a span, where the paper keeps the first copy in the
    file. A sample that would lose more than `max_cut` is dropped, and another sample keeps its spans. A span that
    occurs twice in one sample only is not cut.

    Later steps read the shortened text. But they use the vector of the original text, and its length if they prefer
    longer answers.
    """

    kind: Literal["substring"] = "substring"
    part: Literal["instruction", "answer", "conversation"] = "answer"
    """Part of the conversation that is compared. The default is the answer, because several questions about one passage
    often contain the passage."""
    min_units: int = Field(default=50, ge=2)
    """Least number of words, or of Chinese characters, in a span that counts as long."""
    max_cut: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a sample's words that may be cut. If more would be cut, or a turn would be empty, the sample is
    dropped. 0 cuts nothing, and drops every sample that shares a span with a better sample."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for texts of 70 words, of which one in ten shares a span."""
        del dim
        return Cost(2.1e-5 * num, 100 * 2**20 + 110 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; the score `own_share` of samples with shared spans is the share of words outside them."""
        del rng
        rank = np.empty(len(view), np.int64)
        rank[view.order(self.prefer)] = np.arange(len(view))
        shared = shared_windows(lambda: view.scan(self.part), self.min_units, len(view))
        limits = np.full(len(view), self.max_cut)
        while True:
            settled = settle(shared, self.min_units, rank, limits)
            cut, emptied = _cut(view, self.part, settled)
            if not emptied:
                break
            limits[emptied] = 0.0  # they go, and others get the windows that they held
        lost = settled.lost_to
        lost_to = np.where(lost < 0, b"", view.ids[np.maximum(lost, 0)])
        units_cut = int((settled.spans[:, 2] - settled.spans[:, 1]).sum())
        return Choice.of(
            lost < 0,
            SHARED,
            lost_to=lost_to,
            scores={"own_share": _own_share(settled, shared.lengths)},
            cut=cut,
            figures={"samples cut": len(cut), "words cut": units_cut},
        )


def _own_share(settled: SpanOwners, lengths: Int) -> Float32:
    share = 1.0 - settled.covered / np.maximum(lengths, 1)
    return np.where(settled.covered > 0, share, np.nan).astype(np.float32)


def _cut(view: View, which: str, settled: SpanOwners) -> tuple[dict[int, Turns], list[int]]:
    """Return (the shortened turns by row, the rows in which a turn would be empty)."""
    rows, firsts = np.unique(settled.spans[:, 0], return_index=True)
    by_row = dict(zip(rows.tolist(), np.split(settled.spans[:, 1:], firsts[1:]), strict=True)) if len(rows) else {}
    place = np.full(len(view.samples.ids), -1, np.int64)
    place[view.rows[rows]] = rows
    cut: dict[int, Turns] = {}
    emptied: list[int] = []
    for seen, table in view.samples.scan(["messages"]) if by_row else ():
        here = place[seen]
        touched = np.flatnonzero(here >= 0)
        messages = table["messages"].take(pa.array(touched)).to_pylist()
        spoken = [[(turn["role"], said(turn)) for turn in turns] for turns in messages]
        rows_here = here[touched].tolist()
        for row, turns in zip(rows_here, cut_spans(spoken, which, [by_row[row] for row in rows_here]), strict=True):
            if turns is None:
                emptied.append(row)
            else:
                cut[row] = turns
    return cut, emptied


def cut_spans(
    conversations: Sequence[Sequence[tuple[str, str]]], which: str, spans: Sequence[Int]
) -> Iterator[Turns | None]:
    """Yield the turns of each conversation without its spans, or None if a turn would be empty.

    The spans of a conversation are [s, 2] units of the part: (first unit, unit after the last). A cut reaches to the
    first letter after the span, so that punctuation and space after the span are cut too.
    """
    parts = [content for turns in conversations for content in _part(turns, which)]
    found, place = units(pa.array(parts, pa.large_string())), 0
    for turns, mine in zip(conversations, spans, strict=True):
        ends = found.ends[place : place + len(turns) + 1].tolist()
        left = [
            _shorten(content, within, found, mine + ends[0])
            for (_, content), within in zip(turns, pairwise(ends), strict=True)
        ]
        place += len(turns)
        empty = any(was.strip() and not now for (_, was), now in zip(turns, left, strict=True))
        yield None if empty else tuple((role, now) for (role, _), now in zip(turns, left, strict=True))


def _part(turns: Sequence[tuple[str, str]], which: str) -> list[str]:
    """Return the text of each turn, empty for turns that `columns.part` leaves out of the part."""
    mine = [role in ROLES[which] and bool(content.strip()) for role, content in turns]
    if not any(mine):
        mine = [role != "system" for role, _ in turns]
    return [content if own else "" for (_, content), own in zip(turns, mine, strict=True)]


def _shorten(content: str, within: tuple[int, int], found: Units, spans: Int) -> str:
    first, after = within
    data, pieces, at, left = content.encode(), list[bytes](), 0, after - first
    for start, stop in spans.tolist():
        begin, end = max(start, first), min(stop, after)
        if begin < end:
            pieces.append(data[at : 0 if begin == first else found.starts[begin]])
            at = len(data) if end == after else int(found.starts[end])
            left -= end - begin
    if not pieces:
        return content
    return b"".join([*pieces, data[at:]]).decode().strip() if left else ""
