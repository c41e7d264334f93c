"""Readers of models' replies: lists, JSON, texts without quotes, and the reasons why a reply is dropped."""

import json
import re
from collections.abc import Mapping

_HAN = "一二三四五六七八九十"
_ENTRY = re.compile(rf"^\s*(?:[-*•]|\(?\d+[.)、:：]|[（(][{_HAN}]+[)）]|[{_HAN}]+、)\s*(.*)$")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "「": "」", "*": "*"}
"""The closing quote of each opening quote."""


def refuse(rules: Mapping[str, bool]) -> str | None:
    """Return the first reason whose rule is true, or None. `rules` has the truth of each rule by its reason."""
    return next((reason for reason, holds in rules.items() if holds), None)


def cut_off(finish: str, what: str) -> dict[str, bool]:
    """Return the rules for `refuse` about the end of a reply: an error, or a text that was cut off."""
    return {finish: finish.startswith("error"), f"{what} cut off": finish in ("length", "repetition")}


def flat(text: str) -> str:
    """Return a text without blank lines. A blank line would end a case in a list of cases."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def one_line(text: str) -> str:
    """Return a text as one line, with single spaces between its words."""
    return " ".join(text.split())


def stripped(text: str, marker: str = "") -> str:
    """Return a reply without the marker, if the model repeated it at the beginning, and without quotes around it."""
    text = text.strip()
    if text.lower().startswith(marker.lower()):
        text = text[len(marker) :].strip()
    close = _QUOTES.get(text[:1])
    whole = close is not None and len(text) > 1 and text[-1] == close and not {text[0], close} & set(text[1:-1])
    return text[1:-1].strip() if whole else text


def entries(text: str) -> list[str]:
    """Return the entries of a list with bullets or numbers, which may be Chinese ones.

    If no line has such a mark, return all lines.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [found[1].strip() for line in lines if (found := _ENTRY.match(line))]
    return [entry for entry in (marked or lines) if entry]


def json_in(text: str) -> object | None:
    """Return the first JSON object or array in a text, or None."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"[\[{]", text):
        try:
            value: object = decoder.raw_decode(text, found.start())[0]
        except (ValueError, RecursionError):
            continue
        return value
    return None
