"""Removal of commas between thousands, in compiled code and by the rules of `keys.key`."""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.kernels import kernel

Characters = NDArray[np.unsignedinteger]
"""Bytes of ASCII, or numbers with a code point in the lower bits and its class in the upper bits."""
POINT, NONE = np.uint32(0xFFFFFF), np.uint32(0)
"""The bits of a code point, and the value that stands for the character before the first one."""
OPENING, NAME_ENDS, ARGUMENT_ENDS = (tuple(map(ord, signs)) for signs in ("([{", "_)]", ",)]}"))
"""Signs next to numbers with commas that may separate two arguments instead of thousands: opening brackets, the end of
a name before a comma, the end of an argument."""


@kernel
def join_thousands(text: Characters) -> int:
    """Remove the commas between thousands from a text, in place, and return the new number of characters.

    The characters before a number are read from the output, where they are the same.
    """
    at, length, end = 0, 0, 0
    while at < len(text):
        if at >= end and _is_digit(text, at):
            before = text[length - 1] & POINT if length else NONE
            earlier = text[length - 2] & POINT if length > 1 else NONE
            end = _thousands_end(text, at, before, earlier)
        if at >= end or text[at] & POINT != 44:
            text[length] = text[at]
            length += 1
        at += 1
    return length


@kernel
def _thousands_end(text: Characters, at: int, before: np.uint32, earlier: np.uint32) -> int:
    """Return the end of the number at a place if commas separate its thousands, else 0; see `keys.key`."""
    bracket = before in OPENING
    if not _is_digit(text, at) or 48 <= before <= 57 or before == 46:
        return 0
    if before == 44 and (is_alphanumeric(earlier) or earlier in NAME_ENDS):
        return 0
    end = at
    while _is_digit(text, end):
        end += 1
    if end > at + 3:
        return 0
    first = end
    while _is_comma(text, end) and _is_digit(text, end + 1) and _is_digit(text, end + 2) and _is_digit(text, end + 3):
        end += 4
    if end == first or _is_digit(text, end) or (_is_comma(text, end) and _is_digit(text, end + 1)):
        return 0
    after = text[end] & POINT if end < len(text) else NONE
    return 0 if bracket and after in ARGUMENT_ENDS else end


@kernel
def _is_digit(text: Characters, at: int) -> bool:
    """Say whether there is an ASCII digit at a place."""
    return at < len(text) and 48 <= text[at] & POINT <= 57


@kernel
def _is_comma(text: Characters, at: int) -> bool:
    return at < len(text) and text[at] & POINT == 44


@kernel
def is_alphanumeric(point: int | np.uint32) -> bool:
    """Say whether a code point is an ASCII letter or digit."""
    return bool(48 <= point <= 57 or 97 <= point | 32 <= 122)
