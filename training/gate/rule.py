"""The rule: what a challenger must show, and the verdict on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.training.gate import looks as sequential
from gristmill.training.gate.exact import chance, family_means
from gristmill.training.gate.looks import FEW, Suite, families_needed, is_hopeless, share_asked

Floats = NDArray[np.float64]
EFFECTS = (0.02, 0.05, 0.1)
"""Differences for which the plan says how many families they take."""


class Gate(Settings):
    """`[evaluate.gate]`: what a challenger must show before it is promoted. It is written before the run.

    A challenger is promoted if every suite shows a difference above its margin, and no floor is broken. Each suite is
    tested at `alpha / rounds`. No correction for the number of suites is needed, because all of them must pass: if one
    of the hypotheses is false, the probability of a promotion is at most the level of its own test (Berger 1982).
    """

    newer: ClassVar[frozenset[str]] = frozenset({"suites", "looks", "anchor", "anchor_margin", "held_back", "round"})

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

    suites: tuple[str, ...] = ()
    """Names of the suites that decide; by default all. A suite whose failures steer `[generate]` must not decide."""
    looks: int = Field(default=1, gt=0, le=20)
    """Number of blocks in which the items of a suite are asked. After each block the gate looks at the results, and
    asks no more if they decide: if the suite is shown to be above or below its margin, or if it is too late for a
    challenger with the suite's `effect`. All looks together have the level of the round. An engine is started for each
    model and look. Judged suites (`pairwise`) have no looks."""
    anchor: str = ""
    """A model of `against`, such as that of the first round. The challenger must not be worse than it by
    `anchor_margin` in any suite that it may be worse in, so that many small losses cannot add up."""
    anchor_margin: float = Field(default=0.05, gt=0, lt=1)
    """What the challenger may be worse than the anchor by, in all rounds together."""
    held_back: float = Field(default=0.0, ge=0, lt=1)
    """Share of the families of each suite that are not asked in a round. A hash of the family and of `round` says
    which. So each family is looked at in fewer rounds, and a suite wears out later."""
    round: int = Field(default=0, ge=0)
    """Number of the round, by which the families that are held back change. `[refresh]` sets it."""

    def problems(self, suites: Sequence[str], against: Sequence[str] = ()) -> list[str]:
        """Return the problems of the rule for suites and further models with these names.

        Each is `key: what is, what must be`.
        """
        if not suites:
            return ["gate: there are no suites, must be at least one; add [evaluate.suites.NAME]"]
        known = ", ".join(suites)
        found = [
            f"gate.{table}.{key}: is no suite, must be one of {known}"
            for table, keys in (("margins", self.margins), ("floors", self.floors))
            for key in keys
            if key.partition(".")[0] not in suites or (table == "margins" and "." in key)
        ]
        found += [
            f"gate.suites: {name} is no suite, must be one of {known}" for name in self.suites if name not in suites
        ]
        found += [
            f"gate.margins.{name}: is {value:g}, must be above -1 and below 1"
            for name, value in self.margins.items()
            if not -1 < value < 1
        ]
        if self.anchor and self.anchor not in against:
            found.append(f"gate.anchor: is {self.anchor}, must be a model of against")
        return found

    def notes(self, roles: Mapping[str, str], changed: float) -> list[str]:
        """Return for the plan how many families each suite needs, by its role.

        Args:
            roles: role of each suite.
            changed: assumed share of items that change between right and wrong.
        """
        found = [f"gate: each suite is tested at {self.level:.2g} ({self.alpha:g} over {self.rounds:,} rounds)"]
        for name, role in roles.items():
            if not self.decides(name):
                found.append(f"gate: suite {name}: does not decide")
                continue
            margin = self.margin(name, role)
            for effect in EFFECTS if margin >= 0 else (0.0,):
                suite = Suite(effect, changed, self.level, margin, self.looks)
                needed = families_needed(suite)
                if needed is not None:
                    what = f"better by {effect:g}" if effect else f"as good (margin {margin:+g})"
                    saved = f"; {share_asked(suite, needed, effect):.0%} of them are asked" if self.looks > 1 else ""
                    found.append(
                        f"gate: suite {name}: a model that is {what} passes with 80 % at {needed:,} families{saved}"
                    )
        if self.held_back:
            found.append(f"gate: {self.held_back:.0%} of the families of each suite are held back in a round")
        return found

    def decides(self, suite: str) -> bool:
        """Say whether a suite decides."""
        return not self.suites or suite in self.suites

    @property
    def level(self) -> float:
        """Level of the one-sided test of each suite in one round."""
        return self.alpha / self.rounds

    def margin(self, suite: str, role: str) -> float:
        """Return what the difference in a suite must be shown to be above."""
        return self.margins.get(suite, self.delta if role == "target" else -self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a gate reads of one suite: the values of two models for the same items, each from 0 to 1."""

    suite: str
    role: str
    champion: Floats
    """[items] values of the champion, or of the anchor."""
    challenger: Floats
    """[items]"""
    families: NDArray[np.int64]
    """[items] family of each item."""
    measures: Mapping[str, float]
    """The challenger's measures over all items."""
    problem: str = ""
    """Why the suite cannot decide; empty if it can."""
    looks: NDArray[np.int64] | None = None
    """[items] the look before which each item was asked, from 1. None says that all items were asked at once."""
    look: int = 1
    """Number of looks so far, if the items were asked in blocks."""
    effect: float = 0.0
    """True difference for which the suite is asked on, as long as it can still pass; none if it is not above the
    margin."""
    anchored: bool = False
    """Whether the other model is the anchor, and not the champion."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one suite says."""

    suite: str
    margin: float
    difference: float
    """Mean over families of challenger minus champion, or minus anchor."""
    families: int
    p: float
    """p-value of the hypothesis that the difference is not above the margin."""
    p_below: float
    """p-value of the hypothesis that the difference is not below the margin."""
    says: Literal["above", "below", "open"]
    """What is shown of the difference and the margin."""
    why: str
    """Why nothing is shown, or the empty string."""
    look: int = 1
    """The look that decided, or the last one."""
    level: float = 0.0
    """Largest p-value at this look that shows something."""
    anchored: bool = False
    """Whether the challenger is compared with the anchor."""

    @property
    def name(self) -> str:
        """The suite, and the anchor if that is what the challenger is compared with."""
        return f"{self.suite} (against the anchor)" if self.anchored else self.suite


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict on a challenger, with everything that it follows from."""

    verdict: Literal["promote", "reject", "inconclusive"]
    reasons: tuple[str, ...]
    """Why it is not promoted; empty if it is."""
    level: float
    """Level of each test over all looks."""
    findings: tuple[Finding, ...]
    waits: tuple[str, ...] = ()
    """Suites of which the next block of items may change the verdict."""


def decide(gate: Gate, trials: Sequence[Trial]) -> Decision:
    """Return the verdict: promote, reject (a floor is broken or a suite shows a loss), or inconclusive.

    The looks at a suite are taken in their order, and the first one that shows something counts. So the same items give
    the same verdict, whether they were asked in blocks or at once.

    Args:
        gate: the rule.
        trials: the values of all suites; at least one.
    """
    findings = tuple(_finding(gate, trial) for trial in trials)
    broken = [reason for trial in trials for reason in _broken(gate, trial)]
    below = [f"{one.name}: is shown to be below the margin {one.margin:+g}" for one in findings if one.says == "below"]
    still = [
        f"{one.name}: {one.why or f'is not shown to be above the margin {one.margin:+g} (p = {one.p:.2g})'}"
        for one in findings
        if one.says == "open"
    ]
    still += [reason for trial in trials for reason in _unknown(gate, trial)]
    verdict: Literal["promote", "reject", "inconclusive"] = (
        "reject" if broken or below else "inconclusive" if still else "promote"
    )
    return Decision(
        verdict=verdict,
        reasons=(*broken, *below, *still),
        level=gate.level,
        findings=findings,
        waits=() if below else _waits(gate, trials, findings),
    )


def _waits(gate: Gate, trials: Sequence[Trial], findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return the suites that are to be asked further; none if the challenger can hardly pass all of them.

    A floor that is broken by a part of the items rejects nothing before all of them are asked.
    """
    found = []
    for trial, finding in zip(trials, findings, strict=True):
        last = _last(gate, trial) == gate.looks
        broken = bool(_broken(gate, trial))
        if _unknown(gate, trial) or (broken and last) or (finding.says == "open" and _is_lost(gate, finding, trial)):
            return ()
        if broken or finding.says == "open":
            found.append(trial.suite)
    return tuple(dict.fromkeys(found))


