"""Diversity: keep samples whose vectors are unlike each other, or represent the vectors of all other samples."""

from collections.abc import Mapping
from math import sqrt
from random import Random
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.selection.contracts import Budget, Choice, Cost, Selector, View, budget_rows
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.diversity import Spread
from gristmill.selection.diversity.blocks import BLOCK_ROWS, THREADS
from gristmill.selection.diversity.cluster_balanced import cluster_balanced
from gristmill.selection.diversity.dpp import dpp
from gristmill.selection.diversity.facility_location import facility_location
from gristmill.selection.diversity.k_center import k_center
from gristmill.selection.diversity.mmr import mmr

DiversityMethod = Literal["facility_location", "k_center", "cluster_balanced", "mmr", "dpp"]
WRITES: dict[DiversityMethod, str] = {
    "facility_location": "facility_gain",
    "k_center": "k_center_distance",
    "cluster_balanced": "centroid_cosine",
    "mmr": "marginal_relevance",
    "dpp": "dpp_gain",
}
"""Name of the score that each method gives to the chosen samples: the worth of a sample when it was chosen."""


class Diversity(Selector):
    """Keep samples that are spread over all samples. Remove duplicates and broken samples before this step.

    `facility_location` chooses samples that represent the others. It follows the density of the samples and leaves out
    outliers. It is the default for two reasons: in the comparison of MIG (Chen et al. 2025, arXiv:2504.13835) it is, as
    QDIT, the best of these methods; and `k_center` spends its budget on outliers first. `k_center` leaves no sample far
    from a chosen sample. `cluster_balanced` takes the same number of samples from every cluster. `mmr` weighs a score
    against the similarity to the chosen samples. `dpp` makes the chosen samples as independent as it can. Samples in a
    script that the encoder does not know are not compared. Their share of the budget is drawn at random.

    Source: see the module of each method in `selection.diversity`; a score is used as in QDIT, CaR, MMR and Chen et al.
    Departures: a score is replaced by the share of samples with a lower score, so that `quality` means the same for
    every score. The modules say what else differs.
    """

    kind: Literal["diversity"] = "diversity"
    revision: ClassVar[int] = 2  # texts in a script that the encoder does not know are not compared
    example: ClassVar[Mapping[str, Any]] = {"budget": 100}
    needs_vectors: ClassVar[bool] = True

    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in. `1.0` means all samples."""
    method: DiversityMethod = "facility_location"
    """The method by which samples are chosen."""
    first: str = "mean"
    """The first sample that `k_center` chooses. `mean` is the sample nearest to the mean of all vectors. The name of a
    score is the sample with the highest value."""
    score: str = ""
    """Score that all methods except `k_center` weigh against diversity; `length` is the characters of the answer. `mmr`
    requires a score."""
    quality: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the score; 1 minus this is the weight of diversity. In `cluster_balanced` it is the share of the budget
    that goes to the best of all samples. There the score also decides which samples of a cluster are the best, even at
    weight 0."""
    clusters: int | None = Field(default=None, ge=1)
    """Number of clusters of `cluster_balanced`; by default sqrt(samples / 2), as in CaR."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.first != "mean" and self.method != "k_center":
            raise ValueError(f"first: has no meaning for {self.method}, must be left out; it is for k_center")
        if self.clusters is not None and self.method != "cluster_balanced":
            raise ValueError(
                f"clusters: has no meaning for {self.method}, must be left out; it is for cluster_balanced"
            )
        if self.score and self.method == "k_center":
            raise ValueError("score: has no meaning for k_center, must be left out; `first` says where it begins")
        if self.quality and not self.score:
            raise ValueError("quality: weighs no score, must come with one; name it in `score`")
        if self.method == "mmr" and not self.quality:
            raise ValueError("mmr: has nothing to weigh against similarity, must have `score` and `quality` above 0")
        if self.score and not self.quality and self.method != "cluster_balanced":
            raise ValueError(f"score: {self.score} has weight 0, must have one in `quality`, or be left out")
        return self

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost; it is within a factor of two of the measurements in `benchmarks/diversity.json`."""
        chosen, fitted = self.most(num), min(num, 100_000)
        if self.method in ("k_center", "mmr"):  # some passes over all rows, then a quarter of the pairs
            return Cost(num * dim * (2e-8 + 7.5e-12 * chosen), 64 * num + 4 * chosen * dim + (32 << 20))
        groups = self._clusters(num) if self.method == "cluster_balanced" else 4 * num / BLOCK_ROWS
        clustering = Cost(2.7e-11 * (12 * fitted + num) * groups * dim, 40 * num + 4 * fitted * dim)
        if self.method == "cluster_balanced":
            return clustering
        each = 2 * chosen * BLOCK_ROWS / 4 / max(1, num)  # choices made in a block
        pairs = 3e-8 * dim + 4e-9 * each if self.method == "facility_location" else 2e-10 * each * (dim + each / 2)
        blocks = 40 * num + THREADS * 4 * min(num, BLOCK_ROWS) ** 2
        return Cost(clustering.cpu_s + num * pairs, max(clustering.peak_bytes, blocks))

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; `lost_to` is the chosen sample that represents a dropped sample, if there is one."""
        seed = rng.getrandbits(64)
        if not len(view):
            return Choice.of(np.empty(0, np.bool_), "diversity: beyond the budget")
        view.unit("diversity")
        kept, worth = np.zeros(len(view), np.bool_), np.full(len(view), np.nan, np.float32)
        lost_to, figures = np.zeros(len(view), "S32"), dict[str, float | str]()
        rows, others = np.flatnonzero(view.known), np.flatnonzero(~view.known)
        budget = budget_rows(self.budget, len(view))
        drawn = np.random.default_rng(seed).permutation(others)[: round(budget * len(others) / len(view))]
        kept[drawn] = True
        if len(rows) and budget > len(drawn):
            part = view.take(view.known)
            found = self._spread(part, part.unit("diversity"), budget - len(drawn), seed)
            kept[rows[found.chosen]] = True
            worth[rows[found.chosen]] = found.worth
            lost_to[rows] = np.where(found.stand_in < 0, b"", part.ids[found.stand_in])
            lost_to[kept] = b""
            figures |= found.figures
        if len(others):
            figures |= {"not compared": len(others), "not compared, drawn": len(drawn)}
        return Choice.of(
            kept,
            f"diversity: beyond the budget of {self.method}",
            lost_to=lost_to,
            scores={WRITES[self.method]: worth},
            figures=figures,
        )

    def _spread(self, view: View, matrix: Matrix, budget: int, seed: int) -> Spread:
        if self.method == "k_center":
            first = None if self.first == "mean" else int(np.argmax(_share_below(_score(view, self.first))))
            return k_center(matrix, budget, first)
        quality = _share_below(_score(view, self.score)) if self.score else None
        if self.method == "mmr" and quality is not None:
            return mmr(matrix, budget, quality, self.quality)
        if self.method == "cluster_balanced":
            num = self._clusters(len(view))
            return cluster_balanced(matrix, budget, num=num, seed=seed, quality=quality, trade=self.quality)
        choose = dpp if self.method == "dpp" else facility_location
        return choose(matrix, budget, seed=seed, quality=quality, trade=self.quality)

    def _clusters(self, num: int) -> int:
        return self.clusters or max(1, round(sqrt(num / 2)))


def _score(view: View, name: str) -> Float32:
    if name == "length":
        return view.lengths.astype(np.float32)
    if name not in view.scores:
        legal = ["length", *sorted(view.scores)]
        raise JobError(f"diversity: no sample has the score '{name}', must be one of {legal}; change it")
    return view.scores[name]


def _share_below(values: Float32) -> Float64:
    """Return [n] the share of the other rows with a lower value; an equal value counts half, and NaN is lowest."""
    filled = np.nan_to_num(values.astype(np.float64), nan=-np.inf, neginf=-np.inf)
    ordered = np.sort(filled)
    below, upto = np.searchsorted(ordered, filled, "left"), np.searchsorted(ordered, filled, "right")
    return (below + upto - 1) / 2 / max(1, len(values) - 1)
