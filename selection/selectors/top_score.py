"""Top score: the samples highest in one number, up to a budget."""

from random import Random
from typing import Literal

import numpy as np

from cluster.errors import JobError
from selection.contracts import Budget, Choice, Selector, View, budget_rows


class TopScore(Selector):
    """Keep a budget of samples, highest score first, then lowest id; a sample without the score comes last."""

    kind: Literal["top_score"] = "top_score"
    score: str = "judge"
    """Name of the score, or `length` for the characters of the answer ("long is more", Zhao et al. 2024,
    arXiv:2402.04833)."""
    budget: Budget
    """How many samples stay: a whole number, or a share of those that come in, below 1."""

    def most(self, num: int) -> int:
        """Return the budget, or `num` where that is less."""
        return budget_rows(self.budget, num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness.

        Raises:
            JobError: when no sample has the score.
        """
        del rng
        if len(view) and self.score != "length" and self.score not in view.scores:
            raise JobError(
                f"top_score: no sample has {self.score!r}, must be one of {['length', *sorted(view.scores)]}"
            )
        kept = np.zeros(len(view), np.bool_)
        kept[view.order((self.score,))[: budget_rows(self.budget, len(view))]] = True
        reason = f"top_score: {self.score} beyond the budget"
        return Choice(kept, {int(row): reason for row in np.flatnonzero(~kept)})
