"""Masking: replace the spans that a rule has found with typed placeholders, in all parts of a conversation.

Masked are the content, the thought and the name of each turn, the arguments of calls, parts that are no text, and the
tools of the sample. The last three are JSON text: strings and numbers are masked in them, and they stay JSON.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.generation.contracts import Verdict


class MaskSpan(NamedTuple):
    """A span of a text and the kind of data in it."""

    start: int
    stop: int
    what: str


def without_overlaps(spans: Iterable[MaskSpan]) -> list[MaskSpan]:
    """Return the spans in the order of the text. Of two overlapping spans, the one that is first in `spans` stays."""
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
    """Return the verdict on a sample: a drop, or the masked conversation. The tag `kind` says what was masked."""
    mask = _Mask(find)
    messages = tuple(mask.turn(turn) for turn in sample.messages)
    tools = mask.json(sample.tools)
    kinds = sorted(mask.kinds)
    if not kinds:
        return Verdict()
    if drop:
        return Verdict(dropped=f"{kind}: has {kinds[0].replace('_', ' ')}")
    before = sample.tags.get(kind, "").split()  # the filter runs before and after the answer
    tag = " ".join(sorted({*kinds, *before}))
    return Verdict(tags={kind: tag}, messages=messages, tools=tools)


class _Mask:
    """One pass through a sample, and the kinds of data that it has found."""

    def __init__(self, find: Callable[[str], list[MaskSpan]]) -> None:
        self.find = find
        self.kinds: set[str] = set()

    def turn(self, turn: Message) -> Message:
        """Return a turn with all its parts masked."""
        if turn.plain:
            text = self.text(turn.content)
            return turn if text == turn.content else turn._replace(content=text)
        calls = tuple(call._replace(arguments=self.json(call.arguments) or "") for call in turn.tool_calls)
        return turn._replace(
            content=self.text(turn.content),
            reasoning=self.text(turn.reasoning),
            tool_calls=calls,
            name=self.text(turn.name),
            parts=self.json(turn.parts),
        )

    def text(self, text: str | None, key: str = "") -> str | None:
        """Return a masked text. The key before the text is its context, as in `password=…`."""
        if not text:
            return text
        begin = len(key) + 1 if key else 0
        spans = self.find(f"{key}={text}" if key else text)
        inside = [MaskSpan(max(start - begin, 0), stop - begin, what) for start, stop, what in spans if stop > begin]
        self.kinds.update(span.what for span in inside)
        return masked(text, inside)

    def json(self, text: str | None) -> str | None:
        """Return JSON text with masked strings, numbers and keys. If nothing is found, it is the same byte for byte."""
        if not text:
            return text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # models sometimes write text that is not JSON
            return self.text(text)
        made = self._inside(value, "")
        return text if made == value else json.dumps(made, ensure_ascii=False)

    def _inside(self, value: Any, key: str) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, dict):
            made: dict[str, Any] = {}
            for name, inner in value.items():
                said = self.text(name) or ""
                said = said if said not in made else f"{said} ({len(made) + 1})"  # masking made two names equal
                made[said] = self._inside(inner, name)
            return made
        if isinstance(value, list):
            return [self._inside(inner, key) for inner in value]
        if isinstance(value, str):
            return self.text(value, key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = self.text(str(value), key)
            return value if text == str(value) else text
        return value
