"""THE ranges of the scripts that are told apart, and the one rule by which a text is Chinese, Japanese or Korean."""

import re
from typing import Literal


class Ranges(tuple[tuple[int, int], ...]):
    """Code points, (first, last) of each range, ascending; in an f-string what goes into `[…]` of an expression."""

    def __str__(self) -> str:
        """Return the ranges as a regular expression writes them, without the brackets."""
        return "".join(f"{chr(first)}-{chr(last)}" for first, last in self)


HAN = Ranges(((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)))
"""Chinese characters, as of Unicode 15; the first range is 々, 〆 and 〇."""
KANA = Ranges(((0x3040, 0x30FF), (0xFF66, 0xFF9F)))
HANGUL = Ranges(((0xAC00, 0xD7AF),))
UNSPACED = Ranges(sorted((*HAN, *KANA, (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))))
"""Scripts written without spaces: Han and kana; Thai and Lao, Burmese, Khmer."""
WIDE_SIGNS = Ranges(((0x3000, 0x303F), (0xFF00, 0xFFEF)))
"""Signs of Chinese and Japanese text, and forms as wide as its characters."""

_HAN, _KANA, _HANGUL = (re.compile(f"[{script}]") for script in (HAN, KANA, HANGUL))
_LETTER = rf"[^\W\d_{HAN}{KANA}{HANGUL}]"
_WORD = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)?")


def east_asian(text: str) -> Literal["zh", "ja", "ko", ""]:
    """Return the language of a text that is mostly in Han, kana or Hangul, the empty string for any other.

    Each character of these weighs as much as a word of another script; digits and signs weigh nothing. It is Japanese
    where there is more than one kana to five Han characters.
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
    """Say whether a text is mostly Chinese, see `east_asian`."""
    return east_asian(text) == "zh"
