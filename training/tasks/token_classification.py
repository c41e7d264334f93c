"""Token classification: the entities of a text, as BIO labels of its tokens."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text import spans as marks
from gristmill.cluster.text.replies import json_in
from gristmill.cluster.text.spans import Span
from gristmill.training.evaluate.scorers.normal import f1
from gristmill.training.tasks.contracts import (
    IGNORED,
    Answered,
    Asked,
    Labelled,
    MisfitError,
    Task,
    Window,
    conversation,
)
from gristmill.training.tasks.sequence_classification import different

if TYPE_CHECKING:
    from gristmill.training.tasks.contracts import Logits

OUTSIDE = "O"


class TokenClassification(Task):
    """Train a model with a head that labels each token of a text, so that it finds entities.

    The text is what comes before the assistant's last turn. That turn has the entities: a JSON list of `{text, label}`
    with or without `start`, a JSON table that lists words by label, or the text with marks, `[Berlin](city)`. Words
    without `start` are looked for in the text, in the order of the list. The first token of an entity gets the label
    `B-city`, its other tokens `I-city`, and all other tokens `O`; also where a word has several tokens. A row is
    dropped and counted if its entities are not in the text, overlap, or begin or end inside of a token. Long texts are
    read in windows, and each token is trained on in the window where it has the most context.

    Source: Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040, section 4.2 (the labels), in the form of Tjong Kim Sang & De
    Meulder 2003, CoNLL-2003; Devlin et al. 2019, BERT, arXiv:1810.04805, section 5.3. Departures: all tokens of a word
    are labelled, because Chinese has no words between spaces.
    """

    kind: Literal["token_classification"] = "token_classification"
    usual_rate: ClassVar[float | None] = 5e-5
    head: ClassVar[str] = "TokenClassification"
    peft: ClassVar[str] = "TOKEN_CLS"
    windows: ClassVar[bool] = True
    measured: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1")

    labels: tuple[str, ...] = ()
    """Labels of the entities, without `B-` and `I-`. Rows with another label are dropped and counted. The default is
    all labels of the rows, of which there may be up to 200."""
    stride: int = Field(default=64, ge=0)
    """Number of tokens that are in a window and in the next one too, if a text is longer than `max_length`; at most
    half of a window."""
    instruction: str = ""
    """Text before the text with the entities, such as the instruction in the rows of `targeted`. It is removed where a
    row begins with it."""

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return different(labels)

    @property
    def overlap(self) -> int:
        """Number of tokens that are in a window and in the next one too."""
        return self.stride

    def problems(self, max_length: int) -> Iterator[str]:
        """Yield the problems of the settings."""
        if "stride" in self.model_fields_set and self.stride >= max_length:
            yield f"task.stride: {self.stride} tokens, must be below max_length, {max_length}"

    def names(self, samples: Iterable[Sample]) -> tuple[str, ...]:
        """Return the labels of the entities."""
        return self.labels or super().names(samples)

    def labels_of(self, sample: Sample) -> list[str]:
        """Return the labels of the entities of a sample."""
        return [span.label for span in spans_of(self.asked(sample).text, sample.answer)]

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of tokens: `O`, then `B-` and `I-` of each label."""
        return (OUTSIDE, *(f"{begin}-{name}" for name in names for begin in "BI"))

    def asked(self, sample: Sample) -> Asked:
        """Return the text of a sample."""
        return Asked(conversation(sample, self.instruction))

    def labelled(self, sample: Sample, asked: Asked, windows: Sequence[Window], names: Sequence[str]) -> list[Labelled]:
        """Return the windows with the number of the label of each token."""
        places = {name: place for place, name in enumerate(self.outputs(names))}
        found = spans_of(asked.text, sample.answer)
        if any(span.label not in names for span in found):
            raise MisfitError("label of an entity is none of train.task.labels")
        made = []
        seen = set[Span]()
        for window in windows:
            labels = [IGNORED] * len(window.ids)
            tags, fitted = bio(window, found)
            seen |= fitted
            labels[slice(*window.own)] = [places[tag] for tag in tags[slice(*window.own)]]
            made.append(Labelled(window, labels, window.own[1] - window.own[0]))
        if len(seen) < len(found):
            raise MisfitError("an entity has no token")
        return [one for one in made if one.trained]

    def losses(self, output: Any, batch: Mapping[str, Any], smoothing: float) -> Any:  # noqa: ANN401 - of torch
        """Return the summed loss of each row's tokens."""
        from torch.nn.functional import cross_entropy

        wanted = batch["labels"]
        each = cross_entropy(
            output.logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none",
            label_smoothing=smoothing,
        )  # fmt: skip
        return each.view(wanted.shape).sum(dim=1)

    def answer(
        self, logits: "Sequence[Logits]", asked: Asked, windows: Sequence[Window], names: Sequence[str]
    ) -> Answered:
        """Return a JSON list of the entities with `text`, `label`, `start` and `end`."""
        outputs = self.outputs(names)
        tags: list[str] = []
        ranges: list[tuple[int, int]] = []
        for values, window in zip(logits, windows, strict=True):
            own = slice(*window.own)
            tags += [outputs[place] for place in np.asarray(values)[own].argmax(axis=-1).tolist()]
            ranges += window.ranges[own]
        return Answered(marks.dumps(entities(asked.text, tags, ranges)))

    def measures(
        self, samples: Sequence[Sample], answers: Sequence[Answered], names: Sequence[str]
    ) -> dict[str, float]:
        """Return precision, recall and F1 over all entities; one is right if its place and its label are."""
        truth = [spans_of(self.asked(sample).text, sample.answer) for sample in samples]
        said = [spans_of(self.asked(row).text, answer.text) for row, answer in zip(samples, answers, strict=True)]
        return span_measures(truth, said, names)


