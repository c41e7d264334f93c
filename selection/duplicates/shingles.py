"""MinHash signatures: short sketches of the shingles of texts, made by compiled code."""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.carriers import carriers, lead_of
from gristmill.selection.duplicates.copies import unnumbered
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.kin import kin, roles
from gristmill.selection.duplicates.normal import (
    HALF,
    ODD,
    ODD_2,
    ZERO,
    Bytes,
    Points,
    each,
    has_unspaced,
    hash_form,
    is_unspaced,
    mix,
    normal,
    table,
)
from gristmill.selection.duplicates.units import Common, Units, run_table, shared, units_of
from gristmill.selection.kernels import kernel

Unit = Literal["character", "word"]
Slots = NDArray[np.uint8]
OWN = np.uint64(0xD6E8FEB86659FD93)
"""Number that is mixed with the shingles for the second half of a signature, so that the errors of the halves are
independent."""
LOW, UNSET, SPREAD = np.uint64(0xFFFFFFFF), np.uint32(0xFFFFFFFF), np.uint32(0x9E3779B1)
Parameters = tuple[bool, int, bool, Key, Points]
Lists = tuple[Key, Bytes, Key, NDArray[np.int32], Bytes]
"""(hashes of words, flags of words, hashes of shared runs, slots of a `Table` of these runs, classes of code points),
see `Carriers` and `roles`."""
Columns = tuple[Key, Key, Slots, Key]
Room = tuple[Key, Bytes, Key, Points, Units, Bytes, Points]


class ShingleSpec(NamedTuple):
    """The unit and the size of shingles."""

    unit: Unit
    size: int
    """Number of units in a shingle: characters or words. A Chinese character counts as three characters, or as one
    word."""


class Sketch(NamedTuple):
    """The sketches of [n] texts."""

    high: Key
    """[n] upper half of the 128-bit key of the normal form; `low` is the lower half."""
    low: Key
    slots: Slots
    """[n, permutations] one byte of each minimum."""
    kin: Key
    """[n] hash of the numbers and signs that two copies must have in common, see `copies`."""


def empty(num: int, permutations: int) -> Sketch:
    """Return the sketch of `num` texts without values."""
    high, low, kin = (np.empty(num, np.uint64) for _ in range(3))
    return Sketch(high, low, np.empty((num, permutations), np.uint8), kin)


