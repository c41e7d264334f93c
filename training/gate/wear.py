"""Wear: what decisions on the same items again and again do to what these decisions promise.

A line that is promoted or not learns something about the items each time, and the next challengers depend on it. If
they depended on it as badly as possible, the level of a round would no longer be spent once a round, but once for each
history that the line could have had.
"""

from math import comb

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract import ids

WORN = 0.5
"""Bound on the probability of a wrong promotion from which on a suite counts as worn out."""


def wear(decisions: int, promotions: int, level: float) -> float:
    """Return a bound on the probability that decisions on the same items have promoted a model that is no better.

    It holds however the challengers depend on earlier decisions, if these are all that is known of the items. Of the
    histories of so many decisions with at most so many promotions, each needs a test of its own. With no promotion the
    bound is `decisions * level`: what the line planned to spend. With `alpha` 0.05 over 52 rounds it reaches `WORN`
    after 32 decisions with 1 promotion, 15 with 2, 11 with 3, and 10 with more.

    Args:
        decisions: number of decisions on the items.
        promotions: number of these that promoted.
        level: level of one decision.

    Source: the count of histories is that of Blum & Hardt 2015, The Ladder, arXiv:1502.04585, section 3; why reuse
    costs anything: Dwork et al. 2015, The reusable holdout, Science 349. In practice it costs far less, because
    challengers are alike (Mania et al. 2019, arXiv:1905.12580).
    """
    tests = sum(comb(before, won) for before in range(decisions) for won in range(min(promotions, before) + 1))
    return min(1.0, level * tests)


def warning(suite: str, decisions: int, promotions: int, level: float) -> str:
    """Return a line for people if a suite is worn out, else the empty string."""
    bound = wear(decisions, promotions, level)
    if bound < WORN:
        return ""
    return (
        f"suite {suite}: {decisions} decisions with {promotions} promotions were taken on its items, after which a "
        f"wrong promotion is bounded by {bound:.2g} only; give it new items, or set evaluate.gate.held_back"
    )


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
