"""Wear: what decisions on the same items again and again do to what these decisions promise.

A line that is promoted or not learns something about the items each time, and the next challengers depend on it. If
they depended on it as badly as possible, the level of a round would no longer be spent once a round, but once for each
history that the line could have had.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import comb

from gristmill.cluster.refresh.registry import Decision

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


def worn(decisions: Sequence[Decision], suites: Mapping[str, str], level: float) -> Iterator[str]:
    """Yield a line for people for each suite that is worn out.

    Args:
        decisions: the decisions of a line.
        suites: the dataset of the items of each suite, by the name of the suite. A decision was taken on the items of a
            dataset if it has a digest of it.
        level: level of one decision.
    """
    for name, dataset in sorted(suites.items()):
        mine = [one.verdict for one in decisions if dataset in one.digests]
        line = warning(name, len(mine), mine.count("promote"), level)
        if line:
            yield line
