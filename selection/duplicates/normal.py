"""The normal form of texts as code points, and keys of normal forms: the same as `keys.key`, in compiled code.

A table says for each code point what Unicode's compatibility form and case folding make of it, and whether it is a
digit, a sign or white space. This is exact unless a character joins the character before it. So two kinds of text are
processed by `keys.key` itself: texts with a joining character (a combining mark after a letter, a Hangul syllable in
parts), and texts that are only punctuation. HTML entities are read in Python too. Texts are processed in pieces of 256
KiB, so that memory does not grow with their number.

Loops over bytes use unsigned indices and do not iterate over an array. Only then are there no tests for negative
indices, so that the compiler processes many bytes at a time: 0.2 ns for each byte instead of 0.8.
"""

import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.text import keys as words
from gristmill.cluster.text.scripts import UNSPACED
from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.thousands import POINT, is_alphanumeric, join_thousands
from gristmill.selection.kernels import kernel, threads

Points = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Tables = tuple[Points, Points, NDArray[np.uint16], Bytes]
PIECE_BYTES = 1 << 18
POINTS = 1 << 17
"""Code points below this are in the table. These are all except rare Chinese characters and private use."""
KIND = np.uint32(24)
CLASSES = " a1([)]+#.,:!?~一"
"""One character of each class that `keys.key` distinguishes: white space and quotes, letters, digits, brackets,
operators, others, signs of sentences, scripts written without spaces. The comma is for all signs that have a meaning
only between digits."""
MEMBERS = {")": "})", "+": "/*+-=^<>%", ",": ",;…、。·"}
"""All characters of the classes that consist of several signs, by the class's character in `CLASSES`."""
SPACE, LETTER, DIGIT, OTHER, COMMA, UNSPACED_KIND = map(np.uint32, (0, 1, 2, 8, 10, 15))
MANY, JOINS = np.uint32(16), np.uint32(17)
"""Classes of two other kinds of code points: those that become several code points, and those that may join the code
point before."""
LEFT_OUT, MAY_PART = np.uint8(1), np.uint8(2)
"""Flags of a character between two others. `LEFT_OUT`: the character is left out. `MAY_PART`: it is a comma between
digits, which may separate thousands."""
NONE = np.uint32(0)
RANGES, FIRST = np.array(UNSPACED, np.uint32), np.uint32(UNSPACED[0][0])
ODD, ODD_2, ODD_3 = map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xFF51AFD7ED558CCD))
ZERO, ONE, TWO, THREE, FOUR, EIGHT, SHIFT, HALF = map(np.uint64, (0, 1, 2, 3, 4, 8, 29, 32))
CLASS_BEFORE, CLASS_HERE, LOW_BYTE = map(np.uint64, (0xF00, 0xF0, 0xFF))


class Normal(NamedTuple):
    """Normal forms of [n] texts; the form of row i is `points[begin[i] : begin[i] + size[i]]`."""

    points: Points
    begin: Int
    size: Int


def pieces(texts: pa.LargeStringArray) -> Iterator[tuple[slice, pa.LargeStringArray]]:
    """Yield pieces (rows, their texts) of about 256 KiB, or of one longer text; nothing is copied."""
    ends, _ = buffers(texts)
    start = 0
    while start < len(texts):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + PIECE_BYTES, side="right")) - 1)
        yield slice(start, stop), texts.slice(start, stop - start)
        start = stop


def each(texts: pa.LargeStringArray, work: Callable[[slice, pa.LargeStringArray], None]) -> None:
    """Call `work` for each piece, on all cores; `work` must release the interpreter's lock most of the time.

    This uses a pool of Python threads. The threads of numba use a core while they wait: on two busy cores they took
    twice the CPU time.
    """
    with ThreadPoolExecutor(threads()) as pool:
        for done in [pool.submit(work, rows, some) for rows, some in pieces(texts)]:
            done.result()


