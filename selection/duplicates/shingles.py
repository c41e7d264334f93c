"""MinHash signatures: the shingles of texts as short sketches, in compiled code."""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import (
    HALF,
    ODD,
    ODD_2,
    ONE,
    ZERO,
    Bytes,
    Points,
    Tables,
    buffers,
    each,
    has_unspaced,
    hash_form,
    is_unspaced,
    mix,
    points_of,
    table,
    write,
)
from gristmill.selection.kernels import kernel

Unit = Literal["character", "word"]
Slots = NDArray[np.uint8]
UNSEEN = np.uint64(1 << 63)
LOW, UNSET, SPREAD = np.uint64(0xFFFFFFFF), np.uint32(0xFFFFFFFF), np.uint32(0x9E3779B1)
Bool = NDArray[np.bool_]
Parameters = tuple[bool, int, bool, Key, Points]
Columns = tuple[Key, Key, Slots, Key]
Room = tuple[Key, Bytes, Key, Points]


class ShingleSpec(NamedTuple):
    """What a shingle is made of."""

    unit: Unit
    size: int
    """Characters or words. A Chinese character counts as three characters, or as one word."""


class Sketch(NamedTuple):
    """What is kept of [n] texts."""

    high: Key
    """Upper half of the 128-bit key of the normal form."""
    low: Key
    slots: Slots
    """[n, permutations] the lowest byte of each minimum."""
    kin: Key
    """Hash of what two copies must have in common: the leading block before the text's own content, and all numbers."""


def empty(num: int, permutations: int) -> Sketch:
    """Allocate the sketch of `num` texts."""
    high, low, kin = (np.empty(num, np.uint64) for _ in range(3))
    return Sketch(high, low, np.empty((num, permutations), np.uint8), kin)


def sketch(texts: pa.LargeStringArray, starts: Int, shape: ShingleSpec, permutations: int, *, numbers: bool) -> Sketch:
    """Return what MinHash needs of texts whose own content begins at byte `starts`.

    A signature is a fast similarity sketch of the set S of shingles. Every shingle is thrown twice into one of the t
    slots, and a slot keeps its least value; all values of the first throw are less than those of the second. A slot
    that is still empty gets the least value of all shingles under a permutation of its own. So two texts with the same
    least shingle of a slot agree on it, and the probability of that is the Jaccard similarity J of the sets, as with t
    permutations. But where |S| is large it takes 2 |S| throws instead of t |S|. For a short text the error is smaller
    than that of t permutations, because throws hit different shingles: measured 0.72 of sqrt(J (1 - J) / t) at 10 to 80
    shingles. A text that is shorter than one shingle is one shingle as a whole.

    Source: Dahlgaard, Knudsen & Thorup 2017, Fast Similarity Sketching, arXiv:1704.04370, section 2; Li & König 2010,
    b-Bit Minwise Hashing, arXiv:0910.3349, section 3, with b = 8: `jaccard` subtracts what agrees by chance.
    Departures: two rounds of throws before the permutations, not t; throws and permutations are taken from one 64-bit
    hash.
    """
    made = empty(len(texts), permutations)
    odd = np.random.default_rng(0).integers(0, 1 << 31, permutations, np.uint32) * np.uint32(2) + np.uint32(1)
    factors = np.full(shape.size + 2, ODD_2)
    factors[0] = 1
    power = np.cumprod(factors)
    parameters = (shape.unit == "word", shape.size, numbers, power, odd)

    def work(rows: slice, some: pa.LargeStringArray) -> None:
        ends, data = buffers(some)
        mine, hard = (made.high[rows], made.low[rows], made.slots[rows], made.kin[rows]), np.zeros(len(some), np.bool_)
        _sketch_all(data, ends, starts[rows], table(), parameters, mine, hard)
        for row in np.flatnonzero(hard):
            whole, begin = data[ends[row] : ends[row + 1]], starts[rows][row]
            forms = points_of(whole), points_of(whole[begin:])
            room = _room(max(map(len, forms)), permutations)  # longer than its bytes: one sign, six letters
            _sketch_row(forms[0], forms[1], whole[:begin], parameters, mine, row, room)

    each(texts, work)
    return made