def spans_of(text: str, answer: str) -> list[Span]:
    """Return the entities of an answer with their places in a text, in the order of the text.

    Raises:
        MisfitError: when the answer has none of the three forms, or an entity is not in the text or overlaps another.
    """
    found: list[Span] = []
    for words, label, start in _entries(text, answer):
        place = _place(text, words, start, found)
        if place < 0:
            raise MisfitError("an entity is not in the text" if words not in text else "entities overlap")
        found.append(Span(words, label, place, place + len(words)))
    found.sort(key=lambda span: span.start)
    if any(one.end > other.start for one, other in pairwise(found)):
        raise MisfitError("entities overlap")
    return found


def _entries(text: str, answer: str) -> list[tuple[str, str, int | None]]:
    """Return words, label and start of the entities of an answer; the start is None if it is not told."""
    if marks.MARK.search(answer) and json_in(answer) is None:
        labels = {found[2] for found in marks.MARK.finditer(answer)}
        read = marks.read(answer, labels)
        if read is None or read[0].strip() != text.strip():
            raise MisfitError("text with marks is another text than the one before the answer")
        shift = text.index(text.strip()) - read[0].index(read[0].strip())
        return [(span.text, span.label.strip(), span.start + shift) for span in read[1]]
    value = json_in(answer)
    if isinstance(value, dict):
        listed: list[tuple[Any, Any, int | None]] = [
            (words, label, None) for label, some in value.items() if isinstance(some, list) for words in some
        ]
    elif isinstance(value, list):
        listed = [_entry(entry) for entry in value]
    elif answer.strip() == text.strip():  # the text with marks, of which there are none
        return []
    else:
        raise MisfitError("answer has no entities in JSON or marks")
    if not all(isinstance(words, str) and words.strip() and isinstance(label, str) for words, label, _ in listed):
        raise MisfitError("an entity has no text or no label")
    moved = [(words, label.strip(), None if start is None else start) for words, label, start in listed]
    return [
        (words.strip(), label, start if start is None else start + len(words) - len(words.lstrip()))
        for words, label, start in moved
    ]


