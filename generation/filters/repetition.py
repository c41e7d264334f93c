"""Repetition: drop texts that repeat themselves, as those of small models often do."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

NGRAM = 5
NGRAM_CHINESE = 8
"""Eight Chinese characters are about five words."""


class Repetition(Filter):
    """Drop a sample whose instruction or answer repeats lines or five-word sequences.

    Source: Rae et al. 2021, Gopher, arXiv:2112.11446, table A1 (duplicate lines 0.30, duplicate 5-grams 0.15).
    Departures: shares are of lines and words, not of characters; the 5-gram bound is looser, because numbered answers
    repeat their frame; short texts are not judged; eight characters represent five words in Chinese.
    """

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
        for what, text in (("instruction", sample.instruction), ("answer", sample.answer)):
            found = tokens(text)
            if len(found) < self.min_tokens:
                continue
            if duplicate_lines(text) > self.max_duplicate_lines:
                return Verdict(dropped=f"{self.kind}: {what} repeats lines")
            if duplicate_ngrams(found, NGRAM_CHINESE if is_chinese(text) else NGRAM) > self.max_duplicate_ngrams:
                return Verdict(dropped=f"{self.kind}: {what} repeats itself")
        return Verdict()


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
