"""Novelty: an instruction must differ from the seeds and from everything accepted before it.

All-pairs ROUGE-L is quadratic in the dataset. Two upper bounds that need no table of subsequences, one from the lengths
and one from the common words, leave few pairs to compute, and they are exact: the decisions are those of all pairs.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cluster.sample import Message, Sample
from generation.contracts import Memory, SetFilter, Verdict
from generation.words import tokens

Ids = npt.NDArray[np.int32]


class Novelty(SetFilter):
    """Drop an instruction whose ROUGE-L F with a seed or an accepted sample is above the threshold.

    The score `novelty` is 1 minus the largest ROUGE-L F, 0 to 1, before any threshold.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, section 2.2 (0.7); Lin 2004, ROUGE (LCS F with beta 1).
    Departures: Chinese and other scripts without spaces are compared by characters, where the reference tokenizer
    returns no token at all; words are not stemmed.
    """

    kind: Literal["novelty"] = "novelty"
    max_similarity: float = Field(default=0.7, ge=0, le=1)
    """Largest ROUGE-L F with any earlier instruction."""

    def memory(self) -> "Instructions":
        """Return an empty memory."""
        return Instructions()

    def compare(self, sample: Sample, memory: Memory) -> Verdict:
        """Compare the first user turn with all remembered ones."""
        assert isinstance(memory, Instructions)
        similarity, nearest = memory.nearest(sample.instruction)
        scores = {"novelty": 1.0 - similarity}
        return Verdict(scores, f"{self.kind}: too near {nearest}" if similarity > self.max_similarity else None)


class Instructions:
    """Instructions as sequences of word numbers, in flat arrays that grow by doubling."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids: list[str] = []
        self._words, self._bags = np.empty(1024, np.int32), np.empty(1024, np.int32)  # in order, and sorted
        self._ends = np.zeros(64, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, sample: Sample) -> None:
        """Remember the instruction of a sample."""
        words = np.array(self._encode(sample.instruction, grow=True), np.int32)
        begin = int(self._ends[len(self)])
        end = begin + len(words)
        self._words, self._bags = _room(self._words, end), _room(self._bags, end)
        self._words[begin:end], self._bags[begin:end] = words, np.sort(words)
        self._ids.append(sample.id)
        self._ends = _room(self._ends, len(self) + 1)
        self._ends[len(self)] = end

    def nearest(self, text: str) -> tuple[float, str]:
        """Return the largest ROUGE-L F with any remembered instruction, and the id of the first that has it."""
        words = np.array(self._encode(text, grow=False), np.int32)  # [m]
        if not self._ids or not len(words):
            return 0.0, ""
        ends = self._ends[: len(self) + 1]
        best, place = _search()(words, np.sort(words), self._words[: ends[-1]], self._bags[: ends[-1]], ends)
        return float(best), self._ids[place] if place >= 0 else ""

    def _encode(self, text: str, *, grow: bool) -> list[int]:
        """Number the words; those unknown to a vocabulary that must not grow get numbers below zero."""
        if grow:
            return [self._numbers.setdefault(word, len(self._numbers)) for word in tokens(text)]
        unknown: dict[str, int] = {}
        numbers = (self._numbers.get(word) for word in tokens(text))
        return [
            unknown.setdefault(word, -1 - len(unknown)) if number is None else number
            for word, number in zip(tokens(text), numbers, strict=True)
        ]


def _room(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return the array, or one twice as long with the same beginning, so that index `size` exists."""
    return (
        values if size < len(values) else np.concatenate([values, np.zeros(max(size, len(values)) + 1, values.dtype)])
    )


def rouge_l(one: str, other: str) -> float:
    """Return the ROUGE-L F (beta 1) of two texts: 2 LCS / (m + n)."""
    memory = Instructions()
    memory.add(Sample(id="other", messages=(Message("user", other),)))
    return memory.nearest(one)[0]


def common(a: Ids, b: Ids) -> int:
    """Return the size of the intersection of two sorted bags."""
    i = j = total = 0
    while i < len(a) and j < len(b):
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


@cache
def _search() -> Any:  # noqa: ANN401 - a compiled function
    """Compile the search: about two seconds."""
    import numba

    compiled = numba.njit(nogil=True)
    common_, lcs_ = compiled(common), compiled(lcs)

    def search(words: Ids, bag: Ids, flat: Ids, bags: Ids, ends: npt.NDArray[np.int64]) -> tuple[float, int]:
        best, place = 0.0, -1
        for k in range(len(ends) - 1):
            begin, end = ends[k], ends[k + 1]
            total = len(words) + end - begin
            if 2.0 * min(len(words), end - begin) / total <= best:
                continue
            if 2.0 * common_(bag, bags[begin:end]) / total <= best:
                continue
            score = 2.0 * lcs_(words, flat[begin:end]) / total
            if score > best:
                best, place = score, k
        return best, place

    return compiled(search)
