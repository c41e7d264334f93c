"""Slips of the pen: how far two words are apart, in letters."""

import numpy as np

from gristmill.selection.duplicates.normal import Points
from gristmill.selection.kernels import kernel

NO_BITS, ONE_BIT, FIVE_BITS = map(np.uint32, (0, 1, 31))


@kernel
def distance(one: Points, other: Points) -> int:
    """Return how many letters must be changed, left out, put in or exchanged with the next to make a word another.

    Source: Damerau 1964, A technique for computer detection and correction of spelling errors, Communications of the
    ACM 7, 3; no part is changed twice (optimal string alignment).
    """
    rows = np.empty((3, len(other) + 1), np.int64)
    for j in range(len(other) + 1):
        rows[1, j] = j
    for i in range(1, len(one) + 1):
        now, before, earlier = (i + 1) % 3, i % 3, (i - 1) % 3
        rows[now, 0] = i
        for j in range(1, len(other) + 1):
            best = min(rows[before, j] + 1, rows[now, j - 1] + 1, rows[before, j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                best = min(best, rows[earlier, j - 2] + 1)
            rows[now, j] = best
    return int(rows[(len(one) + 1) % 3, len(other)])


@kernel
def are_exchanged(one: Points, other: Points) -> bool:
    """Say whether two words differ in two neighbouring letters that are exchanged."""
    apart = np.flatnonzero(one != other) if len(one) == len(other) else np.empty(0, np.int64)
    if len(apart) != 2 or apart[1] != apart[0] + 1:
        return False
    return bool(one[apart[0]] == other[apart[1]] and one[apart[1]] == other[apart[0]])


@kernel
def most_slips(length: int) -> int:
    """Return how many letters of a word may be mistyped."""
    return 1 if length <= 3 else 2 if length <= 6 else 3


@kernel
def letters(word: Points) -> np.uint32:
    """Return the letters of a word as a bit each; a letter changed, left out or put in changes two bits at most."""
    found = NO_BITS
    for letter in word:
        found |= ONE_BIT << (letter & FIVE_BITS)
    return found


@kernel
def may_be_near(letters_of: np.uint32, other: np.uint32, most: int) -> bool:
    """Say whether so few slips can make one of two words with these letters the other; counting bits tells most."""
    bits, found = letters_of ^ other, 0
    while bits:
        bits &= bits - ONE_BIT
        found += 1
    return found <= 2 * most