@kernel
def _sketch_all(
    data: Bytes, ends: Int, starts: Int, tables: Tables, parameters: Parameters, made: Columns, hard: Bool
) -> None:
    """Fill the columns for the texts of one piece; mark in `hard` the texts that only `points_of` can normalise.

    Text i is `data[ends[i] : ends[i + 1]]`, and its own content begins `starts[i]` bytes later. The scratch arrays are
    as long as the longest text of the piece and are used again for every text.
    """
    longest = (ends[1:] - ends[:-1]).max()
    room, whole, own = (
        _room(longest, len(parameters[4])),
        np.empty(longest + 1, np.uint32),
        np.empty(longest + 1, np.uint32),
    )
    for row in range(len(starts)):
        text, begin = data[ends[row] : ends[row + 1]], starts[row]
        size = write(text, tables, whole)
        most = write(text[begin:], tables, own) if begin else size
        if size < 0 or most < 0:
            hard[row] = True
            continue
        mine = own[:most] if begin else whole[:size]
        _sketch_row(whole[:size], mine, text[:begin], parameters, made, row, room)


@kernel
def _room(longest: int, permutations: int) -> Room:
    """Return scratch arrays for texts of up to `longest` units: (units, their widths, shingles, three signatures)."""
    units, shingles = np.empty(longest, np.uint64), np.empty(longest + 1, np.uint64)
    return units, np.empty(longest, np.uint8), shingles, np.empty((3, permutations), np.uint32)


@kernel
def _sketch_row(
    whole: Points, own: Points, before: Bytes, parameters: Parameters, made: Columns, row: int, room: Room
) -> None:
    """Fill one row of the columns.

    `whole` is the normal form of the text, `own` that of its own content, and `before` the bytes in front of it. `kin`
    hashes `before` and the numbers: only texts that agree in it are compared. A shingle is a polynomial hash of a run
    of units, which `mix` makes uniform, because its bits then choose slots.
    """
    word, width, numbers, power, odd = parameters
    high, low, slots, kin = made
    units, wide, shingles, least = room
    high[row], low[row] = hash_form(whole)
    found = ZERO
    for byte in before:
        found = (found ^ np.uint64(byte)) * ODD
        found ^= found >> HALF
    kin[row] = _numbers(own, found, units) if numbers else found
    if word or has_unspaced(own):
        num = _units(own, word, units, wide)
        num = _runs(units[:num], wide[:num], width, power, shingles)
    else:
        num = _fixed_runs(own, width, shingles)
    for n in range(num):
        shingles[n] = mix(shingles[n])
    _sketch(shingles[:num], odd, least, slots[row])


@kernel
def _numbers(form: Points, found: np.uint64, places: Key) -> np.uint64:
    """Mix the digits of a text, in their order, into a hash.

    The places of all digits are listed first, without a branch. The first digit of a run is mixed in inverted, so that
    "1 23" and "12 3" differ.
    """
    num, last = ZERO, UNSEEN
    for place in range(np.uint64(len(form))):
        places[num] = place
        num += np.uint64(np.uint32(form[place] - np.uint32(48)) < np.uint32(10))
    for place in places[:num]:
        found = (found ^ (np.uint64(form[place]) if last + ONE == place else ~np.uint64(form[place]))) * ODD
        found ^= found >> HALF
        last = place
    return found


@kernel
def _units(points: Points, word: bool, units: Key, wide: Bytes) -> int:
    """Write the units of a text and the width of each; return their number.

    By character every code point is a unit, and a Chinese one is three wide. By word a unit is the hash of the letters
    between two blanks, or one Chinese character; each is one wide.
    """
    if not word:
        for n in range(len(points)):
            units[n], wide[n] = points[n], 3 if is_unspaced(points[n]) else 1
        return len(points)
    num, inside = 0, False
    for point in points:
        alone = is_unspaced(point)
        if inside and not alone and point != 32:
            units[num - 1] = (units[num - 1] ^ np.uint64(point)) * ODD
        elif point != 32:
            units[num], wide[num] = np.uint64(point) * ODD, 1
            num += 1
        inside = not alone and point != 32
    return num


