"""Random rows of pools that may be long and lie in Arrow: one after another, never a scan."""

from collections.abc import Iterator, Sequence
from random import Random

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Sample

TRIES = 128
"""Rows that are looked at before a draw makes do with what it has found: 1.3 ms where rows lie in Arrow."""


def chosen(rows: Sequence[Sample], most: int, name: str) -> list[Sample]:
    """Return all rows, or the same choice of them whenever the step of this name asks for it."""
    if len(rows) <= most:
        return list(rows)
    return [rows[place] for place in sorted(ids.stream(name, len(rows)).sample(range(len(rows)), most))]


def wander(rng: Random, *pools: Sequence[Sample], tries: int = TRIES) -> Iterator[Sample]:
    """Yield rows at distinct random places of the pools taken together, at most `tries`, each read when it is due.

    Every row is as likely as any other; pools with fewer rows than `tries` are gone through whole, in random order.
    """
    total = sum(len(pool) for pool in pools)
    for place in rng.sample(range(total), min(total, tries)):
        yield _at(place, pools)


def _at(place: int, pools: Sequence[Sequence[Sample]]) -> Sample:
    for pool in pools:
        if place < len(pool):
            return pool[place]
        place -= len(pool)
    raise IndexError(place)
