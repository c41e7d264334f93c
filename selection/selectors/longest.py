"""Longest: keep the samples with the longest answers, a baseline that is hard to beat."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np

from gristmill.selection.contracts import Budget, Choice, Cost, Selector, View, budget_rows


class Longest(Selector):
    """Keep the samples with the longest answers; of equally long answers, the samples with the lowest ids.

    Source: Zhao et al. 2024, Long Is More for Alignment, arXiv:2402.04833, section 3 (the 1,000 longest answers of
    52,002 are better than curated sets of that size). Departures: characters instead of tokens, so that no tokeniser is
    needed. Within a language the order is nearly the same. But Chinese needs fewer characters than English for the same
    content, so balance the languages of a mixed dataset first. Remove duplicates and broken answers before this step,
    because a model that repeats itself writes the longest answers.
    """

    kind: Literal["longest"] = "longest"
    example: ClassVar[Mapping[str, Any]] = {"budget": 100}
    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in. `1.0` means all samples."""

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of one sort; the lengths are read once for all steps."""
        del dim
        return Cost(1e-7 * num, 33 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        kept = np.zeros(len(view), np.bool_)
        kept[view.order(("length",))[: budget_rows(self.budget, len(view))]] = True
        return Choice.of(kept, "longest: beyond the budget")