@kernel
def _fixed_runs(points: Points, width: int, out: Key) -> int:
    """Write what `_runs` does where every unit is one code point of width 1.

    Horner's rule for all runs at once: each pass multiplies every sum and adds the next code point of its run. The
    compiler does eight runs at a time.
    """
    width = min(width, len(points))
    out = out[: len(points) - width + 1]
    out[:] = 0
    for further in range(width):
        tail = points[further : further + len(out)]
        for n in range(len(out)):
            out[n] = out[n] * ODD_2 + np.uint64(tail[n])
    return len(out)


@kernel
def _runs(units: Key, wide: Bytes, width: int, power: Key, out: Key) -> int:
    """Write the sums of the shortest runs of units that reach the width, or of all units; return the number of sums.

    `rolling` is the polynomial hash of the units [first, n], and `reach` is their total width. A new unit is added on
    the right; then units are taken off on the left, as long as the rest still has the width. `power[k]` is the factor
    of a unit that has k units after it.
    """
    first, reach, num, rolling = 0, 0, 0, ZERO
    for n in range(len(units)):
        rolling = rolling * ODD_2 + units[n]
        reach += wide[n]
        while reach - wide[first] >= width:
            rolling -= units[first] * power[n - first]
            reach -= wide[first]
            first += 1
        if reach >= width:
            out[num] = rolling
            num += 1
    if num == 0:
        out[0] = rolling
    return max(1, num)


@kernel
def _sketch(shingles: Key, odd: Points, room: Points, slots: Slots) -> None:
    """Write the signature of a text; `sketch` says how.

    Each half of a 64-bit shingle is one throw: half x slots is a fixed-point number whose upper 32 bits are the slot
    and whose lower 32 bits are the value. Slots keep the least value. The second round counts only in slots that the
    first one left empty, and `_fill` serves those that are empty after both. Of each minimum the best mixed byte is
    kept.
    """
    first, second, own = room[0], room[1], room[2]
    room[:] = UNSET
    many = np.uint64(len(slots))
    for shingle in shingles:
        thrown, again = (shingle & LOW) * many, (shingle >> HALF) * many
        first[thrown >> HALF] = min(first[thrown >> HALF], np.uint32(thrown & LOW))
        second[again >> HALF] = min(second[again >> HALF], np.uint32(again & LOW))
    num = 0
    for slot in range(len(slots)):
        first[slot] = first[slot] if first[slot] != UNSET else second[slot]
        num += first[slot] == UNSET
    if num:
        _fill(shingles, odd, num, first, second, own)
    for slot in range(len(slots)):
        slots[slot] = np.uint8(np.uint32(first[slot] * SPREAD) >> np.uint32(24))


@kernel
def _fill(shingles: Key, odd: Points, num: int, first: Points, places: Points, own: Points) -> None:
    """Give the `num` slots that are still empty their least value, each under a permutation of its own.

    Slot s permutes the lower 32 bits of a shingle by multiplying with the odd number `odd[s]`. Both branches give the
    same result: one goes through the shingles once for all slots, the other once for each empty slot.
    """
    if num * (len(shingles) + 80) > 100 * len(shingles):  # measured: 10 ns a shingle, or 8 + 0.1 |S| ns a slot
        for shingle in shingles:
            for slot in range(len(odd)):
                own[slot] = min(own[slot], np.uint32(np.uint32(shingle) * odd[slot]))
        for slot in range(len(odd)):
            first[slot] = first[slot] if first[slot] != UNSET else own[slot]
    else:
        place = ZERO
        for slot in range(len(odd)):  # without a branch
            places[place] = slot
            place += np.uint64(first[slot] == UNSET)
        for slot in places[:place]:
            first[slot] = _least(shingles, np.uint64(odd[slot]))


@kernel
def _least(shingles: Key, odd: np.uint64) -> np.uint32:
    """Return the least value under one permutation; in 64 bits, where the compiler takes eight shingles at a time."""
    least = LOW
    for shingle in shingles:
        least = min(least, (shingle * odd) & LOW)
    return np.uint32(least)