def buffers(texts: pa.LargeStringArray) -> tuple[Int, Bytes]:
    """Return ([n + 1] offsets at which texts begin and the last one ends, the UTF-8 bytes); nothing is copied."""
    _, places, data = texts.buffers()
    if not len(texts) or data is None or not data.size:
        return np.zeros(len(texts) + 1, np.int64), np.empty(0, np.uint8)
    return np.frombuffer(places, np.int64)[texts.offset : texts.offset + len(texts) + 1], np.frombuffer(data, np.uint8)


def normal(texts: pa.LargeStringArray) -> Normal:
    """Return the normal forms of a piece of texts."""
    ends, data = buffers(texts)
    points = np.empty(int(ends[-1] - ends[0]), np.uint32)
    begin, size = ends[:-1] - ends[0], np.empty(len(texts), np.int64)
    _normal_all(data, ends, table(), points, size)
    hard = np.flatnonzero(size < 0)
    if len(hard):
        further = [_hard(data[ends[row] : ends[row + 1]]) for row in hard.tolist()]
        size[hard] = [len(form) for form in further]
        begin[hard] = len(points) + np.cumsum(size[hard]) - size[hard]
        points = np.concatenate([points, *further])
    return Normal(points, begin, size)


def _hard(data: Bytes) -> Points:
    """Return the normal form of a text that `write` cannot process, usually because it has HTML entities."""
    text = data.tobytes().decode()
    plain = np.frombuffer(words.read(text).encode(), np.uint8)
    out = np.empty(len(plain), np.uint32)
    size = write(plain, table(), out)
    return out[:size] if size >= 0 else np.frombuffer(words.key(text).encode("utf-32-le"), np.uint32)


def keys(texts: pa.LargeStringArray) -> tuple[Key, Key]:
    """Return ([n], [n]) the two halves of a 128-bit key; keys are equal where the results of `keys.key` are."""
    high, low = np.empty(len(texts), np.uint64), np.empty(len(texts), np.uint64)
    each(texts, lambda rows, some: _hash_all(*normal(some), high[rows], low[rows]))
    return high, low


@cache
def table() -> Tables:
    """Return the four tables that `write` needs.

    - By code point: its class, and the code point that it becomes, or its index in the next table if there are several.
    - For each code point that becomes several: their number, and then the class and the code point of each.
    - By ASCII character: its class in the upper byte, and the character that it becomes in the lower byte.
    - By the classes of a character and of the characters before and after it, four bits each: `LEFT_OUT`, by the rules
      of `keys.key`, or `MAY_PART`.
    """
    joining = {0x1100 + n for n in range(0x60, 0x100)}  # vowels and final consonants of Hangul
    for char in map(chr, range(POINTS)):
        form = unicodedata.decomposition(char).split()
        if len(form) == 2 and not form[0].startswith("<"):
            joining.add(int(form[1], 16))
    single, many = np.empty(POINTS, np.uint32), list[int]()
    for point in range(POINTS):
        first = unicodedata.normalize("NFKD", chr(point))[0]
        plain = words.folded(chr(point))
        if unicodedata.combining(first) or ord(first) in joining:
            single[point] = JOINS << KIND
        elif len(plain) == 1:
            single[point] = _entry(plain)
        else:
            single[point] = MANY << KIND | np.uint32(len(many))
            many += [len(plain), *map(_entry, plain)]
    ascii_ = (single[:128] & POINT | single[:128] >> KIND << 8).astype(np.uint16)
    left_out = np.zeros(1 << 12, np.uint8)
    for place, around in enumerate(product(CLASSES, repeat=3)):
        left_out[place] = around[1] == " " or words._SENTENCE_SIGNS.sub(" ", "".join(around))[1] == " "
    left_out[DIGIT << 8 | COMMA << 4 | DIGIT] = MAY_PART
    return single, np.array(many, np.uint32), ascii_, left_out


def _entry(char: str) -> int:
    return int(_class(char)) << 24 | ord(char)


