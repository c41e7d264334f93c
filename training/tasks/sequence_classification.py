"""Sequence classification: one label of a text, or several."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from gristmill.cluster.contract.sample import Sample
from gristmill.training.evaluate.scorers.multi_label import labels_in
from gristmill.training.evaluate.suites.reducers import classified, multi_labelled, roc_auc
from gristmill.training.tasks.contracts import (
    MOST_LABELS,
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


class SequenceClassification(Task):
    """Train a model with a head that gives a text its label, or with `multi_label` any number of labels.

    The text is what comes before the assistant's last turn, and that turn is the label. With `multi_label` it is a JSON
    list of labels, or one label. The loss is the cross-entropy of the labels; with `multi_label` it is the mean of the
    binary cross-entropies of all labels.

    Source: Devlin et al. 2019, BERT, arXiv:1810.04805, section 4.1; the heads are those of transformers
    (`AutoModelForSequenceClassification`).
    """

    kind: Literal["sequence_classification"] = "sequence_classification"
    usual_rate: ClassVar[float | None] = 5e-5
    head: ClassVar[str] = "SequenceClassification"
    peft: ClassVar[str] = "SEQ_CLS"
    unit: ClassVar[str] = "text"
    measured: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "roc_auc")

    labels: tuple[str, ...] = ()
    """All labels. Rows with another label are dropped and counted. The default is all labels of the rows, of which
    there may be up to 200."""
    multi_label: bool = False
    """Whether a text may have several labels, or none."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """With `multi_label`, the smallest probability of a label that the model answers with."""
    instruction: str = ""
    """Text before the text to classify, such as the instruction in the rows of `targeted`. It is removed where a row
    begins with it."""

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return different(labels)

    def problems(self, max_length: int) -> Iterator[str]:
        """Yield the problems of the settings."""
        del max_length
        if self.labels and len(self.labels) < 2 - self.multi_label:
            yield f"task.labels: {len(self.labels)} label, must be at least 2; with one there is nothing to learn"
        if "threshold" in self.model_fields_set and not self.multi_label:
            yield "task.threshold: is set, must not be without multi_label = true; the likeliest label is taken"

    def names(self, samples: Iterable[Sample]) -> tuple[str, ...]:
        """Return the labels."""
        return self.labels or super().names(samples)

    def config(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the entries of the model's config."""
        kind = "multi_label_classification" if self.multi_label else "single_label_classification"
        return {**super().config(names), "problem_type": kind}

    def asked(self, sample: Sample) -> Asked:
        """Return the text of a sample."""
        return Asked(conversation(sample, self.instruction))

    def labelled(self, sample: Sample, asked: Asked, windows: Sequence[Window], names: Sequence[str]) -> list[Labelled]:
        """Return the one window with the number of its label, or with 0 or 1 for each label."""
        del asked
        found = self.labels_of(sample)
        unknown = [label for label in found if label not in names]
        if unknown:
            raise MisfitError("label is none of train.task.labels")
        wanted = [int(name in found) for name in names] if self.multi_label else [names.index(found[0])]
        return [Labelled(windows[0], wanted, 1)]

    def losses(self, output: Any, batch: Mapping[str, Any], smoothing: float) -> Any:  # noqa: ANN401 - of torch
        """Return the loss of each text."""
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        logits = output.logits.float()
        if not self.multi_label:
            return cross_entropy(logits, batch["labels"][:, 0], reduction="none", label_smoothing=smoothing)
        wanted = batch["labels"].to(logits) * (1 - smoothing) + smoothing / 2
        return binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)

    def answer(
        self, logits: "Sequence[Logits]", asked: Asked, windows: Sequence[Window], names: Sequence[str]
    ) -> Answered:
        """Return the likeliest label, or a JSON list of all labels with a probability from `threshold` on."""
        del asked, windows
        values = np.asarray(logits[0], np.float64)
        if self.multi_label:
            chances = dict(zip(names, (1 / (1 + np.exp(-values))).tolist(), strict=True))
            taken = [name for name, chance in chances.items() if chance >= self.threshold]
            return Answered(json.dumps(taken, ensure_ascii=False), chances)
        each = np.exp(values - values.max())
        chances = dict(zip(names, (each / each.sum()).tolist(), strict=True))
        return Answered(max(chances, key=lambda name: chances[name]), chances)

    def measures(
        self, samples: Sequence[Sample], answers: Sequence[Answered], names: Sequence[str]
    ) -> dict[str, float]:
        """Return accuracy, precision, recall, F1 and ROC-AUC; with `multi_label` accuracy is of all labels at once."""
        truth = [self.labels_of(sample) for sample in samples]
        chances = [answer.choices for answer in answers]
        if self.multi_label:
            said = [frozenset(labels_in(answer.text)) for answer in answers]
            rates = multi_labelled([frozenset(labels) for labels in truth], said, names)
            return rates | self._areas(truth, chances, names)
        right = [labels[0] for labels in truth]
        found = classified(right, [answer.text for answer in answers], names)
        auc = roc_auc(right, chances, names)
        plain = {name: value for name, value in found.items() if not name.startswith("micro")}
        return plain if auc is None else {**plain, "roc_auc": auc}

    def _areas(
        self, truth: Sequence[Sequence[str]], chances: Sequence[Mapping[str, float]], names: Sequence[str]
    ) -> dict[str, float]:
        """Return ROC-AUC as the mean over the labels that some texts have and some have not; nothing without such."""
        areas = []
        for name in names:
            right = [name if name in labels else "" for labels in truth]
            area = roc_auc(right, [{name: each.get(name, 0.0)} for each in chances], [name])
            areas += [] if area is None else [area]
        return {"roc_auc": float(np.mean(areas))} if areas else {}

    def labels_of(self, sample: Sample) -> list[str]:
        """Return the labels in the answer of a sample."""
        answer = sample.answer.strip()
        if self.multi_label:
            return labels_in(answer)
        if not answer:
            raise MisfitError("no label")
        return [answer]


def different(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return labels without white space around them.

    Raises:
        ValueError: when a label is empty, or two are equal.
    """
    bare = tuple(label.strip() for label in labels)
    twice = sorted(label for label, count in Counter(bare).items() if count > 1)
    if twice or "" in bare:
        raise ValueError(f"has {twice[0]!r} twice" if twice else "has an empty label, must have names")
    return bare


def too_many(names: Sequence[str], given: Sequence[str], rows: int, where: str, least: int) -> str:
    """Return why labels taken from rows cannot be labels, or the empty string."""
    if len(names) < least and not given:
        what = f"{len(names)} different labels in {rows} rows ({', '.join(names) or 'none'})"
        return f"{where}: {what}, must be at least {least}; add rows with others, or set train.task.labels"
    if len(names) > MOST_LABELS and not given:
        return (
            f"{where}: {len(names)} different answers in {rows} rows, must be at most {MOST_LABELS} labels; set "
            "train.task.labels, or train.task.kind to causal_lm if they are free text"
        )
    return ""
