"""Typing errors: the distance of two words in letters, and which words of two texts are the same word mistyped."""

from typing import NamedTuple

import numpy as np

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.carriers import Carriers, among, flags_of
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import Bytes, Points
from gristmill.selection.duplicates.units import CODE, NUMBER, WORD
from gristmill.selection.kernels import kernel

NO_BITS, ONE_BIT, FIVE_BITS = map(np.uint32, (0, 1, 31))
LEFT_OVER = 4
"""Most remaining words of a text that are compared written together, such as `every day` and `everyday`."""
LONGEST_WORD = 48
FEW_UNITS, STEM = 8, 4
"""Least units of a text, and least letters of a word, for another word to count as a typing error; see `_is_typo`."""
LONG_NEGATION = 6
"""Least letters of a negation, such as `without`, that is recognised when mistyped; `not` is too near `now`."""
LETTER_A, LETTER_S, BLANK = map(np.uint32, map(ord, "as "))
EXACT, TYPO = np.uint8(1), np.uint8(2)


class Text(NamedTuple):
    """The units of one text."""

    points: Points
    hashes: Key
    begins: Int
    stops: Int
    kinds: Bytes
    state: Bytes
    """`EXACT` for a unit that the other text also has, `TYPO` for one that is mistyped in the other text, else 0."""


