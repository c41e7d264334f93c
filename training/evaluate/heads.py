"""Models with the head of a task in an evaluation: their losses on held-out rows, and their answers to suites.

A suite asks a causal model by its prompt. A head reads the row as people wrote it, without the text that the setting
`prompt` adds, as it did in training. Its answer is a text of the same form: a label, the entities as JSON, or words of
the context. So the same scorers judge both.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.engine import Choose, Reply, Request, Score
from gristmill.cluster.runtime.deaths import advice, deaths, ended, out_of_memory
from gristmill.cluster.runtime.log import to_file
from gristmill.cluster.runtime.resources import Need, spawn
from gristmill.training.data import prepare as data
from gristmill.training.evaluate.actor import Scores
from gristmill.training.evaluate.scorers.contract import Scorer
from gristmill.training.loop import separation
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import batches, heads, prepare, reader
from gristmill.training.tasks.contracts import Answered, Window
from gristmill.training.tasks.heads import Head
from gristmill.training.tuning.model import PRECISIONS, Precision

LIKELIHOODS = ("choice", "harness", "loss")
"""Kinds of scorers that need the likelihood of texts, or prompts of their own. A head has no such likelihood, and reads
no prompts."""
log = logging.getLogger(__name__)


class HeadScorer:
    """An actor that scores the same samples with one model after the other; it has the methods of `actor.Scorer`."""

    def __init__(
        self, logs: str | None, cpus: float, precision: Precision | Literal["auto"], settings: TrainSettings
    ) -> None:
        """Open the log. `cpus` is the number of threads. `settings` are those of the training."""
        to_file(logs, "evaluate")
        self._cpus, self._settings = cpus, settings
        self._precision = None if precision == "auto" else precision
        self._head: Head | None = None
        self._samples: list[Sample] = []
        self._windows: list[list[Window]] = []
        self._bins: data.Bins | None = None

    def open(self, model: str, samples: list[Sample]) -> dict[str, Any]:
        """Read the samples with the tokenizer of the tuned model, and choose the precision.

        The result is that of `actor.Scorer.open`.
        """
        import torch

        began = time.monotonic()
        torch.set_num_threads(max(1, int(self._cpus)))
        self._precision, why = _precision(self._precision, model)
        self._head = heads.head_of(model)
        if self._head is None:
            raise RunError(f"evaluate: {model}: has no {heads.SAVED}, must have it; train it again")
        found = prepare.encode(self._settings.task, reader.tokenizer(model), samples, self._head.names, self._settings)
        self._samples = [samples[place] for place in found.places.tolist()]
        self._windows = [[one.window for one in some] for some in found.windows]
        numbers = [number for number, some in enumerate(found.windows) for _ in some]
        self._bins = data.Bins([batches.table([one for some in found.windows for one in some], numbers, None)])
        return {
            "places": found.places,
            "drops": dict(found.drops),
            "precision": self._precision,
            "why": why,
            "seconds": round(time.monotonic() - began, 1),
        }

    def losses(self, model: str) -> Scores:
        """Score the opened samples with the model in a folder; if it has no head, with a head of first values."""
        import torch

        if self._bins is None or self._precision is None or self._head is None:
            raise RunError("evaluate: the scorer holds no samples, must be opened first")
        began = time.monotonic()
        task, head = self._settings.task, replace(self._head, seed=self._settings.seed)
        loaded = _loaded(model, head, self._precision)
        summed = np.zeros(len(self._samples))
        with torch.no_grad():
            for place in range(len(self._bins)):
                value = float(batches.row_losses(loaded, task, self._bins, np.array([place]))[0])
                summed[self._bins.column("samples", place)[0]] += value
        counted = np.zeros(len(self._samples), np.int64)
        np.add.at(
            counted, [int(self._bins.column("samples", n)[0]) for n in range(len(self._bins))], self._bins.trained
        )
        said = _answers(loaded, head, self._samples, self._windows)
        found = task.measures(self._samples, said, head.names)
        return Scores(summed, counted, round(time.monotonic() - began, 1), separation.APART, found)


class HeadActor:
    """An actor that answers with one model with a head."""

    def __init__(self, logs: str | None, cpus: float, precision: Precision | Literal["auto"], name: str) -> None:
        """Open the log. `cpus` is the number of threads."""
        to_file(logs, name)
        self._cpus, self._precision = cpus, None if precision == "auto" else precision
        self._model: Any = None
        self._head: Head | None = None
        self._reader: reader.Reader | None = None
        self._cut = 0

    def open(self, folder: str, head: Head) -> None:
        """Load the model in a folder, with first values for its head if it has none."""
        import torch

        torch.set_num_threads(max(1, int(self._cpus)))
        precision, _ = _precision(self._precision, folder)
        self._model, self._head = _loaded(folder, head, precision), head
        self._reader = reader.Reader(reader.tokenizer(folder), head.max_length)

    def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies in the order of the requests."""
        if self._reader is None or self._head is None:
            raise RunError("evaluate: the actor has no model, must be opened first")
        samples = [Sample("", request.messages) for request in requests]
        asked, rows, nothing = prepare.asked_of(self._head.task, samples)
        read = list(self._reader.read(self._head.task, asked, truncate=True))
        fit = [n for n, windows in enumerate(read) if not isinstance(windows, str)]
        windows = [some for some in read if not isinstance(some, str)]
        said = _answers(self._model, self._head, [samples[rows[n]] for n in fit], windows)
        by_row = {rows[n]: (one, some) for n, one, some in zip(fit, said, windows, strict=True)}
        reasons = {**nothing, **{rows[n]: why for n, why in enumerate(read) if isinstance(why, str)}}
        self._cut += sum(prepare.is_cut(self._head.task, asked[n], some) for n, some in zip(fit, windows, strict=True))
        return [_reply(request, by_row.get(n), reasons.get(n, "")) for n, request in enumerate(requests)]

    def cut(self) -> int:
        """Return the number of texts whose end was cut off."""
        return self._cut


