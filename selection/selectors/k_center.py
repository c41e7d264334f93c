"""k-center: a budget of samples spread so that every sample has a chosen one near by."""

from random import Random
from typing import ClassVar, Literal

import numpy as np

from cluster.encoder import Float32
from selection.contracts import Budget, Choice, Int, Selector, View, budget_rows


class KCenter(Selector):
    """Choose samples one by one, each the farthest from all chosen before.

    Source: Sener & Savarese 2018, arXiv:1708.00489, algorithm 1 (greedy, within twice the best radius). Departures: the
    first centre is the sample nearest to the mean, or the best by a score, instead of a labelled pool. It likes
    outliers: put it behind filters that remove broken samples. Cost: n x budget x d multiplications.
    """

    kind: Literal["k_center"] = "k_center"
    needs_vectors: ClassVar[bool] = True

    budget: Budget
    """How many samples stay: a whole number, or a share of those that come in, below 1."""
    first: str = "mean"
    """Where to begin: `mean`, the sample nearest to the mean of all, or a score's name, the sample highest in it."""

    def most(self, num: int) -> int:
        """Return the budget, or `num` where that is less."""
        return budget_rows(self.budget, num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `k_center_distance`: 1 - cosine to the nearest chosen sample before it."""
        del rng
        by_id = view.order(())
        start = None
        if self.first != "mean" and len(view):
            start = int(np.flatnonzero(by_id == view.order((self.first,))[0])[0])
        chosen, cosine = k_center(view.unit("k_center")[by_id], budget_rows(self.budget, len(view)), start)
        kept = np.zeros(len(view), np.bool_)
        kept[by_id[chosen]] = True
        distance = np.empty(len(view), np.float32)
        distance[by_id] = 1 - cosine
        return Choice(
            kept,
            {int(row): "k_center: beyond the budget" for row in np.flatnonzero(~kept)},
            scores={"k_center_distance": distance},
        )


def k_center(vectors: Float32, budget: int, first: int | None = None) -> tuple[Int, Float32]:
    """Return greedy k-centers of [n, d] unit rows; ties go to the lower row.

    Args:
        vectors: [n, d] unit rows.
        budget: centres wanted; all rows come back when there are no more.
        first: row to begin with; by default the one nearest to the mean.

    Returns:
        chosen: [min(n, budget)] int64, in the order of choice.
        cosine: [n] float32, to the nearest centre: for a centre at the time of its choice (NaN for the first),
            for the others at the end.
    """
    if not len(vectors):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    row = int(np.argmax(vectors @ vectors.mean(axis=0))) if first is None else first
    nearest = np.full(len(vectors), -1, np.float32)
    at_choice, open_ = np.full(len(vectors), np.nan, np.float32), np.ones(len(vectors), np.bool_)
    chosen: list[int] = []
    for _ in range(min(budget, len(vectors))):
        chosen.append(row)
        open_[row] = False
        at_choice[row] = nearest[row] if len(chosen) > 1 else np.nan
        np.maximum(nearest, np.minimum(vectors @ vectors[row], np.float32(1)), out=nearest)
        row = int(np.argmin(np.where(open_, nearest, np.float32(2))))
    return np.array(chosen, np.int64), np.where(open_, nearest, at_choice).astype(np.float32)
