"""Repetition: drop texts that repeat themselves, as those of small models often do."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.keys import key
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

NGRAM = 5
NGRAM_CHINESE = 8
"""Eight Chinese characters are about five words."""
GREETING = 4
"""Words of a turn from which on an answer may not be the same."""


class Repetition(Filter):
    """Drop a sample whose instruction or answer repeats lines or five-word sequences, or that says a question again.

    An answer says the question again if it is the user's turn before it, but for case, spaces and punctuation. Of 60
    conversations that `multi_turn` made with the builtin model, 4 had such an answer; of 7,823 tasks and problems that
    people wrote with their answers, none.

    Source: Rae et al. 2021, Gopher, arXiv:2112.11446, table A1 (duplicate lines 0.30, duplicate 5-grams 0.15).
    Departures: answers that say the question again; shares are of lines and words, not of characters; the 5-gram bound
    is looser, because numbered answers repeat their frame; short texts are not judged; eight characters represent five
    words in Chinese.
    """

    revision: ClassVar[int] = 2  # an answer that says the question again is dropped
    kind: Literal["repetition"] = "repetition"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    max_duplicate_lines: float = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that repeat an earlier line."""
    max_duplicate_ngrams: float = Field(default=0.3, ge=0, le=1)
    """Largest share of words inside sequences that repeat an earlier one."""
    min_tokens: int = Field(default=16, gt=0)
    """Texts with fewer words or Chinese characters are not judged."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer where there is one."""
        del ask
        if says_again(sample):
            return Verdict(dropped=f"{self.kind}: answer says the question again")
        for what, text in (("instruction", sample.instruction), ("answer", sample.answer)):
            found = tokens(text)
            if len(found) < self.min_tokens:
                continue
            if duplicate_lines(text) > self.max_duplicate_lines:
                return Verdict(dropped=f"{self.kind}: {what} repeats lines")
            if duplicate_ngrams(found, NGRAM_CHINESE if is_chinese(text) else NGRAM) > self.max_duplicate_ngrams:
                return Verdict(dropped=f"{self.kind}: {what} repeats itself")
        return Verdict()


def says_again(sample: Sample) -> bool:
    """Say whether an answer is the user's turn before it; a greeting may be returned."""
    return any(
        (one.role, other.role) == ("user", "assistant")
        and num_words(one.text) >= GREETING
        and key(one.text) == key(other.text)
        for one, other in pairwise(sample.messages)
    )


def duplicate_lines(text: str) -> float:
    """Return the share of non-empty lines that repeat an earlier line, 0 to 1."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (len(lines) - len(set(lines))) / max(1, len(lines))


def duplicate_ngrams(found: Sequence[str], n: int) -> float:
    """Return the share of tokens inside n-grams that repeat an earlier one, 0 to 1."""
    ngrams = list(zip(*(found[start:] for start in range(n)), strict=False))
    if len(set(ngrams)) == len(ngrams):  # this holds for most texts
        return 0.0
    seen: set[tuple[str, ...]] = set()
    covered = [False] * len(found)
    for start, ngram in enumerate(ngrams):
        if ngram in seen:
            covered[start : start + n] = [True] * n
        seen.add(ngram)
    return sum(covered) / max(1, len(found))