def _class(char: str) -> int:
    if char.isspace() or words.QUOTES.match(char):
        return 0
    if words._UNSPACED.match(char):
        return len(CLASSES) - 1
    for place, one in enumerate(CLASSES):
        if char in MEMBERS.get(one, one):
            return place
    if char.isdecimal():
        return CLASSES.index("1")
    return CLASSES.index("a" if char.isalnum() or char == "_" else "#")


@kernel
def _normal_all(data: Bytes, ends: Int, tables: Tables, points: Points, size: Int) -> None:
    """Write the normal form of each text at the text's byte offset; a form is not longer than the bytes of its text."""
    for row in range(len(size)):
        size[row] = write(data[ends[row] : ends[row + 1]], tables, points[ends[row] - ends[0] :])


@kernel
def write(data: Bytes, tables: Tables, out: Points) -> int:
    """Write a normal form, at most one code point for each byte; return its length, or -1 if Python must make it."""
    high, entity = _signs(data)
    if entity and _has_entity(data):
        return -1
    if high:
        return _normal(data, tables[0], tables[1], tables[3], out)
    length, parted = _normal_ascii(data, tables[2], tables[3], out)
    if parted:
        data = data.copy()
        data = data[: join_thousands(data)]
        length, _ = _normal_ascii(data, tables[2], tables[3], out)
    return int(length)


@kernel
def _signs(data: Bytes) -> tuple[bool, bool]:
    """Say whether a text has characters beyond ASCII, and whether it has an ampersand."""
    high, ampersand = np.uint8(0), np.uint8(0)
    for at in range(np.uint64(len(data))):
        high |= data[at]
        ampersand |= np.uint8(data[at] == 38)
    return bool(high >= 128), bool(ampersand > 0)


@kernel
def _has_entity(data: Bytes) -> bool:
    """Say whether a text may have an HTML entity: an ampersand, up to 32 letters and digits, a semicolon."""
    for begin in range(len(data)):
        if data[begin] == 38:
            at = begin + 1 + (begin + 1 < len(data) and data[begin + 1] == 35)
            while at < min(len(data), begin + 34) and is_alphanumeric(data[at]):
                at += 1
            if at < len(data) and at > begin + 1 and data[at] == 59:
                return True
    return False


@kernel
def _normal_ascii(data: Bytes, plain: NDArray[np.uint16], left_out: Bytes, out: Points) -> tuple[np.int64, bool]:
    """Write the normal form of an ASCII text; return (its length or -1 if empty, whether commas may be removed).

    Every step writes one code point. `length` grows only if the code point is kept; if not, the next code point
    overwrites it. There are no branches, because each word and each sign would cause a misprediction. This takes 1 ns
    for each byte instead of 4.
    """
    if len(data) == 0:
        return np.int64(0), False
    length, blank, before, seen, last = ZERO, ONE, ZERO, ZERO, np.uint64(len(data)) - ONE
    here = np.uint64(plain[data[0]])
    for at in range(ONE, last + ONE + ONE):
        after = np.uint64(plain[data[at]]) if at <= last else ZERO
        kind = np.uint64(left_out[before & CLASS_BEFORE | here >> FOUR & CLASS_HERE | after >> EIGHT])
        seen |= kind
        now = kind & ONE
        out[length] = np.uint32(32) if now else np.uint32(here & LOW_BYTE)
        length += ONE - (now & blank)  # of several blanks only the first is kept, and none at the beginning
        before, here, blank = here, after, now
    length -= blank if length else ZERO
    return np.int64(length) if length else np.int64(-1), bool(seen & np.uint64(MAY_PART))


