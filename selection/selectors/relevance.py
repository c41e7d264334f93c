"""Relevance: keep the samples that are most similar to a small target set."""

from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding, Pooling
from gristmill.selection.contracts import Budget, Choice, Cost, Selector, VectorsOf, View, budget_rows
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.relevance import dsir, less, rds
from gristmill.selection.relevance.dsir import NgramWeights
from gristmill.selection.relevance.gradients import Gradients, TargetGradients

TARGETS = "targets"
REASONS = (
    "relevance: beyond the budget",
    "relevance: shorter than min_words",
    "relevance: in a script that the encoder does not know",
)


class HiddenStates(Embedding):
    """`[select.steps.encoder]`: the pretrained model that RDS+ reads; the best choice is the model to be trained."""

    model: str = models.SMOLLM2
    """A model that `AutoModel` can load: `builtin:…`, a folder, or a name on the hub."""
    pooling: Pooling = "weighted_mean"
    """How the tokens become one vector. `weighted_mean` is the mean of the last layer over the tokens; token i has the
    weight i / Σ i."""
    max_tokens: int = Field(default=2048, gt=0)
    """Most tokens of a conversation that are read; the rest is cut off."""
    batch: int = Field(default=8, gt=0)
    """Number of conversations that are encoded at once."""


class Relevance(Selector):
    """Keep the samples nearest to targets: a few dozen or hundred examples of the tasks that the model is for.

    - `nearest` compares the job's vectors by cosine. The targets take turns; each takes its best sample that is left.
    - `rds` does the same with hidden states of a language model, over the complete conversation. Source: RDS+, Ivison
      et al. 2025, arXiv:2503.01807, section 3; it is the best of the selectors compared there, in every setting.
    - `dsir` draws at random; a sample's weight says how much likelier its n-grams are in the targets. Source: Xie et
      al. 2023, arXiv:2302.03169. It reads only text, 10,000 samples of 60 words in 2 s of one core. As published it
      needs targets that have most n-grams of the samples. Example: 27 % of a pool are maths problems, and the targets
      are 100 maths problems. Of the first 500 samples that it chooses, 1 % are maths problems. With
      `dsir.per_ngram = true`, 92 % of them are.
    - `less` estimates how far a training step on a sample would lower the loss of the targets, from gradients of a
      fine-tuned model. Source: Xia et al. 2024, arXiv:2402.04333. It takes a forward and a backward pass for each
      sample and checkpoint.

    Samples and targets in a script that the encoder does not know are not compared. Such samples are dropped, and such
    targets get no turn.

    Departures: see `gristmill.selection.relevance` and `gristmill.selection.relevance.gradients`.
    """

    kind: Literal["relevance"] = "relevance"
    revision: ClassVar[int] = 2  # dsir and rds choose as the authors' code does
    example: ClassVar[Mapping[str, Any]] = {"targets": "targets.jsonl", "budget": 100}
    targets: Source
    """The target set: a path, or a table with path and format as for the input."""
    method: Literal["nearest", "rds", "dsir", "less"] = "nearest"
    """How the nearness of a sample to the targets is measured."""
    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in."""
    task: str = ""
    """Tag whose values divide the targets into tasks; `method` divides them by method. With `nearest` and `rds`, tasks
    then take turns instead of single targets. With `less`, the score is the mean over the targets of a task, and the
    highest task counts. With `dsir`, samples are chosen for one task after the other; the share of a task is its share
    of the n-grams of all targets. By default there is one task."""
    encoder: HiddenStates = HiddenStates()
    """The model that makes the vectors; only for `rds`."""
    gradients: Gradients = Gradients()
    """The model that makes the gradients, and how; only for `less`."""
    dsir: NgramWeights = NgramWeights()
    """How n-grams become weights; only for `dsir`."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the choice, without those of the other methods."""
        value = super().identity()
        for name, method in (("encoder", "rds"), ("gradients", "less"), ("dsir", "dsir")):
            if method != self.method:
                del value["fields"][name]
        return value

    def sources(self) -> dict[str, Source]:
        """Return the target set."""
        return {TARGETS: self.targets}

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the vectors that the method needs: those of the job, hidden states, gradients, or none."""
        wanted = {"nearest": job, "rds": VectorsOf(self.encoder, "chat"), "less": VectorsOf(self.gradients, "chat")}
        return wanted.get(self.method)

    def wants_beside(self, job: VectorsOf) -> VectorsOf | None:
        """Return the same vectors for the targets, except for `less`: plain gradients."""
        if self.method == "less":
            return VectorsOf(TargetGradients(**dict(self.gradients)), "chat")
        return self.wants(job)

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for 1,000 targets and samples of 60 words, without the embedding."""
        if self.method == "dsir":
            return Cost(2.4e-4 * num, 32 * num + (96 << 20))
        if self.method == "less":
            numbers = self.gradients.dim * self.gradients.warmup.epochs
            return Cost(1e-9 * num * numbers, 16 * num + 4 * less.NUMBERS)
        held = max(1_000, min(1_000 * self.most(num), rds.HELD))
        return Cost(8e-8 * num * dim, 16 * held + 13 * num + 8 * rds.SCORES)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `relevance` for every sample.

        For `nearest` and `rds` the score is the highest cosine to a target. For `less` it is the mean score over the
        best task. For `dsir` it is the highest log weight of any task: how much likelier the sample's n-grams are in
        the targets.

        Raises:
            JobError: when the target set is empty, or no target has the tag.
        """
        reason = np.zeros(len(view), np.int64)
        scores = np.empty(0, np.float32)
        if len(view):
            chosen, scores = self._choose(view, view.beside[TARGETS], rng)
            reason[np.isnan(scores)] = 1 if self.method == "dsir" else 2
            reason[chosen] = -1
        return Choice(reason, REASONS, scores={"relevance": scores})

    def _choose(self, view: View, targets: View, rng: Random) -> tuple[Int, Float32]:
        """Return the rows that stay, and the score of all rows; NaN for a row that is not compared."""
        if not len(targets):
            raise JobError("relevance.targets: no sample has any text, must hold at least one; add some")
        budget = budget_rows(self.budget, len(view))
        if self.method == "dsir":
            return self._by_ngrams(view, targets, budget, rng)
        wanted = targets.unit("relevance.targets").whole()
        tasks = self._tasks(targets)
        if self.method == "less":
            scores = less.influence(view.unit("relevance"), wanted, tasks)
            return less.highest(scores, budget), scores
        if not targets.known.any():
            raise JobError(
                "relevance.targets: the encoder knows the script of none, must know that of some; set another model"
            )
        rows, wanted, tasks = np.flatnonzero(view.known), wanted[targets.known], tasks[targets.known]
        groups = np.unique(tasks, return_inverse=True)[1] if tasks.any() else np.arange(len(wanted))
        chosen, nearest = rds.round_robin(view.unit("relevance").at(rows), wanted, groups, budget)
        scores = np.full(len(view), np.nan, np.float32)
        scores[rows] = nearest
        return rows[chosen], scores

    def _by_ngrams(self, view: View, targets: View, budget: int, rng: Random) -> tuple[Int, Float32]:
        """Return the rows that stay, and the score of all rows; NaN for a row that is too short."""
        settings, tasks = self.dsir, self._tasks(targets)
        wanted = [_counts(targets.take(tasks == task)) for task in range(tasks.max() + 1)]
        usual = _counts(view)
        ratios = np.stack([dsir.log_ratios(found, usual, settings.smoothing) for found in wanted], axis=1)
        weights, words = np.zeros((len(view), len(wanted))), np.zeros(len(view), np.int64)
        for rows, (some, many) in view.map(partial(dsir.log_weights, ratios), "conversation"):
            weights[rows], words[rows] = some, many
        weights = dsir.by_ngram(weights, words) if settings.per_ngram else weights
        budgets = dsir.shares(budget, np.array([found.sum() for found in wanted]))
        allowed = words >= settings.min_words
        chosen = dsir.choose(weights, budgets, allowed, None if settings.top else rng.getrandbits(64))
        return chosen, np.where(allowed, weights.max(axis=1), np.nan).astype(np.float32)

    def _tasks(self, targets: View) -> Int:
        """Return [targets] the task of each target, 0 … k - 1; targets without the tag form one task."""
        if not self.task:
            return np.zeros(len(targets), np.int64)
        places, values = targets.tags(self.task)
        if not values:
            raise JobError(
                f"relevance.task: no target has the tag {self.task!r}, must be one that some have; or drop it"
            )
        return np.unique(places, return_inverse=True)[1].astype(np.int64)


def _counts(view: View) -> Int:
    return sum((found for _, found in view.map(dsir.counts, "conversation")), np.zeros(dsir.BUCKETS, np.int64))
