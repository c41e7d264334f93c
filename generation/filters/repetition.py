"""Repetition: drop texts that repeat themselves, which small models often write."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.keys import folded, key
from gristmill.cluster.text.scripts import HAN, is_chinese
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

_HAN = re.compile(f"[{HAN}]")
NGRAM = 5
NGRAM_CHINESE = 8
"""Eight Chinese characters are about five words."""
GREETING = 4
"""An answer may be the same as a turn with fewer words than this, such as a greeting."""


class Repetition(Filter):
    """Drop a sample if a text repeats lines or five-word sequences, or if an answer only says the question again.

    An answer says the question again if it equals the user's turn before it, apart from case, spaces and punctuation.
    4 of 60 conversations that `multi_turn` made with the builtin model had such an answer. None of 7,823 tasks and
    problems that people wrote with their answers had one.

    Source: Rae et al. 2021, Gopher, arXiv:2112.11446, table A1 (duplicate lines 0.30, duplicate 5-grams 0.15).
    Departures: answers that say the question again are dropped too; shares are of lines and words, not of characters;
    the 5-gram bound is looser, because numbered answers repeat their frame; short texts are not judged; in Chinese,
    sequences have eight characters instead of five words.
    """

    revision: ClassVar[int] = 2  # an answer that says the question again is dropped
    kind: Literal["repetition"] = "repetition"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    max_duplicate_lines: float = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that repeat an earlier line."""
    max_duplicate_ngrams: float = Field(default=0.3, ge=0, le=1)
    """Largest share of words that are inside sequences which repeat an earlier sequence."""
    min_tokens: int = Field(default=16, gt=0)
    """Texts with fewer words or Chinese characters are not judged."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer if there is one."""
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
    """Return whether an answer is the same as the user's turn before it; a greeting may be the same."""
    return any(
        (one.role, other.role) == ("user", "assistant") and _same(one.text, other.text)
        for one, other in pairwise(sample.messages)
    )


def _same(question: str, answer: str) -> bool:
    """Return whether two texts have one key, and are longer than a greeting; most differ in their first letter."""
    first, second = _first_letter(question), _first_letter(answer)
    if first and second and first != second:
        return False
    return num_words(question) >= GREETING and key(question) == key(answer)


def _first_letter(text: str) -> str:
    """Return the first letter as it is in the text's key; empty if the characters around it may change it there."""
    letter = next((character for character in text if character.isalpha()), "")
    alone = text.isascii() or _HAN.match(letter)
    return folded(letter) if alone and "&" not in text else ""


def duplicate_lines(text: str) -> float:
    """Return the share of non-empty lines that repeat an earlier line, 0 to 1."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (len(lines) - len(set(lines))) / max(1, len(lines))


def duplicate_ngrams(found: Sequence[str], n: int) -> float:
    """Return the share of tokens, 0 to 1, that are inside n-grams which repeat an earlier n-gram."""
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
