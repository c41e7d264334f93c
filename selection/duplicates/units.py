"""Units of normal forms (words, numbers, characters of scripts without spaces), and what many texts share of them.

What many samples share (a prompt, a template, a footer) says nothing of any one of them, wherever it is. It is found as
runs of six units that many of the texts looked at have, so that a text can be compared by what is its own.

Source: the inverse document frequency of Spärck Jones 1972, A statistical interpretation of term specificity and its
application in retrieval, Journal of Documentation 28. Departures: weights are 0 and 1; of runs instead of words.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.text.scripts import WIDE_SIGNS
from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.carriers import word_hash
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.ngrams import Table
from gristmill.selection.duplicates.normal import (
    DIGIT,
    KIND,
    LETTER,
    MANY,
    ODD,
    ODD_2,
    OTHER,
    POINTS,
    UNSPACED_KIND,
    Bytes,
    Normal,
    Points,
    mix,
    normal,
    pieces,
    table,
)
from gristmill.selection.kernels import kernel

SAMPLE = 16_384
"""Texts that are looked at."""
RUN = 6
"""Units of a run."""
SHARE, FEWEST, MANY_TEXTS = 0.04, 4, 20
"""A run is shared when this share of the texts looked at have it, but at least 4, and 20 of them in any case."""
KNOWN, KNOWN_SHARE = 3, 0.001
"""Texts, and the share of those looked at, that a word must be in to be known: it is then no slip of the pen."""
LONG = 4
"""Letters of a word from which on this tells: of mistyped shorter ones the same come again and again."""
WORD, NUMBER, ALONE, CODE = map(np.uint8, range(4))
"""Kinds of a unit: a word, a number, a character that is a unit by itself, a word that is a variable or a name in
code."""
SYMBOLS, WIDE, AFTER_WIDE = map(np.uint32, (0x2190, WIDE_SIGNS[0][0], WIDE_SIGNS[0][1] + 1))


class Common(NamedTuple):
    """What many of some texts have in common."""

    runs: Key
    """Ascending hashes of shared runs."""
    words: Key
    """Ascending hashes of known words."""


NOTHING = Common(np.empty(0, np.uint64), np.empty(0, np.uint64))


class Units(NamedTuple):
    """The units of [n] texts, one text after the other."""

    ends: Int
    """[n + 1] where each text's units begin, and the number of all."""
    hashes: Key
    """[u]."""
    begins: Int
    """[u] first code point of each, in the normal forms of all."""
    stops: Int
    """[u] code point after it."""
    kinds: Bytes
    """[u]."""


