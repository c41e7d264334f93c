"""Words of any script. Chinese, Japanese and Thai have no spaces, so limits and overlaps count their characters."""

import re
import unicodedata
from functools import lru_cache

from gristmill.cluster.text.scripts import HANGUL, UNSPACED

_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’][^\W\d_{UNSPACED}]+)?")
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_SPACED = rf"[^\W{UNSPACED}{HANGUL}]"
"""Matches a letter, digit or underscore of a script with spaces around words. Korean is no such script, because it has
no space before particles."""
UNSPACED_PER_WORD = 1.5
"""Average number of characters of a word in a Chinese text."""


def tokens(text: str) -> list[str]:
    """Return the words of scripts with spaces and the single characters of other scripts, in lower case and NFKC.

    Punctuation is left out.
    """
    return list(_tokens(text))


@lru_cache(8192)
def _tokens(text: str) -> tuple[str, ...]:
    """Return the tokens of a text from a cache, because several filters count the words of the same text."""
    return tuple(_TOKEN.findall(unicodedata.normalize("NFKC", text).lower()))


def num_words(text: str) -> int:
    """Return the number of words of a text. 1.5 characters of a script without spaces count as one word."""
    found = tokens(text)
    if text.isascii():
        return len(found)
    unspaced = sum(1 for token in found if _UNSPACED.fullmatch(token))
    return len(found) - unspaced + round(unspaced / UNSPACED_PER_WORD)


def whole(word: str, pattern: str = "") -> str:
    """Return the regular expression that finds a word, but not inside a longer word.

    With `pattern`, it finds this pattern instead, with the same limits. Chinese, Japanese, Thai and Korean do not show
    where a word begins and ends, so their words are found anywhere.
    """
    before = f"(?<!{_SPACED})" if re.match(_SPACED, word) else ""
    after = f"(?!{_SPACED})" if re.match(_SPACED, word[-1:]) else ""
    return before + (pattern or re.escape(word)) + after
