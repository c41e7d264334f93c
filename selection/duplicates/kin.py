"""A hash of the numbers of a text and of the signs that calculate, which copies have in common, see `copies`."""

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import (
    DIGIT,
    LETTER,
    ODD,
    OTHER,
    UNSPACED_KIND,
    Normal,
    Points,
    mix,
    table,
)
from gristmill.selection.duplicates.units import class_of, is_symbol, number_end
from gristmill.selection.kernels import kernel

STRICT_SIGNS = "=<>^+~!$€£¥₹°"
WEAK_SIGNS = "-*/"
"""Signs that calculate where they are between numbers, variables and brackets; else they are dashes and bullets."""


def kins(made: Normal) -> Key:
    """Return [n] the hashes of some normal forms, see `kin`."""
    return _kins(made.points, made.begin, made.size, table()[0], *signs())


def signs() -> tuple[Points, Points]:
    """Return the signs that `kin` asks for."""
    strict, weak = (np.array([ord(sign) for sign in some], np.uint32) for some in (STRICT_SIGNS, WEAK_SIGNS))
    return strict, weak


@kernel
def _kins(points: Points, begin: Int, size: Int, single: Points, strict: Points, weak: Points) -> Key:
    found = np.empty(len(size), np.uint64)
    for row in range(len(size)):
        found[row] = kin(points[begin[row] : begin[row] + size[row]], single, strict, weak)
    return found


@kernel
def kin(form: Points, single: Points, strict: Points, weak: Points) -> np.uint64:
    """Return a hash of the numbers of a normal form and of the signs that calculate, in whatever order."""
    found, at = np.uint64(0), 0
    while at < len(form):
        point = form[at]
        if point == 32 or 97 <= point <= 122:
            at += 1
            continue
        kind = class_of(point, single)
        end = at + 1
        if kind == DIGIT:
            end = number_end(form, at, single)
            value = ODD
            for place in range(at, end):
                value = mix(value ^ np.uint64(form[place]))
            found += value
        elif kind != UNSPACED_KIND and _calculates(form, at, single, strict, weak):
            found += mix(np.uint64(point) * ODD)
        at = end
    return found


@kernel
def _calculates(form: Points, at: int, single: Points, strict: Points, weak: Points) -> bool:
    """Say whether a code point is a sign that carries meaning where it is."""
    point = form[at]
    if point == 46:  # .5, and what is left of ?.
        before = form[at - 1] if at else np.uint32(32)
        return at + 1 < len(form) and form[at + 1] != 32 and (before == 32 or class_of(before, single) == OTHER)
    for one in weak:
        if point == one:
            return _is_term(form, at, 1, single) and (at == 0 or form[at - 1] == 32) == (form[at + 1] == 32)
    for one in strict:
        if point == one:
            return True
    return bool(point >= 128 and (is_symbol(point) or (class_of(point, single) == LETTER and _is_raised(point))))


@kernel
def _is_raised(point: np.uint32) -> bool:
    """Say whether a code point is a superscript, a subscript or a fraction."""
    return bool(
        0xB2 <= point <= 0xB3 or point == 0xB9 or 0xBC <= point <= 0xBE or 0x2070 <= point <= 0x209F
        or 0x2150 <= point <= 0x215F
    )  # fmt: skip


@kernel
def _is_term(form: Points, at: int, step: int, single: Points) -> bool:
    """Say whether what is after a sign, with at most one space between, is a number, one letter or a bracket."""
    place = at + step
    if place < len(form) and form[place] == 32:
        place += step
    if place >= len(form):
        return False
    kind = class_of(form[place], single)
    if kind == LETTER:
        return place + step >= len(form) or class_of(form[place + step], single) != LETTER
    return bool(kind == DIGIT or form[place] == 40)
