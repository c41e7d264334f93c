"""The one rule for what must not differ between two copies, used by exact, minhash, semantic and against.

Two samples are copies only if nothing that carries meaning differs:

- the answer, where it is short (a label, a number, a name) or states a result, and the label: `answers`;
- numbers and signs that calculate, wherever they are in the text: `kin.kin`;
- number words and Chinese numerals, negations, opposites (`large`, `small`; `safe`, `unsafe`), variables and names in
  code, the order of numbers: `differences.are_copies`;
- for copies by wording, more than a few other words. Typing errors do not count, nor do words before a request; text
that many samples share does not count if the samples' own words differ.

`decontaminate` ignores all of it: an evaluation item with another number is still a leak.
"""

import re
from collections.abc import Iterable
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
"""Characters of an answer that is compared as a whole: a label, a number, a name; a Chinese one counts three times."""
RESULT = re.compile(
    r"####\s*([^\n]+)|\\boxed\{([^{}]+)\}"
    r"|(?i:\banswer(?: is|:)|答案(?:是|为|：|:))\s*\**\s*([^\n.。]{1,48})"
)
"""Expressions by which a longer answer states its result."""
MARK = r"^\s*[(（]?\d{1,3}(?:[.):]\s+|[、．）]\s*|\.(\p{Han}))"
"""The number of an entry of a list, before its text."""
BLOCK = 4096
"""Number of pairs whose texts are compared at a time."""


def unnumbered(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return texts without the number of a list entry, such as `1. ` or `3、`."""
    return pc.replace_substring_regex(texts, MARK, r"\1")


def answers(view: View, part: Part, wanted: bool = True) -> Key:
    """Return [n] a hash that copies have in common. It is of a short answer or a stated result, and of the label.

    It is 0 for a long answer without a stated result: of two such answers to one question, the better one stays.
    Answers of candidates, which have a `group` in their tags, count whole, because candidates are meant to differ.
    Unless `wanted`, it is 0 everywhere.
    """
    found = np.zeros(len(view), np.uint64)
    if not wanted:
        return found
    if part != "answer":
        candidate = view.tags(GROUP)[0] >= 0
        for (rows, texts), (_, asked) in zip(view.scan("answer"), view.scan("instruction"), strict=True):
            absent = pc.equal(texts, asked).to_numpy(zero_copy_only=False)  # the question is used instead
            found[rows] = np.where(absent, np.uint64(0), _answers(texts, candidate[rows]))
    codes, names = view.tags("label")
    if names:
        labels = np.array([0, *_hash([key(name) for name in names])], np.uint64)
        found ^= labels[codes + 1] * ODD
    return found


def _answers(texts: pa.LargeStringArray, whole: Bool) -> Key:
    """Return the hashes of `answers` for some texts, and which texts count whole."""
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
    """The texts of rows that may be copies, and what they have in common."""

    texts: pa.LargeStringArray
    places: Int
    """[n] index of each row in `texts`, -1 for the others."""


def candidates(batches: Iterable[tuple[Int, pa.LargeStringArray]], num: int, rows: Int) -> Candidates:
    """Return the texts of some of `num` rows, from one reading of them; they are held in memory."""
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
        left: texts, and [pairs] a row of each.
        right: the same of the other rows, of this dataset or another.
        known: what many of the texts have in common.
        wording: whether other words may differ by no more than a few, as for copies by wording; else only what carries
            meaning counts, as for copies in other words.
        numbers: whether numbers carry meaning.
    """
    found = np.zeros(len(left[1]), np.bool_)
    table = run_table(known)
    order = np.argsort(left[1], kind="stable")
    for start in range(0, len(order), BLOCK):
        here = order[start : start + BLOCK]
        one, other = (_taken(texts, rows[here]) for texts, rows in (left, right))
        found[here] = are_copies(one, other, (known.words, table.keys, table.slots), carriers(), (wording, numbers))
    return found


def _taken(held: Candidates, rows: Int) -> Side:
    """Return these rows as one side of some pairs."""
    some, places = np.unique(held.places[rows], return_inverse=True)
    made = forms.normal(held.texts.take(pa.array(some)))
    return Side(made.points, *units(made), kins(made), places.astype(np.int64))