class HeadEngine:
    """The answers of a model with a head. It is called with requests, as an inference engine is."""

    def __init__(self, actor: Any, where: str, logs: str | None) -> None:  # noqa: ANN401 - a handle of Ray's
        """Take the actor, and the names for error messages."""
        self._actor, self._where, self._logs = actor, where, logs

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies in the order of the requests."""
        import ray

        try:
            return list(ray.get(self._actor.ask_all.remote(list(requests))))
        except ray.exceptions.RayTaskError:  # raised by a living process
            raise
        except deaths() as error:
            how = f"{advice('evaluate.precision to bf16')}; see" if out_of_memory(error) else "see"
            raise RunError(f"{self._where}: {ended('the process', error)}; {how} {self._logs}/evaluate.log") from error

    def cut(self) -> int:
        """Return the number of texts whose end was cut off."""
        import ray

        return int(ray.get(self._actor.cut.remote()))


@contextmanager
def answering(
    folder: str, head: Head, need: Need, precision: Precision | Literal["auto"], logs: str | None, name: str
) -> Iterator[HeadEngine]:
    """Load a model with a head in an actor for a block."""
    import ray

    actor = spawn(HeadActor, need, logs, need.cpus, precision, name)
    try:
        ray.get(actor.open.remote(folder, head))
        yield HeadEngine(actor, f"evaluate, {name}", logs)
    finally:
        ray.kill(actor)


def heads_of(folders: Sequence[str], base: str, tuned: str, seed: int) -> dict[str, Head]:
    """Return the heads of models by their folders. A base model without a head has that of the tuned one, untrained."""
    found = {folder: head for folder in folders if (head := heads.head_of(folder))}
    if tuned in found:
        found[base] = replace(found[tuned], seed=seed)
    return found


def require_answers(suites: Mapping[str, Scorer], heads_by_folder: Mapping[str, Head]) -> None:
    """Refuse suites that a model with a head cannot answer.

    Raises:
        JobError: when a suite needs the likelihood of texts.
    """
    for name, scorer in suites.items() if heads_by_folder else ():
        if scorer.kind in LIKELIHOODS:
            kinds = ", ".join(sorted({head.task.kind for head in heads_by_folder.values()}))
            raise JobError(
                f"evaluate.suites.{name}.kind: {scorer.kind}, must be another kind, such as labels, entities, squad or "
                f"exact_match; a model for {kinds} has no likelihood of texts"
            )


def _precision(known: Precision | None, folder: str) -> tuple[Precision, str]:
    if known is not None:
        return known, "as the recipe says"
    choice = dtypes.choose(folder)
    return PRECISIONS[choice.dtype], choice.reason


def _loaded(folder: str, head: Head, precision: Precision) -> Any:  # noqa: ANN401
    import torch

    return heads.load(folder, head, precision).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _answers(model: Any, head: Head, samples: Sequence[Sample], windows: Sequence[Sequence[Window]]) -> list[Answered]:  # noqa: ANN401
    """Return the answer of a model about each sample, from the logits of the windows of its text."""
    every = batches.logits(model, head.task, [window for some in windows for window in some])
    return batches.answers(head, samples, windows, every)


def _reply(request: Request, found: tuple[Answered, Sequence[Window]] | None, reason: str) -> Reply:
    if found is None:
        return Reply("", f"error: {reason}", 0, 0)
    said, windows = found
    tokens = sum(len(window.ids) for window in windows)
    if isinstance(request, Score):
        return Reply("", "error: a head has no likelihood of texts", tokens, 0)
    if not isinstance(request, Choose):
        return Reply(said.text, "stop", tokens, 0)
    if not said.choices:
        return Reply("", "error: the head of the model does not choose among labels", tokens, 0)
    chances = {choice: said.choices.get(choice, 0.0) for choice in request.choices}
    total = sum(chances.values())
    shared = {choice: chance / total if total else 1 / len(chances) for choice, chance in chances.items()}
    return Reply(max(shared, key=lambda choice: shared[choice]), "stop", tokens, 0, shared)