def common(batches: Iterable[tuple[Int, pa.LargeStringArray]], num: int) -> Common:
    """Return what `num` texts have in common, which come as (rows, their texts) in any order.

    Every (num / 16,384)-th row is looked at. Cost: half a second for these, of 60 words each; 60 bytes a unit.
    """
    stride = max(1, -(-num // SAMPLE))
    runs, words, looked = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], 0
    for rows, texts in batches:
        for _, piece in pieces(texts.filter(pa.array(rows % stride == 0)) if stride > 1 else texts):
            found = units(normal(piece))
            looked += len(piece)
            runs.append(_once(found.ends, _runs(found.ends, found.hashes)))
            long = (found.kinds == WORD) & (found.stops - found.begins >= LONG)
            words.append(_once(found.ends, np.where(long, found.hashes, np.uint64(0))))
    enough = min(MANY_TEXTS, max(FEWEST, round(SHARE * looked)))
    known = max(KNOWN, round(KNOWN_SHARE * looked))
    return Common(_frequent(np.concatenate(runs), enough), _frequent(np.concatenate(words), known))


def run_table(found: Common) -> Table:
    """Return the table in which a kernel looks for shared runs."""
    return Table.of(found.runs)


def units(forms: Normal) -> Units:
    """Return the units of some normal forms."""
    most = int(forms.size.sum())
    ends = np.zeros(len(forms.size) + 1, np.int64)
    found = Units(
        ends,
        np.empty(most, np.uint64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.uint8),
    )
    num = _units(forms.points, forms.begin, forms.size, table()[0], found)
    return Units(ends, found.hashes[:num], found.begins[:num], found.stops[:num], found.kinds[:num])


def _once(ends: Int, hashes: Key) -> Key:
    """Return the hashes but 0, each once for a text that has it."""
    rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    order = np.lexsort((hashes, rows))
    hashes, rows = hashes[order], rows[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    found: Key = hashes[new & (hashes != 0)]
    return found


def _frequent(hashes: Key, enough: int) -> Key:
    found, counts = np.unique(hashes, return_counts=True)
    return np.asarray(found[counts >= enough], np.uint64)


@kernel
def _runs(ends: Int, hashes: Key) -> Key:
    """Return the hash of the run that ends with each unit, 0 for the first five of a text."""
    found = np.zeros(len(hashes), np.uint64)
    for row in range(len(ends) - 1):
        for last in range(ends[row] + RUN - 1, ends[row + 1]):
            found[last] = run_hash(hashes[last - RUN + 1 : last + 1])
    return found


@kernel
def run_hash(some: Key) -> np.uint64:
    """Return 64 bits of a run of units, never 0."""
    found = ODD
    for one in some:
        found = found * ODD_2 + one
    return mix(found) | np.uint64(1)


@kernel
def shared(hashes: Key, keys: Key, slots: NDArray[np.int32], out: Bytes) -> int:
    """Say of each unit of a text whether it is in a shared run, and return how many are."""
    out[:] = 0
    if len(keys) == 0:
        return 0
    mask = np.uint64(len(slots) - 1)
    for last in range(RUN - 1, len(hashes)):
        run = run_hash(hashes[last - RUN + 1 : last + 1])
        at = run & mask
        while slots[at] >= 0 and keys[slots[at]] != run:
            at = (at + np.uint64(1)) & mask
        if slots[at] >= 0:
            out[last - RUN + 1 : last + 1] = 1
    count = 0
    for one in out:
        count += one
    return count


@kernel
def class_of(point: np.uint32, single: Points) -> np.uint32:
    """Return the class of a code point of a normal form."""
    if point >= POINTS:
        return UNSPACED_KIND
    found = single[point] >> KIND
    return found if found < MANY else LETTER  # a mark is part of a word


@kernel
def is_symbol(point: np.uint32) -> bool:
    """Say whether a code point that is no letter is a picture or a mathematical sign rather than punctuation."""
    return bool(point >= SYMBOLS and not WIDE <= point < AFTER_WIDE)


@kernel
def number_end(form: Points, at: int, single: Points) -> int:
    """Return the code point after the number that begins at one: digits, and single signs between them."""
    while at < len(form):
        if class_of(form[at], single) == DIGIT:
            at += 1
        elif (at + 1 < len(form) and (form[at] == 46 or form[at] == 44 or form[at] == 58)) and class_of(
            form[at + 1], single
        ) == DIGIT:
            at += 2
        else:
            break
    return at


@kernel
def _units(points: Points, begin: Int, size: Int, single: Points, out: Units) -> int:
    num = 0
    for row in range(len(size)):
        form = points[begin[row] : begin[row] + size[row]]
        num = units_of(form, begin[row], single, out, num)
        out.ends[row + 1] = num
    return num


@kernel
def units_of(form: Points, offset: int, single: Points, out: Units, num: int) -> int:
    """Write the units of a normal form from `num` on, and return the number after them."""
    at, first = 0, num
    while at < len(form):
        kind = class_of(form[at], single)
        end, what = at + 1, ALONE
        if kind == LETTER:
            while end < len(form) and class_of(form[end], single) == LETTER:
                end += 1
            what = WORD
            if num > first and out.stops[num - 1] == offset + at - 1 and _is_tail(form, at, end, out, num, offset):
                word = form[out.begins[num - 1] - offset : end]
                out.hashes[num - 1], out.stops[num - 1] = word_hash(word[word != 32]), offset + end
                at = end
                continue
            if _is_code(form, at, end):
                what = CODE
        elif kind == DIGIT:
            end, what = number_end(form, at, single), NUMBER
        elif kind != UNSPACED_KIND and not (kind == OTHER and is_symbol(form[at])):
            at = end
            continue
        out.hashes[num], out.begins[num] = word_hash(form[at:end]), offset + at
        out.stops[num], out.kinds[num] = offset + end, what
        num, at = num + 1, end
    return num


@kernel
def _is_tail(form: Points, at: int, end: int, out: Units, num: int, offset: int) -> bool:
    """Say whether a word is what was after an apostrophe: `s`, `re`, `ve`, `ll`; a `t` after an n."""
    if form[at - 1] != 32 or out.kinds[num - 1] != WORD:
        return False
    if end - at == 1:
        return bool(form[at] == 115 or (form[at] == 116 and form[at - 2] == 110))
    return bool(
        end - at == 2
        and (
            ((form[at] == 114 or form[at] == 118) and form[at + 1] == 101) or (form[at] == 108 and form[at + 1] == 108)
        )
    )


@kernel
def _is_code(form: Points, at: int, end: int) -> bool:
    """Say whether a word is a variable of one letter (none of a, d, i, m, s, t), is called, or has an underscore."""
    if end - at == 1:
        one = form[at]
        return one not in {97, 100, 105, 109, 115, 116}
    if end < len(form) and form[end] == 40:
        return True
    return bool((form[at:end] == 95).any())
