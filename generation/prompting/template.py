"""Prompts and what comes back: the prompt of a language, filling it in, and reading lists and JSON out of a reply."""

import json
import re
from collections.abc import Mapping

_HAN = "一二三四五六七八九十"
_ENTRY = re.compile(rf"^\s*(?:[-*•]|\(?\d+[.)、:：]|[（(][{_HAN}]+[)）]|[{_HAN}]+、)\s*(.*)$")


def prompt_for(prompts: Mapping[str, str], language: str) -> str:
    """Return the prompt of a language, else the English one, which every set of prompts has."""
    return prompts.get(language, prompts["en"])


def fill(prompt: str, **values: object) -> str:
    """Return the prompt with each `{name}` of the values replaced, in one pass; any other brace stays as it is."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda found: str(values[found[1]]), prompt) if values else prompt


def entries(text: str) -> list[str]:
    """Return the entries of a bulleted or numbered list, Chinese numbers too; plain lines where nothing is marked."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [found[1].strip() for line in lines if (found := _ENTRY.match(line))]
    return [entry for entry in (marked or lines) if entry]


def json_in(text: str) -> object | None:
    """Return the first JSON object or array that is in a text, or None."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"[\[{]", text):
        try:
            value: object = decoder.raw_decode(text, found.start())[0]
        except (ValueError, RecursionError):
            continue
        return value
    return None
