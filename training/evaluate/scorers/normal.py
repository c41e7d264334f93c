"""Answers in the form in which they are compared: SQuAD's for words, single characters for Chinese and its like."""

import re
import string
import unicodedata

from gristmill.cluster.text.scripts import UNSPACED

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(text: str) -> str:
    """Return a text without case, punctuation, articles and needless blanks; no blanks around Chinese characters.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1 (its evaluation script, `normalize_answer`).
    Departures: Unicode NFKC first, and signs of every script are punctuation, not ASCII's alone.
    """
    plain = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION)
    bare = "".join(sign for sign in plain if not unicodedata.category(sign).startswith("P"))
    words = _ARTICLES.sub(" ", bare).split()
    return re.sub(rf"(?<=[{UNSPACED}]) | (?=[{UNSPACED}])", "", " ".join(words))


def units(text: str) -> list[str]:
    """Return the words of a text in lower case (NFKC), and single characters of scripts that have no spaces."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).lower())


def f1(hits: float, found: float, wanted: float) -> float:
    """Return the harmonic mean of precision and recall from counts; 1 where nothing was wanted and nothing found."""
    return 2 * hits / (found + wanted) if found + wanted else 1.0
