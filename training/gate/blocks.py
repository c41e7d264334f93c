"""The items of a suite in blocks: which are asked before each look, and which are held back in a round."""

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract import ids


def blocks(
    names: NDArray[np.object_], families: NDArray[np.int64], *, looks: int, held_back: float, round_: int
) -> NDArray[np.int64]:
    """Return before which look each item of a suite is asked, from 1; 0 if it is held back in this round, [items].

    The items of a family stay together. The order of the families depends on the ids of their items alone, and which
    are held back on the ids and the round.

    Args:
        names: [items] ids.
        families: [items] family of each item, numbered from 0.
        looks: number of looks, each at as many further families.
        held_back: share of the families that are held back.
        round_: number of the round.
    """
    count = int(families.max(initial=-1)) + 1
    first = np.full(count, "", object)
    for name, family in zip(names.tolist(), families.tolist(), strict=True):
        first[family] = min(first[family] or name, name)
    rest = np.array([ids.stream("held back", round_, name).random() for name in first])
    asked = np.argsort(rest, kind="stable")[: max(1, round((1 - held_back) * count))] if held_back else np.arange(count)
    place = np.array([ids.stream("look", first[family]).random() for family in asked])
    found = np.zeros(count, np.int64)
    # the last block is never empty
    found[asked[np.argsort(place, kind="stable")]] = looks - np.arange(len(asked))[::-1] * looks // max(1, len(asked))
    return found[families]
