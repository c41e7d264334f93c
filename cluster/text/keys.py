"""Text as selection compares it: keys and words, for English and Chinese alike."""

import re
import unicodedata

from gristmill.cluster.text.scripts import UNSPACED

_QUOTES = re.compile(r"[\"'`“”‘’「」『』]")
_SENTENCE_SIGNS = re.compile(r"(?<!\d)[.,;:!?…、。·~]+|[.,;:!?…、。·~]+(?!\d)")
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_SPACE_BY_UNSPACED = re.compile(rf"(?<=[{UNSPACED}])\s+|\s+(?=[{UNSPACED}])")
_UNITS = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")


def key(text: str) -> str:
    """Return a key that is the same for all copies of a text.

    Unicode NFKC (full-width forms become plain), case, quotes, sentence punctuation and the amount of white space do
    not count; neither does any space beside a character of a script that is written without spaces. Brackets,
    operators, and points and commas between digits do count: `5-3`, `5/3` and `5.3` are three questions. A text of
    nothing but punctuation is its own key.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    bare = _SENTENCE_SIGNS.sub(" ", _QUOTES.sub(" ", plain))
    bare = _SPACE_BY_UNSPACED.sub("", " ".join(bare.split()))
    return bare or plain


def words(text: str) -> frozenset[str]:
    """Return what two texts can share: words, and in scripts without spaces pairs of neighbouring characters."""
    found: set[str] = set()
    for run in _UNITS.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _UNSPACED.match(run) and len(run) > 1:
            found.update(run[place : place + 2] for place in range(len(run) - 1))
        else:
            found.add(run)
    return frozenset(found)


def overlap(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the number of shared words over that of the smaller text, in [0, 1]; 1 where a text has no words."""
    smaller = min(len(left), len(right))
    return len(left & right) / smaller if smaller else 1.0
