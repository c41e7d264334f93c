"""What selection is made of: View, Choice, Selector. Read this first.

A selector sees the kept samples as columns and answers with who stays; it never owns a model, a path or a store.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from cluster.encoder import Float32
from cluster.errors import JobError
from cluster.sample import Message
from cluster.step import Step
from selection.texts import Part, part

Bool = NDArray[np.bool_]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """The samples still kept, as columns of equal length n; what a selector chooses from."""

    ids: Sequence[str]
    messages: Sequence[Sequence[Message]]
    scores: Mapping[str, Float32]
    """By name, [n]; NaN where a sample has no such score."""
    vectors: Float32 | None = None
    """[n, d] unit rows, present when some step of the job needs them."""

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, which: Part) -> list[str]:
        """Return one part of every conversation; see `selection.texts.part`."""
        return [part(messages, which) for messages in self.messages]

    def unit(self, where: str) -> Float32:
        """Return the vectors of a selector that says it needs them."""
        if self.vectors is None:
            raise JobError(
                f"{where}: the samples have no vectors, must be embedded first; run it through the select job"
            )
        return self.vectors

    def order(self, prefer: Sequence[str]) -> Int:
        """Return all rows best first: by each name in turn, highest first, then by id.

        A name is a score or `length` (characters of the answer); a sample without the score comes behind those with it.
        The order depends on the samples alone, not on how the rows stand.
        """
        keys: list[NDArray[np.generic]] = [np.array(self.ids, dtype=np.str_)]
        for name in reversed(prefer):  # lexsort goes by its last key first
            if name == "length":
                keys.append(-np.array([len(text) for text in self.texts("answer")], dtype=np.int64))
            elif name in self.scores:  # a score that no sample has decides nothing
                keys.append(-np.nan_to_num(self.scores[name].astype(np.float64), nan=-np.inf))
        order: Int = np.lexsort(keys).astype(np.int64)
        return order

    def take(self, keep: Bool) -> "View":
        """Return the view of the rows that stay."""
        rows = np.flatnonzero(keep)
        return View(
            ids=[self.ids[row] for row in rows],
            messages=[self.messages[row] for row in rows],
            scores={name: values[rows] for name, values in self.scores.items()},
            vectors=None if self.vectors is None else self.vectors[rows],
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """Who stays and why the others go; a row is kept exactly when it has no reason."""

    kept: Bool
    """[n]."""
    reasons: Mapping[int, str]
    """By row, for every row that goes: `"kind: why"`."""
    lost_to: Mapping[int, int] = field(default_factory=dict)
    """By row that goes, the kept row that stands for it, where there is one."""
    scores: Mapping[str, Float32] = field(default_factory=dict)
    """New scores by name, [n], NaN where a row gets none; higher is better."""

    def __post_init__(self) -> None:
        assert set(self.reasons) == set(np.flatnonzero(~self.kept).tolist())


class Selector(Step):
    """A frozen value that chooses among samples; the work is done by a pure function beside each class."""

    needs_vectors: ClassVar[bool] = False
    """Whether the samples must be embedded before `pick`."""

    def most(self, num: int) -> int:
        """Return how many of `num` samples stay at most; all, where there is no budget."""
        return num

    @abstractmethod
    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; the same samples in another order make the same choice of ids."""


def budget_rows(budget: float, rows: int) -> int:
    """Return how many rows a budget allows: a whole number as it is, a share of the rows rounded, at least one."""
    return min(rows, budget) if isinstance(budget, int) else min(rows, max(1, round(budget * rows)))


def _whole_or_share(budget: float) -> int | float:
    if isinstance(budget, float) and budget > 1:
        raise ValueError(f"is {budget}, must be a whole number of samples or a share between 0 and 1")
    return budget


Budget = Annotated[int | float, Field(gt=0), AfterValidator(_whole_or_share)]
"""Samples that stay: `200`, or a share such as `0.5` of those that come in (`1.0` is all of them)."""
