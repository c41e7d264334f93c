"""A hash of the numbers of a text and of the signs that calculate; it is equal for two copies, see `copies`."""

from functools import cache

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import (
    DIGIT,
    KIND,
    LETTER,
    MANY,
    ODD,
    OTHER,
    POINTS,
    UNSPACED_KIND,
    ZERO,
    Bytes,
    Normal,
    Points,
    mix,
    table,
)
from gristmill.selection.duplicates.units import AFTER_WIDE, SYMBOLS, WIDE, class_of, number_end
from gristmill.selection.kernels import kernel

STRICT_SIGNS = "=<>^+~!$€£¥₹°"
WEAK_SIGNS = "-*/"
"""Signs that calculate only if they are next to numbers, variables or brackets; elsewhere they are dashes and
bullets."""
RAISED = np.array(((0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE), (0x2070, 0x209F), (0x2150, 0x215F)))
"""Ranges of superscripts, subscripts and fractions: (first, last) code point of each range."""


NOTHING, NUMBER, STRICT, WEAK, POINT = map(np.uint8, range(5))
"""Classes of code points: no meaning for numbers; a digit; a sign that always calculates; a sign that may calculate; a
point."""


def kins(made: Normal) -> Key:
    """Return [n] the hash of each normal form, see `kin`."""
    return _kins(made.points, made.begin, made.size, table()[0], roles())


@cache
def roles() -> Bytes:
    """Return [POINTS] the class of each code point: `NOTHING`, `NUMBER`, `STRICT`, `WEAK` or `POINT`."""
    points, kinds = np.arange(POINTS), table()[0] >> KIND
    letters = (kinds == LETTER) | (kinds >= MANY)
    low, high = RAISED.T
    raised = ((points[:, None] >= low) & (points[:, None] <= high)).any(axis=1)
    signs = (points >= SYMBOLS) & ((points < WIDE) | (points >= AFTER_WIDE)) & (kinds != UNSPACED_KIND)
    found = np.where((letters & raised) | (signs & ~letters), STRICT, NOTHING)
    found[kinds == DIGIT] = NUMBER
    for some, role in ((STRICT_SIGNS, STRICT), (WEAK_SIGNS, WEAK), (".", POINT)):
        found[[ord(sign) for sign in some]] = role
    return found


@kernel
def _kins(points: Points, begin: Int, size: Int, single: Points, role_of: Bytes) -> Key:
    found = np.empty(len(size), np.uint64)
    for row in range(len(size)):
        found[row] = kin(points[begin[row] : begin[row] + size[row]], single, role_of)
    return found


@kernel
def kin(form: Points, single: Points, role_of: Bytes) -> np.uint64:
    """Return a hash of all numbers and signs that calculate of a normal form; their order does not count."""
    found, at = ZERO, 0
    while at < len(form):
        point = form[at]
        role = role_of[np.uint64(point)] if point < POINTS else NOTHING
        at += 1
        if role == NUMBER:
            value, end = ODD, number_end(form, at - 1, single)
            for place in range(at - 1, end):
                value = mix(value ^ np.uint64(form[place]))
            found += value
            at = end
        elif role != NOTHING and (role == STRICT or _calculates(form, at - 1, single, role)):
            found += mix(np.uint64(point) * ODD)
    return found


@kernel
def _calculates(form: Points, at: int, single: Points, role: np.uint8) -> bool:
    """Say whether a point, or a sign that may also be a dash or a bullet, carries meaning at its place."""
    if role == POINT:  # `.5`, and the rest of `?.`
        before = form[at - 1] if at else np.uint32(32)
        return at + 1 < len(form) and form[at + 1] != 32 and (before == 32 or class_of(before, single) == OTHER)
    return _is_term(form, at, 1, single) and (at == 0 or form[at - 1] == 32) == (form[at + 1] == 32)


@kernel
def _is_term(form: Points, at: int, step: int, single: Points) -> bool:
    """Say whether a number, a single letter or a bracket follows a sign, with at most one space between them."""
    place = at + step
    if place < len(form) and form[place] == 32:
        place += step
    if place >= len(form):
        return False
    kind = class_of(form[place], single)
    if kind == LETTER:
        return place + step >= len(form) or class_of(form[place + step], single) != LETTER
    return bool(kind == DIGIT or form[place] == 40)
