"""Discriminator: a classifier, trained to distinguish made samples from seeds, must take a sample for a seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.generation.contracts import Ask, Filter, Snapshot, Verdict
from gristmill.generation.prompting.draws import chosen
from gristmill.generation.prompting.regression import Float, probability, regression


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with the vectors of its rows, by row id."""

    vectors: Mapping[str, Float]
    weights: Float | None
    """Weights, [d + 1], with the bias last; None if there are too few rows."""
    figures: Mapping[str, float]


class Discriminator(Filter[TrainedClassifier]):
    """Drop a sample that a logistic regression on embeddings distinguishes from the seeds.

    Before each round it is trained on the seeds and on the settled rows: rows that were kept, and rows that this filter
    dropped. Rows that other filters dropped are left out, because they are easy to distinguish. The score `human_like`
    is the probability that a sample is a seed. Both classes have the same weight in each language. Text after the
    encoder's limit is ignored. Rows in a script that the encoder does not know are left out.

    Each round has the figures of a classifier two-sample test on held-out rows, with equally many rows of both classes
    in each language. `accuracy` is the share of rows that are classified correctly; 0.5 is chance. `p_value` is
    one-sided, under N(1/2, 1/4n). `accuracy_kept` and `p_value_kept` are the same figures with kept rows alone. `human`
    and `synthetic` are the numbers of rows of each class.

    Source: Lopez-Paz and Oquab 2017, arXiv:1610.06545, section 3 (the test). To drop samples that are classified as
    made is the discriminator's side of a GAN, as in SeqGAN (Yu et al. 2017, arXiv:1609.05473). The generator is not
    trained: it gets other demonstrations, see the method `adversarial`. Departures: cross-validation in five folds
    instead of one split, because there are few seeds, so the test's variance is slightly understated; a linear
    classifier. Samples that pass may share only the topics of the seeds: a low accuracy says that these embeddings show
    no difference.
    """

    kind: Literal["discriminator"] = "discriminator"
    revision: ClassVar[int] = 2  # nothing is compared in a script that the encoder does not know
    embeds: ClassVar[bool] = True
    part: Literal["instruction", "answer", "both"] = "both"
    """Part that is embedded."""
    min_human: float = Field(default=0.4, ge=0, le=1)
    """Samples with a smaller `human_like` are dropped. With 0.5, only samples that the classifier takes for human are
    kept."""
    min_rows: int = Field(default=40, ge=2)
    """Smallest number of rows of each class. With fewer rows, nothing is judged."""
    max_rows: int = Field(default=2000, gt=0)
    """Largest number of rows of each class for training: a fixed choice of the seeds, and the latest settled rows."""
    folds: int = Field(default=5, ge=2)
    """Number of folds of the cross-validation."""
    l2: float = Field(default=100.0, gt=0)
    """Penalty of the weights. Embeddings are scaled so that their components have about unit variance. Between 200 good
    and 200 bad film reviews the accuracy was 0.67 with a penalty of 1, 0.69 with 10 and 0.75 with 100. Between two
    halves of the good reviews it was 0.52."""

    async def prepare(self, snapshot: Snapshot, before: TrainedClassifier | None, ask: Ask) -> TrainedClassifier:
        """Return the classifier of a round; only rows that were not embedded before are embedded."""
        known: Mapping[str, Float] = before.vectors if before else {}
        kept = _latest(snapshot.made, self.max_rows)
        refused = [row for row in _latest(snapshot.refused, 4 * self.max_rows) if self._judged(row)][-self.max_rows :]
        languages = {language_of(row) for row in (*kept, *refused)}
        seeds = [seed for seed in chosen(snapshot.seeds, self.max_rows, self.kind) if language_of(seed) in languages]
        rows = {row.id: row for row in (*seeds, *kept, *refused)}
        new = [row for row in rows.values() if row.id not in known]
        fresh = await ask.embed([self._text(row) for row in new]) if new else np.empty((0, 0), np.float32)
        vectors = {row_id: known[row_id] for row_id in rows if row_id in known}
        vectors |= {row.id: vector.astype(np.float64) for row, vector in zip(new, fresh, strict=True)}
        read = {row_id for row_id, vector in vectors.items() if not np.isnan(vector).any()}
        seeds, kept, refused = ([row for row in some if row.id in read] for some in (seeds, kept, refused))
        return self._trained(vectors, seeds, kept, refused, snapshot.round)

    def _trained(
        self,
        vectors: dict[str, Float],
        seeds: Sequence[Sample],
        kept: Sequence[Sample],
        refused: Sequence[Sample],
        turn: int,
    ) -> TrainedClassifier:
        made = [*kept, *refused]
        figures: dict[str, float] = {"human": len(seeds), "synthetic": len(made)}
        if min(len(seeds), len(made)) < self.min_rows:
            return TrainedClassifier(vectors, None, figures)
        for name, rows in (("", made), ("_kept", kept)):
            one, other = matched(seeds, rows, turn)
            if len(one) >= self.min_rows:
                human, synthetic = (np.stack([vectors[row.id] for row in part]) for part in (one, other))
                figures |= {
                    key + name: value for key, value in two_sample(human, synthetic, self.folds, self.l2).items()
                }
        rows = [*seeds, *made]
        labels = np.repeat([1.0, 0.0], [len(seeds), len(made)])
        weights = even(labels, [language_of(row) for row in rows])
        return TrainedClassifier(
            vectors, regression(np.stack([vectors[row.id] for row in rows]), labels, weights, self.l2), figures
        )

    def _judged(self, row: Sample) -> bool:
        return (row.dropped or "").startswith(f"{self.kind}:")

    def _text(self, sample: Sample) -> str:
        parts = {"instruction": sample.instruction, "answer": sample.answer}
        return parts.get(self.part) or "\n".join(parts.values())

    def figures(self, prepared: TrainedClassifier) -> Mapping[str, float]:
        """Return the number of rows of each class, and the accuracy and the p-value of the test."""
        return prepared.figures

    async def judge(self, sample: Sample, ask: Ask[TrainedClassifier]) -> Verdict:
        """Return `human_like`, 0 to 1; no score if there are too few rows or the encoder does not know the script."""
        trained = ask.prepared
        if trained.weights is None:
            return Verdict()
        vector = (await ask.embed([self._text(sample)])).astype(np.float64)
        chance = float(probability(vector, trained.weights)[0])
        if math.isnan(chance):
            return Verdict()
        return Verdict({"human_like": chance}, f"{self.kind}: told from human" if chance < self.min_human else None)


