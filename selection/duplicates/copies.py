"""The rule that says what must not differ between two copies; exact, minhash, semantic and against use it.

Two samples are copies only if nothing that carries meaning differs:

- the answer, if it is short (a label, a number, a name) or states a result, and the label: `answers`;
- numbers and signs that calculate, wherever they are in the text: `kin.kin`;
- number words and Chinese numerals, negations, opposites (`large`, `small`; `safe`, `unsafe`), variables and names in
  code, the order of numbers: `differences.are_copies`;
- for copies by wording, more than a few other words. Typing errors and words before a request do not count. Text that
  many samples share does not count if the samples' own words differ.

`decontaminate` does not use this rule, because an evaluation item with another number is still a leak.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import GROUP
from gristmill.cluster.text.keys import key
from gristmill.selection.contracts import View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.duplicates import normal as forms
from gristmill.selection.duplicates.carriers import carriers
from gristmill.selection.duplicates.differences import Side, are_copies
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.kin import kins
from gristmill.selection.duplicates.normal import ODD
from gristmill.selection.duplicates.units import Common, run_table, units

Bool = NDArray[np.bool_]
SHORT = 48
"""Most characters of a short answer, which is compared completely: a label, a number, a name. A Chinese character
counts as three."""
RESULT = re.compile(
    r"####\s*([^\n]+)|\\boxed\{([^{}]+)\}"
    r"|(?i:\banswer(?: is|:)|答案(?:是|为|：|:))\s*\**\s*([^\n.。]{1,48})"
)
"""Expressions with which a longer answer states its result."""
MARK = r"^\s*[(（]?\d{1,3}(?:[.):]\s+|[、．）]\s*|\.(\p{Han}))"
"""The number of an entry of a list at the beginning of a text."""
BLOCK = 4096
"""Number of pairs whose texts are compared at a time."""
TEXTS = 1 << 16
"""Number of pairs whose texts are brought together at a time; texts of 300 bytes take up to 40 MB."""


def unnumbered(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return texts without the number of a list entry, such as `1. ` or `3、`."""
    return pc.replace_substring_regex(texts, MARK, r"\1")


def answers(view: View, part: Part, wanted: bool = True) -> Key:
    """Return [n] a hash of the short answer or the stated result, and of the label; it is equal for two copies.

    The answer counts as 0 if it is long and states no result; of two such answers to one question, the better one
    stays. The complete answer of a candidate counts, because candidates are meant to differ; a candidate has the tag
    `group`. If `wanted` is false, all hashes are 0.
    """
    found = np.zeros(len(view), np.uint64)
    if not wanted:
        return found
    if part != "answer":
        candidate = view.tags(GROUP)[0] >= 0
        for rows, hashes in view.map(_own_answers, "answer", "instruction", given=[candidate]):
            found[rows] = hashes
    codes, names = view.tags("label")
    if names:
        labels = np.array([0, *_hash([key(name) for name in names])], np.uint64)
        found ^= labels[codes + 1] * ODD
    return found


def _own_answers(texts: pa.LargeStringArray, asked: pa.LargeStringArray, whole: Bool) -> Key:
    absent = pc.equal(texts, asked).to_numpy(zero_copy_only=False)  # the question is used instead
    return np.where(absent, np.uint64(0), _answers(texts, whole))


def _answers(texts: pa.LargeStringArray, whole: Bool) -> Key:
    """Return [texts] the hashes of some answers, see `answers`; `whole` says which answers count completely."""
    high, _ = forms.keys(texts)
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    wide = pc.binary_length(texts).to_numpy(zero_copy_only=False) - lengths
    long = (lengths + wide > SHORT) & ~whole
    found: Key = np.where(long, np.uint64(0), high)
    stated = pc.match_substring_regex(texts, r"####|\\boxed|(?i)\banswer(?: is|:)|答案").to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(long & stated).tolist():
        results = RESULT.findall(texts[row].as_py())
        if results:
            result = key("".join(results[-1]))
            numbers = re.findall(r"\d+(?:[.:/]\d+)*", result)
            found[row] = _hash([" ".join(numbers) or result])[0]
    return found


def _hash(words: list[str]) -> Key:
    return forms.keys(pa.array(words, pa.large_string()))[0]


class Candidates(NamedTuple):
    """The texts of rows that may be copies."""

    texts: pa.LargeStringArray
    places: Int
    """[n] index of each row in `texts`, -1 for a row that has no text here."""


def candidates(batches: Iterable[tuple[Int, pa.LargeStringArray]], num: int, rows: Int) -> Candidates:
    """Return the texts of some of `num` rows, in memory; `batches` has the texts of all rows and is read once."""
    wanted = np.zeros(num, np.bool_)
    wanted[rows] = True
    places, found, count = np.full(num, -1, np.int64), [pa.array([], pa.large_string())], 0
    for seen, texts in batches:
        here = wanted[seen]
        places[seen[here]] = count + np.arange(int(here.sum()))
        count += int(here.sum())
        found.append(texts.filter(pa.array(here)))
    return Candidates(unnumbered(pa.concat_arrays(found)), places)


def same(
    left: tuple[Candidates, Int], right: tuple[Candidates, Int], known: Common, *, wording: bool, numbers: bool = True
) -> Bool:
    """Say for each pair of rows whether nothing that carries meaning differs in their texts.

    Args:
        left: texts, and [pairs] the left row of each pair.
        right: texts, and [pairs] the right row of each pair, of the same or another dataset.
        known: runs and words that many of the texts have in common.
        wording: whether only a few other words may differ, as for copies by wording. If false, all words that do not
            carry meaning may differ, as for copies in other words.
        numbers: whether numbers carry meaning.
    """
    (one, left_rows), (other, right_rows) = left, right
    return _same((one.texts, one.places[left_rows]), (other.texts, other.places[right_rows]), known, (wording, numbers))


def same_near(
    view: View, part: Part, pairs: tuple[Int, Int], known: Common, *, wording: bool, numbers: bool = True
) -> Bool:
    """Return the same as `same` for pairs of rows of one view; the texts are compared near their shards."""
    compare = partial(_same_of, known, (wording, numbers))
    return view.texts_near(part).compare(_some, *pairs, compare, np.bool_, TEXTS)


def _some(texts: pa.LargeStringArray, places: Int) -> pa.LargeStringArray:
    return texts.take(pa.array(places))


def _same_of(known: Common, how: tuple[bool, bool], pieces: list[pa.LargeStringArray], left: Int, right: Int) -> Bool:
    texts = unnumbered(pa.concat_arrays(pieces))
    return _same((texts, left), (texts, right), known, how)


def _same(
    left: tuple[pa.LargeStringArray, Int],
    right: tuple[pa.LargeStringArray, Int],
    known: Common,
    how: tuple[bool, bool],
) -> Bool:
    """Compare the texts at these places, `BLOCK` pairs at a time."""
    found = np.zeros(len(left[1]), np.bool_)
    table = run_table(known)
    order = np.argsort(left[1], kind="stable")
    for start in range(0, len(order), BLOCK):
        here = order[start : start + BLOCK]
        one, other = (_taken(texts, places[here]) for texts, places in (left, right))
        found[here] = are_copies(one, other, (known.words, table.keys, table.slots), carriers(), how)
    return found


def _taken(texts: pa.LargeStringArray, places: Int) -> Side:
    """Return the texts at these places as one side of pairs."""
    some, index = np.unique(places, return_inverse=True)
    made = forms.normal(texts.take(pa.array(some)))
    return Side(made.points, *units(made), kins(made), index.astype(np.int64))
