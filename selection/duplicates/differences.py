"""What differs between two texts, apart from typing errors, and whether the texts are copies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.carriers import (
    OPPOSED,
    Carriers,
    among,
    flags_of,
    lead_of,
    pair_hash,
)
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import Bytes, Points
from gristmill.selection.duplicates.slips import EXACT, TYPO, Text, alike, forgive, is_article, left_over
from gristmill.selection.duplicates.units import ALONE, CODE, NUMBER, WORD, shared
from gristmill.selection.kernels import kernel

Bool = NDArray[np.bool_]
Known = tuple[Key, Key, NDArray[np.int32]]
"""Hashes of known words, hashes of shared runs, and the slots of a `Table` of these runs."""
FREE, ALLOWED = 15, 0.2
"""In a text of up to `FREE` words, no word may differ. Of the words beyond `FREE`, the share `ALLOWED` may differ: 1 of
20 words, 3 of 30, 9 of 60."""
FREE_ALONE = 12
"""In a text of at least this many units, most of them characters of scripts without spaces, one unit may differ."""
SWAPPED = 8
"""For each `SWAPPED` words, one pair of neighbours may be separated, as where two sentences are in another order. At
least one pair may be separated in every text."""
TEMPLATE_WORDS = 8
"""If texts fill a template with at most this many own words, a typing error counts as another word."""
MOST_COMPARED = 40_000
"""Most pairs of units that are compared to find opposites and typing errors; two long texts with little in common have
more pairs."""


class Side(NamedTuple):
    """One side of pairs of texts: the units of the texts, see `Units`, and for each pair the index of its text."""

    points: Points
    ends: Int
    hashes: Key
    begins: Int
    stops: Int
    kinds: Bytes
    kins: Key
    """[texts] hash of the numbers and of the signs that calculate, see `kin`."""
    places: Int


@kernel
def are_copies(one: Side, other: Side, known: Known, lists: Carriers, asked: tuple[bool, bool]) -> Bool:
    """Say for each pair whether the texts are copies; `copies.same` explains `wording` and `numbers`."""
    found = np.zeros(len(one.places), np.bool_)
    for pair in range(len(found)):
        row, other_row = one.places[pair], other.places[pair]
        if not asked[1] or one.kins[row] == other.kins[other_row]:
            a, b = _text(one, row, 0), _text(other, other_row, 0)
            found[pair] = _is_copy(a, b, known, lists, asked)
            if found[pair]:
                continue
            lead, other_lead = _lead(a, lists), _lead(b, lists)
            if lead + other_lead:
                a, b = _text(one, row, lead), _text(other, other_row, other_lead)
                found[pair] = _is_copy(a, b, known, lists, asked)
    return found


@kernel
def _text(side: Side, row: int, lead: int) -> Text:
    """Return the units of a text without the first `lead` units."""
    here = slice(side.ends[row] + lead, side.ends[row + 1])
    state = np.zeros(max(0, here.stop - here.start), np.uint8)
    return Text(side.points, side.hashes[here], side.begins[here], side.stops[here], side.kinds[here], state)


@kernel
def _lead(text: Text, lists: Carriers) -> int:
    """Return how many units at the beginning of a text belong to leads, such as `please answer`."""
    if len(text.begins) == 0:
        return 0
    first = lead_of(text.points[text.begins[0] : text.stops[-1]], lists.words, lists.flags) + text.begins[0]
    return int(np.searchsorted(text.begins, first))


@kernel
def _is_copy(a: Text, b: Text, known: Known, lists: Carriers, asked: tuple[bool, bool]) -> bool:
    """Say whether two texts are copies, by the units that only one of them has and that are no typing errors."""
    wording, numbers = asked
    begin, end = _match(a, b)
    rest, other = left_over(a), left_over(b)
    if len(rest) == len(other) == 0 and _in_order(a, b):
        return True
    if wording and max(len(rest), len(other)) > FREE + len(a.hashes) // 2:
        return False
    if len(rest) * len(other) <= MOST_COMPARED:
        if _are_opposite(a, b, rest, other, lists):
            return False
        forgive(a, b, rest, other, known[0], lists)
    carries = _has_carrier(a, b, lists, asked) or _has_carrier(b, a, lists, asked)
    if carries or (numbers and not _numbers_in_order(a, b)):
        return False
    if not wording:
        return True
    pairs, other_pairs = _neighbours(a, begin, end), _neighbours(b, begin, end)
    return _few_changed(a, b, known) and _few_swapped(
        pairs, other_pairs, max(len(a.hashes), len(b.hashes)), len(rest), len(other)
    )


@kernel
def _match(a: Text, b: Text) -> tuple[int, int]:
    """Mark the units that both texts have; return the numbers of equal units at the beginning and at the end.

    A unit is marked as often as both texts have it.
    """
    size = min(len(a.hashes), len(b.hashes))
    begin, end = 0, 0
    while begin < size and a.hashes[begin] == b.hashes[begin]:
        begin += 1
    while end < size - begin and a.hashes[len(a.hashes) - 1 - end] == b.hashes[len(b.hashes) - 1 - end]:
        end += 1
    _match_between(a, b, begin, end)
    if _is_doubtful(a) or _is_doubtful(b):
        a.state[:], b.state[:] = 0, 0
        _match_between(a, b, 0, 0)
    return begin, end


@kernel
def _match_between(a: Text, b: Text, begin: int, end: int) -> None:
    """Mark the first `begin` and the last `end` units, and the units between them that both texts have."""
    stop, other_stop = len(a.hashes) - end, len(b.hashes) - end
    a.state[:begin], b.state[:begin], a.state[stop:], b.state[other_stop:] = EXACT, EXACT, EXACT, EXACT
    one, other = np.argsort(a.hashes[begin:stop]) + begin, np.argsort(b.hashes[begin:other_stop]) + begin
    i, j = 0, 0
    while i < len(one) and j < len(other):
        left, right = a.hashes[one[i]], b.hashes[other[j]]
        if left == right:
            a.state[one[i]], b.state[other[j]] = EXACT, EXACT
        i += left <= right
        j += right <= left


@kernel
def _is_doubtful(text: Text) -> bool:
    """Say whether a unit without mark also occurs elsewhere in its text, so that either place could be without mark.

    Then the complete texts are sorted, so that the units without mark are in edited and in shared text. If they were
    always in edited text, 21 fewer of 1,000 edits of one popular text would be found.
    """
    for place in range(len(text.state)):
        if text.state[place] == 0:
            for other in range(len(text.state)):
                if other != place and text.hashes[other] == text.hashes[place]:
                    return True
    return False


@kernel
def _in_order(a: Text, b: Text) -> bool:
    return bool((a.hashes == b.hashes).all())


@kernel
def _are_opposite(a: Text, b: Text, rest: Int, other: Int, lists: Carriers) -> bool:
    """Say whether one text has, in the place of a word of the other text, the opposite of this word."""
    for i in rest:
        opposed = flags_of(a.hashes[i], lists.words, lists.flags) & OPPOSED
        for j in other:
            if opposed and among(pair_hash(a.hashes[i], b.hashes[j]), lists.opposites) and _replaces(a, i, b, j):
                return True
            more = a.stops[i] - a.begins[i] - b.stops[j] + b.begins[j]
            ends = a.points[a.stops[i] - 1] == b.points[b.stops[j] - 1]
            if ends and 2 <= abs(more) <= 4 and a.kinds[i] == WORD and b.kinds[j] == WORD:
                left, right = a.points[a.begins[i] : a.stops[i]], b.points[b.begins[j] : b.stops[j]]
                if _negates(left, right, lists.negating) or _negates(right, left, lists.negating):
                    return True
    return False


@kernel
def _replaces(a: Text, i: int, b: Text, j: int) -> bool:
    """Say whether unit i of a is in the place of unit j of b: the unit before it or the unit after it is the same.

    All units that are equal to unit i or j are tried. Two neighbours also count as the same if each is a unit that the
    other text lacks, because one may be the other mistyped. Without this check, texts of 60 Chinese characters with one
    of twenty mistyped have opposites by chance.
    """
    for place in range(len(a.hashes)):
        if a.hashes[place] == a.hashes[i]:
            for other in range(len(b.hashes)):
                if b.hashes[other] == b.hashes[j] and (
                    alike(a, place - 1, b, other - 1) or alike(a, place + 1, b, other + 1)
                ):
                    return True
    return False


@kernel
def _negates(word: Points, plain: Points, beginnings: NDArray[np.uint32]) -> bool:
    """Say whether a word is the other word with a prefix such as `un`, `in` or `dis`, which makes its opposite."""
    more = len(word) - len(plain)
    if len(plain) < 3 or not 2 <= more <= 4:
        return False
    for place in range(len(plain)):
        if word[more + place] != plain[place]:
            return False
    for beginning in beginnings:
        if beginning[more] == 0 and beginning[more - 1] != 0 and (beginning[:more] == word[:more]).all():
            return True
    return False


@kernel
def _has_carrier(text: Text, other: Text, lists: Carriers, asked: tuple[bool, bool]) -> bool:
    """Say whether a text has a word that carries meaning and that the other text lacks."""
    for place in range(len(text.state)):
        if text.state[place] != 0:
            continue
        if text.kinds[place] == NUMBER and asked[1]:
            return True
        if text.kinds[place] == CODE and not (asked[0] and is_article(text, place, other, lists)):
            return True
        if flags_of(text.hashes[place], lists.words, lists.flags) & 1:
            return True
    return False


@kernel
def _neighbours(text: Text, begin: int, end: int) -> Key:
    """Return ascending hashes of the pairs of neighbouring units, except pairs inside the equal beginning and end."""
    first = max(0, begin - 1)
    found = np.empty(max(0, len(text.hashes) - max(0, end - 1) - first - 1), np.uint64)
    for place in range(len(found)):
        found[place] = pair_hash(text.hashes[first + place], text.hashes[first + place + 1])
    found.sort()
    return found


@kernel
def _numbers_in_order(a: Text, b: Text) -> bool:
    """Say whether both texts have their numbers in the same order, or else with the same units next to them."""
    i, j = _next_number(a, 0), _next_number(b, 0)
    while i < len(a.kinds) and j < len(b.kinds) and a.hashes[i] == b.hashes[j]:
        i, j = _next_number(a, i + 1), _next_number(b, j + 1)
    if i == len(a.kinds) and j == len(b.kinds):
        return True
    one, other = np.flatnonzero(a.kinds == NUMBER), np.flatnonzero(b.kinds == NUMBER)
    around = np.empty((len(other), 3), np.uint64)
    for place in range(len(other)):
        for side in range(3):
            around[place, side] = _around(b, other[place], side)
    for place in one:
        found = False
        for side in range(3):
            found = found or (around[:, side] == _around(a, place, side)).any()
        if not found:
            return False
    return True


@kernel
def _next_number(text: Text, place: int) -> int:
    """Return the index of the first number at or after a place; if there is none, the number of units."""
    while place < len(text.kinds) and text.kinds[place] != NUMBER:
        place += 1
    return place


@kernel
def _around(text: Text, place: int, side: int) -> np.uint64:
    """Return a hash of a unit and two units next to it; beyond an end of the text, a unit counts as 0.

    `side` 0 takes the two units before it, 1 one unit on each side, and 2 the two units after it.
    """
    found: np.uint64 = text.hashes[place]
    for other in range(place - 2 + side, place + 1 + side):
        inside = 0 <= other < len(text.hashes)
        found = pair_hash(found, text.hashes[other] if inside else np.uint64(0))
    return found


@kernel
def _few_changed(a: Text, b: Text, known: Known) -> bool:
    """Say whether few enough words differ.

    If each text has own words and these differ, the own words fill a template, and only own words are counted. If one
    text consists only of text that many samples share, the other text is an edit of a popular text, and all words are
    counted.
    """
    one, other = np.empty(len(a.state), np.uint8), np.empty(len(b.state), np.uint8)
    num, other_num = shared(a.hashes, known[1], known[2], one), shared(b.hashes, known[1], known[2], other)
    _leave_own(a, one)
    _leave_own(b, other)
    left, right = np.zeros(2, np.int64), np.zeros(2, np.int64)  # remaining words: own, shared
    mistyped, other_mistyped = 0, 0
    for place in range(len(one)):
        left[one[place]] += a.state[place] == 0
        mistyped += a.state[place] == TYPO and one[place] == 0
    for place in range(len(other)):
        right[other[place]] += b.state[place] == 0
        other_mistyped += b.state[place] == TYPO and other[place] == 0
    size, changed = max(len(one), len(other)), max(left.sum(), right.sum())
    own = max(len(one) - num, len(other) - other_num)
    fills = min(num, other_num) > 0 and own <= TEMPLATE_WORDS and min(mistyped, other_mistyped) > 0
    if fills or min(left[0] - right[1], right[0] - left[1]) > 0:
        size = own
        changed += mistyped if fills else 0
    if 2 * np.count_nonzero(a.kinds == ALONE) > len(a.kinds) and size >= FREE_ALONE:
        changed -= 1
        size -= int(1 / ALLOWED)
    return bool(changed <= max(0, int(ALLOWED * (size - FREE) + 0.5)))


@kernel
def _leave_own(text: Text, marks: Bytes) -> None:
    """Move the mark between equal units of a text, so that a unit without mark is in own text and not in shared text.

    This matters if a template has the word that fills it somewhere else too: `the` before `a page of the site`.
    """
    for place in range(len(marks)):
        if text.state[place] != EXACT and marks[place]:
            for other in range(len(marks)):
                if text.state[other] == EXACT and not marks[other] and text.hashes[other] == text.hashes[place]:
                    text.state[place], text.state[other] = EXACT, text.state[place]
                    break


@kernel
def _few_swapped(pairs: Key, other_pairs: Key, size: int, rest: int, other: int) -> bool:
    """Say whether the units are in the same order, except for a few separated pairs of neighbours.

    Two exchanged sentences separate one pair of neighbours. `rest` and `other` are the numbers of units that differ;
    pairs that these separate do not count.
    """
    i, j, parted = 0, 0, 0
    while i < len(pairs):
        if j == len(other_pairs) or pairs[i] < other_pairs[j]:
            parted += 1
            i += 1
        else:
            i += pairs[i] == other_pairs[j]
            j += 1
    parted -= 2 * rest + max(0, other - rest)
    return parted <= max(1, size // SWAPPED)
