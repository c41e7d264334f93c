"""Extractive question answering: the begin and the end of the answer in a context."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.training.evaluate.scorers.normal import squad
from gristmill.training.evaluate.scorers.squad import words_f1
from gristmill.training.tasks.contracts import (
    Answered,
    Asked,
    Labelled,
    MisfitError,
    Task,
    Window,
    conversation,
)

if TYPE_CHECKING:
    from gristmill.training.tasks.contracts import Logits

ANSWERS, START = "answers", "answer_start"
"""Tags of rows: all right answers as a JSON list, and where the first of them begins in the context, in characters."""


class QuestionAnswering(Task):
    """Train a model with a head that finds the answer to a question in a context.

    The text before the assistant's last turn is the question, an empty line, and the context. Without an empty line,
    the system turn is the context, as in the rows of `grounded` with `with_passage`. The last turn is the answer, in
    the words of the context. The tag `answer_start` says where it begins in the context; without it, the first place
    with these words is taken. A row is dropped and counted if its answer is not in the context. Long contexts are read
    in windows. A window without the answer has the first token as its label, as in BERT.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250; Devlin et al. 2019, BERT, arXiv:1810.04805, sections 4.2 and
    4.3. Departures: the best answer is looked for among all begins and ends, not among the 20 likeliest of each.
    """

    kind: Literal["question_answering"] = "question_answering"
    usual_rate: ClassVar[float | None] = 5e-5
    head: ClassVar[str] = "QuestionAnswering"
    peft: ClassVar[str] = "QUESTION_ANS"
    unit: ClassVar[str] = "window"
    windows: ClassVar[bool] = True
    measured: ClassVar[tuple[str, ...]] = ("f1", "exact")

    stride: int = Field(default=128, ge=0)
    """Number of tokens of the context that are in a window and in the next one too, if question and context are longer
    than `max_length`; at most half of a window. The default is BERT's."""
    max_answer_tokens: int = Field(default=30, gt=0)
    """Largest number of tokens in an answer that the model gives. The default is BERT's."""
    no_answer: str = ""
    """The answer of rows whose context has none, such as `unanswerable`. The model then gives this answer where the
    first token is a better answer than any words. It is empty if every context has an answer."""

    @property
    def overlap(self) -> int:
        """Number of tokens that are in a window and in the next one too."""
        return self.stride

    def problems(self, max_length: int) -> Iterator[str]:
        """Yield the problems of the settings."""
        if "stride" in self.model_fields_set and self.stride >= max_length:
            yield f"task.stride: {self.stride} tokens, must be below max_length, {max_length}"

    def config(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the number of outputs, which are the logits of begin and end."""
        del names
        return {"num_labels": 2}

    def asked(self, sample: Sample) -> Asked:
        """Return the context and the question of a sample."""
        turns = tuple(turn for turn in sample.messages if turn.role != "system")
        system = "\n\n".join(turn.text for turn in sample.messages if turn.role == "system")
        question, _, context = conversation(replace(sample, messages=turns), "").partition("\n\n")
        if not context.strip():
            context = system
        if not context.strip():
            raise MisfitError("no context after the question and an empty line, or in a system turn")
        return Asked(context, question)

    def labelled(self, sample: Sample, asked: Asked, windows: Sequence[Window], names: Sequence[str]) -> list[Labelled]:
        """Return the windows with the first and the last token of the answer; of token 0 where the answer is not."""
        del names
        span = self._span(sample, asked.text)
        if span is None:
            return [Labelled(window, [0, 0], 1) for window in windows]
        made = [Labelled(window, _tokens(window, span) or [0, 0], 1) for window in windows]
        if all(one.labels == [0, 0] for one in made):
            raise MisfitError("no window has the whole answer")
        return made

    def losses(self, output: Any, batch: Mapping[str, Any], smoothing: float) -> Any:  # noqa: ANN401 - of torch
        """Return the mean of the losses of begin and end of each window, without a chance for padding."""
        import torch
        from torch.nn.functional import cross_entropy

        padding = batch["attention_mask"] == 0
        found = []
        for place, logits in enumerate((output.start_logits, output.end_logits)):
            values = logits.float()
            if smoothing:  # the share of a smoothed label must not go to tokens without a chance
                chances = torch.log_softmax(values.masked_fill(padding, float("-inf")), dim=1)
                spread = -(chances.masked_fill(padding, 0.0).sum(dim=1) / (~padding).sum(dim=1))
                right = -chances.gather(1, batch["labels"][:, place : place + 1])[:, 0]
                found.append((1 - smoothing) * right + smoothing * spread)
            else:
                masked = values.masked_fill(padding, float("-inf"))
                found.append(cross_entropy(masked, batch["labels"][:, place], reduction="none"))
        return (found[0] + found[1]) / 2

    def answer(
        self, logits: "Sequence[Logits]", asked: Asked, windows: Sequence[Window], names: Sequence[str]
    ) -> Answered:
        """Return the words of the context with the highest sum of the logits of begin and end.

        With `no_answer`, return it if the sum at the first token is higher in every window.
        """
        del names
        best, words, empty = -np.inf, "", np.inf
        for values, window in zip(logits, windows, strict=True):
            start, end = np.asarray(values, np.float64).T
            empty = min(empty, start[0] + end[0])
            first, last = window.body
            sums = start[first:last, None] + end[None, first:last]
            allowed = np.tri(last - first, dtype=bool).T & np.tri(
                last - first, k=self.max_answer_tokens - 1, dtype=bool
            )
            sums = np.where(allowed, sums, -np.inf)
            if not sums.size or sums.max() <= best:
                continue
            begin, stop = np.unravel_index(int(sums.argmax()), sums.shape)
            best = sums.max()
            words = asked.text[window.ranges[first + int(begin)][0] : window.ranges[first + int(stop)][1]]
        return Answered(self.no_answer if self.no_answer and empty > best else words)

    def measures(
        self, samples: Sequence[Sample], answers: Sequence[Answered], names: Sequence[str]
    ) -> dict[str, float]:
        """Return the mean F1 of the words and the share of exact answers, as SQuAD has them."""
        del names
        both = [(answer.text, right_answers(sample)) for sample, answer in zip(samples, answers, strict=True)]
        return {
            "f1": float(np.mean([max(words_f1(said, one) for one in right) for said, right in both])),
            "exact": float(np.mean([squad(said) in map(squad, right) for said, right in both])),
        }

    def _span(self, sample: Sample, context: str) -> tuple[int, int] | None:
        """Return begin and end of the answer in the context, or None if the row has no answer."""
        answer = sample.answer.strip()
        if self.no_answer and squad(answer) == squad(self.no_answer):
            return None
        if not answer:
            raise MisfitError("no answer")
        told = sample.tags.get(START, "")
        start = int(told) if told.isdigit() else -1
        if start < 0 or not context.startswith(answer, start):
            start = context.find(answer)
        if start < 0:
            raise MisfitError("answer is not in the context")
        return start, start + len(answer)


def right_answers(sample: Sample) -> tuple[str, ...]:
    """Return the right answers of a sample: those of the tag `answers`, or its last turn."""
    try:
        value = json.loads(sample.tags.get(ANSWERS, "[]"))
    except ValueError:
        value = []
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    return (sample.answer,)


def _tokens(window: Window, span: tuple[int, int]) -> list[int] | None:
    """Return the first and the last token of a span of characters, or None if the window does not have all of it."""
    first, last = window.body
    if first == last or window.ranges[first][0] > span[0] or window.ranges[last - 1][1] < span[1]:
        return None
    inside = [n for n in range(first, last) if window.ranges[n][0] < span[1] and span[0] < window.ranges[n][1]]
    return [inside[0], inside[-1]] if inside else None
