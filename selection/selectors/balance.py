"""Balance: it sets how many samples of each label, language, method or topic stay."""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.selection.contracts import BEST, Budget, Choice, Cost, Prefer, Selector, View, budget_rows
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64
from gristmill.selection.diversity.quota import allocate, first_of_groups, powers

OTHERS = "*"
SHOWN = 12
"""Number of groups that the figures name: the largest groups."""


class Balance(Selector):
    """Fill a budget from groups of samples, the best samples of each group first.

    By default the share of a group of n samples is in proportion to n^alpha. With `quotas` the shares are as given.
    Shares become whole numbers by largest remainders, so the budget is met exactly if there are enough samples. If a
    group has too few samples for its share, the other groups get the rest, in proportion to their shares. Samples
    without the tag form one group.

    Source: Conneau et al. 2020, XLM-R, arXiv:1911.02116, section 3.1 (languages drawn with p ~ n^alpha, alpha = 0.3);
    Raffel et al. 2020, T5, arXiv:1910.10683, section 3.5.2 (the same with a temperature, T = 1/alpha). Departures: no
    sample is drawn twice, and inside a group the best stay instead of random ones.
    """

    kind: Literal["balance"] = "balance"
    example: ClassVar[Mapping[str, Any]] = {"by": "method", "budget": 100}
    by: str = Field(min_length=1)
    """Tag whose values are the groups (`label`, `language`, `topic`, …), or `method`."""
    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in. `1.0` means all samples."""
    alpha: float = Field(default=0.0, ge=0, le=1)
    """Exponent of the groups' sizes, the same as 1/temperature. 1 keeps the proportions of the groups, 0.3 (XLM-R)
    gives small groups more, and 0 gives all groups the same number."""
    quotas: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weights by value, such as `{ en = 0.6, zh = 0.3, "*" = 0.1 }`; only their proportions count. The weight of `"*"`
    is for all other groups together; they share it by `alpha`. The weight of `""` is for samples without the tag. A
    group without a weight gets samples only if the groups with weights have too few."""
    floor: int = Field(default=0, ge=0)
    """Least number of samples that stay of each group; a smaller group stays complete."""
    ceiling: int | None = Field(default=None, gt=0)
    """Largest number of samples that stay of each group. Because of it, fewer samples than the budget may stay."""
    prefer: Prefer = BEST
    """Scores that decide which samples of a group stay; `length` is the characters of the answer. The first score in
    which two samples differ decides: the higher value stays. If no score differs, the lower id stays. Ids are hashes,
    so an empty list means a random choice."""

    @model_validator(mode="after")
    def _fits(self) -> "Balance":
        if self.ceiling is not None and self.floor > self.ceiling:
            raise ValueError(f"floor is {self.floor}, must be at most the ceiling {self.ceiling}")
        if self.quotas and not any(self.quotas.values()):
            raise ValueError("quotas are all 0, at least one must be more")
        return self

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of reading the tag, and of two sorts."""
        del dim
        return Cost(1e-6 * num, 120 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness.

        Raises:
            JobError: when no sample has the tag, or when the floors sum up to more than the budget.
        """
        del rng
        code, values = view.tags(self.by)
        if len(view) and not values:
            raise JobError(
                f"balance.by: no sample has the tag {self.by!r}, must be `method` or a tag of the samples; "
                "see their tags with `gristmill show`"
            )
        empty = values.index("") if "" in values else -1
        group = np.where((code < 0) | (code == empty), len(values), code)
        names = [*values, ""]
        sizes = np.bincount(group, minlength=len(names)).astype(np.int64)
        counts = self._counts(names, sizes, budget_rows(self.budget, len(view)))
        kept = first_of_groups(group, view.order(self.prefer), counts)
        return Choice.of(kept, "balance: beyond the quota", figures=self._figures(names, sizes, counts))

    def _counts(self, names: list[str], sizes: Int, budget: int) -> Int:
        """Return [groups] the number of samples of each group that stay."""
        upper = sizes if self.ceiling is None else np.minimum(sizes, self.ceiling)
        lower = np.minimum(upper, self.floor)
        if lower.sum() > budget:
            raise JobError(
                f"balance.floor: {self.floor} of each of {int((sizes > 0).sum())} groups are {lower.sum()} samples, "
                f"must be at most the budget of {budget}; lower the floor or raise the budget"
            )
        natural = powers(sizes, self.alpha)
        return allocate(self._weights(names, natural), (lower, upper), budget, spill=np.maximum(natural, 1e-9))

    def _weights(self, names: list[str], natural: Float64) -> Float64:
        if not self.quotas:
            return natural
        named = np.array([name in self.quotas for name in names])
        weights = np.array([self.quotas.get(name, 0.0) for name in names])
        others = natural[~named].sum()
        if OTHERS in self.quotas and others:
            weights[~named] = self.quotas[OTHERS] * natural[~named] / others
        return np.where(natural > 0, weights, 0.0)

    def _figures(self, names: list[str], sizes: Int, counts: Int) -> dict[str, float | str]:
        largest = np.argsort(-sizes, kind="stable")[:SHOWN]
        told = [f"{names[g] or 'without'} {counts[g]:,} of {sizes[g]:,}" for g in largest if sizes[g]]
        absent = sorted(set(self.quotas) - {OTHERS} - {n for n, size in zip(names, sizes, strict=True) if size})
        return {
            "groups": int((sizes > 0).sum()),
            "evenness_before": evenness(sizes),
            "evenness": evenness(counts),
            "given": ", ".join(told) + (", …" if (sizes > 0).sum() > SHOWN else ""),
            **({"no_samples": ", ".join(name or "without" for name in absent)} if absent else {}),
        }


def evenness(sizes: Int) -> float:
    """Return the entropy of the groups' shares over that of equal shares (Pielou), 0 to 1; a single group has 1."""
    shares = sizes[sizes > 0] / max(1, sizes.sum())
    return 1.0 if len(shares) < 2 else round(float(-(shares * np.log(shares)).sum() / np.log(len(shares))), 4)
