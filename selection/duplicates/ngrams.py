"""N-grams of words and Chinese characters, hashed by compiled loops that read Arrow's buffers.

A unit is a word (letters, digits and marks in a row) or one character of a script that is written without spaces. Case,
width, punctuation and the amount of white space do not count. Hashes have 64 bits. A million samples have 2 * 10^8
n-grams; the probability that the hash of one n-gram equals the hash of any other is 10^-11.
"""

import unicodedata
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import prange
from numpy.typing import NDArray

from gristmill.cluster.text import keys
from gristmill.cluster.text.scripts import HAN, UNSPACED
from gristmill.selection.data.columns import Int
from gristmill.selection.kernels import kernel, parallel

Array = NDArray[Any]
Number = Any
"""A scalar in compiled code, where types are inferred."""
UInt64 = NDArray[np.uint64]
Letters = tuple[NDArray[np.uint32], NDArray[np.uint8]]
"""([code point] the folded character, [code point] the kind of the folded character)."""
SLICE_ROWS = 8192
"""Number of texts whose units are in memory at a time; with 200 units each, they take 40 MiB."""
LETTER, ALONE = 1, 2
"""Kinds of characters: part of a word, and a unit by itself. A character of kind 0 separates units."""
TABLED = 0x20000
"""Code points below this are in a table. The code points from this to `LAST_HAN` are Han characters, and higher ones
separate units."""
LAST_HAN = HAN[-1][1]
_SEED, _PRIME, _BASE = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S1, _S2, _S3 = np.uint64(30), np.uint64(27), np.uint64(31)


class Units(NamedTuple):
    """The units of n texts, one text after the other."""

    ends: Int
    """[n + 1] index at which the units of each text begin; the last entry is the number of all units."""
    hashes: UInt64
    """[u] hash of each unit."""
    starts: Int
    """[u] first byte of each unit, counted in the UTF-8 of its own text."""
    stops: Int
    """[u] first byte after each unit."""


def slices(texts: pa.LargeStringArray) -> list[tuple[int, pa.LargeStringArray]]:
    """Return the texts in pieces that are short enough for `units`, as (first row, texts)."""
    return [(start, texts.slice(start, SLICE_ROWS)) for start in range(0, len(texts), SLICE_ROWS)]


def units(texts: pa.LargeStringArray) -> Units:
    """Return the units of some texts. A unit takes 24 bytes, so cut long columns with `slices` first."""
    offsets, data = _buffers(texts)
    folded, kinds = alphabet()
    ends = np.zeros(len(texts) + 1, np.int64)
    _count(data, offsets, folded, kinds, ends)
    np.cumsum(ends, out=ends)
    found = Units(ends, np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int64))
    _fill(data, offsets, folded, kinds, found)
    return found


def without_numbers(found: Units, texts: pa.LargeStringArray) -> Units:
    """Return the units with the same hash for all units that begin with a digit, so that all numbers are equal."""
    offsets, data = _buffers(texts)
    rows = np.repeat(offsets[:-1], np.diff(found.ends))
    first = data[rows + found.starts]
    return found._replace(hashes=np.where((first >= 48) & (first < 58), _PRIME, found.hashes))


def windows(found: Units, size: int) -> tuple[Int, UInt64]:
    """Return ([n + 1] ends, hashes) of every run of `size` units inside one text; a shorter text has none."""
    ends = np.zeros(len(found.ends), np.int64)
    np.cumsum(np.maximum(np.diff(found.ends) - size + 1, 0), out=ends[1:])
    hashes = np.empty(ends[-1], np.uint64)
    _roll(found.ends, found.hashes, size, ends, hashes)
    return ends, hashes


def wholes(found: Units) -> UInt64:
    """Return [n] one hash for each text, of all its units."""
    return _wholes(found.ends, found.hashes)


class Table(NamedTuple):
    """A set of hashes that finds the place of each hash (open addressing, at most half full)."""

    keys: UInt64
    """[k] the hashes, ascending."""
    slots: NDArray[np.int32]

    @staticmethod
    def of(keys: UInt64) -> "Table":
        """Return the table of these hashes, which must be ascending and without repeats."""
        slots = np.full(1 << max(4, int(2 * len(keys)).bit_length()), -1, np.int32)
        _insert(keys, slots)
        return Table(keys, slots)

    def find(self, hashes: UInt64) -> NDArray[np.int32]:
        """Return the place of each hash among the keys, -1 for a hash that is not a key."""
        return _find(self.keys, self.slots, hashes)


@cache
def alphabet() -> Letters:
    """Return the folded character and the kind of each code point; they are made once, in a tenth of a second."""
    folded, kinds = np.arange(TABLED, dtype=np.uint32), np.zeros(TABLED, np.uint8)
    for point in range(TABLED):
        plain = keys.folded(chr(point))
        character = plain if len(plain) == 1 else chr(point)
        folded[point] = ord(character)
        if any(first <= ord(character) <= last for first, last in UNSPACED):
            kinds[point] = ALONE
        elif unicodedata.category(character)[0] in "LMN":
            kinds[point] = LETTER
    return folded, kinds


