"""Statistics of a paired comparison, as pure functions of numbers.

Rows of one family (for example, made from one seed) depend on each other. So a family is one observation, however many
rows it has. `tests/proof/intervals.py` measures how often the intervals contain the truth
(`benchmarks/intervals.json`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FEW = 20
"""Smallest number of families for the bootstrap. With fewer, draws have too few different observations, and Student's
interval contains the truth more often."""
COUNTS_AT_ONCE = 2_000_000
"""Number of counts of families that are drawn at once: 16 MB."""
LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio of sums, such as loss per token, with its 95 % interval."""

    value: float
    low: float | None
    """Lower end; None with a single family, which says nothing about others."""
    high: float | None
    kind: Literal["bootstrap", "student", "none"]
    families: int
    error: float | None
    """Standard error of the value."""
    p: float | None = None
    """Two-sided p-value of the hypothesis that the true value is 0, by the same draws or by Student's distribution."""

    @property
    def differs(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def by_family(values: Floats, families: NDArray[np.int64]) -> Floats:
    """Return the sum of the values of each family, [families]. `families` has each row's family, numbered from 0."""
    return np.bincount(families, values).astype(np.float64)


def interval(sums: Floats, sizes: Floats, *, draws: int, seed: int) -> Interval:
    """Return `sum(sums) / sum(sizes)` with its 95 % interval over families.

    The standard error comes from the jackknife over families. With 20 families or more, it is multiplied by the 95 %
    quantile of |t| over bootstrap draws of families. With fewer, it is multiplied by Student's quantile. The degrees of
    freedom are then one less than the effective number of families, (sum of sizes)^2 / (sum of squared sizes).

    Args:
        sums: [families] the summed value of each, such as nats of difference.
        sizes: [families] the summed denominator of each, such as tokens; all positive.
        draws: number of bootstrap draws.
        seed: seed of the draws; the result depends only on it and the other arguments.

    Source: symmetric bootstrap-t: Hall 1988, On symmetric bootstrap confidence intervals, J. R. Statist. Soc. B 50;
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, sections 11.5 and 12.5; clusters as observations: Miller
    2024, arXiv:2411.00640, section 2.2; effective number: Kish 1965, Survey Sampling, section 11.2. Departures: Miller
    takes normal quantiles, which cover too little with few clusters; the draws have linearised standard errors, because
    a jackknife for each draw would be slow.
    """
    count, value = len(sums), float(sums.sum() / sizes.sum())
    if count < 2:
        return Interval(value, None, None, "none", count, None)
    error = _jackknife(sums, sizes)
    away = abs(value) / error if error else math.inf if value else 0.0
    kind: Literal["bootstrap", "student"]
    if count < FEW:
        kind, freedom = "student", max(1.0, _effective(sizes) - 1)
        reach, p = _student(freedom), _student_p(away, freedom)
    else:
        kind, drawn = "bootstrap", _bootstrap(sums, sizes, draws, seed)
        reach, p = float(np.quantile(drawn, LEVEL)), float((1 + (drawn >= away).sum()) / (1 + draws))
    return Interval(value, value - reach * error, value + reach * error, kind, count, error, p)


def _bootstrap(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    """Return |t| of each draw of families, [draws]."""
    rng, count, value = np.random.default_rng(seed), len(sums), sums.sum() / sizes.sum()
    found = []
    at_once = max(1, COUNTS_AT_ONCE // count)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        values, errors = _errors(sums, sizes, drawn)
        away = np.abs(values - value)
        found.append(np.divide(away, errors, out=np.zeros_like(away), where=errors > 0))
    return np.concatenate(found)


def _errors(sums: Floats, sizes: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Return the ratio of each draw and its linearised standard error, both [draws].

    `drawn` has the count of each family in each draw, [draws, families].
    """
    per = drawn @ sizes
    values = (drawn @ sums) / per
    squares = drawn @ (sums * sums) - 2 * values * (drawn @ (sums * sizes)) + values**2 * (drawn @ (sizes * sizes))
    count = len(sums)
    return values, np.sqrt(np.maximum(squares, 0) * count / (count - 1)) / per


def _jackknife(sums: Floats, sizes: Floats) -> float:
    """Return the jackknife standard error of the ratio, from leaving out each family once."""
    count = len(sums)
    left = (sums.sum() - sums) / (sizes.sum() - sizes)
    return float(np.sqrt((count - 1) / count * ((left - sums.sum() / sizes.sum()) ** 2).sum()))


def _effective(sizes: Floats) -> float:
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _student(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _student_p(away: float, freedom: float) -> float:
    from scipy.special import stdtr

    return 2 * float(stdtr(freedom, -away))


def mcnemar(better: int, worse: int) -> float:
    """Return the p-value of the hypothesis that as many pairs get better as worse, by the exact binomial test.

    For right and wrong answers this is McNemar's test; for signs of differences it is the sign test.

    Source: McNemar 1947, Psychometrika 12; exact form: Dixon & Mood 1946, J. Am. Statist. Assoc. 41.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that the probability of any false finding is at most the level of the comparison.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    rising = np.maximum.accumulate(np.minimum(1.0, np.asarray(p_values, np.float64)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = rising
    return [float(p) for p in adjusted]


def detectable(error: float, *, power: float = 0.8) -> float:
    """Return the smallest true difference that a two-sided test at 5 % detects with the probability `power`.

    Args:
        error: the standard error of the difference.
        power: the probability of detection.

    Source: Miller 2024, arXiv:2411.00640, section 5.
    """
    from scipy.special import ndtri

    return float((ndtri((1 + LEVEL) / 2) + ndtri(power)) * error)


def families_needed(found: Interval, effect: float, *, power: float = 0.8) -> int | None:
    """Return how many families like these are needed to detect a difference of `effect` with the probability `power`.

    Returns None if the interval has no standard error.
    """
    if found.error is None:
        return None
    return math.ceil(found.families * (detectable(found.error, power=power) / effect) ** 2)


def items_needed(effect: float, changed: float, *, power: float = 0.8) -> int:
    """Return how many items are needed to detect a difference of two models' shares of right answers.

    Each item counts as a family of its own.

    Args:
        effect: the difference, such as 0.05.
        changed: share of the items that only one of both models answers correctly; at least `effect`.
        power: the probability of detection.

    Source: Miller 2024, arXiv:2411.00640, section 5, with the variance of a paired difference, changed - effect^2.
    """
    return math.ceil((detectable(1.0, power=power) / effect) ** 2 * (max(changed, effect) - effect**2))
