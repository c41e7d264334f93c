"""Long spans that several samples have: cut from all samples except the best, or the other samples are dropped."""

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

SHARED = "substring: a long span stands in a better sample"


class Substring(Deduplicator):
    """Keep a long span only in the best sample that has it: cut it from the others, or drop them.

    Source: Lee et al. 2022, Deduplicating Training Data Makes Language Models Better, arXiv:2107.06499, section 4.1
    (ExactSubstr: spans of 50 tokens). Departures: a token is a word or a Chinese character, whatever the case and the
    punctuation around it; windows of `min_units` are compared by hash, found by winnowing, instead of a suffix array of
    all text; one sample keeps the span, where the paper cuts every copy but the first in the file; a sample that loses
    more than `max_cut` is dropped, and then keeps no span. A span that a sample repeats itself stays.

    Later steps read the shortened text. Its vector, and its length for steps that prefer longer answers, are those of
    the whole text.
    """

    kind: Literal["substring"] = "substring"
    part: Literal["instruction", "answer", "conversation"] = "answer"
    """Part that is compared. Answers are the default, because questions about one passage often contain it."""
    min_units: int = Field(default=50, ge=2)
    """Least words, or Chinese characters, of a long span."""
    max_cut: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a sample's words that is cut. A sample that shares more is dropped, and so is one whose turn
    would be empty. 0 cuts nothing and drops every sample that shares a span with a better one."""

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate texts of 70 words, of which one in ten shares a span."""
        del dim
        return Cost(2.1e-5 * num, 100 * 2**20 + 110 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `own_share`: the share of words left, for samples that share text."""
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
    """Return the shortened turns by row, and the rows with a turn that would be empty."""
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
    """Yield each conversation without its spans [s, 2] of units (first, after) of a part; None if a turn is empty.

    A cut reaches to the first letter after the span, so that punctuation and space after the span go too.
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
    """Return the contents of a part, empty for other turns, as `columns.part` takes them."""
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
