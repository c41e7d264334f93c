"""Keys and words by which selection compares texts, for English and Chinese."""

import html
import re
import unicodedata
from functools import cache

from gristmill.cluster.text.scripts import HAN, UNSPACED

QUOTES = re.compile(r"[\"'`“”‘’「」『』]")
SIGNS = ".,;:!?…、。·~"
_LETTER = rf"[^\W\d{UNSPACED}]"
_MEANT = (
    rf"(?<=\d)[{SIGNS}](?=\d)",  # 3.5, 1:2
    rf"(?<![{UNSPACED}.])\.(?={_LETTER})|(?<!\.)\.(?=\d)",  # a.b, a?.b; .5
    rf"(?<=\d)!|!(?=[/*+\-=^<>%])|(?<![\w)\]}}{SIGNS}{UNSPACED}])!(?=[(]|{_LETTER})",  # 5!; n!/k!, a != b; !done
    rf"(?<=[\d)\]}}])\?(?=\d|{_LETTER})|(?<={_LETTER})\?(?=\d|{_LETTER})",  # a?b:c
    r":(?=\])|(?<=\[):",  # x[1:]
    rf"(?<![{SIGNS}{UNSPACED}])(?<!{_LETTER})~(?=[\d(]|{_LETTER})",  # ~y
)
"""Match signs that have a meaning because of the characters next to them. All other signs end or divide sentences."""
_SENTENCE_SIGNS = re.compile(rf"(?!{'|'.join(_MEANT)})[{SIGNS}]")
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_SPACE_BY_UNSPACED = re.compile(rf"(?<=[{UNSPACED}])\s+|\s+(?=[{UNSPACED}])")
_UNITS = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
_THOUSANDS = re.compile(
    r"(?<![\d.(\[{])(?<![\w)\]],)\d{1,3}(?:,\d{3})+(?!,?\d)|(?<=[(\[{])\d{1,3}(?:,\d{3})+(?!,?\d|[,)\]}])", re.ASCII
)
"""Matches `1,000,000`, but not the numbers in `f(1,200)`, where the comma separates two numbers."""


def key(text: str) -> str:
    """Return a key that is the same for all copies of a text.

    These differences do not change the key: Unicode forms such as full-width letters (NFKC), case, simplified or
    traditional Chinese, quotes, HTML entities, commas between thousands, punctuation that ends or divides sentences,
    the amount of white space, and any space next to a character of a script without spaces. These change it: brackets,
    operators, superscripts, fractions, and signs that belong to a number, a name or code. So `5-3`, `5/3`, `5.3`, `5!`,
    `.5` and `2⁵` differ from `5 3`, `5` and `25`. `a?.b` differs from `a.b`, and `!done` from `done`. A text of nothing
    but punctuation is its own key.
    """
    plain = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), folded(read(text)))
    bare = _SENTENCE_SIGNS.sub(" ", QUOTES.sub(" ", plain))
    bare = _SPACE_BY_UNSPACED.sub("", " ".join(bare.split()))
    return bare or plain


def read(text: str) -> str:
    """Return a text in which the characters replace their HTML entities."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text


def folded(text: str) -> str:
    """Return a text in NFKC, case-folded, and with simplified Chinese. Superscripts, subscripts and fractions stay."""
    if text.isascii():
        return text.lower()
    raised = _raised()
    parts = (part if raised.match(part) else unicodedata.normalize("NFKC", part) for part in raised.split(text))
    return "".join(parts).casefold().translate(simplified())


@cache
def _raised() -> re.Pattern[str]:
    kinds = ("<super>", "<sub>", "<fraction>")
    found = (chr(point) for point in range(0x80, 0x20000))
    signs = [c for c in found if unicodedata.decomposition(c).startswith(kinds) and not _is_letters(c)]
    return re.compile(f"([{''.join(map(re.escape, signs))}]+)")


def _is_letters(sign: str) -> bool:
    """Say whether NFKC turns a sign, such as ™, into several letters."""
    plain = unicodedata.normalize("NFKC", sign)
    return len(plain) > 1 and plain.isalpha()


@cache
def simplified() -> dict[int, int]:
    """Return the simplified form of each traditional Chinese character that differs from it, by code point."""
    from opencc import OpenCC

    traditional = [chr(point) for first, last in HAN for point in range(first, min(last, 0x1FFFF) + 1)]
    found = OpenCC("t2s").convert("\n".join(traditional)).split("\n")
    return {ord(old): ord(new) for old, new in zip(traditional, found, strict=True) if old != new and len(new) == 1}


def words(text: str) -> frozenset[str]:
    """Return the units by which texts are compared: words, or pairs of characters for scripts without spaces."""
    found: set[str] = set()
    for run in _UNITS.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _UNSPACED.match(run) and len(run) > 1:
            found.update(run[place : place + 2] for place in range(len(run) - 1))
        else:
            found.add(run)
    return frozenset(found)


def overlap(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the share of the smaller text's words that the other text also has, in [0, 1].

    It is 1 if one of the texts has no words.
    """
    smaller = min(len(left), len(right))
    return len(left & right) / smaller if smaller else 1.0
