"""The mixture of several datasets, and the stages of a curriculum: which packed rows an epoch has, and in what order.

Packed rows are in groups. A group has the rows of one dataset and one stage. An epoch takes a number of rows of each
group, and its stages follow each other. Each group is read as an endless stream of shuffles of its rows, so rows that
one epoch leaves out come in the next. Everything follows from the seed and the number of the epoch.

Source: sampling by size with a temperature: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2. Replay of earlier
data: Scialom et al. 2022, arXiv:2205.12393, section 3. Curriculum: Bengio et al. 2009, Curriculum Learning, ICML.
Departures: sizes are numbers of packed rows, and an epoch has exactly its share of each dataset, not a random number.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source


class Part(Settings):
    """A further dataset of a mixture."""

    newer: ClassVar[frozenset[str]] = frozenset({"min_share"})

    input: Source
    """Data from outside the recipe: a path, or a table with path and format."""
    weight: float = Field(default=1.0, gt=0)
    """The weight of the dataset. With 2, each of its samples counts as two for its share of the mixture."""
    min_share: float = Field(default=0.0, ge=0, lt=1)
    """Smallest share of the packed rows of an epoch, those of `replay` included. A dataset that is too small for it is
    repeated. With 0 there is no smallest share."""


class Group(NamedTuple):
    """Packed rows of one dataset and one stage. Groups follow each other in the packed files."""

    source: int
    stage: int
    rows: int
    taken: int
    """Number of rows in an epoch. Above `rows`, rows are repeated; below it, an epoch leaves some out."""


def apportion(total: int, sizes: Sequence[float]) -> list[int]:
    """Return whole numbers that are proportional to `sizes` and add up to `total`, by the largest remainders."""
    exact = [total * size / sum(sizes) for size in sizes]
    found = [int(part) for part in exact]
    order = sorted(range(len(sizes)), key=lambda n: (found[n] - exact[n], n))
    for n in order[: total - sum(found)]:
        found[n] += 1
    return found


def taken(
    rows: Sequence[int], weights: Sequence[float], temperature: float, replay: float, least: Sequence[float] = ()
) -> list[int]:
    """Return the number of packed rows of each dataset in an epoch; at least one of each dataset that has rows.

    The share of a dataset is proportional to (weight x rows) ** (1 / temperature). An epoch has as many rows as all
    datasets together. Rows of replay are added to these.

    Args:
        rows: number of packed rows of each dataset. With replay, the last one has the earlier data.
        weights: weight of each dataset, without that of replay.
        temperature: 1 for shares by size and weight; the higher, the more equal they are.
        replay: share of the epoch that is replay; 0 for none.
        least: smallest share of the epoch of each dataset, without that of replay; empty for none. Their sum and
            `replay` are together below 1.
    """
    main = rows[: len(weights)]
    rates = [(weight * count) ** (1 / temperature) for weight, count in zip(weights, main, strict=True)]
    found = apportion(sum(main), _raised(rates, [share / (1 - replay) for share in least]))
    found += [round(sum(main) * replay / (1 - replay)) for _ in rows[len(weights) :]]
    return [max(1, count) if size else 0 for count, size in zip(found, rows, strict=True)]


def _raised(rates: Sequence[float], least: Sequence[float]) -> Sequence[float]:
    """Return shares that are proportional to `rates`, where none with a rate is below its smallest share."""
    fixed: dict[int, float] = {}
    shares = rates
    while below := {n: share for n, share in enumerate(least) if rates[n] and shares[n] < share * sum(shares)}:
        fixed |= below
        rest = sum(rate for n, rate in enumerate(rates) if n not in fixed)
        scale = (1 - sum(fixed.values())) / rest if rest else 0.0
        shares = [fixed.get(n, rate * scale) for n, rate in enumerate(rates)]
    return shares


def groups(rows: Sequence[Sequence[int]], counts: Sequence[int]) -> tuple[Group, ...]:
    """Return the groups of datasets and stages.

    Args:
        rows: [datasets][stages] number of packed rows.
        counts: [datasets] number of packed rows in an epoch.
    """
    return tuple(
        Group(source, stage, size, share)
        for source, (sizes, count) in enumerate(zip(rows, counts, strict=True))
        for stage, (size, share) in enumerate(zip(sizes, apportion(count, sizes) if sum(sizes) else sizes, strict=True))
    )


def num_rows(found: Sequence[Group]) -> int:
    """Return the number of packed rows in an epoch."""
    return sum(group.taken for group in found)


@lru_cache(maxsize=4)
def epoch(seed: int, number: int, found: tuple[Group, ...]) -> NDArray[np.int64]:
    """Return the packed rows of an epoch, [rows], in their order."""
    if len(found) == 1 and found[0].taken == found[0].rows:
        return _pass(seed, number, 0, found[0].rows)
    first = np.cumsum([0, *(group.rows for group in found)])
    stages: dict[int, list[NDArray[np.int64]]] = {}
    for place, group in enumerate(found):
        if group.taken:
            at = np.arange(number * group.taken, (number + 1) * group.taken)
            passes = {int(n): _pass(seed, int(n), place, group.rows) for n in np.unique(at // group.rows)}
            some = np.array([passes[n][k] for n, k in zip((at // group.rows).tolist(), at % group.rows, strict=True)])
            stages.setdefault(group.stage, []).append(some + first[place])
    rows = [np.concatenate(stages[stage]) for stage in sorted(stages)]
    mixed = [np.random.default_rng([seed, number, stage, 1]).permutation(some) for stage, some in enumerate(rows)]
    whole: NDArray[np.int64] = np.concatenate(mixed).astype(np.int64)
    return whole


def _pass(seed: int, number: int, group: int, rows: int) -> NDArray[np.int64]:
    """Return one shuffle of the rows of a group."""
    key = [seed, number, group] if group else [seed, number]
    return np.random.default_rng(key).permutation(rows).astype(np.int64)


def stages(scores: NDArray[np.float64], count: int, *, descending: bool) -> NDArray[np.int64]:
    """Return the stage of each sample, [samples], counted from 0; samples without a score (NaN) are in the last one.

    Stages have equally many samples. Of equal scores, the earlier sample comes first.
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known] if descending else scores[known], kind="stable")]
    found = np.full(len(scores), count - 1, np.int64)
    found[order] = np.arange(len(order)) * count // max(1, len(order))
    return found
