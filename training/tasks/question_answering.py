"""Extractive question answering: the begin and the end of the answer in a context."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.training.evaluate.scorers.normal import squad
from gristmill.training.evaluate.scorers.squad import by_answer, words_f1
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

    A context need not have an answer. Such a row has an empty list in the tag `answers`, as rows of SQuAD 2.0 get it,
    or the answer `no_answer`. The score of no answer is that of the first token; the lowest of all windows counts.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250; Rajpurkar et al. 2018, SQuAD 2.0, arXiv:1806.03822; Devlin
    et al. 2019, BERT, arXiv:1810.04805, sections 4.2 and 4.3. Departures: the best answer is looked for among all
    begins and ends, not among the 20 likeliest of each.
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
    """The answer that says that the context has none, such as `unanswerable`; in rows, and from the model."""
    null_threshold: float | None = None
    """The model answers `no_answer` if the score of no answer exceeds that of the best words by more than this, in
    logits. By default it is chosen when the model is finished, so that F1 is highest on the held-out rows; measures of
    held-out rows are at their best threshold too. If every held-out row has an answer, it is 0 with `no_answer`, and
    else the model always answers with words."""

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
        """Return the words of the context with the highest sum of the logits of begin and end, or `no_answer`."""
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
        return self.decided(Answered(words, words=words, null=float(empty - best)))

    def decided(self, answered: Answered) -> Answered:
        """Return an answer with the text that the threshold decides."""
        threshold = self.null_threshold
        if threshold is None:
            threshold = 0.0 if self.no_answer else np.inf
        return replace(answered, text=self.no_answer if answered.null > threshold else answered.words)

    def measures(
        self, samples: Sequence[Sample], answers: Sequence[Answered], names: Sequence[str]
    ) -> dict[str, float]:
        """Return the mean F1 of the words and the share of exact answers, as SQuAD has them.

        If some contexts have an answer and some have none, the values of both kinds too.
        """
        del names
        right = [self._right(sample) for sample in samples]
        fitted = self._fitted(right, answers)
        decided = answers if fitted is self else map(fitted.decided, answers)
        said = [self._bare(answer.text) for answer in decided]
        f1s = [_f1(one, each) for one, each in zip(said, right, strict=True)]
        exact = [float(squad(one) in map(squad, each)) for one, each in zip(said, right, strict=True)]
        by_kind = by_answer(f1s, exact, [any(each) for each in right])
        return {"f1": float(np.mean(f1s)), "exact": float(np.mean(exact)), **by_kind}

    def open(self, samples: Sequence[Sample]) -> bool:
        """Return whether the threshold is still to be chosen, and some samples have no answer."""
        return self.null_threshold is None and not all(any(self._right(sample)) for sample in samples)

    def fitted(self, samples: Sequence[Sample], answers: Sequence[Answered]) -> "QuestionAnswering":
        """Return the task with the threshold for which the F1 of the answers is highest, if none is set.

        It is the `null` of one of the answers, or 1 below the lowest. Of equal thresholds, the lowest is taken.

        Source: the evaluation script of SQuAD 2.0, `find_best_thresh`. Departures: answers with the same `null` are
        decided alike.
        """
        return self._fitted([self._right(sample) for sample in samples], answers)

    def _fitted(self, right: Sequence[tuple[str, ...]], answers: Sequence[Answered]) -> "QuestionAnswering":
        if self.null_threshold is not None or all(any(each) for each in right):
            return self
        nulls = np.array([answer.null for answer in answers])
        order = np.argsort(nulls, kind="stable")
        words = np.array([_f1(answer.words, each) for answer, each in zip(answers, right, strict=True)])
        none = np.array([_f1("", each) for each in right])
        summed = none.sum() + np.cumsum((words - none)[order])  # after each answer that is given in words
        ends = np.append(np.flatnonzero(np.diff(nulls[order])), len(order) - 1)
        best = ends[int(summed[ends].argmax())]
        chosen = nulls[order][best] if summed[best] > none.sum() else nulls.min() - 1
        return self.model_copy(update={"null_threshold": float(chosen)})

    def _right(self, sample: Sample) -> tuple[str, ...]:
        """Return the right answers of a sample; only the empty text if its context has none."""
        return tuple(map(self._bare, right_answers(sample)))

    def _bare(self, answer: str) -> str:
        """Return an answer, or the empty text if it says that there is none."""
        return "" if squad(answer) == squad(self.no_answer) else answer

    def _span(self, sample: Sample, context: str) -> tuple[int, int] | None:
        """Return begin and end of the answer in the context, or None if the row has no answer."""
        answer = sample.answer.strip()
        if sample.tags.get(ANSWERS) == "[]" or (self.no_answer and squad(answer) == squad(self.no_answer)):
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


def _f1(said: str, right: Sequence[str]) -> float:
    return max(words_f1(said, one) for one in right)


def _tokens(window: Window, span: tuple[int, int]) -> list[int] | None:
    """Return the first and the last token of a span of characters, or None if the window does not have all of it."""
    first, last = window.body
    if first == last or window.ranges[first][0] > span[0] or window.ranges[last - 1][1] < span[1]:
        return None
    inside = [n for n in range(first, last) if window.ranges[n][0] < span[1] and span[0] < window.ranges[n][1]]
    return [inside[0], inside[-1]] if inside else None