def _latest(rows: Sequence[Sample], most: int) -> list[Sample]:
    return [rows[place] for place in range(max(0, len(rows) - most), len(rows))]


def even(labels: Float, groups: Sequence[str]) -> Float:
    """Return weights, [n]. In each group both classes weigh the same, and each group weighs as much as it has rows.

    Rows of a group with only one class get the weight 0.
    """
    weights = np.zeros(len(labels))
    for group in sorted(set(groups)):
        here = np.array([other == group for other in groups])
        sizes = [(here & (labels == label)).sum() for label in (0.0, 1.0)]
        if min(sizes):
            for label, size in zip((0.0, 1.0), sizes, strict=True):
                weights[here & (labels == label)] = here.sum() / 2 / size
    return weights


def matched(seeds: Sequence[Sample], made: Sequence[Sample], turn: int) -> tuple[list[Sample], list[Sample]]:
    """Return equally many seeds and made rows of each language, so that language alone cannot distinguish them.

    `turn` decides the draw.
    """
    rng = ids.stream("matched", turn)
    one, other = list[Sample](), list[Sample]()
    for language in sorted({language_of(row) for row in seeds}):
        parts = [[row for row in rows if language_of(row) == language] for rows in (seeds, made)]
        size = min(map(len, parts))
        one += rng.sample(parts[0], size)
        other += rng.sample(parts[1], size)
    order = rng.sample(range(len(one)), len(one))
    return [one[n] for n in order], [other[n] for n in order]


def two_sample(human: Float, made: Float, folds: int, l2: float) -> dict[str, float]:
    """Return accuracy and p-value of the classifier two-sample test on equally many rows of both classes.

    The rows must be in random order. Each row is classified by a classifier that was not trained on it.
    """
    size = len(human)
    vectors, labels = np.concatenate([human, made]), np.repeat([1.0, 0.0], size)
    fold = np.tile(np.arange(size) % folds, 2)
    right = 0
    for held in range(min(folds, size)):
        rest = fold != held
        weights = regression(vectors[rest], labels[rest], np.ones(rest.sum()), l2)
        guessed = probability(vectors[~rest], weights) > 0.5
        right += int((guessed == (labels[~rest] == 1.0)).sum())
    accuracy = right / (2 * size)
    return {"accuracy": accuracy, "p_value": p_value(accuracy, 2 * size)}


def p_value(accuracy: float, size: int) -> float:
    """Return the probability of at least this accuracy on `size` rows of equal classes: N(1/2, 1/(4 size))."""
    return 0.5 * math.erfc((accuracy - 0.5) * math.sqrt(4 * size) / math.sqrt(2))