def _last(gate: Gate, trial: Trial) -> int:
    """Return the last look at a suite so far."""
    return gate.looks if trial.looks is None else trial.look


def _finding(gate: Gate, trial: Trial) -> Finding:
    margin = -gate.anchor_margin if trial.anchored else gate.margin(trial.suite, trial.role)
    levels = sequential.levels(gate.level, gate.looks)
    taken = np.full(len(trial.families), gate.looks) if trial.looks is None else trial.looks
    change = trial.challenger - trial.champion
    for look in range(gate.looks if trial.looks is None else 1, _last(gate, trial) + 1):
        level = levels[look - 1]
        means = family_means(change[taken <= look], trial.families[taken <= look])
        why = trial.problem
        if not why and len(means) < FEW:
            why = f"has {len(means)} families of items, must have at least {FEW}"
        above, under = (1.0, 1.0) if why else (chance(means, margin), chance(-means, -margin))
        says: Literal["above", "below", "open"] = "above" if above <= level else "below" if under <= level else "open"
        if says != "open":
            break
    difference = float(means.mean()) if len(means) else 0.0
    return Finding(
        suite=trial.suite, margin=margin, difference=difference, families=len(means), p=above, p_below=under, says=says,
        why=why, look=look, level=level, anchored=trial.anchored,
    )  # fmt: skip


def _is_lost(gate: Gate, finding: Finding, trial: Trial) -> bool:
    """Say whether a suite that shows nothing yet will hardly pass, whatever it is asked."""
    if trial.problem or finding.look >= gate.looks:
        return True
    if finding.families < FEW or trial.effect <= finding.margin:
        return False
    return is_hopeless(
        family_means(trial.challenger - trial.champion, trial.families), finding.look / gate.looks,
        level=sequential.levels(gate.level, gate.looks)[-1], margin=finding.margin, effect=trial.effect,
    )  # fmt: skip


def _floors(gate: Gate, trial: Trial) -> Iterator[tuple[str, float, float | None]]:
    """Yield each floor for the suite: its name, its value, and the challenger's value or None if there is none."""
    own = float(trial.challenger.mean()) if len(trial.challenger) else None
    for name, least in gate.floors.items():
        suite, _, measure = name.partition(".")
        if suite == trial.suite and not trial.anchored:
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