def _entry(entry: object) -> tuple[Any, Any, int | None]:
    if not isinstance(entry, dict):
        return None, None, None
    start = entry.get("start")
    return entry.get("text"), entry.get("label"), start if isinstance(start, int) else None


def _place(text: str, words: str, start: int | None, taken: Sequence[Span]) -> int:
    """Return where words are in a text: at `start`, or where they come first after the last entity, or first; or -1.

    `start` may count from the last paragraph, as in the rows of `targeted`, whose text comes after an instruction.
    """
    if start is not None:
        shift = text.rfind("\n\n") + 2 if "\n\n" in text else 0
        for place in (start, shift + start):
            if place >= 0 and text.startswith(words, place):
                return place
    places = [found.start() for found in re.finditer(re.escape(words), text)]
    free = [place for place in places if all(place >= t.end or t.start >= place + len(words) for t in taken)]
    after = max((span.end for span in taken), default=0)
    return next((place for place in free if place >= after), free[0] if free else -1)


def bio(window: Window, found: Sequence[Span]) -> tuple[list[str], set[Span]]:
    """Return the BIO label of each token of a window, and the entities that have a token in it.

    Raises:
        MisfitError: when an entity begins or ends inside of a token.
    """
    tags, fitted = [OUTSIDE] * len(window.ids), set[Span]()
    for span in found:
        inside = [place for place in range(*window.body) if _overlap(window.ranges[place], (span.start, span.end))]
        for place in inside:
            begin, end = window.ranges[place]
            if begin < span.start or end > span.end:
                raise MisfitError("an entity begins or ends inside of a token")
            # in a window that begins inside of an entity, its first token there goes on with it
            first = begin == span.start and (place == inside[0])
            tags[place] = f"{'B' if first else 'I'}-{span.label}"
        if inside:
            fitted.add(span)
    return tags, fitted


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def entities(text: str, tags: Sequence[str], ranges: Sequence[tuple[int, int]]) -> list[Span]:
    """Return the entities that BIO labels of tokens say.

    An `I-` that does not go on with an entity of its label begins one, as in conlleval and seqeval's default mode. A
    token that begins inside of an entity, as the further bytes of one character do, is part of it whatever its label.
    """
    found: list[Span] = []
    label = ""
    for tag, (begin, end) in zip(tags, ranges, strict=True):
        mark, _, name = tag.partition("-")
        if begin == end and tag != OUTSIDE:  # a token of white space alone neither begins nor ends an entity
            continue
        last = found[-1] if found else Span("", "", 0, 0)
        if begin < last.end or (mark == "I" and name == label):
            stop = max(end, last.end)
            found[-1] = Span(text[last.start : stop], last.label, last.start, stop)
            label = last.label
            continue
        if tag != OUTSIDE:
            found.append(Span(text[begin:end], name, begin, end))
        label = "" if tag == OUTSIDE else name
    return found


def span_measures(
    truth: Sequence[Sequence[Span]], said: Sequence[Sequence[Span]], names: Sequence[str]
) -> dict[str, float]:
    """Return precision, recall and F1 of entities over all texts (micro), and the mean F1 over the labels (macro)."""
    wanted, given, hits = Counter[str](), Counter[str](), Counter[str]()
    for right, one in zip(truth, said, strict=True):
        mine, other = ({(span.label, span.start, span.end) for span in some} for some in (right, one))
        wanted.update(label for label, *_ in mine)
        given.update(label for label, *_ in other)
        hits.update(label for label, *_ in mine & other)
    total = (hits.total(), given.total(), wanted.total())
    taken = [name for name in names if wanted[name] or given[name]]
    return {
        "micro_precision": total[0] / total[1] if total[1] else 0.0,
        "micro_recall": total[0] / total[2] if total[2] else 0.0,
        "micro_f1": f1(*total),
        "macro_f1": float(np.mean([f1(hits[n], given[n], wanted[n]) for n in taken])) if taken else 0.0,
    }
