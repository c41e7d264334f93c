"""Random choice: the baseline that any cleverer selector must beat."""

from random import Random
from typing import Literal

import numpy as np

from selection.contracts import Budget, Choice, Selector, View, budget_rows


class RandomChoice(Selector):
    """Keep a budget of samples drawn without replacement, the same ones for the same samples and seed."""

    kind: Literal["random"] = "random"
    budget: Budget
    """How many samples stay: a whole number, or a share of those that come in, below 1."""

    def most(self, num: int) -> int:
        """Return the budget, or `num` where that is less."""
        return budget_rows(self.budget, num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, drawn from the samples in order of id."""
        by_id = view.order(())
        kept = np.zeros(len(view), np.bool_)
        kept[by_id[rng.sample(range(len(view)), budget_rows(self.budget, len(view)))]] = True
        return Choice(kept, {int(row): "random: beyond the budget" for row in np.flatnonzero(~kept)})
