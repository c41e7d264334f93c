"""Novelty: an instruction must differ from the seeds and from everything accepted before it.

The cost of ROUGE-L over all pairs is quadratic in the dataset. An index of each instruction's rarest words finds the
few instructions that can be similar enough. Two upper bounds, from the lengths and from the common words, leave few of
these to compare. All three are exact: the decisions are the same as with all pairs.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import History, HistoryFilter, Verdict

Ids = npt.NDArray[np.int32]
SLACK = 1e-9
"""Margin that is larger than the rounding error of a bound."""


class Novelty(HistoryFilter):
    """Drop an instruction whose ROUGE-L F with a seed or an accepted sample is above the threshold.

    The score `novelty` is 1 minus the largest ROUGE-L F if that is above `exact_from`. If not, the score is 1 minus
    `exact_from`, which means "at least this novel". Decisions are exact in any case. Rows with the instruction of an
    input, such as rows of `respond`, are not compared. In rows of `targeted` only the text is compared, without the
    question and the labels around it: with a question and five labels, 54 to 72 % of people's reviews were too alike.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, section 2.2 (0.7); Lin 2004, ROUGE (LCS F with beta 1);
    the search is a prefix filter with positions as in Xiao et al. 2008, PPJoin, section 3 (a common subsequence needs
    common words). Departures: Chinese and other scripts without spaces are compared by characters, because the
    reference tokenizer returns no tokens for them; words are not stemmed.
    """

    kind: Literal["novelty"] = "novelty"
    max_similarity: float = Field(default=0.7, ge=0, le=1)
    """Largest ROUGE-L F with any earlier instruction."""
    exact_from: float = Field(default=0.5, ge=0, le=1)
    """Similarities up to this value are not distinguished. With 0 the nearest instruction is always found, which is
    slow in a large dataset."""

    def memory(self) -> "Instructions":
        """Return an empty history."""
        return Instructions(min(self.exact_from, self.max_similarity))

    def compare(self, sample: Sample, memory: History, size: int) -> Verdict:
        """Compare the first user turn with the first user turns of the first `size` samples."""
        assert isinstance(memory, Instructions)
        similarity, nearest = memory.nearest(sample.instruction, size)
        scores = {"novelty": 1.0 - max(similarity, memory.floor)}
        return Verdict(scores, f"{self.kind}: too near {nearest}" if similarity > self.max_similarity else None)


class Instructions:
    """Instructions as sequences of word numbers in flat arrays, with an index of the rare words of each instruction.

    Words are numbered in the order of their first appearance, so frequent words have small numbers. A bag has the words
    of an instruction, sorted by falling number, so its rare words come first. It is stored as negative numbers. If two
    bags of m and n words share c words, they share a word among the first m - c + 1 of one and the first n - c + 1 of
    the other. A ROUGE-L F above t needs c > t (m + n) / 2, and m and n differ by a factor of at most (2 - t) / t. So it
    is enough to index the beginning of each bag, or the complete bag if t is 0.
    """

    def __init__(self, floor: float = 0.0) -> None:
        """Find similarities above `floor`, 0 to 1."""
        self.floor = floor
        self._numbers: dict[str, int] = {}
        self._ids: list[str] = []
        self._words, self._bags = np.empty(1024, np.int32), np.empty(1024, np.int32)  # in order, and sorted
        self._ends = np.zeros(64, np.int64)
        self._stamps = np.zeros(64, np.int32)  # by instruction: the last search that has found it
        self._searches = 0
        self._pool = np.empty((1024, 2), np.int32)  # (instruction, place in its bag), the postings of a word in a row
        self._slots = np.zeros((64, 3), np.int64)  # by word: where its postings begin, how many, room for how many
        self._used = 0  # of the pool

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, sample: Sample) -> None:
        """Remember the instruction of a sample."""
        words = np.array(self._encode(sample.instruction, grow=True), np.int32)
        bag = np.sort(-words)
        begin, place = int(self._ends[len(self)]), len(self)
        end = begin + len(words)
        self._words, self._bags = _room(self._words, end), _room(self._bags, end)
        self._words[begin:end], self._bags[begin:end] = words, bag
        self._ids.append(sample.id)
        self._ends, self._stamps = _room(self._ends, len(self) + 1), _room(self._stamps, len(self) + 1)
        self._ends[len(self)] = end
        self._slots = _room(self._slots, len(self._numbers) + 1)
        _, room, insert = _kernels()
        self._pool = _room(self._pool, self._used + room(bag, self._slots, self.floor))
        self._used = insert(bag, place, self._pool, self._slots, self._used, self.floor)

    def nearest(self, text: str, size: int | None = None) -> tuple[float, str]:
        """Return the largest ROUGE-L F with the first `size` instructions, and the id of the first that has it.

        Returns (0, "") when none is above the floor.
        """
        words = np.array(self._encode(text, grow=False), np.int32)  # [m]
        size = len(self) if size is None else min(size, len(self))
        if not size or not len(words):
            return 0.0, ""
        self._searches += 1
        flat = (self._words, self._bags, self._ends[: size + 1])
        index = (self._pool, self._slots[: len(self._numbers)], self._stamps, self._searches)
        best, place = _kernels()[0](words, np.sort(-words), flat, index, self.floor)
        return (float(best), self._ids[place]) if place >= 0 else (0.0, "")

    def _encode(self, text: str, *, grow: bool) -> list[int]:
        """Return the numbers of the words. Without `grow`, new words get numbers that are not remembered."""
        found = tokens(text)
        if grow:
            return [self._numbers.setdefault(word, len(self._numbers)) for word in found]
        unknown: dict[str, int] = {}
        numbers = map(self._numbers.get, found)
        return [
            unknown.setdefault(word, len(self._numbers) + len(unknown)) if number is None else number
            for word, number in zip(found, numbers, strict=True)
        ]


def _room(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return the array, or a copy of twice the length, so that index `size` exists."""
    if size < len(values):
        return values
    more = np.zeros((max(size, len(values)) + 1, *values.shape[1:]), values.dtype)
    return np.concatenate([values, more])


