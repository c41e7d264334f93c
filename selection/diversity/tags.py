"""Tags of intent that a language model wrote: they are parsed, normalised, and merged if they mean the same.

Source: Lu et al. 2023, InsTag, arXiv:2308.07074, section 3.2 (rare tags dropped, forms aggregated by rules, then by the
cosine of their vectors). Departures: the rules come before rare tags are dropped, so that all spellings of a tag count
together. Words are only changed to the singular, by the rules of Harman 1991 and by rules for -sses, -xes, -ches and
-shes. Tags are merged greedily into the most frequent tags, and not by DBSCAN, which joins chains. Tags that imply each
other are not merged.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.diversity.representation import representation_filter

_BETWEEN_TAGS = re.compile(r"[;；\n]")
_BETWEEN_WORDS = re.compile(r"[^\w+#]+|_+")
"""Signs between two words. `+` and `#` are no such signs, because `c++` and `c#` are words."""
_PLURALS = (
    (re.compile(r"(?<![ea])ies$"), "y"),
    (re.compile(r"(ss|x|zz|ch|sh)es$"), r"\1"),
    (re.compile(r"(?<![usi])s$"), ""),
)
SHORT = 3
"""Words with at most this many letters, such as `gas` and `css`, are not changed."""


class TagMatrix(NamedTuple):
    """The tags of n samples, as a sparse [n, T] matrix."""

    names: tuple[str, ...]
    """[T] names of the tags, in ascending order."""
    starts: Int
    """[n + 1] index in `tags` at which the entries of each row begin."""
    tags: Int
    """The tags of each row, one row after the other, as indices in `names`: ascending and without repeats in each
    row."""

    @property
    def per_row(self) -> Int:
        """[n] number of tags of each row."""
        return np.diff(self.starts)

    @property
    def rows(self) -> Int:
        """[entries] the row of each entry of `tags`."""
        return np.repeat(np.arange(len(self.starts) - 1), self.per_row)

    @property
    def counts(self) -> Int:
        """[T] number of rows that have each tag."""
        return np.bincount(self.tags, minlength=len(self.names)).astype(np.int64)


def parse(text: str) -> list[str]:
    """Return the tags in a text: a JSON list of strings or of objects with a `tag`, or else parts at semicolons."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except json.JSONDecodeError:  # a model did not finish the list
            return _BETWEEN_TAGS.split(text)
        return [str(tag.get("tag", "")) if isinstance(tag, dict) else str(tag) for tag in found]
    return _BETWEEN_TAGS.split(text)


def spelling(tag: str) -> str:
    """Return a tag in NFKC and lower case, with one space between two words and without other signs."""
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", tag).casefold()).strip()


def form(spelled: str) -> str:
    """Return the form that all spellings of a tag have in common: every English word is in the singular."""
    return " ".join(map(_singular, spelled.split()))


def _singular(word: str) -> str:
    if len(word) > SHORT and word.endswith("s"):
        for plural, ending in _PLURALS:
            found, changed = plural.subn(ending, word)
            if changed:
                return found
    return word


def read_tags(code: Int, values: Sequence[str], min_count: int = 1) -> TagMatrix:
    """Return the tags of n rows, read from the values of a column; a tag gets the name of its most frequent spelling.

    Args:
        code: [n] index in `values` of the value of each row, -1 for a row without a value.
        values: distinct texts in the form that `parse` reads.
        min_count: least number of rows with a tag; rarer tags are left out.
    """
    place: dict[str, int] = {}  # of each spelling
    seen: dict[str, int] = {}
    flat: list[int] = []
    ends = [0]
    for value in values:
        for tag in parse(value):
            if tag not in seen:
                spelled = spelling(tag)
                seen[tag] = place.setdefault(spelled, len(place)) if spelled else -1
            flat.append(seen[tag])
        ends.append(len(flat))
    rows, spelled_as = _entries(code, np.array(ends, np.int64), np.array(flat, np.int64))
    uses = np.bincount(spelled_as, minlength=len(place))
    name_of: dict[str, str] = {}  # of each form
    for spelled in sorted(place, key=lambda s: (-uses[place[s]], s)):
        name_of.setdefault(form(spelled), spelled)
    names = sorted(name_of.values())
    at = {name: n for n, name in enumerate(names)}
    tag_of = np.array([at[name_of[form(spelled)]] for spelled in place], np.int64)
    found = _of_pairs(len(code), rows, tag_of[spelled_as], names)
    return _only(found, found.counts >= max(1, min_count))


def merge_tags(tags: TagMatrix, vectors: Float32, min_cosine: float) -> TagMatrix:
    """Return the tags, in which a tag is replaced by the nearest more frequent tag if their cosine is above a bound.

    Args:
        tags: the tags before.
        vectors: [T, d] unit rows, the vectors of the names.
        min_cosine: the bound. A tag is replaced only by a tag that stays, so there are no chains.
    """
    order = np.argsort(-tags.counts, kind="stable")
    found = representation_filter(Matrix(vectors), order, min_cosine, len(order))
    into = np.arange(len(order))
    into[order[~found.kept]] = found.nearest[order[~found.kept]]
    fewer = _of_pairs(len(tags.starts) - 1, tags.rows, into[tags.tags], tags.names)
    return _only(fewer, fewer.counts > 0)


def _entries(code: Int, ends: Int, flat: Int) -> tuple[Int, Int]:
    """Return (row, entry) of every entry of the value of every row, without entries below 0."""
    rows = np.flatnonzero(code >= 0)
    begin = ends[code[rows]]
    sizes = ends[code[rows] + 1] - begin
    entries = flat[np.arange(sizes.sum()) + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)]
    return np.repeat(rows, sizes)[entries >= 0], entries[entries >= 0]


def _of_pairs(num: int, rows: Int, tags: Int, names: Sequence[str]) -> TagMatrix:
    keys = np.sort(rows * max(1, len(names)) + tags)
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes whole numbers, ten times slower here
    rows, tags = np.divmod(keys, max(1, len(names)))
    return TagMatrix(tuple(names), _starts(num, rows), tags)


def _only(tags: TagMatrix, wanted: NDArray[np.bool_]) -> TagMatrix:
    stays = wanted[tags.tags]
    place = np.cumsum(wanted) - 1
    names = tuple(name for name, use in zip(tags.names, wanted, strict=True) if use)
    return TagMatrix(names, _starts(len(tags.starts) - 1, tags.rows[stays]), place[tags.tags[stays]])


def _starts(num: int, rows: Int) -> Int:
    starts = np.zeros(num + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=num), out=starts[1:])
    return starts
