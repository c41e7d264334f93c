"""Spans with labels, written in a text as `[Berlin](city)`: functions to read and write them, and their grammar."""

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
"""Most characters of the words in one mark that a model may write."""


class Span(NamedTuple):
    """The characters `start` to `end` of a text, without `end`, and their label."""

    text: str
    label: str
    start: int
    end: int


def read(marked: str, labels: Iterable[str]) -> tuple[str, tuple[Span, ...]] | None:
    """Return the plain text of a marked text, and its spans.

    Return None if a label is not one of `labels`, if square brackets are outside marks, or if marked words begin or end
    with a space. Marked words cannot have round or square brackets.
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
    """Return a text with marks around its spans."""
    for span in sorted(spans, key=lambda span: -span.start):
        text = f"{text[: span.start]}[{span.text}]({span.label}){text[span.end :]}"
    return text


def dumps(spans: Sequence[Span]) -> str:
    """Return the JSON text of spans: an array of objects with text, label, start and end."""
    return json.dumps([span._asdict() for span in spans], ensure_ascii=False)


def of_seed(sample: Sample, labels: Iterable[str]) -> str | None:
    """Return the text of a seed with marks around its spans, or None if it has no valid spans.

    The seed's question has marks, or its answer is a JSON array of spans. In the second case, the text is the last
    paragraph of the question, because an instruction may be before it. If the `start` of a span does not fit its words,
    the span is where the words first occur.
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
    """Say whether the words of a span also occur in the text outside all spans."""
    taken = {place for span in spans for place in range(span.start, span.end)}
    for words in {span.text for span in spans}:
        for found in re.finditer(whole(words), text):
            if not taken & set(range(found.start(), found.end())):
                return True
    return False


def grammar(labels: Iterable[str], wanted: str) -> str:
    """Return the regular expression for one line with marks of these labels, at least one of them with `wanted`."""
    words = rf"\[[^\[\]()\n ][^\[\]()\n]{{0,{MAX_MARKED_CHARS - 1}}}\]"
    one, any_ = _SPECIAL.sub(r"\\\1", wanted), "|".join(_SPECIAL.sub(r"\\\1", label) for label in labels)
    marked = rf"{words}\(({any_})\)"
    return rf"([^\[\]\n]|{marked})*{words}\({one}\)([^\[\]\n]|{marked})*"
