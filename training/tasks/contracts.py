"""The contract of a task: what a model learns from a sample, its loss, and its answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.contract.settings import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float64]

IGNORED = -100
"""Label of a token that is not trained on, as in PyTorch."""
MOST_LABELS = 200
"""Largest number of labels that are taken from the rows. More are answers in free text, or must be set."""


class MisfitError(ValueError):
    """The reason why a row cannot be used for a task. The row is dropped and counted."""


class Asked(NamedTuple):
    """What a model reads of a sample."""

    text: str
    question: str = ""
    """A text that goes before `text` in every window; empty if the task has none."""


class Window(NamedTuple):
    """Some tokens of a text, with the special tokens around them, in the form that a model reads."""

    ids: list[int]
    types: list[int]
    """Number of the segment of each token, 0 or 1."""
    ranges: list[tuple[int, int]]
    """Begin and end of each token in the text, in characters; (0, 0) outside of `body`."""
    body: tuple[int, int]
    """Begin and end of the text's tokens in the window."""
    own: tuple[int, int]
    """The part of `body` for which no other window of the text has more context."""


class Labelled(NamedTuple):
    """A window to train on."""

    window: Window
    labels: list[int]
    """What the loss compares; the task decides what it is."""
    trained: int
    """Number of losses that the loss of the window is the sum of."""


@dataclass(frozen=True)
class Answered:
    """What a model answers about a text."""

    text: str
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each label, if the task chooses among labels."""
    words: str = ""
    """The best words of the context, if the task looks for words. `text` is them, or that there are none."""
    null: float = 0.0
    """By how much the score of no answer exceeds that of `words`, in logits."""


class Task(Step):
    """A task that a model is trained for."""

    usual_rate: ClassVar[float | None] = None
    """Default learning rate of the model's own weights; None for that of the tuning."""
    head: ClassVar[str] = ""
    """Suffix of the classes of transformers that have the head of this task; empty for the causal language model."""
    peft: ClassVar[str] = "CAUSAL_LM"
    """Name of the task in PEFT."""
    unit: ClassVar[str] = "token"
    """What one loss is of, in words."""
    measured: ClassVar[tuple[str, ...]] = ()
    """Names of the measures on held-out rows. Each is from 0 to 1, and higher is better."""
    windows: ClassVar[bool] = False
    """Whether a text that is longer than `max_length` is read in several windows."""

    @property
    def causal(self) -> bool:
        """Whether the task is to write the next token."""
        return not self.head

    @property
    def overlap(self) -> int:
        """Number of tokens that are in a window and in the next one too."""
        return 0

    def problems(self, max_length: int) -> Iterator[str]:
        """Yield the problems of the settings, each as `key: what is, what must be`."""
        yield from ()

    def names(self, samples: Iterable[Sample]) -> tuple[str, ...]:
        """Return the labels of the task: those of the settings, or else those of the samples in alphabetical order."""
        found = set[str]()
        for sample in samples:
            with suppress(MisfitError):  # counted when the sample is encoded
                found.update(self.labels_of(sample))
        return tuple(sorted(found))

    def labels_of(self, sample: Sample) -> Sequence[str]:
        """Return the labels in the answer of a sample; nothing if the task has none.

        Raises:
            MisfitError: when the answer is none for this task.
        """
        del sample
        return ()

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the outputs of the head."""
        return tuple(names)

    def config(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the entries of the model's config for the outputs of the head."""
        found = self.outputs(names)
        return {"id2label": dict(enumerate(found)), "label2id": {name: place for place, name in enumerate(found)}}

    def asked(self, sample: Sample) -> Asked:
        """Return what the model reads of a sample.

        Raises:
            MisfitError: when the sample has nothing to read.
        """
        raise NotImplementedError

    def labelled(self, sample: Sample, asked: Asked, windows: Sequence[Window], names: Sequence[str]) -> list[Labelled]:
        """Return the windows of a sample with their labels.

        Raises:
            MisfitError: when the answer of the sample is none for this task.
        """
        raise NotImplementedError

    def losses(self, output: Any, batch: Mapping[str, Any], smoothing: float) -> Any:  # noqa: ANN401 - of torch
        """Return the loss of each row of a batch in nats, [rows], float32; it is a sum of `trained` losses.

        Args:
            output: what the model returned.
            batch: `labels`, [rows, longest], and `attention_mask`, [rows, tokens].
            smoothing: share of each label that is spread over all outputs.
        """
        raise NotImplementedError

    def answer(
        self, logits: "Sequence[Logits]", asked: Asked, windows: Sequence[Window], names: Sequence[str]
    ) -> Answered:
        """Return the answer about a text.

        Args:
            logits: the logits of each window, [tokens, outputs], or [outputs] if the head reads a text as a whole.
            asked: the text.
            windows: its windows.
            names: the labels.
        """
        raise NotImplementedError

    def measures(
        self, samples: Sequence[Sample], answers: Sequence[Answered], names: Sequence[str]
    ) -> dict[str, float]:
        """Return the measures of answers to samples that all have a right answer for this task."""
        raise NotImplementedError

    def open(self, samples: Sequence[Sample]) -> bool:
        """Return whether settings are still to be chosen by the answers to held-out samples."""
        del samples
        return False

    def fitted(self, samples: Sequence[Sample], answers: Sequence[Answered]) -> "Task":
        """Return the task with the settings that are chosen by the answers to held-out samples."""
        del samples, answers
        return self


def conversation(sample: Sample, instruction: str) -> str:
    """Return the text that a label is of: all turns before the last answer, without the instruction before it.

    Raises:
        MisfitError: when there is no text, or the sample has more than text.
    """
    if sample.beyond_text:
        raise MisfitError(f"has {sample.beyond_text}")
    last = max((n for n, turn in enumerate(sample.messages) if turn.role == "assistant"), default=len(sample.messages))
    text = "\n\n".join(turn.text for turn in sample.messages[:last] if turn.text.strip())
    if instruction and text.startswith(instruction):
        text = text[len(instruction) :].lstrip()
    if not text.strip():
        raise MisfitError("no text before the answer")
    return text
