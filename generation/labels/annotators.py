"""Annotators that label a text (models with a prompt, or rules), and the combination of several votes to one."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.text.replies import json_in
from gristmill.cluster.text.spans import Span, dumps
from gristmill.cluster.text.template import slots
from gristmill.cluster.text.words import whole
from gristmill.generation.prompting.search import terms

ASKED_WITH = ("labels", "schema", "language", "words")
"""Placeholders of a prompt, in addition to the text."""
Form = Literal["label", "entities", "json", "translation", "summary"]


class Annotator(Settings):
    """`[[generate.methods.annotators]]`: a model with its own prompt, or rules, which need no call."""

    name: str = Field(pattern=r"^[^\s:]+$")
    """Name of the annotator; its votes are in the tag `vote:<name>`."""
    engine: str = ""
    """Name in `[generate.engines]` of the model that is asked; by default the method's engine."""
    prompt: Annotated[str, slots(may=("text", *ASKED_WITH))] = ""
    """Prompt that replaces the method's prompt for texts of any language. It has the same placeholders."""
    samples: int = Field(default=1, gt=0)
    """Number of the model's answers to each text. With two or more, their agreement is the confidence. Free answers are
    sampled. Labels are not sampled: each answer has another order of the demonstrations instead."""
    rules: tuple[tuple[str, str], ...] = ()
    """Pairs of a regular expression and a label. The first expression that is found in the text votes for its label; if
    none is found, this annotator abstains. With rules, no model is asked."""

    @model_validator(mode="after")
    def _rules_compile(self) -> "Annotator":
        for pattern, _ in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"rules: {pattern!r} is no regular expression ({error})") from error
        return self

    def ruled(self, text: str) -> "Vote | None":
        """Return the label of the first rule whose expression is found in the text, regardless of case."""
        found = (label for pattern, label in self.rules if re.search(pattern, text, re.IGNORECASE))
        label = next(found, None)
        return None if label is None else Vote(label, 1.0)


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of one annotator about a text."""

    answer: str
    confidence: float
    """How certain the annotator is, 0 to 1."""


def combined(votes: Sequence[Vote], form: Form) -> Vote:
    """Return the combination of at least one vote; a single vote is returned unchanged."""
    if len(votes) == 1:
        return votes[0]
    ways: Mapping[str, Callable[[Sequence[Vote]], Vote]] = {"entities": _spans, "translation": _text, "summary": _text}
    return ways.get(form, majority)(votes)


def majority(votes: Sequence[Vote]) -> Vote:
    """Return the most frequent answer. Among equally frequent answers, the largest sum of confidences wins.

    The confidence of the result is this sum, divided by the number of all votes.
    """
    counts = Counter(vote.answer for vote in votes)
    sums = {answer: sum(vote.confidence for vote in votes if vote.answer == answer) for answer in counts}
    best = max(counts, key=lambda answer: (counts[answer], sums[answer]))
    return Vote(best, sums[best] / len(votes))


def _spans(votes: Sequence[Vote]) -> Vote:
    """Return the spans that more than half of the votes have; the confidence is the mean support of the spans."""
    support: dict[Span, list[float]] = {}
    for vote in votes:
        for span in {Span(**entry) for entry in json.loads(vote.answer)}:
            support.setdefault(span, []).append(vote.confidence)
    kept = {span: sum(given) / len(votes) for span, given in support.items() if 2 * len(given) > len(votes)}
    answer = dumps(sorted(kept, key=lambda span: span.start))
    against = sum(vote.confidence for vote in votes if vote.answer == answer) / len(votes)
    return Vote(answer, sum(kept.values()) / len(kept) if kept else against)


def _text(votes: Sequence[Vote]) -> Vote:
    """Return the text that is most similar to the others. Its confidence is the mean similarity."""
    bags = [Counter(terms(vote.answer)) for vote in votes]
    likeness = [
        sum(_shared(one, other) for m, other in enumerate(bags) if m != n) / (len(bags) - 1)
        for n, one in enumerate(bags)
    ]
    best = max(range(len(votes)), key=lambda n: likeness[n])
    return Vote(votes[best].answer, likeness[best])


def _shared(one: Counter[str], other: Counter[str]) -> float:
    """Return the F score of two bags of words: twice the common words over all words."""
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def entities(reply: str, text: str, labels: Sequence[str]) -> str | None:
    """Return the spans that a reply names, as JSON with their places; None if the reply has no list.

    The words of each entry are searched in the text, at the first place that no earlier span covers. Blanks and case
    may differ; the span is then copied from the text. Entries with an unknown label, and words that are not found, are
    left out.
    """
    value = json_in(reply)
    listed = value.get("entities") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return None
    found: list[Span] = []
    for entry in listed:
        words, label = (entry.get("text"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if isinstance(words, str) and words.strip() and label in labels:
            taken = [(span.start, span.end) for span in found]
            place = _place(words, text, taken)
            if place:
                found.append(Span(text[place[0] : place[1]], str(label), *place))
    return dumps(sorted(found, key=lambda span: span.start))


def _place(words: str, text: str, taken: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first place of some words in a text, outside of `taken`; an exact match is preferred."""
    loose = r"\s+".join(map(re.escape, words.split()))
    for pattern, flags in ((re.escape(words), 0), (loose, 0), (loose, re.IGNORECASE)):
        for found in re.finditer(whole(words.strip(), pattern), text, flags):
            if all(found.end() <= begin or end <= found.start() for begin, end in taken):
                return found.span()
    return None
