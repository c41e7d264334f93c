"""Blocklist: drop samples that contain a word or pattern of the recipe's own list."""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import UNSPACED
from gristmill.cluster.text.words import whole
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict


class Blocklist(Filter):
    """Drop a sample that contains a word of the list, in upper or lower case, or that matches a pattern.

    In a script with spaces, a word must be between spaces or signs, so `ass` is not found in `class`. A Chinese word
    must begin and end where jieba cuts the text, so `日本人` is not found in `今日本人很忙`. jieba cuts words that it
    does not know into single characters, so these words are found anywhere.

    Source: the word lists of C4 (Raffel et al. 2019, arXiv:1910.10683, section 2.2: a page with any word of the list
    goes). Departures: no list of our own, because what is unwanted depends on the use; Chinese words at word edges.
    """

    kind: Literal["blocklist"] = "blocklist"
    example: ClassVar[Mapping[str, Any]] = {"words": ["lorem ipsum"]}
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    words: tuple[str, ...] = ()
    """Words or phrases, in any language."""
    patterns: tuple[str, ...] = ()
    """Regular expressions, matched anywhere and without regard to case."""
    roles: tuple[Literal["user", "assistant", "system", "tool"], ...] = ("user", "assistant")
    """Roles whose turns are searched."""

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _some(self) -> "Blocklist":
        if not any(word.strip() for word in (*self.words, *self.patterns)):
            raise ValueError("words and patterns are empty, one of them must say what to drop")
        return self

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Search the turns with one of the `roles`."""
        del ask
        for turn in sample.messages:
            if turn.role in self.roles and self.finds(turn.text):
                return Verdict(dropped=f"{self.kind}: has a listed word")
        return Verdict()

    def finds(self, text: str) -> str:
        """Return the first listed word or match in a text, or the empty string."""
        spaced, unspaced = _compiled(self.words, self.patterns)
        text = _plain(text)
        found = spaced.search(text) if spaced else None
        if found:
            return str(found[0])
        hits = list(unspaced.finditer(text)) if unspaced else []
        edges = _edges(text) if hits else set()
        return next((str(hit[1]) for hit in hits if {hit.start(1), hit.end(1)} <= edges), "")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@cache
def _compiled(words: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[Any, Any]:
    """Return (the expression for patterns and for words in scripts with spaces, the expression for other words).

    An expression that would be empty is None.
    """
    plain = sorted({_plain(word.strip()) for word in words if word.strip()}, key=lambda word: (-len(word), word))
    unspaced = [word for word in plain if re.search(f"[{UNSPACED}]", word)]
    spaced = [whole(word, r"\s+".join(map(re.escape, word.split()))) for word in plain if word not in unspaced]
    one = re.compile("|".join((*spaced, *(f"(?:{p})" for p in patterns))), re.IGNORECASE)
    other = re.compile(f"(?=({'|'.join(map(re.escape, unspaced))}))")  # a lookahead finds overlapping matches
    return (one if spaced or patterns else None, other if unspaced else None)


def _edges(text: str) -> set[int]:
    """Return the places where jieba cuts a text; words that it does not know are cut into characters."""
    return {0, *accumulate(len(word) for word in _cutter().cut(text, HMM=False))}


@cache
def _cutter() -> Any:  # noqa: ANN401 - untyped library
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()