@kernel
def distance(one: Points, other: Points) -> int:
    """Return how many letters must be changed, removed, added or swapped with the next to turn a word into another.

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
    """Return the letters of a word as one bit each. A changed, removed or added letter changes at most two bits."""
    found = NO_BITS
    for letter in word:
        found |= ONE_BIT << (letter & FIVE_BITS)
    return found


@kernel
def may_be_near(letters_of: np.uint32, other: np.uint32, most: int) -> bool:
    """Say whether words with these letters can be within this distance; counting bits decides most cases."""
    bits, found = letters_of ^ other, 0
    while bits:
        bits &= bits - ONE_BIT
        found += 1
    return found <= 2 * most


@kernel
def forgive(a: Text, b: Text, rest: Int, other: Int, known: Key, lists: Carriers) -> None:
    """Mark pairs of words of which one is the other mistyped, and words that are equal when written together."""
    theirs = np.empty(len(other), np.uint32)
    for n in range(len(other)):
        theirs[n] = letters(b.points[b.begins[other[n]] : b.stops[other[n]]])
    for i in rest:
        if not _is_word(a, i):
            continue
        mine, size = letters(a.points[a.begins[i] : a.stops[i]]), a.stops[i] - a.begins[i]
        for n in range(len(other)):
            j = other[n]
            other_size = b.stops[j] - b.begins[j]
            most = most_slips(max(size, other_size))
            if abs(size - other_size) > most or not may_be_near(mine, theirs[n], most):
                continue  # too far apart, by their letters and lengths
            if b.state[j] == 0 and _is_word(b, j) and _is_typo(a, i, b, j, known, lists):
                a.state[i], b.state[j] = TYPO, TYPO
                break
    _forgive_tails(a, b)
    _forgive_tails(b, a)
    left, right = left_over(a), left_over(b)
    if 0 < len(left) <= LEFT_OVER and 0 < len(right) <= LEFT_OVER and len(left) + len(right) > 2:
        one, two = _together(a, left), _together(b, right)
        if 0 < len(one) <= LONGEST_WORD and 0 < len(two) <= LONGEST_WORD and distance(one, two) <= 1:
            a.state[left], b.state[right] = TYPO, TYPO


@kernel
def _forgive_tails(text: Text, other: Text) -> None:
    """Mark letters that are an `s` of the other text, mistyped after an apostrophe."""
    for place in left_over(text):
        if _is_tail(text, place, other):
            text.state[place] = TYPO


@kernel
def _together(text: Text, places: Int) -> Points:
    """Return some words written together; nothing if one of the units is no word."""
    found = np.empty(LONGEST_WORD * LEFT_OVER, np.uint32)
    size = 0
    for place in places:
        if text.kinds[place] != WORD or text.stops[place] - text.begins[place] > LONGEST_WORD:
            return found[:0]
        for at in range(text.begins[place], text.stops[place]):
            found[size] = text.points[at]
            size += 1
    return found[:size]


@kernel
def _is_typo(a: Text, i: int, b: Text, j: int, known: Key, lists: Carriers) -> bool:
    """Say whether one of two words is the other mistyped, rather than another word.

    Two known words may differ in only one letter, and only if nobody exchanges them on purpose: an `s` at the end, or
    words of different classes (`for`, `or`), in a text that is long enough.
    """
    left, right = a.points[a.begins[i] : a.stops[i]], b.points[b.begins[j] : b.stops[j]]
    longest, shortest = max(len(left), len(right)), min(len(left), len(right))
    if longest > LONGEST_WORD:
        return False
    apart = distance(left, right)
    if shortest == 1 or a.kinds[i] == CODE or b.kinds[j] == CODE:
        return bool(shortest == 1 and 1 < longest <= 3 and apart == 1)
    one = flags_of(a.hashes[i], lists.words, lists.flags)
    other = flags_of(b.hashes[j], lists.words, lists.flags)
    is_known = (one & 2 or among(a.hashes[i], known)) and (other & 2 or among(b.hashes[j], known))
    if (one | other) & 1:  # `ten` for `then` is a typing error, but `now` may be meant where the other text has `not`
        lone = one & 1 != other & 1 and (not (one | other) & 8 or (longest >= LONG_NEGATION and not is_known))
        return bool(apart == 1 and (lone or are_exchanged(left, right)))
    if are_exchanged(left, right):
        return True
    if is_known:
        plural = longest > shortest >= STEM and (left[-1] == LETTER_S) != (right[-1] == LETTER_S)
        return bool(
            apart == 1 and min(len(a.hashes), len(b.hashes)) >= FEW_UNITS and (plural or one >> 5 != other >> 5)
        )
    return bool(apart <= most_slips(longest))


@kernel
def _is_word(text: Text, place: int) -> bool:
    return bool(text.kinds[place] == WORD or text.kinds[place] == CODE)


@kernel
def _is_lone(text: Text, place: int, other: Text) -> bool:
    """Say whether a unit is a letter, and the only unit in both texts that may be a variable.

    A text with another variable is about variables; a letter after a number (`4 x 5`, `20 g`) is none.
    """
    return bool(
        text.stops[place] - text.begins[place] == 1
        and _variables(other) == 0
        and _variables(text) == (text.kinds[place] == CODE)
    )


@kernel
def _is_tail(text: Text, place: int, other: Text) -> bool:
    """Say whether the word before a letter is one that has an `'s` in the other text."""
    if place == 0 or not _is_lone(text, place, other):
        return False
    word = text.points[text.begins[place - 1] : text.stops[place - 1]]
    for at in range(len(other.hashes)):
        stop = other.stops[at] - 2
        tailed = stop > other.begins[at] and other.points[stop] == BLANK
        if other.state[at] != EXACT and tailed and len(word) <= LONGEST_WORD:
            stem = other.points[other.begins[at] : stop]
            if len(stem) <= LONGEST_WORD and distance(word, stem) <= most_slips(len(stem)):
                return True
    return False


@kernel
def is_article(text: Text, place: int, other: Text, lists: Carriers) -> bool:
    """Say whether a letter that may be a variable is a mistyped `a`: the other text has one there, as an article.

    An article is before a word that is not a common one and after one that is: `has a dog`, not `vitamin a for`. The
    letter still counts as another word, so that it makes another text of a short one.
    """
    if not _is_lone(text, place, other):
        return False
    for at in range(len(other.hashes) - 1):
        if _is_letter_a(other, at) and other.kinds[at + 1] == WORD:
            after = flags_of(other.hashes[at + 1], lists.words, lists.flags)
            before = flags_of(other.hashes[at - 1], lists.words, lists.flags) if at else 2
            there = alike(text, place - 1, other, at - 1) and alike(text, place + 1, other, at + 1)
            if there and before & 2 and not after & 2:
                return True
    return False


@kernel
def _is_letter_a(text: Text, place: int) -> bool:
    return bool(text.stops[place] - text.begins[place] == 1 and text.points[text.begins[place]] == LETTER_A)


@kernel
def _variables(text: Text) -> int:
    """Return how many units are variables or names in code."""
    found = 0
    for place in range(len(text.kinds)):
        found += text.kinds[place] == CODE and not (place and text.kinds[place - 1] == NUMBER)
    return found


@kernel
def alike(a: Text, i: int, b: Text, j: int) -> bool:
    """Say whether two places have the same unit, or both none, or both a unit that the other text lacks."""
    inside, other_inside = 0 <= i < len(a.hashes), 0 <= j < len(b.hashes)
    if not inside or not other_inside:
        return inside == other_inside
    return bool(a.hashes[i] == b.hashes[j] or (a.state[i] != EXACT and b.state[j] != EXACT))


@kernel
def left_over(text: Text) -> Int:
    """Return the units that the other text lacks."""
    return np.flatnonzero(text.state == 0)