def sketch(
    texts: pa.LargeStringArray, known: Common, shape: ShingleSpec, permutations: int, *, numbers: bool
) -> Sketch:
    """Return the sketches of some texts. Numbers of list entries, and words before a request, do not count.

    The first half of the slots is for the complete text. The second half is for the text without the parts that many
    texts share. If no part or every part is shared, the second half is for the complete text too.

    A signature is a fast similarity sketch of the set S of shingles. Each shingle is thrown into one of the t slots,
    twice: a throw gives the slot and a value. A slot keeps its least value, and all values of the first throws count as
    less than those of the second throws. A slot that is still empty gets the least value of all shingles under the
    slot's own permutation. So two texts agree in a slot if its least shingle is the same. The probability of this is
    the Jaccard similarity J of the sets, as with t permutations. But for a large S it takes 2 |S| throws instead of t
    |S| values. For a short text the error is smaller than with t permutations, because throws hit different shingles:
    it was measured as 0.72 of sqrt(J (1 - J) / t) at 10 to 80 shingles. A text that is shorter than one shingle is one
    shingle.

    Source: Dahlgaard, Knudsen & Thorup 2017, Fast Similarity Sketching, arXiv:1704.04370, section 2; Li & König 2010,
    b-Bit Minwise Hashing, arXiv:0910.3349, section 3, with b = 8: `jaccard` subtracts the slots that are equal by
    chance.
    Departures: two rounds of throws before the permutations, not t; throws and permutations are taken from one 64-bit
    hash.
    """
    made = empty(len(texts), permutations)
    odd = np.random.default_rng(0).integers(0, 1 << 31, permutations, np.uint32) * np.uint32(2) + np.uint32(1)
    factors = np.full(shape.size + 2, ODD_2)
    factors[0] = 1
    power = np.cumprod(factors)
    parameters = (shape.unit == "word", shape.size, numbers, power, odd[: permutations // 2])
    runs = run_table(known)
    lists = (carriers().words, carriers().flags, runs.keys, runs.slots, roles())

    def work(rows: slice, some: pa.LargeStringArray) -> None:
        mine = (made.high[rows], made.low[rows], made.slots[rows], made.kin[rows])
        _sketch_all(*normal(some), table()[0], parameters, lists, mine)

    each(unnumbered(texts), work)
    return made


@kernel
def _sketch_all(
    points: Points, begin: Int, size: Int, single: Points, parameters: Parameters, lists: Lists, made: Columns
) -> None:
    """Fill the columns for the normal forms of one piece; the scratch memory is as long as the longest form."""
    room = _room(size.max(), len(parameters[4]))
    for row in range(len(size)):
        _sketch_row(points[begin[row] : begin[row] + size[row]], single, parameters, lists, made, row, room)


@kernel
def _room(longest: int, permutations: int) -> Room:
    """Return scratch memory for texts of up to `longest` units: shingles, three signatures, shared runs."""
    at = np.empty((2, longest), np.int64)
    some = Units(np.empty(0, np.int64), np.empty(longest, np.uint64), at[0], at[1], np.empty(longest, np.uint8))
    wide, marks = np.empty(longest, np.uint8), np.empty(longest, np.uint8)
    shingles, least = np.empty(longest + 1, np.uint64), np.empty((3, permutations), np.uint32)
    return np.empty(longest, np.uint64), wide, shingles, least, some, marks, np.empty(longest, np.uint32)


@kernel
def _sketch_row(
    form: Points, single: Points, parameters: Parameters, lists: Lists, made: Columns, row: int, room: Room
) -> None:
    """Fill one row of the columns from the normal form of a text."""
    words, flags, runs, slots_of, role_of = lists
    high, low, slots, kins = made
    high[row], low[row] = hash_form(form)
    kins[row] = kin(form, single, role_of) if parameters[2] else ZERO
    form = form[lead_of(form, words, flags) :]
    half = slots.shape[1] // 2
    num = _shingles(form, parameters, room)
    _sketch(room[2][:num], parameters[4], room[3], slots[row, :half])
    if len(runs):
        own = _own(form, single, runs, slots_of, room)
        if own < len(form):
            num = _shingles(room[6][:own], parameters, room)
    for n in range(num):
        room[2][n] = mix(room[2][n] ^ OWN)
    _sketch(room[2][:num], parameters[4], room[3], slots[row, half:])


@kernel
def _shingles(form: Points, parameters: Parameters, room: Room) -> int:
    """Write the shingles of a form and return their number."""
    units, wide, shingles = room[0], room[1], room[2]
    word, width, _, power, _ = parameters
    if word or has_unspaced(form):
        num = _units(form, word, units, wide)
        num = _runs(units[:num], wide[:num], width, power, shingles)
    else:
        num = _fixed_runs(form, width, shingles)
    for n in range(num):
        shingles[n] = mix(shingles[n])
    return num


@kernel
def _own(form: Points, single: Points, runs: Key, slots: NDArray[np.int32], room: Room) -> int:
    """Write a form without the parts that many texts share, and return its length.

    If no part or every part is shared, nothing is written, and the length is that of the form.
    """
    some, marks, out = room[4], room[5], room[6]
    num = units_of(form, 0, single, some, 0)
    count = shared(some.hashes[:num], runs, slots, marks[:num])
    if not 0 < count < num:
        return len(form)
    size, place = 0, 0
    for unit in range(num):
        if not marks[unit]:
            end = some.stops[unit]
            out[size : size + end - place] = form[place:end]
            size += end - place
        place = some.stops[unit]
    return size


@kernel
def _units(points: Points, word: bool, units: Key, wide: Bytes) -> int:
    """Write the units of a text and the width of each unit; return the number of units.

    If the unit is the character, every code point is a unit with width 1, or width 3 if it is Chinese. If the unit is
    the word, a unit is a hash of the letters between two spaces, or one Chinese character, with width 1.
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
    """Write the same as `_runs`, for texts in which every unit is one code point of width 1.

    This is Horner's rule for all runs at once: each pass multiplies every sum and adds the next code point of its run.
    The compiled code processes eight runs at a time.
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
    """Write the sums of the shortest runs of units that reach the width; return the number of sums.

    If no run reaches the width, the sum of all units is written. `rolling` is the polynomial hash of the units [first,
    n], and `reach` is their total width. A step adds the next unit. Then it removes units at the beginning, as long as
    the others still reach the width. `power[k]` is the factor of a unit that has k units after it.
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
    """Write the signature of a text; `sketch` says what it is.

    Each half of a 64-bit shingle is one throw. The product half x slots has 64 bits: the upper 32 bits are the slot,
    and the lower 32 bits are the value. A slot keeps the least value. The second throws count only in slots that are
    empty after the first throws, and `_fill` fills the slots that are still empty. Of each minimum one byte is stored,
    the best mixed one.
    """
    first, second, own = room[0], room[1], room[2]
    room[:] = UNSET
    many = np.uint64(len(slots))
    for n in range(np.uint64(len(shingles))):
        shingle = shingles[n]
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
    """Give each of the `num` empty slots the least value of all shingles under the slot's own permutation.

    Slot s permutes the lower 32 bits of a shingle by multiplying them by the odd number `odd[s]`. Both branches give
    the same result: one reads the shingles once for all slots, the other once for each empty slot.
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
    """Return the least value under one permutation; in 64 bits the compiled code does eight shingles at a time."""
    least = LOW
    for n in range(np.uint64(len(shingles))):
        least = min(least, (shingles[n] * odd) & LOW)
    return np.uint32(least)
