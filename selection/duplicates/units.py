"""Units of normal forms: words, numbers, characters of scripts without spaces; and runs of units that many texts share.

Text that many samples share (a prompt, a template, a footer) does not distinguish the samples, wherever it is. It
consists of runs of six units that many texts have. A text is compared by its other units.

Source: the inverse document frequency of Spärck Jones 1972, A statistical interpretation of term specificity and its
application in retrieval, Journal of Documentation 28. Departures: weights are only 0 or 1, and runs have weights
instead of words.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.text.scripts import WIDE_SIGNS
from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.carriers import add_letter
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.ngrams import Table
from gristmill.selection.duplicates.normal import (
    DIGIT,
    KIND,
    LETTER,
    MANY,
    ODD,
    ODD_2,
    ONE,
    OTHER,
    POINTS,
    UNSPACED_KIND,
    ZERO,
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
"""Number of texts in the sample."""
RUN = 6
"""Number of units in a run."""
OLDEST = np.uint64(pow(int(ODD_2), RUN, 1 << 64))
"""Factor of the first unit of a run when it leaves the sum of the run."""
FIRST = np.uint64(int(ODD) * int(OLDEST) % (1 << 64))
"""Number that is added to the sum of every run, as if the sum began with `ODD`."""
SHARE, FEWEST, MANY_TEXTS = 0.04, 4, 20
"""A run is shared if at least the share `SHARE` of the texts in the sample have it, but at least `FEWEST` texts;
`MANY_TEXTS` texts are always enough."""
BUCKETS, BUCKET_BITS = 1 << 20, np.uint64((1 << 20) - 1)
"""Runs are first counted in this many buckets, which take 1 MiB. Nearly all runs are in a single text only, so a table
of all runs would be large."""
KNOWN, KNOWN_SHARE = 3, 0.001
"""A word is known, and no typing error, if at least `KNOWN` texts and the share `KNOWN_SHARE` of the sample have it."""
LONG = 4
"""Least number of letters of a known word, because the same typing errors of shorter words occur in many texts."""
WORD, NUMBER, ALONE, CODE = map(np.uint8, range(4))
"""Kinds of units: a word, a number, a character that is a unit by itself, and a word that is a variable or a name in
code."""
UNITS, WORDS_OF_A_LETTER = (DIGIT, UNSPACED_KIND), tuple(map(ord, "adimst"))
SYMBOLS, WIDE, AFTER_WIDE = map(np.uint32, (0x2190, WIDE_SIGNS[0][0], WIDE_SIGNS[0][1] + 1))


class Common(NamedTuple):
    """The runs and words that many texts have in common."""

    runs: Key
    """Ascending hashes of shared runs."""
    words: Key
    """Ascending hashes of known words."""


NOTHING = Common(np.empty(0, np.uint64), np.empty(0, np.uint64))


class Units(NamedTuple):
    """The units of [n] texts, one text after the other."""

    ends: Int
    """[n + 1] index at which the units of each text begin; the last entry is the number of all units."""
    hashes: Key
    """[u] hash of each unit."""
    begins: Int
    """[u] index of the first code point of each unit, in the normal forms of all texts."""
    stops: Int
    """[u] index of the code point after each unit."""
    kinds: Bytes
    """[u] kind of each unit: `WORD`, `NUMBER`, `ALONE` or `CODE`."""


class Occurring(NamedTuple):
    """The runs and the long words of [n] texts, as hashes for each unit; 0 where there is none."""

    ends: Int
    """[n + 1] index at which the units of each text begin."""
    runs: Key
    """[u] hash of the run that ends with each unit."""
    words: Key
    """[u] hash of each unit that is a word of at least `LONG` letters."""


def occurring(texts: pa.LargeStringArray) -> list[Occurring]:
    """Return the runs and words of some texts, piece by piece, with 16 bytes for each unit."""
    made = []
    for _, piece in pieces(texts):
        found = units(normal(piece))
        long = (found.kinds == WORD) & (found.stops - found.begins >= LONG)
        made.append(Occurring(found.ends, _runs(found.ends, found.hashes), np.where(long, found.hashes, ZERO)))
    return made


def in_sample(num: int) -> NDArray[np.bool_]:
    """Return which of `num` rows are in the sample: every (num / 16,384)-th row."""
    found: NDArray[np.bool_] = np.arange(num) % max(1, -(-num // SAMPLE)) == 0
    return found


def common(sample: Iterable[list[Occurring]]) -> Common:
    """Return the runs and words that many texts share; the texts are a sample, in any order, see `in_sample`.

    Cost: a tenth of a second for a full sample with 60 words in each text, and 8 bytes for each unit.
    """
    runs, words, looked = Counts(), Counts(), 0
    bounds, seen = np.zeros(BUCKETS, np.uint8), list[tuple[Int, Key, int]]()
    for some in sample:
        for found in some:
            seen.append((found.ends, found.runs, looked))
            _raise_bounds(found.runs, bounds)
            words.add(found.ends, found.words, looked)
            looked += len(found.ends) - 1
    enough = min(MANY_TEXTS, max(FEWEST, round(SHARE * looked)))
    for ends, hashes, before in seen:
        runs.add(ends, np.where(bounds[hashes & BUCKET_BITS] >= enough, hashes, ZERO), before)
    return Common(runs.frequent(enough), words.frequent(max(KNOWN, round(KNOWN_SHARE * looked))))


class Counts:
    """The number of texts that have each hash, except the hash 0: a table with open addressing, at most half full."""

    def __init__(self) -> None:
        self._hashes, self._texts, self._last = _empty_counts(1 << 16)
        self._num = 0

    def add(self, ends: Int, hashes: Key, looked: int) -> None:
        """Count the hashes of some texts; `ends` is as in `Units`; `looked` texts were counted before."""
        room = 2 * (self._num + int(np.count_nonzero(hashes)))
        if room > len(self._hashes):
            old = self._hashes, self._texts, self._last
            self._hashes, self._texts, self._last = _empty_counts(1 << room.bit_length())
            _move_counts(*old, self._hashes, self._texts, self._last)
        self._num += _count(ends, hashes, looked, self._hashes, self._texts, self._last)

    def frequent(self, enough: int) -> Key:
        """Return the hashes that at least `enough` texts have, ascending."""
        return np.sort(self._hashes[self._texts >= enough])


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


def _empty_counts(size: int) -> tuple[Key, NDArray[np.int32], NDArray[np.int32]]:
    return np.zeros(size, np.uint64), np.zeros(size, np.int32), np.full(size, -1, np.int32)


@kernel
def _raise_bounds(hashes: Key, bounds: Bytes) -> None:
    """Count hashes in buckets by their lower bits, up to 255; a hash is not more frequent than its bucket."""
    for place in range(np.uint64(len(hashes))):
        bucket = hashes[place] & BUCKET_BITS
        bounds[bucket] += bounds[bucket] < 255


@kernel
def _count(ends: Int, hashes: Key, looked: int, known: Key, texts: NDArray[np.int32], last: NDArray[np.int32]) -> int:
    """Count each hash once for each text that has it, and return how many hashes were new in the table."""
    mask, new = np.uint64(len(known) - 1), 0
    for row in range(len(ends) - 1):
        for place in range(ends[row], ends[row + 1]):
            one = hashes[place]
            at = one & mask
            while known[at] != one and known[at] != 0:
                at = (at + ONE) & mask
            if one != 0 and last[at] != looked + row:
                new += known[at] == 0
                known[at], last[at] = one, looked + row
                texts[at] += 1
    return new


@kernel
def _move_counts(
    hashes: Key,
    texts: NDArray[np.int32],
    last: NDArray[np.int32],
    known: Key,
    new_texts: NDArray[np.int32],
    new_last: NDArray[np.int32],
) -> None:
    """Copy the counts of a table to a larger table."""
    mask = np.uint64(len(known) - 1)
    for place in range(len(hashes)):
        if hashes[place]:
            at = hashes[place] & mask
            while known[at]:
                at = (at + ONE) & mask
            known[at], new_texts[at], new_last[at] = hashes[place], texts[place], last[place]


@kernel
def _runs(ends: Int, hashes: Key) -> Key:
    """Return [u] the hash of the run that ends with each unit, 0 for the first five units of a text."""
    found = np.zeros(len(hashes), np.uint64)
    for row in range(len(ends) - 1):
        rolling = ZERO
        for last in range(ends[row], ends[row + 1]):
            rolling = _rolled(hashes, rolling, ends[row], last)
            if last - ends[row] >= RUN - 1:
                found[last] = mix(rolling + FIRST) | ONE
    return found


@kernel
def _rolled(hashes: Key, rolling: np.uint64, first: int, last: int) -> np.uint64:
    """Return the sum of the run that ends with the unit `last`, a polynomial of six hashes.

    `rolling` is the sum of the run that ends one unit earlier.
    """
    rolling = rolling * ODD_2 + hashes[last]
    return rolling - hashes[last - RUN] * OLDEST if last - first >= RUN else rolling


@kernel
def shared(hashes: Key, keys: Key, slots: NDArray[np.int32], out: Bytes) -> int:
    """Mark each unit of a text that is in a shared run, and return the number of marked units."""
    out[:] = 0
    if len(keys) == 0:
        return 0
    mask, rolling, count, stop = np.uint64(len(slots) - 1), ZERO, 0, 0
    for last in range(len(hashes)):
        rolling = _rolled(hashes, rolling, 0, last)
        if last < RUN - 1:
            continue
        run = mix(rolling + FIRST) | ONE
        at = run & mask
        while slots[at] >= 0 and keys[slots[at]] != run:
            at = (at + ONE) & mask
        if slots[at] >= 0:
            for place in range(max(stop, last - RUN + 1), last + 1):
                out[place] = 1
                count += 1
            stop = last + 1
    return count


@kernel
def class_of(point: np.uint32, single: Points) -> np.uint32:
    """Return the class of a code point of a normal form."""
    if point >= POINTS:
        return UNSPACED_KIND
    found = single[np.uint64(point)] >> KIND
    return found if found < MANY else LETTER  # a mark is part of a word


@kernel
def is_symbol(point: np.uint32) -> bool:
    """Say whether a code point that is no letter is a pictogram or a mathematical sign, and not punctuation."""
    return bool(point >= SYMBOLS and not WIDE <= point < AFTER_WIDE)


@kernel
def number_end(form: Points, at: int, single: Points) -> int:
    """Return the end of the number that begins at a place; it consists of digits, with single signs between them."""
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
    """Write the units of a normal form to `out` from index `num` on, and return the index after the last unit."""
    at, first = 0, num
    while at < len(form):
        if form[at] == 32:
            at += 1
            continue
        begin, kind, what, found = at, class_of(form[at], single), ALONE, ODD
        if kind == LETTER:
            what = WORD
            while at < len(form) and (97 <= form[at] <= 122 or class_of(form[at], single) == LETTER):
                found = add_letter(found, form[at])
                what = CODE if form[at] == 95 else what
                at += 1
            if at - begin <= 2 and num > first and _is_tail(form, begin, at, out, num, offset):
                for place in range(begin, at):
                    out.hashes[num - 1] = add_letter(out.hashes[num - 1], form[place])
                out.stops[num - 1] = offset + at
                continue
            if (at - begin == 1 and _is_variable(form[begin])) or (at < len(form) and form[at] == 40):
                what = CODE
        elif kind in UNITS or (kind == OTHER and is_symbol(form[at])):
            at = number_end(form, at, single) if kind == DIGIT else at + 1
            what = NUMBER if kind == DIGIT else ALONE
            for place in range(begin, at):
                found = add_letter(found, form[place])
        else:
            at += 1
            continue
        out.hashes[num], out.begins[num] = found, offset + begin
        out.stops[num], out.kinds[num] = offset + at, what
        num += 1
    return num


@kernel
def _is_tail(form: Points, at: int, end: int, out: Units, num: int, offset: int) -> bool:
    """Say whether one or two letters were after an apostrophe: `s`, `re`, `ve`, `ll`, or a `t` after an `n`."""
    if form[at - 1] != 32 or out.kinds[num - 1] != WORD or out.stops[num - 1] != offset + at - 1:
        return False
    if end - at == 1:
        return bool(form[at] == 115 or (form[at] == 116 and form[at - 2] == 110))
    return bool(
        ((form[at] == 114 or form[at] == 118) and form[at + 1] == 101) or (form[at] == 108 and form[at + 1] == 108)
    )


@kernel
def _is_variable(letter: np.uint32) -> bool:
    """Say whether a single letter counts as a variable; a, d, i, m, s and t do not."""
    return bool(letter not in WORDS_OF_A_LETTER)
