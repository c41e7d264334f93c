"""Random choice: the baseline that every other selector must beat."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np

from gristmill.selection.contracts import Budget, Choice, Cost, Selector, View, budget_rows


class RandomChoice(Selector):
    """Keep random samples, drawn without replacement; the same samples and the same seed give the same choice.

    A larger budget keeps all samples that a smaller budget keeps, and more.

    Source: the baseline of every comparison; Ivison et al. 2025, arXiv:2503.01807, section 4 (at millions of samples
    many selectors are worse than it). Departures: none.
    """

    kind: Literal["random"] = "random"
    example: ClassVar[Mapping[str, Any]] = {"budget": 100}
    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in. `1.0` means all samples."""

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of one permutation."""
        del dim
        return Cost(3e-8 * num, 17 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, drawn from the samples in the order of their ids."""
        drawn = np.random.default_rng(rng.getrandbits(64)).permutation(len(view))
        kept = np.zeros(len(view), np.bool_)
        kept[drawn[: budget_rows(self.budget, len(view))]] = True
        return Choice.of(kept, "random: beyond the budget")
