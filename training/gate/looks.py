"""Looks: a suite is asked in blocks, and the gate looks at it after each block.

A clear difference is shown by a part of the items, and a challenger for which it is too late needs no more of them.
Each look spends a part of the level of the round, so that all looks together have that level. After a share `t` of the
families, the score of a suite is that of a random walk `B(t)` with the variance `t`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FEW = 30
"""Smallest number of families for a decision; fewer say too little about others."""
POINTS = 801
"""Number of points of the walk's density. The last level is too high by 0.003 % with 4 looks, and by 0.2 % with 20."""
FAR = 8.5
"""Standard deviations within which the density is computed."""
HOPELESS = 0.1
"""A suite is not asked further if it would pass with less than this probability. It costs at most a tenth of the
probability that a better challenger is missed: 0.02 with a power of 0.8 (Lan, Simon & Halperin 1982)."""


class Crossing(NamedTuple):
    """What a walk does."""

    above: tuple[float, ...]
    """Probability that it is first above its bound at each look."""
    stopped: tuple[float, ...]
    """Probability that it ends at each look, above or hopeless. The last look ends every walk."""


@lru_cache(256)
def bounds(level: float, looks: int) -> tuple[float, ...]:
    """Return above what the walk must be at each look, so that it ever is with the probability `level`.

    The looks are at equal shares of the families. After a share t, 2 - 2 Phi(z / sqrt(t)) of the level is spent, with
    the normal quantile z of 1 - level / 2: very little at first, so that the last look has almost the whole level.

    Source: Lan & DeMets 1983, Discrete sequential boundaries for clinical trials, Biometrika 70, with the spending
    function that is like O'Brien & Fleming's; the integration is that of Armitage, McPherson & Rowe 1969, J. R.
    Statist. Soc. A 132.
    """
    from scipy.special import ndtr, ndtri

    z = -float(ndtri(level / 2))
    spent = [2 * float(ndtr(-z / math.sqrt(look / looks))) for look in range(1, looks + 1)]
    found: list[float] = []
    walk = _Walk(1 / looks, 0.0)
    for before, after in zip([0.0, *spent], spent, strict=False):
        low, high = -FAR, FAR
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if walk.above(middle) > after - before else (low, middle)
        found.append(high)
        walk.step(-math.inf, high)
    return tuple(found)


def levels(level: float, looks: int) -> tuple[float, ...]:
    """Return the largest p-value at each look with which a suite is shown to be above its margin.

    At the first looks it may be too small for any number of families, such as 1e-11.
    """
    from scipy.special import ndtr

    found = bounds(level, looks) if looks > 1 else ()
    return tuple(float(ndtr(-bound / math.sqrt(n / looks))) for n, bound in enumerate(found, 1)) or (level,)


class _Walk:
    """The density of a walk with a drift that has not ended, look by look."""

    def __init__(self, share: float, drift: float) -> None:
        self._share, self._move = share, drift * share
        self._points: Floats = np.zeros(1)
        self._weights: Floats = np.ones(1)

    def above(self, bound: float) -> float:
        """Return the probability of a next step above a bound."""
        from scipy.special import ndtr

        away = (self._points + self._move - bound) / math.sqrt(self._share)
        return float(ndtr(away) @ self._weights)

    def below(self, bound: float) -> float:
        """Return the probability of a next step below a bound."""
        from scipy.special import ndtr

        away = (bound - self._points - self._move) / math.sqrt(self._share)
        return float(ndtr(away) @ self._weights)

    def step(self, low: float, high: float) -> None:
        """Take the next step; walks outside of the bounds end."""
        reach = FAR * math.sqrt(self._share)
        low = max(low, float(self._points[0]) + self._move - reach)
        high = min(high, float(self._points[-1]) + self._move + reach)
        points = np.linspace(low, max(low, high), POINTS)
        away = (points[:, None] - self._points - self._move) / math.sqrt(self._share)
        density = np.exp(-(away**2) / 2) / math.sqrt(2 * math.pi * self._share) @ self._weights
        size = np.full(POINTS, (points[-1] - points[0]) / (POINTS - 1))
        size[[0, -1]] /= 2
        self._points, self._weights = points, density * size


def crossing(upper: Sequence[float], lower: Sequence[float], drift: float) -> Crossing:
    """Return when a walk with a drift is above its upper bound, or hopeless below its lower one.

    Args:
        upper: bound of each look, at equal shares of the families.
        lower: bound of each look but the last.
        drift: mean of the walk at its end.
    """
    walk, above, stopped = _Walk(1 / len(upper), drift), [], []
    for low, high in zip([*lower, -math.inf], upper, strict=True):
        above.append(walk.above(high))
        stopped.append(above[-1] + walk.below(low))
        walk.step(low, high)
    return Crossing(tuple(above), (*stopped[:-1], 1 - sum(stopped[:-1])))


