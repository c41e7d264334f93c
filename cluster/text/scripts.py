"""The code points of each script, and the rule that decides whether a text is Chinese, Japanese or Korean.

No other module defines them.
"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Literal


class Ranges(tuple[tuple[int, int], ...]):
    """Code points as ascending ranges (first, last).

    In an f-string it becomes the text for the inside of `[…]` in a regular expression.
    """

    def __str__(self) -> str:
        """Return the ranges in the form of a regular expression, without the brackets."""
        return "".join(f"{chr(first)}-{chr(last)}" for first, last in self)


HAN = Ranges(((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)))
"""Chinese characters of Unicode 15. The first range is 々, 〆 and 〇."""
KANA = Ranges(((0x3040, 0x30FF), (0xFF66, 0xFF9F)))
HANGUL = Ranges(((0xAC00, 0xD7AF),))
UNSPACED = Ranges(sorted((*HAN, *KANA, (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))))
"""Scripts that are written without spaces: Han, kana, Thai, Lao, Burmese and Khmer."""
WIDE_SIGNS = Ranges(((0x3000, 0x303F), (0xFF00, 0xFFEF)))
"""Punctuation of Chinese and Japanese text, and full-width forms."""

_HAN, _KANA, _HANGUL = (re.compile(f"[{script}]") for script in (HAN, KANA, HANGUL))
_LETTER = rf"[^\W\d_{HAN}{KANA}{HANGUL}]"
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]+")
_WORD = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)?")


def east_asian(text: str) -> Literal["zh", "ja", "ko", ""]:
    """Return the language of a text that is mostly in Han, kana or Hangul, and the empty string for any other text.

    Each character of these scripts weighs as much as a word of another script. Digits and signs weigh nothing. The text
    is Japanese if it has more than one kana for every five Han characters.
    """
    if text.isascii():
        return ""
    han, kana, hangul = (len(script.findall(text)) for script in (_HAN, _KANA, _HANGUL))
    if len(_WORD.findall(text)) >= han + kana + hangul:
        return ""
    if hangul > han + kana:
        return "ko"
    return "ja" if kana * 5 > han else "zh"


def is_chinese(text: str) -> bool:
    """Say whether `east_asian` finds that a text is Chinese."""
    return east_asian(text) == "zh"


def script_of(text: str) -> str:
    """Return the script of most of a text, such as `Latin`, `Han` or `Thai`. Without letters, it is the empty string.

    A word weighs as much as one character of a script that is written without spaces.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else ""
    counts = Counter(_script(unit[0]) for unit in _UNIT.findall(text))
    return max(counts, key=lambda name: (counts[name], name)) if counts else ""


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    """Return the script of a letter: `Han`, `Kana`, or the first word of the letter's name in Unicode."""
    plain = unicodedata.normalize("NFKC", character)[0]
    for name, ranges in (("Han", HAN), ("Kana", KANA)):
        if any(first <= ord(plain) <= last for first, last in ranges):
            return name
    return unicodedata.name(plain, "unnamed").partition(" ")[0].capitalize()
