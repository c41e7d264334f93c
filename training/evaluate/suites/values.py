"""Values: what the comparison needs of all items of a suite for one model, as numbers.

They are gathered from ITEMS shard by shard. So the texts of the items and the replies are in memory for one shard at a
time, and a model's values take a few numbers an item. The kind of the suite decides which numbers they are
(`gristmill.training.evaluate.suites.reducers`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.store.store import Shard, Store
from gristmill.training.evaluate.scorers.contract import OWN, Judgements
from gristmill.training.evaluate.suites import items
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import BLOCK, Judged
from gristmill.training.evaluate.suites.reducers import Numbers, numbers


@dataclass(slots=True)
class Values:
    """The numbers of the items of a suite for one model."""

    asked: NDArray[np.bool_]
    """[items] whether the model could be asked everything about the item."""
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    """By name, [items, …]; nan or None for items that were not asked. The name of the own value is empty."""

    def of(self, taken: NDArray[np.bool_]) -> Numbers:
        """Return the numbers of some items."""
        return {name: values[taken] for name, values in self.numbers.items()}

    def part(self, places: NDArray[np.int64]) -> "Values":
        """Return the values of some items, by their indices."""
        return Values(self.asked[places], {name: values[places] for name, values in self.numbers.items()})


Gathered = dict[tuple[str, str], Values]
"""Values by (model, suite)."""


def gathered(store: Store, output: str, shards: Iterable[Shard], suites: Sequence[Suite]) -> Gathered:
    """Return the values in some shards of ITEMS. They take 8 bytes for each number of an item and model."""
    found = Gatherer(suites)
    for shard in shards:
        if shard.name.endswith(".arrow"):
            found.add(store.read_shard(output, shard))
    return found.values


class Gatherer:
    """Gathers values from tables of ITEMS."""

    def __init__(self, suites: Sequence[Suite]) -> None:
        """Take the suites. Values of other suites are not gathered."""
        self._suites = {suite.name: suite for suite in suites}
        self._places: dict[str, tuple[NDArray[np.bytes_], NDArray[np.int64]]] = {}
        self._null: dict[tuple[str, str], NDArray[np.bool_]] = {}
        self.values: Gathered = {}

    def add(self, table: pa.Table) -> None:
        """Gather the values in a table; all values of an item that follow from one reply are in one table."""
        for name in pc.unique(table["suite"]).to_pylist():
            if name in self._suites:
                for (model, _), scores in items.scores_of(table.filter(pc.equal(table["suite"], name))).items():
                    self._add(self._suites[name], model, scores)

    def _add(self, suite: Suite, model: str, scores: dict[str, Judgements]) -> None:
        key, count = (model, suite.name), len(suite.items)
        if key not in self.values:
            self.values[key] = Values(np.zeros(count, np.bool_))
            self._null[key] = np.zeros(count, np.bool_)
        mine, null = self.values[key], self._null[key]
        names = list(scores)
        places = self._places_of(suite, names)
        order = np.argsort(places)
        for start in range(0, len(order), BLOCK):
            some = order[start : start + BLOCK]
            at = places[some]
            first = int(at[0])
            near = suite.items[first : int(at[-1]) + 1]
            judged = [Judged(near[place - first], scores[names[n]]) for n, place in zip(some, at.tolist(), strict=True)]
            told = np.array([all(score.value is not None for score in row.scores.values()) for row in judged], np.bool_)
            null[at[~told]] = True
            if told.any():
                made = numbers(suite.scorer, [row for row, whole in zip(judged, told, strict=True) if whole])
                for name, values in made.items():
                    if name not in mine.numbers:
                        shape = (count, *values.shape[1:])
                        nothing = None if values.dtype == object else np.nan
                        mine.numbers[name] = np.full(shape, nothing, values.dtype)
                    mine.numbers[name][at[told]] = values
        if OWN in mine.numbers:
            mine.asked[:] = ~null & ~np.isnan(mine.numbers[OWN])

    def _places_of(self, suite: Suite, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the index of each of some items by id."""
        if suite.name not in self._places:
            every = np.array([item.id.encode() for item in suite.items])
            order = np.argsort(every)
            self._places[suite.name] = (every[order], order)
        ordered, order = self._places[suite.name]
        found: NDArray[np.int64] = order[np.searchsorted(ordered, np.array([name.encode() for name in names]))]
        return found