def too_low(upper: Sequence[float], drift: float) -> list[float]:
    """Return below what a walk is hopeless at each look but the last, if its drift is `drift` from there on."""
    from scipy.special import ndtri

    left = [1 - look / len(upper) for look in range(1, len(upper))]
    return [upper[-1] - drift * rest + float(ndtri(HOPELESS)) * math.sqrt(rest) for rest in left]


def is_hopeless(means: Floats, share: float, *, level: float, margin: float, effect: float) -> bool:
    """Say whether a suite would pass at its last look with less than `HOPELESS`, if the true difference is `effect`.

    Args:
        means: [families] mean change of each family so far; at least one.
        share: share of all families that these are, below 1.
        level: largest p-value of the last look.
        margin: what the difference must be shown to be above.
        effect: the difference in the families that follow, above the margin.

    Source: stochastic curtailment, Lan, Simon & Halperin 1982, Stochastically curtailed tests in long-term clinical
    trials, Commun. Statist. C 1.
    """
    from scipy.special import ndtr, ndtri

    whole = len(means) / share
    spread = math.sqrt(max(float(((means - margin) ** 2).mean()), 1 / len(means)))
    needed = margin + float(ndtri(1 - level)) * spread / math.sqrt(whole)
    expected = share * float(means.mean()) + (1 - share) * effect
    return float(ndtr((expected - needed) / (spread * math.sqrt((1 - share) / whole)))) < HOPELESS


class Suite(NamedTuple):
    """What the power of a suite depends on, besides its number of families."""

    effect: float
    """The true difference."""
    changed: float
    """Share of the items that only one of both models answers correctly; at least `abs(effect)`."""
    level: float
    """Level of the one-sided test in one round."""
    margin: float = 0.0
    """What the difference must be shown to be above."""
    looks: int = 1


def walks(suite: Suite, families: int, true: float | None = None) -> Crossing:
    """Return when a suite of families of one right or wrong item is decided.

    Args:
        suite: the suite. A look that would be hopeless with its `effect` is the last one.
        families: number of families.
        true: the true difference, if it is not `effect`.

    Source: Miller 2024, arXiv:2411.00640, section 5, with the variances under both hypotheses and the correction for
    whole numbers (Fleiss, Levin & Paik 2003, Statistical Methods for Rates and Proportions, section 4.2).
    `tests/proof/gate.py` compares it with drawn comparisons.
    """
    from scipy.special import ndtri

    true = suite.effect if true is None else true
    without, spread = _spreads(true, suite.changed, suite.margin)
    planned = _drift(suite.effect, families, suite.margin) / _spreads(suite.effect, suite.changed, suite.margin)[1]
    upper = bounds(suite.level, suite.looks) if suite.looks > 1 else (-float(ndtri(suite.level)),)
    upper = tuple(bound * without / spread for bound in upper)
    return crossing(upper, too_low(upper, planned), _drift(true, families, suite.margin) / spread)


def power(suite: Suite, families: int) -> float:
    """Return the probability that a suite with this number of families shows its effect."""
    return sum(walks(suite, families).above)


def share_asked(suite: Suite, families: int, true: float) -> float:
    """Return the mean share of the families that are asked until a suite is decided, if `true` is the difference."""
    return sum(look * chance for look, chance in enumerate(walks(suite, families, true).stopped, 1)) / suite.looks


def families_needed(suite: Suite, wanted: float = 0.8) -> int | None:
    """Return how many families show the effect with the probability `wanted`; None if the margin is not below it."""
    from scipy.special import ndtri

    if suite.effect <= suite.margin:
        return None
    without, spread = _spreads(suite.effect, suite.changed, suite.margin)
    away = suite.effect - suite.margin
    reach = (float(ndtri(wanted)) * spread - float(ndtri(suite.level)) * without) / away
    low = max(FEW, math.ceil(reach**2 + 1 / away))
    if suite.looks == 1:
        return low
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(suite, middle) >= wanted else (middle, high)
    return high


def _drift(effect: float, families: int, margin: float) -> float:
    return math.sqrt(families) * (effect - margin - 1 / (2 * families))


def _spreads(effect: float, changed: float, margin: float) -> tuple[float, float]:
    """Return the standard deviation of a family if the true difference is the margin, and if it is the effect."""
    most = max(changed, abs(effect), abs(margin))
    return math.sqrt(max(most - margin**2, 1e-12)), math.sqrt(max(most - effect**2, 1e-12))
