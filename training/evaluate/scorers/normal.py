"""The form in which answers are compared: SQuAD's for words, single characters for scripts without spaces."""

import re
import string
import unicodedata

from gristmill.cluster.text.scripts import UNSPACED

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(text: str) -> str:
    """Return a text in lower case, without punctuation, articles, extra blanks, and blanks next to Chinese characters.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1 (its evaluation script, `normalize_answer`).
    Departures: the text is first put into Unicode NFKC; punctuation of every script is removed, not only that of ASCII.
    """
    plain = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION)
    bare = "".join(sign for sign in plain if not unicodedata.category(sign).startswith("P"))
    words = _ARTICLES.sub(" ", bare).split()
    return re.sub(rf"(?<=[{UNSPACED}]) | (?=[{UNSPACED}])", "", " ".join(words))


def units(text: str) -> list[str]:
    """Return the words of a text in lower case (NFKC); in scripts without spaces, each character is one."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).lower())


def f1(hits: float, found: float, wanted: float) -> float:
    """Return the harmonic mean of precision and recall from counts; 1 if nothing was wanted and nothing was found."""
    return 2 * hits / (found + wanted) if found + wanted else 1.0
