"""Harness: the documents and metrics of a task of lm-evaluation-harness."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models.engine import Reply, Request, Score, Write
from gristmill.training.evaluate import harness
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Scorer

NUMBER, REQUESTS = "harness_doc", "harness_requests"
"""Tags of items: the number of the document, and its requests as JSON."""
DIGITS = 6
"""Number of decimals of a log-likelihood that is shown."""


class Harness(Scorer):
    """Score a document of a task of lm-evaluation-harness as the task does (needs the package lm-eval).

    `input` is the YAML file of a task, which may be one of the harness's own. The harness reads the documents, makes
    the prompts with solved cases, filters the replies and computes the metrics; the models are asked by the engine,
    with their chat template. The value of an item is `metric`, times -1 if lower is better. The report has all metrics
    of the task over all documents; a metric without a number for each document, such as F1, has the value 0 in the
    items and what it is computed from in their replies. The likelihood of a text is that of its own tokens; the
    harness's models add the line break at the end of the template's header, which is the same for all choices.

    Source: Gao et al. 2024, The Language Model Evaluation Harness, doi:10.5281/zenodo.12608602; Biderman et al. 2024,
    Lessons from the Trenches, arXiv:2405.14782. Departures: tasks that ask whether a text is the likeliest, for
    likelihoods without a prompt (`loglikelihood_rolling`), or that run written code, are refused.
    """

    kind: Literal["harness"] = "harness"
    example: ClassVar[Mapping[str, Any]] = {"input": "tasks/colours.yaml"}
    answered: ClassVar[bool] = False
    ingested: ClassVar[bool] = False
    input: Source
    """The YAML file of the task. Relative paths of documents in it start at the folder in which gristmill runs."""
    metric: str = ""
    """The metric that is the value of an item, such as `acc_norm`. The default is the first metric of the task that
    has a number for each document."""
    shots: int | None = Field(default=None, ge=0)
    """Number of solved cases before each document. The default is that of the task."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens in a reply, if the task does not say it (`max_gen_toks`)."""

    @field_validator("input")
    @classmethod
    def _is_a_file(cls, value: Source) -> Source:
        if len(value.path) != 1:
            raise ValueError(f"has {len(value.path)} paths, must be the YAML file of one task")
        return value

    @field_validator("prompt")
    @classmethod
    def _is_not_set(cls, value: str) -> str:
        if value != "{prompt}":
            raise ValueError("is set, must not be with kind harness; the task writes the prompts")
        return value

    @property
    def path(self) -> Path:
        """The YAML file of the task."""
        return Path(self.input.path[0])

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the values, with the contents of the task's files."""
        value = super().identity()
        if self.path.is_file():
            value["fields"]["task"] = ids.digest([one.read_bytes().hex() for one in harness.files(self.path)])
        return value

    def further_files(self) -> list[str]:
        """Return the files next to the task, which it may include, and those of its documents."""
        return [str(one) for one in harness.files(self.path)] if self.path.is_file() else []

    def problems(self) -> list[str]:
        """Return the reason why the task cannot be asked, if there is one."""
        if not find_spec("lm_eval"):
            return ["kind: harness, but lm_eval is not installed; pip install lm-eval==0.4.13, or leave the suite out"]
        return [] if self.path.is_file() else [f"input: {self.path} is no file, must be the YAML file of a task"]

    def rows(self) -> list[Sample]:
        """Return the documents of the task.

        Raises:
            JobError: when the task cannot be loaded, or has no metric of this name.
        """
        known = self._task.known
        if self.metric and self.metric.partition(",")[0] not in known:
            raise JobError(f"lm_eval task {self.path}: has no metric {self.metric}, must be one of {', '.join(known)}")
        return [_row(self._task.name, number, doc) for number, doc in self._task.docs().items()]

    def requests(self, item: Item) -> list[Request]:
        """Return the requests of the task for a document."""
        return [request for asked in _requests(item) for request in self._sent(item, asked)]

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the value of the item, and each metric with what it needs of the document as JSON."""
        del shared
        left, by_request, answers = list(replies), list[list[harness.Reply]](), list[list[str | float]]()
        for asked in _requests(item):
            mine, left = left[: asked.times], left[asked.times :]
            if asked.scored is None:
                by_request.append([reply.text for reply in mine])
                answers.append([reply.text for reply in mine])
            else:
                by_request.append([(reply.logprob or 0.0, False) for reply in mine])
                answers.append([round(reply.logprob or 0.0, DIGITS) for reply in mine])
        found = self._task.metrics(int(item.tags[NUMBER]), by_request)
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float | np.number)}
        own = self.metric or next(iter(numbers), "")
        if own not in numbers:
            raise JobError(
                f"lm_eval task {self.path}: the metric {own or 'that is its only one'} has no number for a document, "
                f"must have one; set metric to one of {', '.join(numbers) or 'another task'}"
            )
        value = Judgement(self._task.sign(own) * numbers[own], json.dumps(answers, ensure_ascii=False))
        each = {name: Judgement(numbers.get(name, 0.0), json.dumps(one, default=_plain)) for name, one in found.items()}
        return {OWN: value, **each}

    def aggregated(self, name: str, answers: Sequence[str]) -> float:
        """Return a metric over all documents, from the replies of its values."""
        return self._task.aggregated(name, [json.loads(one) for one in answers])

    @property
    def _task(self) -> harness.HarnessTask:
        return harness.opened(str(self.path), self.shots)

    def _sent(self, item: Item, asked: harness.Asked) -> list[Request]:
        turns = tuple(Message(role, text) for role, text in asked.messages)
        if asked.scored is not None:
            return [Score(turns, asked.scored, prefix=asked.prefix)]
        how = asked.settings
        temperature = float(how.get("temperature", 1.0)) if how.get("do_sample") else 0.0
        return [
            Write(
                turns, max_tokens=int(how.get("max_gen_toks", self.max_tokens)), seed=ids.request_seed(item.id, n),
                temperature=temperature, top_p=float(how.get("top_p", 1.0)), min_p=0.0, stop=tuple(how["until"]),
                prefix=asked.prefix,
            )
            for n in range(asked.times)
        ]  # fmt: skip


def _row(task: str, number: int, doc: harness.Doc) -> Sample:
    """Return a document as a row. Its text has no solved cases; its requests are in a tag."""
    asked = [[one.messages, one.prefix, one.scored, dict(one.settings), one.times] for one in doc.asked]
    tags = {NUMBER: f"{number}", REQUESTS: json.dumps(asked, ensure_ascii=False)}
    name = ids.digest("harness", task, f"{number}", tags[REQUESTS])
    turns = (Message("user", doc.question), *([Message("assistant", doc.answer)] if doc.answer.strip() else []))
    return Sample(name, turns, tags=tags)


def _requests(item: Item) -> list[harness.Asked]:
    return [
        harness.Asked([(role, text) for role, text in turns], *rest) for turns, *rest in json.loads(item.tags[REQUESTS])
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401 - of numpy
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