def rouge_l(one: str, other: str) -> float:
    """Return the ROUGE-L F (beta 1) of two texts: 2 LCS / (m + n)."""
    memory = Instructions()
    memory.add(Sample(id="other", messages=(Message("user", other),)))
    return memory.nearest(one)[0]


def common(a: Ids, b: Ids, needed: float = 0.0) -> int:
    """Return the number of words that two sorted bags share, or any number below `needed` if they share fewer."""
    i = j = total = 0
    while i < len(a) and j < len(b) and total + min(len(a) - i, len(b) - j) >= needed:
        if a[i] == b[j]:
            total += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return total


def lcs(a: Ids, b: Ids) -> int:
    """Return the length of the longest common subsequence."""
    row = np.zeros(len(b) + 1, np.int32)
    for i in range(len(a)):
        diagonal = 0
        for j in range(len(b)):
            above = row[j + 1]
            row[j + 1] = diagonal + 1 if a[i] == b[j] else max(above, row[j])
            diagonal = above
    return int(row[len(b)])


def reach(size: int, floor: float) -> int:
    """Return how many of a bag's rarest words must be searched for, so that every other bag above the floor is found.

    A score above t needs c > t (m + n) / 2 common words, and c <= n, hence c > t m / (2 - t). The smallest such c is
    rounded down with a margin, so that rounding of floats never loses a pair.
    """
    fewest = int(floor * size / (2.0 - floor) - 1e-6) + 1
    return min(size, size - fewest + 1)


def f_measure(shared: int, m: int, n: int) -> float:
    """Return 2 PR / (P + R) in the order of operations of `rouge_score`, so that 0.7 is rounded in the same way."""
    precision, recall = shared / m, shared / n
    return 2.0 * precision * recall / (precision + recall) if shared else 0.0


def better(score: float, place: int, best: float, first: int) -> bool:
    """Return whether a score is above the best score so far, or equal to it at an earlier place."""
    return score > best or (score == best and 0 <= place < first)


def search(words: Ids, bag: Ids, flat: Any, index: Any, floor: float) -> tuple[float, int]:  # noqa: ANN401
    """Return (the largest score above the floor, the first place with that score), or (floor, -1)."""
    (texts, bags, ends), (pool, slots, stamps, stamp) = flat, index
    best, first, m = floor, -1, len(words)
    for i in range(reach(m, floor)):
        word = -bag[i]
        if word >= len(slots) or (i and bag[i] == bag[i - 1]):
            continue
        for k in range(slots[word, 0], slots[word, 0] + slots[word, 1]):
            place, j = pool[k, 0], pool[k, 1]
            if place >= len(ends) - 1:
                break
            if stamps[place] == stamp:
                continue
            stamps[place] = stamp
            begin, end = ends[place], ends[place + 1]
            total = m + end - begin
            # This is the first word that the two share, so nothing before it is common.
            if not better(2.0 * min(m - i, end - begin - j) / total + SLACK, place, best, first):
                continue
            shared = common(bag[i:], bags[begin + j : end], best * total / 2.0 - 1e-6)
            if not better(2.0 * shared / total + SLACK, place, best, first):
                continue
            score = f_measure(lcs(words, texts[begin:end]), m, end - begin)
            if better(score, place, best, first):
                best, first = score, place
    return best, first


def room(bag: Ids, slots: npt.NDArray[np.int64], floor: float) -> int:
    """Return the number of entries that `insert` would add at the end of the pool."""
    needed = 0
    for i in range(reach(len(bag), floor)):
        most = slots[-bag[i], 2]
        if (not i or bag[i] != bag[i - 1]) and slots[-bag[i], 1] == most:
            needed += max(2, 2 * most)
    return needed


def insert(bag: Ids, place: int, pool: Ids, slots: npt.NDArray[np.int64], used: int, floor: float) -> int:
    """Add an instruction to the postings of its rare words; a full list moves to the end, with twice the room."""
    for i in range(reach(len(bag), floor)):
        if i and bag[i] == bag[i - 1]:
            continue
        word = -bag[i]
        start, count, most = slots[word, 0], slots[word, 1], slots[word, 2]
        if count == most:
            for k in range(count):
                pool[used + k, 0] = pool[start + k, 0]
                pool[used + k, 1] = pool[start + k, 1]
            start, most = used, max(2, 2 * most)
            used += most
            slots[word, 0], slots[word, 2] = start, most
        pool[start + count, 0] = place
        pool[start + count, 1] = i
        slots[word, 1] = count + 1
    return used


@cache
def _kernels() -> Any:  # noqa: ANN401 - compiled functions
    """Compile `search`, `room` and `insert`."""
    import numba
    from numba.extending import register_jitable

    for helper in (common, lcs, reach, better, f_measure):
        register_jitable(helper)
    return numba.njit(nogil=True)(search), numba.njit(nogil=True)(room), numba.njit(nogil=True)(insert)
