"""Quality: keep samples with good scores, and of these, if wanted, only samples that are not too similar (DEITA)."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import STRING, STRINGS, short_forms
from gristmill.selection.contracts import Budget, Choice, Cost, Selector, VectorsOf, View, budget_rows
from gristmill.selection.data.matrix import Float32
from gristmill.selection.diversity.representation import BLOCK_ROWS, FLOP_PER_S, TILE_ROWS, representation_filter

Combine = Literal["sum", "rank", "product"]
UNSCORED, LOW, HIGH, NEAR, LATE = range(5)
REASONS = (
    "quality: no score",
    "quality: below min_score",
    "quality: not below the upper bound",
    "quality: too near to a better one",
    "quality: beyond the budget",
)


class Quality(Selector):
    """Keep samples by one score, or by several combined: those above a threshold, the highest, or both.

    A sample that lacks one of the scores is dropped, with a reason of its own. These settings give published rules:

    - AlpaGasus (Chen et al. 2023, arXiv:2307.08701, section 3): `scores = "judge"`, `min_score = 4.5`.
    - IFD (Li et al. 2023, arXiv:2308.12032, section 2.2): `scores = "ifd"`, `below = 1.0`, `budget = 0.1`. At 1 or more
      the instruction does not help; of the other samples, those with the highest score are worth most. Superfiltering
      (Li et al. 2024, arXiv:2402.00530, section 2) is the same, with the filter `ifd` at `kind_of = "perplexity"` and a
      small model.
    - DEITA (Liu et al. 2024, arXiv:2312.15685, section 3, score-first with representation filter): `scores =
      ["complexity", "judge"]`, `combine = "product"`, `max_cosine = 0.9`, `budget = 6000`.

    Source: the papers named above, and the released code of DEITA (a sample stays if its cosine to all kept samples is
    at most the bound). Departures: the judges are our own, with grades from 1 to 5, where DEITA has 1 to 6 and
    AlpaGasus 0 to 5. A conversation has one score of each kind, where DEITA sums the products over the turns. The
    vectors are the job's.
    """

    kind: Literal["quality"] = "quality"
    revision: ClassVar[int] = 2  # texts in a script that the encoder does not know are not compared
    example: ClassVar[Mapping[str, Any]] = {"budget": 100}
    scores: dict[str, float] = Field(
        default={"judge": 1.0}, min_length=1, json_schema_extra=short_forms(STRING, STRINGS)
    )
    """Scores and their weights, such as `{ judge = 1.0, reward = 0.5 }`. A name or a list of names gives each score
    weight 1. `length` is the characters of the answer. A negative weight prefers low values."""
    combine: Combine = "sum"
    """How several scores become one value. `sum` is the weighted sum of the scores. `rank` is the weighted mean of
    their ranks, so that scales do not matter; the rank of a sample is the share of samples that are not better. It is
    in [0, 1] for positive weights. `product` is the product of the scores, and weights must be 1."""
    min_score: float | None = None
    """Samples with a lower value than this are dropped."""
    below: float | None = None
    """Samples with this value or a higher value are dropped."""
    max_cosine: float | None = Field(default=None, ge=-1, lt=1)
    """Samples are visited best first. A sample is dropped if its cosine to a kept sample is greater than this."""
    budget: Budget | None = None
    """Most samples that stay: a whole number, or a share of the samples that come in. The samples with the highest
    values stay."""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:  # noqa: ANN401 - any TOML value comes in
        """Accept a name or a list of names for `scores`."""
        if isinstance(value, dict) and isinstance(value.get("scores"), str | list | tuple):
            names = [value["scores"]] if isinstance(value["scores"], str) else value["scores"]
            value = {**value, "scores": dict.fromkeys(names, 1.0)}
        return value

    @model_validator(mode="after")
    def _decides(self) -> "Quality":
        if all(rule is None for rule in (self.min_score, self.below, self.max_cosine, self.budget)):
            raise ValueError("keeps everything, must have one of min_score, below, max_cosine or budget")
        if self.min_score is not None and self.below is not None and self.min_score >= self.below:
            raise ValueError(f"min_score is {self.min_score}, must be less than below, {self.below}")
        if not all(self.scores.values()):
            raise ValueError("a weight of scores is 0, must be another number; leave out the score instead")
        if self.combine == "product" and set(self.scores.values()) != {1.0}:
            raise ValueError("combine = 'product' takes the scores as they are, so their weights must be 1")
        return self

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the job's vectors if `max_cosine` is set."""
        return None if self.max_cosine is None else job

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less or there is no budget."""
        return num if self.budget is None else budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of the sort and, with `max_cosine`, of comparing twice the budget with half of it."""
        cpu, peak = 3e-7 * num, 60 * num
        if self.max_cosine is not None:
            kept = self.most(num)
            cpu += min(num, 2 * kept) * (kept / 2 + BLOCK_ROWS) * 2 * dim / FLOP_PER_S
            peak += kept * dim * 4 + BLOCK_ROWS * TILE_ROWS * 4
        return Cost(cpu, peak)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the scores `quality` and, for compared samples, `quality_distance`.

        `quality_distance` is 1 - cosine to the nearest better sample that stays. It is NaN for the first sample, and
        for samples that were never compared.

        Raises:
            JobError: when a name in `scores` is a score that no sample has.
        """
        del rng
        value = self._value(view)
        reason = np.full(len(view), -1, np.int64)
        if self.min_score is not None:
            reason[value < np.float32(self.min_score)] = LOW
        if self.below is not None:
            reason[value >= np.float32(self.below)] = HIGH
        reason[np.isnan(value)] = UNSCORED
        order = np.argsort(-value, kind="stable")  # NaN last, ties by id
        order = order[reason[order] < 0]
        budget = self.most(len(view))
        if self.max_cosine is None:
            reason[order[budget:]] = LATE
            return Choice(reason, REASONS, scores={"quality": value})
        compared = order[view.known[order]]
        found = representation_filter(view.unit(self.kind), compared, self.max_cosine, budget)
        seen = compared[: len(found.kept)]
        reason[compared] = LATE
        reason[seen] = np.where(found.kept, -1, NEAR)
        kept = order[reason[order] < 0]  # together with those that are not compared
        if len(kept) > budget:
            reason[order[np.flatnonzero(order == kept[budget])[0] :]] = LATE
        lost = seen[reason[seen] == NEAR]
        lost_to = np.zeros(len(view), "S32")
        lost_to[lost] = view.ids[found.nearest[lost]]
        return Choice(reason, REASONS, lost_to, {"quality": value, "quality_distance": 1 - found.cosine})

    def _value(self, view: View) -> Float32:
        """Return [n] the combined value of each sample, NaN for a sample that lacks a score."""
        scores = {name: column for name, column in view.scores.items() if not np.isnan(column).all()}
        known = ["length", *sorted(scores)]
        columns = []
        for name, weight in self.scores.items():
            if name not in known and len(view):
                raise JobError(
                    f"quality.scores: no sample has the score {name!r}, must be one of {known}; "
                    "let a filter score the samples before"
                )
            column = view.lengths.astype(np.float32) if name == "length" else scores.get(name, np.empty(0, np.float32))
            columns.append((ranks(column) if self.combine == "rank" else column, weight))
        return combine_scores(columns, self.combine)


def combine_scores(columns: list[tuple[Float32, float]], combine: Combine) -> Float32:
    """Return [n] one number for each row from pairs of (scores [n], weight); NaN for a row where a score is NaN.

    A single score with weight 1 is returned unchanged.
    """
    whole = sum(abs(weight) for _, weight in columns) if combine == "rank" else 1.0
    total = columns[0][0].astype(np.float64) * (columns[0][1] / whole)
    for scores, weight in columns[1:]:
        total = total * scores if combine == "product" else total + scores.astype(np.float64) * (weight / whole)
    return total.astype(np.float32)


def ranks(scores: Float32) -> Float32:
    """Return [n] the share of the scored rows that are not better than a row, in (0, 1]; NaN stays NaN."""
    found = np.full(len(scores), np.nan, np.float32)
    scored = ~np.isnan(scores)
    _, place, counts = np.unique(scores[scored], return_inverse=True, return_counts=True)
    found[scored] = np.cumsum(counts)[place] / max(1, int(scored.sum()))
    return found