@kernel
def _normal(data: Bytes, single: Points, many: Points, left_out: Bytes, out: Points) -> int:
    """Write the normal form of any text; return its length, at most the number of bytes, or -1 if Python must make it.

    First all code points are written with their classes. Then the code points that are kept are moved to the front.
    """
    num, at = 0, 0
    while at < len(data):
        point, width = _decode(data, at)
        at += width
        if point >= POINTS:
            return -1
        entry = single[point]
        if entry >> KIND < MANY:
            out[num] = entry
            num += 1
            continue
        # The output has room for one code point a byte, so the form must never be longer than the bytes read so far.
        place = np.int64(entry & POINT)
        if entry >> KIND == JOINS or num + many[place] > at:
            return -1
        for n in range(many[place]):
            out[num] = many[place + 1 + n]
            num += 1
    parted = False
    for n in range(ONE, np.uint64(max(1, num - 1))):
        parted |= out[n] & POINT == 44 and out[n - ONE] >> KIND == DIGIT and out[n + ONE] >> KIND == DIGIT
    if parted:
        num = join_thousands(out[:num])
    length = _moved(out[:num], left_out)
    return length if length or not len(data) else -1


@kernel
def _moved(out: Points, left_out: Bytes) -> int:
    """Move the code points that are kept to the front of `out`, and return their number."""
    length, space, before, last = 0, False, SPACE, SPACE
    for n in range(len(out)):
        entry, kind = out[n], out[n] >> KIND
        after = out[n + 1] >> KIND if n + 1 < len(out) else SPACE
        if left_out[before << 8 | kind << 4 | after] & LEFT_OUT:
            space = True
        else:
            if space and length and max(kind, last) != UNSPACED_KIND:
                out[length] = 32
                length += 1
            out[length] = entry & POINT
            length, space, last = length + 1, False, kind
        before = kind
    return length


@kernel
def _decode(data: Bytes, at: int) -> tuple[np.int64, int]:
    """Return (the code point that begins at a byte of UTF-8, its number of bytes)."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, 1
    if byte < 0xE0:
        return (byte & 31) << 6 | (data[at + 1] & 63), 2
    if byte < 0xF0:
        return (byte & 15) << 12 | (data[at + 1] & 63) << 6 | (data[at + 2] & 63), 3
    return (byte & 7) << 18 | (data[at + 1] & 63) << 12 | (data[at + 2] & 63) << 6 | (data[at + 3] & 63), 4


@kernel
def has_unspaced(form: Points) -> bool:
    """Say whether a form has a character of a script written without spaces; most forms have no code point so high."""
    most = NONE
    for at in range(np.uint64(len(form))):
        most = max(most, form[at])
    if most >= FIRST:
        for point in form:
            if is_unspaced(point):
                return True
    return False


@kernel
def is_unspaced(point: np.uint32) -> bool:
    """Say whether a code point is of a script written without spaces."""
    if point >= FIRST:
        for n in range(len(RANGES)):
            if point <= RANGES[n, 1]:
                return bool(point >= RANGES[n, 0])
    return False


@kernel
def _hash_all(points: Points, begin: Int, size: Int, high: Key, low: Key) -> None:
    """Write both halves of the key of each normal form."""
    for row in range(len(size)):
        high[row], low[row] = hash_form(points[begin[row] : begin[row] + size[row]])


@kernel
def hash_form(form: Points) -> tuple[np.uint64, np.uint64]:
    """Return both halves of the 128-bit hash of a normal form.

    A step adds four code points, two to each half, and then mixes each half into the other, so that both halves depend
    on all code points.
    """
    size = np.uint64(len(form))
    one, two, whole = ODD ^ size, ODD_2, size & ~THREE
    for n in range(ZERO, whole, FOUR):
        one = (one ^ (np.uint64(form[n]) | np.uint64(form[n + ONE]) << HALF)) * ODD_2
        two = (two ^ (np.uint64(form[n + TWO]) | np.uint64(form[n + THREE]) << HALF)) * ODD_3
        one, two = one ^ (two >> HALF), two ^ (one >> SHIFT)
    for n in range(whole, size):
        one = (one ^ np.uint64(form[n])) * ODD_2
        one, two = one ^ (two >> HALF), (two ^ (one >> SHIFT)) * ODD_3
    return mix(one), mix(two ^ one)


@kernel
def mix(value: np.uint64) -> np.uint64:
    """Return 64 bits that each depend on all bits of the value (the finalizer of MurmurHash3)."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))
