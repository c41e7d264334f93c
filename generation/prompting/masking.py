"""Masking: replace spans that a rule has found by typed placeholders, in a whole conversation."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Verdict


class MaskSpan(NamedTuple):
    """A place in a text and what is there."""

    start: int
    stop: int
    what: str


def without_overlaps(spans: Iterable[MaskSpan]) -> list[MaskSpan]:
    """Return the spans in the order of the text; of two that overlap, the one that was found first stays."""
    kept: list[MaskSpan] = []
    for span in spans:
        if all(span.stop <= other.start or other.stop <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


def masked(text: str, spans: Iterable[MaskSpan]) -> str:
    """Return the text with `<WHAT>` instead of each span; the spans must be in order and must not overlap."""
    parts, place = list[str](), 0
    for start, stop, what in spans:
        parts += [text[place:start], f"<{what.upper()}>"]
        place = stop
    return "".join((*parts, text[place:]))


def masking(sample: Sample, kind: str, find: Callable[[str], list[MaskSpan]], *, drop: bool) -> Verdict:
    """Return the verdict on all turns: a drop, or the masked conversation with a tag `kind` that says what went."""
    found = [find(turn.text) for turn in sample.messages]
    kinds = sorted({span.what for spans in found for span in spans})
    if not kinds:
        return Verdict()
    if drop:
        return Verdict(dropped=f"{kind}: has {kinds[0].replace('_', ' ')}")
    before = sample.tags.get(kind, "").split()  # the filter runs before and after the answer
    tag = " ".join(sorted({*kinds, *before}))
    turns = zip(sample.messages, found, strict=True)
    messages = tuple(turn._replace(content=masked(turn.text, spans)) if spans else turn for turn, spans in turns)
    return Verdict(tags={kind: tag}, messages=messages)
