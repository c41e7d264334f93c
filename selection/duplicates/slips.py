"""Typing errors: the distance of two words in letters, and which words of two texts are typing errors."""

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
"""Most words that only one text has and that are also compared joined together, such as `every day` and `everyday`."""
LONGEST_WORD = 48
FEW_UNITS, STEM = 8, 4
"""Least number of units of a text, and of letters of a word before its plural `s`, for a known word to count as a
typing error of another; see `_is_typo`."""
LONG_NEGATION = 6
"""Least number of letters of a negation that is recognised if it is mistyped, such as `without`; `not` is too near to
`now`."""
LETTER_A, LETTER_S, BLANK = map(np.uint32, map(ord, "as "))
EXACT, TYPO = np.uint8(1), np.uint8(2)


class Text(NamedTuple):
    """The units of one of two texts that are compared."""

    points: Points
    hashes: Key
    begins: Int
    stops: Int
    kinds: Bytes
    state: Bytes
    """`EXACT` for a unit that the other text also has, `TYPO` for a unit that is mistyped in one of the texts, else
    0."""


@kernel
def distance(one: Points, other: Points) -> int:
    """Return how many letters must be changed, removed, added or exchanged with the next to make one word the other.

    Source: Damerau 1964, A technique for computer detection and correction of spelling errors, Communications of the
    ACM 7, 3; no letter is changed twice (optimal string alignment).
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
    """Say whether two words differ only in that two neighbouring letters are exchanged."""
    apart = np.flatnonzero(one != other) if len(one) == len(other) else np.empty(0, np.int64)
    if len(apart) != 2 or apart[1] != apart[0] + 1:
        return False
    return bool(one[apart[0]] == other[apart[1]] and one[apart[1]] == other[apart[0]])


@kernel
def most_slips(length: int) -> int:
    """Return how many letters of a word with so many letters may be mistyped."""
    return 1 if length <= 3 else 2 if length <= 6 else 3


@kernel
def letters(word: Points) -> np.uint32:
    """Return the set of letters of a word, as bits. A changed, removed or added letter changes at most two bits."""
    found = NO_BITS
    for letter in word:
        found |= ONE_BIT << (letter & FIVE_BITS)
    return found


@kernel
def may_be_near(letters_of: np.uint32, other: np.uint32, most: int) -> bool:
    """Say whether the distance of words with these sets of letters can be `most` or less, by counting bits."""
    bits, found = letters_of ^ other, 0
    while bits:
        bits &= bits - ONE_BIT
        found += 1
    return found <= 2 * most


@kernel
def forgive(a: Text, b: Text, rest: Int, other: Int, known: Key, lists: Carriers) -> None:
    """Mark words that are typing errors of a word in the other text, and words that are equal when joined together."""
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
    """Mark single letters that are a mistyped `s` after an apostrophe, where the other text has the `s`."""
    for place in left_over(text):
        if _is_tail(text, place, other):
            text.state[place] = TYPO


@kernel
def _together(text: Text, places: Int) -> Points:
    """Return the letters of some words joined together; no letters if one of the units is no word."""
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
    """Say whether one of two words is a typing error of the other, and not another word.

    Two known words count as this only in a text that is long enough, and only if they differ in one letter and nobody
    exchanges them on purpose: one has an `s` at the end, or the words are of different classes (`for`, `or`).
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
    """Say whether a unit is a single letter, and no other unit of both texts can be a variable.

    If a text has another variable, it is about variables. A letter after a number (`4 x 5`, `20 g`) is no variable.
    """
    return bool(
        text.stops[place] - text.begins[place] == 1
        and _variables(other) == 0
        and _variables(text) == (text.kinds[place] == CODE)
    )


@kernel
def _is_tail(text: Text, place: int, other: Text) -> bool:
    """Say whether the word before a single letter has an `'s` in the other text."""
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
    """Say whether a letter that may be a variable is a mistyped article: the other text has the article `a` there.

    An `a` is an article if a common word is before it and no common word is after it: `has a dog`, but not
    `vitamin a for`. The letter still counts as a word that differs, so that short texts with different letters are no
    copies.
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
    """Return how many units of a text are variables or names in code, without those after a number."""
    found = 0
    for place in range(len(text.kinds)):
        found += text.kinds[place] == CODE and not (place and text.kinds[place - 1] == NUMBER)
    return found


@kernel
def alike(a: Text, i: int, b: Text, j: int) -> bool:
    """Say whether two places have the same unit, are both outside their texts, or both have an unmatched unit."""
    inside, other_inside = 0 <= i < len(a.hashes), 0 <= j < len(b.hashes)
    if not inside or not other_inside:
        return inside == other_inside
    return bool(a.hashes[i] == b.hashes[j] or (a.state[i] != EXACT and b.state[j] != EXACT))


@kernel
def left_over(text: Text) -> Int:
    """Return the indices of the units that the other text does not have, not even mistyped."""
    return np.flatnonzero(text.state == 0)
