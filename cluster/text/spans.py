"""Named spans written in a text as `[Berlin](city)`: read them, write them, and constrain a model to them."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.replies import json_in
from gristmill.cluster.text.words import whole

MARK = re.compile(r"\[([^\[\]()\n]+)\]\(([^()\n]+)\)")
_SPECIAL = re.compile(r"([.^$*+?{}\[\]\\|()/])")
MAX_MARKED_CHARS = 40
"""Most characters of marked words that a model may write."""


class Span(NamedTuple):
    """Characters `start` to `end` of a text, end excluded, and what they are."""

    text: str
    label: str
    start: int
    end: int


def read(marked: str, labels: Iterable[str]) -> tuple[str, tuple[Span, ...]] | None:
    """Return the plain text and its spans; None for another label, stray brackets, or blanks at a mark's edges.

    Marked words hold no brackets of any kind.
    """
    known, plain, spans, after = set(labels), "", list[Span](), 0
    for found in MARK.finditer(marked):
        words, label = found[1], found[2]
        if label not in known or words != words.strip():
            return None
        plain += marked[after : found.start()]
        spans.append(Span(words, label, len(plain), len(plain) + len(words)))
        plain, after = plain + words, found.end()
    plain += marked[after:]
    return None if re.search(r"[\[\]]", plain) else (plain, tuple(spans))


def write(text: str, spans: Sequence[Span]) -> str:
    """Return a text with its spans marked."""
    for span in sorted(spans, key=lambda span: -span.start):
        text = f"{text[: span.start]}[{span.text}]({span.label}){text[span.end :]}"
    return text


def dumps(spans: Sequence[Span]) -> str:
    """Return the spans as a JSON array of objects with text, label, start and end."""
    return json.dumps([span._asdict() for span in spans], ensure_ascii=False)


def of_seed(sample: Sample, labels: Iterable[str]) -> str | None:
    """Return a seed's text with its spans marked: with its own marks, or by the JSON spans of its answer.

    If a turn has an instruction before its text, the text is the last paragraph. A span whose place does not fit is
    where its words first occur.
    """
    known = set(labels)
    if MARK.search(sample.instruction):
        return sample.instruction if read(sample.instruction, known) else None
    text, value = sample.instruction.rsplit("\n\n", 1)[-1], json_in(sample.answer)
    spans: list[Span] = []
    for entry in value if isinstance(value, list) else ():
        words, label = (entry.get("text"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(words, str) or not words or label not in known:
            return None
        start = entry.get("start")
        start = start if isinstance(start, int) and text[start:].startswith(words) else text.find(words)
        if start < 0 or any(start < span.end and span.start < start + len(words) for span in spans):
            return None
        spans.append(Span(words, label, start, start + len(words)))
    marked = write(text, spans)
    return marked if spans and read(marked, known) == (text, tuple(sorted(spans, key=lambda s: s.start))) else None


def unmarked(text: str, spans: Sequence[Span]) -> bool:
    """Say whether marked words also occur in the text without a mark."""
    taken = {place for span in spans for place in range(span.start, span.end)}
    for words in {span.text for span in spans}:
        for found in re.finditer(whole(words), text):
            if not taken & set(range(found.start(), found.end())):
                return True
    return False


def grammar(labels: Iterable[str], wanted: str) -> str:
    """Return the regular expression for one line with marks of these labels, at least one of the wanted label."""
    words = rf"\[[^\[\]()\n ][^\[\]()\n]{{0,{MAX_MARKED_CHARS - 1}}}\]"
    one, any_ = _SPECIAL.sub(r"\\\1", wanted), "|".join(_SPECIAL.sub(r"\\\1", label) for label in labels)
    marked = rf"{words}\(({any_})\)"
    return rf"([^\[\]\n]|{marked})*{words}\({one}\)([^\[\]\n]|{marked})*"