def _buffers(texts: pa.LargeStringArray) -> tuple[Int, NDArray[np.uint8]]:
    """Return ([n + 1] offsets, bytes) of texts; nothing is copied."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(len(texts) + 1, np.int64), np.empty(0, np.uint8)
    places = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return places, np.frombuffer(data, np.uint8)


@kernel
def mix(value: Number) -> Number:
    """Return a number with mixed bits, by the finaliser of splitmix64."""
    value = (value ^ (value >> _S1)) * _M1
    value = (value ^ (value >> _S2)) * _M2
    return value ^ (value >> _S3)


@kernel
def _decode(data: Array, at: Number) -> tuple[Number, Number]:
    """Return (the code point that begins at a byte of UTF-8, the index of the byte after it)."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F), at + 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | ((data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), at + 3
    high = ((byte & 0x07) << 18) | ((data[at + 1] & 0x3F) << 12)
    return high | ((data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), at + 4


@kernel
def _character(data: Array, at: Number, folded: Array, kinds: Array) -> tuple[Number, Number, Number]:
    """Return (the folded character that begins at a byte, its kind, the index of the byte after it)."""
    point, after = _decode(data, at)
    if point >= TABLED:
        return point, ALONE if point <= LAST_HAN else 0, after
    return np.int64(folded[point]), np.int64(kinds[point]), after


@kernel
def _put(out: tuple[Array, ...], at: Number, value: Number, start: Number, stop: Number) -> None:
    """Write one unit; if the arrays are empty, units are only counted, and nothing is written."""
    if len(out[0]):
        out[0][at], out[1][at], out[2][at] = mix(value), start, stop


@kernel
def _text_units(
    data: Array, span: tuple[Number, Number], letters: Letters, out: tuple[Array, ...], place: Number
) -> int:
    """Count the units in bytes [begin, end); write (hashes, starts, stops) from `place` on, unless `out` is empty.

    `start` is the first byte of the word that is being read, or -1 between words, and `value` is its FNV-1a hash so
    far. A word ends before a character that is not part of a word. The end of the text is read as such a character.
    """
    (begin, end), (folded, kinds) = span, letters
    count, value, at = 0, _SEED, begin
    start: Number = np.int64(-1)  # hash of the word so far
    while at <= end:
        here, point, kind = at, np.int64(0), np.int64(0)
        if at < end:
            point, kind, at = _character(data, at, folded, kinds)
        else:
            at += 1  # the end of the text ends a word
        if start >= 0 and kind != LETTER:
            _put(out, place + count, value, start - begin, here - begin)
            count, start = count + 1, np.int64(-1)
        if kind == 0:
            continue
        if start < 0:
            value, start = _SEED, here
        value = (value ^ np.uint64(point)) * _PRIME
        if kind == ALONE:
            _put(out, place + count, value, here - begin, at - begin)
            count, start = count + 1, np.int64(-1)
    return count


@parallel
def _count(data: Array, offsets: Array, folded: Array, kinds: Array, ends: Array) -> None:
    """Write the number of units of text i to `ends[i + 1]`; the cumulative sum gives where each text's units begin."""
    for row in prange(len(offsets) - 1):
        nothing = (np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
        ends[row + 1] = _text_units(data, (offsets[row], offsets[row + 1]), (folded, kinds), nothing, 0)


@parallel
def _fill(data: Array, offsets: Array, folded: Array, kinds: Array, found: Units) -> None:
    """Write the units of each text, beginning at the index in `ends`."""
    ends, hashes, starts, stops = found
    for row in prange(len(offsets) - 1):
        out = (hashes, starts, stops)
        _text_units(data, (offsets[row], offsets[row + 1]), (folded, kinds), out, ends[row])


@parallel
def _roll(ends: Array, hashes: Array, size: int, out_ends: Array, out: Array) -> None:
    """Write the hash of each run of `size` units: a polynomial modulo 2^64, as in Rabin-Karp.

    A step adds the next unit and subtracts the unit that leaves the run, which has the factor `top` = base^size. The
    size is part of the hash, so that runs of different sizes have different hashes.
    """
    top, salt = np.uint64(1), mix(np.uint64(size))
    for _ in range(size):
        top = top * _BASE
    for row in prange(len(ends) - 1):
        begin, value = ends[row], np.uint64(0)
        for at in range(begin, ends[row + 1]):
            value = value * _BASE + hashes[at]
            if at - begin >= size:
                value = value - top * hashes[at - size]
            if at - begin >= size - 1:
                out[out_ends[row] + at - begin - size + 1] = mix(value ^ salt)


@parallel
def _wholes(ends: Array, hashes: Array) -> Array:
    """Return [n] one hash for each text, of all its units."""
    out = np.empty(len(ends) - 1, np.uint64)
    for row in prange(len(out)):
        value = _SEED
        for at in range(ends[row], ends[row + 1]):
            value = value * _BASE + hashes[at]
        out[row] = mix(value)
    return out


@kernel
def _insert(keys: Array, slots: Array) -> None:
    """Write the place of every key to the first free slot from its hash on; the number of slots is a power of 2."""
    mask = np.uint64(len(slots) - 1)
    for place in range(len(keys)):
        at = keys[place] & mask
        while slots[at] >= 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = place


@parallel
def _find(keys: Array, slots: Array, hashes: Array) -> Array:
    """Return the place of each hash: that in its slot, or the -1 of the first free slot if it is not a key."""
    mask = np.uint64(len(slots) - 1)
    out = np.empty(len(hashes), np.int32)
    for row in prange(len(hashes)):
        at = hashes[row] & mask
        while slots[at] >= 0 and keys[slots[at]] != hashes[row]:
            at = (at + np.uint64(1)) & mask
        out[row] = slots[at]
    return out
