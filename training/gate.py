"""The gate: the rule by which a challenger takes the champion's place, as pure functions of values of items.

A family of items is one observation: the mean over its items of challenger minus champion, from -1 to 1. The test of
a suite asks whether the mean over all families that the suite could have is above a margin. `tests/proof/gate.py`
plays 100,000 years of rounds for it (`benchmarks/gate.json`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract.settings import Settings

Floats = NDArray[np.float64]
FEW = 30
"""Smallest number of families for a decision; fewer say too little about others."""
GRIDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 24, 60, 120, 840)
"""Numbers of steps from 0 to 1 of the grids that are tried for family means. The last one is a multiple of 1 to 8."""
LONGEST = 1 << 21
"""Largest number of points of a distribution of sums; with more, the sum is taken as normal."""


class Gate(Settings):
    """`[evaluate.gate]`: what a challenger must show before it is promoted. It is written before the run.

    A challenger is promoted if every suite shows a difference above its margin, and no floor is broken. Each suite is
    tested at `alpha / rounds`. No correction for the number of suites is needed, because all of them must pass: if one
    of the hypotheses is false, the probability of a promotion is at most the level of its own test (Berger 1982).
    """

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Largest probability that a challenger that is not better is promoted, at least once in `rounds` rounds."""
    rounds: int = Field(default=1, gt=0)
    """Number of rounds over which `alpha` is spent: 52 for a year of weekly rounds."""
    delta: float = Field(default=0.0, ge=0, lt=1)
    """Margin of suites with the role `target`: the challenger must be better by more than this."""
    epsilon: float = Field(default=0.02, gt=0, lt=1)
    """Margin of suites with the roles `retention` and `format`: the challenger may be worse by less than this."""
    margins: dict[str, float] = Field(default_factory=dict)
    """Margins of suites by name, in place of `delta` and `-epsilon`; below 0 the challenger may be worse."""
    floors: dict[str, float] = Field(default_factory=dict)
    """Smallest value of the challenger in a suite, or of one of its measures: `{form = 0.95, "form.share" = 0.99}`.
    With a suite of the kind `checks`, this is a floor for replies that end, are not empty, are JSON, or are in a
    language."""

    def problems(self, suites: Sequence[str]) -> list[str]:
        """Return the problems of the rule for suites with these names, each as `key: what is, what must be`."""
        if not suites:
            return ["gate: there are no suites, must be at least one; add [evaluate.suites.NAME]"]
        known = ", ".join(suites)
        found = [
            f"gate.{table}.{key}: is no suite, must be one of {known}"
            for table, keys in (("margins", self.margins), ("floors", self.floors))
            for key in keys
            if key.partition(".")[0] not in suites or (table == "margins" and "." in key)
        ]
        return found + [
            f"gate.margins.{name}: is {value:g}, must be above -1 and below 1"
            for name, value in self.margins.items()
            if not -1 < value < 1
        ]

    def notes(self, roles: Mapping[str, str], changed: float) -> list[str]:
        """Return for the plan how many families each suite needs, by its role.

        Args:
            roles: role of each suite.
            changed: assumed share of items that change between right and wrong.
        """
        found = [f"gate: each suite is tested at {self.level:.2g} ({self.alpha:g} over {self.rounds:,} rounds)"]
        for name, role in roles.items():
            margin = self.margin(name, role)
            for effect in (0.02, 0.05, 0.1) if margin >= 0 else (0.0,):
                needed = families_needed(effect, changed, level=self.level, margin=margin)
                if needed is not None:
                    what = f"better by {effect:g}" if effect else f"as good (margin {margin:+g})"
                    found.append(f"gate: suite {name}: a model that is {what} passes with 80 % at {needed:,} families")
        return found

    @property
    def level(self) -> float:
        """Level of the one-sided test of each suite in one round."""
        return self.alpha / self.rounds

    def margin(self, suite: str, role: str) -> float:
        """Return what the difference in a suite must be shown to be above."""
        return self.margins.get(suite, self.delta if role == "target" else -self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a gate reads of one suite: the values of both models for the same items, each from 0 to 1."""

    suite: str
    role: str
    champion: Floats
    """[items]"""
    challenger: Floats
    """[items]"""
    families: NDArray[np.int64]
    """[items] family of each item."""
    measures: Mapping[str, float]
    """The challenger's measures over all items."""
    problem: str = ""
    """Why the suite cannot decide; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one suite says."""

    suite: str
    margin: float
    difference: float
    """Mean over families of challenger minus champion."""
    families: int
    p: float
    """p-value of the hypothesis that the difference is not above the margin."""
    p_below: float
    """p-value of the hypothesis that the difference is not below the margin."""
    says: Literal["above", "below", "open"]
    """What is shown of the difference and the margin."""
    why: str
    """Why nothing is shown, or the empty string."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict on a challenger, with everything that it follows from."""

    verdict: Literal["promote", "reject", "inconclusive"]
    reasons: tuple[str, ...]
    """Why it is not promoted; empty if it is."""
    level: float
    """Level of each test."""
    findings: tuple[Finding, ...]


def decide(gate: Gate, trials: Sequence[Trial]) -> Decision:
    """Return the verdict: promote, reject (a floor is broken or a suite shows a loss), or inconclusive.

    Args:
        gate: the rule.
        trials: the values of all suites; at least one.
    """
    findings = tuple(_finding(gate, trial) for trial in trials)
    broken = [reason for trial in trials for reason in _broken(gate, trial)]
    below = [f"{one.suite}: is shown to be below the margin {one.margin:+g}" for one in findings if one.says == "below"]
    still = [
        f"{one.suite}: {one.why or f'is not shown to be above the margin {one.margin:+g} (p = {one.p:.2g})'}"
        for one in findings
        if one.says == "open"
    ]
    still += [reason for trial in trials for reason in _unknown(gate, trial)]
    verdict: Literal["promote", "reject", "inconclusive"] = (
        "reject" if broken or below else "inconclusive" if still else "promote"
    )
    return Decision(verdict=verdict, reasons=(*broken, *below, *still), level=gate.level, findings=findings)


def _finding(gate: Gate, trial: Trial) -> Finding:
    margin = gate.margin(trial.suite, trial.role)
    means = family_means(trial.challenger - trial.champion, trial.families)
    why = trial.problem
    if not why and len(means) < FEW:
        why = f"has {len(means)} families of items, must have at least {FEW}"
    above, under = (1.0, 1.0) if why else (chance(means, margin), chance(-means, -margin))
    says: Literal["above", "below", "open"] = (
        "above" if above <= gate.level else "below" if under <= gate.level else "open"
    )
    difference = float(means.mean()) if len(means) else 0.0
    return Finding(
        suite=trial.suite, margin=margin, difference=difference, families=len(means), p=above, p_below=under, says=says,
        why=why,
    )  # fmt: skip


def _floors(gate: Gate, trial: Trial) -> Iterator[tuple[str, float, float | None]]:
    """Yield each floor for the suite: its name, its value, and the challenger's value or None if there is none."""
    own = float(trial.challenger.mean()) if len(trial.challenger) else None
    for name, least in gate.floors.items():
        suite, _, measure = name.partition(".")
        if suite == trial.suite:
            yield name, least, trial.measures.get(measure) if measure else own


def _broken(gate: Gate, trial: Trial) -> list[str]:
    """Return the floors that the challenger is below."""
    return [
        f"{name}: is {value:.3f}, must be at least {least:g}"
        for name, least, value in _floors(gate, trial)
        if value is not None and value < least
    ]


def _unknown(gate: Gate, trial: Trial) -> list[str]:
    """Return the floors for which the challenger has no value."""
    known = ", ".join(trial.measures) or "none"
    return [
        f"{name}: there is no such measure, must be one of those of the suite: {known}"
        for name, _, value in _floors(gate, trial)
        if value is None
    ]


def family_means(change: Floats, families: NDArray[np.int64]) -> Floats:
    """Return the mean change of each family, [families]."""
    place = np.unique(families, return_inverse=True)[1]
    return np.asarray(np.bincount(place, change) / np.maximum(np.bincount(place), 1), np.float64)


def chance(means: Floats, margin: float) -> float:
    """Return the p-value of the hypothesis that the mean over the population of families is at most `margin`.

    Of all distributions on [-1, 1] whose mean is the margin, the one is taken under which the observations are the most
    probable. The p-value is the probability that as many families drawn from it have a mean at least as high. The
    distribution of their sum is computed by Fourier transform, so the value has no randomness.

    Student's test is wrong here where few families change. With 100 families of which 6 change, at a level of 0.001, it
    finds a model with a loss of 0.05 not worse by 0.05 in 2.2 % of the cases. This test is at its level or below it in
    all cases that were computed (`benchmarks/gate.json`).

    Args:
        means: [families] values from -1 to 1.
        margin: from -1 to 1.

    Source: bootstrap from the nonparametric maximum likelihood under the hypothesis: Owen 2001, Empirical Likelihood,
    section 2.9 (a mean with known bounds); DiCiccio & Romano 1990, Int. Statist. Rev. 58 (least favourable families).
    """
    if not len(means) or means.mean() <= margin:
        return 1.0
    steps = next((steps for steps in GRIDS if np.allclose(means * steps, np.rint(means * steps), atol=1e-9)), 0)
    grid = steps or GRIDS[-1]
    if 2 * len(means) * grid + 1 > LONGEST:
        return _normal(means, margin)
    # where a mean is between two points of the grid, it counts as the lower one, so that the p-value is rather too high
    points = np.rint(means * grid) if steps else np.floor(means * grid)
    values, counts = np.unique(points.astype(np.int64), return_counts=True)
    return _tail(tuple(values.tolist()), tuple(counts.tolist()), margin, grid)


def _normal(means: Floats, margin: float) -> float:
    """Return the probability of a mean at least as high, with a normal distribution of the mean."""
    from scipy.special import ndtr

    values, counts = np.unique(means, return_counts=True)
    shares = _least_favourable(values, counts / len(means), margin)
    spread = float((shares * values**2).sum() + max(0.0, 1 - shares.sum()) - margin**2)
    return float(ndtr(-(means.mean() - margin) / math.sqrt(spread / len(means))))


@lru_cache(1 << 16)
def _tail(values: tuple[int, ...], counts: tuple[int, ...], margin: float, grid: int) -> float:
    """Return the probability of a sum at least as high. `values` are whole numbers of steps of the grid."""
    number, total = sum(counts), sum(value * count for value, count in zip(values, counts, strict=True))
    if total / grid / number <= margin:
        return 1.0
    tilted = _least_favourable(np.array(values) / grid, np.array(counts) / number, margin)
    length = 2 * number * grid + 1
    density = np.zeros(1 << (length - 1).bit_length())
    density[np.array(values) + grid] = tilted
    density[0] += max(0.0, 1.0 - float(tilted.sum()))
    sums = np.fft.irfft(np.fft.rfft(density / density.sum()) ** number, len(density))
    return float(np.clip(sums[total + number * grid : length].sum(), 0.0, 1.0))


def _least_favourable(values: Floats, shares: Floats, margin: float) -> Floats:
    """Return the probabilities of the values in the likeliest distribution with the mean `margin`; the rest is at -1.

    The observed mean is above the margin. Each share is divided by `1 + stake * (value - margin)`. The stake lies
    between 0 and 1 / (1 + margin), and is found by bisection.
    """
    away, most = values - margin, 1 / (1 + margin)

    def pull(stake: float) -> float:
        return float((shares * away / (1 + stake * away)).sum())

    if values[0] > -1 and pull(most) >= 0:
        return np.asarray(shares / (1 + most * away), np.float64)
    low, high = 0.0, most * (1 - 1e-12)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if pull(middle) > 0 else (low, middle)
    return np.asarray(shares / (1 + low * away), np.float64)


def power(families: int, effect: float, changed: float, *, level: float, margin: float = 0.0) -> float:
    """Return the probability that a suite of families of one right or wrong item shows a difference above the margin.

    Args:
        families: number of families.
        effect: the true difference.
        changed: share of the items that only one of both models answers correctly; at least `abs(effect)`.
        level: level of the one-sided test.
        margin: what the difference must be shown to be above.

    Source: Miller 2024, arXiv:2411.00640, section 5, with the variances under both hypotheses and the correction for
    whole numbers (Fleiss, Levin & Paik 2003, Statistical Methods for Rates and Proportions, section 4.2).
    `tests/proof/gate.py` compares it with drawn comparisons.
    """
    from scipy.special import ndtr, ndtri

    without, with_ = _spreads(effect, changed, margin)
    away = math.sqrt(families) * (effect - margin - 1 / (2 * families))
    return float(ndtr((away + float(ndtri(level)) * without) / with_))


def families_needed(
    effect: float, changed: float, *, level: float, margin: float = 0.0, wanted: float = 0.8
) -> int | None:
    """Return how many families show the effect with the probability `wanted`; None if the margin is not below it.

    The other arguments are those of `power`.
    """
    from scipy.special import ndtri

    if effect <= margin:
        return None
    without, with_ = _spreads(effect, changed, margin)
    reach = (float(ndtri(wanted)) * with_ - float(ndtri(level)) * without) / (effect - margin)
    return max(FEW, math.ceil(reach**2 + 1 / (effect - margin)))


def _spreads(effect: float, changed: float, margin: float) -> tuple[float, float]:
    """Return the standard deviation of a family if the true difference is the margin, and if it is the effect."""
    most = max(changed, abs(effect), abs(margin))
    return math.sqrt(max(most - margin**2, 1e-12)), math.sqrt(max(most - effect**2, 1e-12))
