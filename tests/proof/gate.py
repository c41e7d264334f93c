"""Play years of rounds through the gate: how often a line whose challengers are never better promotes one of them.

    python -m tests.proof.gate              100,000 lines of 52 rounds, 10,000 of them in each of the harder scenarios

Each line has one champion, whose answers are used again in all rounds until a challenger is promoted. Written to
`benchmarks/gate.json`: the share of lines with a promotion, beside that of a gate that tests each round at 2.5 %; the
level of Student's test in the same comparisons; and the power beside the one that `plan` states.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import multinomial

from gristmill.training import gate

RESULT = Path(__file__).parents[2] / "benchmarks" / "gate.json"
ROUNDS, ALPHA = 52, 0.05
Floats = NDArray[np.float64]
Rng = np.random.Generator


class Scenario(NamedTuple):
    """How answers of models to a suite come about."""

    families: int
    each: int = 1
    """Items of a family."""
    alike: float = 0.0
    """Share of the families whose items are all answered alike."""
    right: float = 0.7
    """Mean probability of a right answer."""
    spread: float = 2.0
    """Number of earlier answers that the probability of a family is known from: small for items that differ much."""
    drift: float = 0.0
    """Largest change of the probability from round to round, the same for both models."""
    loss: float = 0.0
    """What the challenger's probability is lower by: the margin of a suite for retention."""


SCENARIOS = {
    "one item a family": Scenario(300),
    "items that differ much": Scenario(300, spread=0.3),
    "families of four items": Scenario(150, each=4, alike=0.5),
    "suite that drifts": Scenario(300, drift=0.1),
    "few changes": Scenario(300, right=0.97),
    "retention, at the margin of 0.05": Scenario(300, right=0.9, spread=0.5, loss=0.05),
}


COMPARISONS = ((0.05, 0.3, 0.0), (0.1, 0.3, 0.0), (0.03, 0.1, 0.0), (0.0, 0.1, -0.02), (0.0, 0.3, -0.05))
"""True difference, share of items that change, and margin of the comparisons whose power is drawn."""

EXACT = [
    (families, *row) for families in (30, 100, 300) for row in ((0.3, 0.0), (0.1, 0.0), (0.1, -0.05), (0.06, -0.05))
]
"""Families, share of items that change, and margin of the comparisons whose level is computed exactly."""


def answers(rng: Rng, chances: Floats, scenario: Scenario) -> Floats:
    """Draw the mean value of each family, [..., families], from its probability of a right answer."""
    if scenario.each == 1:
        return (rng.random(chances.shape) < chances).astype(np.float64)
    each = rng.binomial(scenario.each, chances) / scenario.each
    together = (rng.random(chances.shape) < chances).astype(np.float64)
    return np.where(rng.random(chances.shape) < scenario.alike, together, each)


def p_values(means: Floats, margin: float, below: float) -> Floats:
    """Return the p-value of each comparison, [comparisons], exact where it may be at most `below`, else 1."""
    away = means.mean(axis=1) - margin
    # a score that is far too low for the level is not worth the transform; 0.6 of the normal quantile is a wide margin
    spread = np.sqrt((means**2).mean(axis=1) / means.shape[1])
    near = np.flatnonzero(away > -0.6 * float(gate_quantile(below)) * np.maximum(spread, 1e-9))
    found = np.ones(len(means))
    found[near] = [gate.chance(means[place], margin) for place in near]
    return found


def gate_quantile(level: float) -> float:
    """Return the normal quantile of a level; it is below 0."""
    from scipy.special import ndtri

    return float(ndtri(level))


def student(means: Floats, margin: float) -> Floats:
    """Return the p-values of Student's one-sided test, [comparisons]."""
    count = means.shape[1]
    error = means.std(axis=1, ddof=1) / np.sqrt(count)
    score = np.divide(means.mean(axis=1) - margin, error, out=np.zeros(len(means)), where=error > 0)
    return np.asarray(stdtr(count - 1, -score), np.float64)


def lines(name: str, number: int, rounds: int = ROUNDS, seed: int = 0) -> dict[str, float]:
    """Play lines whose challengers are no better, or worse by exactly the margin; return the shares."""
    scenario, level = SCENARIOS[name], ALPHA / rounds
    rng = np.random.default_rng([seed, *name.encode()])
    promoted = weekly = false = tests = by_student = 0
    for _ in range(number):
        a, b = scenario.right * scenario.spread, (1 - scenario.right) * scenario.spread
        chances = rng.beta(a, b, scenario.families)
        shift = rng.uniform(-scenario.drift, scenario.drift, (rounds, 1)) if scenario.drift else np.zeros((rounds, 1))
        now = np.clip(chances + shift, 0, 1)
        # without drift, the champion answers once; its answers are the baseline of every round
        champion = answers(rng, now if scenario.drift else np.repeat(now[:1], 1, axis=0), scenario)
        challenger = answers(rng, now, scenario)
        # right answers get lost at a rate that makes the mean loss what it is to be
        challenger *= rng.random(now.shape) >= scenario.loss / scenario.right
        means = challenger - champion
        found = p_values(means, -scenario.loss, 0.025)
        promoted += bool((found <= level).any())
        weekly += bool((found <= 0.025).any())
        false += int((found <= level).sum())
        by_student += int((student(means, -scenario.loss) <= level).sum())
        tests += rounds
    return {
        "lines": number,
        "promoted_in_a_year": promoted / number,
        "promoted_in_a_year_at_0.025_a_round": weekly / number,
        "level_of_a_round": false / tests,
        "level_of_students_test": by_student / tests,
    }


def powers(draws: int = 4_000) -> list[dict[str, float]]:
    """Return the stated power of some comparisons beside the share of drawn ones that show the difference."""
    found = []
    rng = np.random.default_rng(1)
    for effect, changed, margin in (
        (0.05, 0.3, 0.0),
        (0.1, 0.3, 0.0),
        (0.03, 0.1, 0.0),
        (0.0, 0.1, -0.02),
        (0.0, 0.3, -0.05),
    ):
        for rounds in (1, ROUNDS):
            level = ALPHA / rounds
            families = gate.families_needed(effect, changed, level=level, margin=margin)
            assert families is not None
            shares = [(changed + effect) / 2, (changed - effect) / 2]
            counts, times = np.unique(
                rng.multinomial(families, [*shares, 1 - changed], size=draws), axis=0, return_counts=True
            )
            shown = sum(
                int(time_)
                for (gains, losses, rest), time_ in zip(counts.tolist(), times, strict=True)
                if gate.chance(np.repeat([1.0, -1.0, 0.0], (gains, losses, rest)), margin) <= level
            )
            found.append(
                {
                    "effect": effect, "changed": changed, "margin": margin, "rounds": rounds, "families": families,
                    "stated": round(gate.power(families, effect, changed, level=level, margin=margin), 4),
                    "drawn": round(shown / draws, 4),
                }
            )  # fmt: skip
    return found


def levels(families: int, changed: float, margin: float, level: float = ALPHA / ROUNDS) -> dict[str, float]:
    """Return the exact level of the gate's test and of Student's, for families of one right or wrong item.

    The true difference is the margin. The level is the sum of the probabilities of all outcomes that pass.
    """
    shares = [(changed + margin) / 2, (changed - margin) / 2]
    shares.append(1 - sum(shares))
    most = [int(families * share + 8 * (families * share) ** 0.5 + 4) for share in shares[:2]]
    outcomes = [
        (g, w) for g in range(most[0]) for w in range(most[1]) if g + w <= families and (g - w) / families > margin
    ]
    chances = multinomial.pmf([[g, w, families - g - w] for g, w in outcomes], families, shares)
    found = {"families": families, "changed": changed, "margin": margin, "nominal": level, "gate": 0.0, "student": 0.0}
    for (gains, losses), probability in zip(outcomes, chances, strict=True):
        if probability > 1e-10:
            means = np.repeat([1.0, -1.0, 0.0], (gains, losses, families - gains - losses))
            found["gate"] += probability * (gate.chance(means, margin) <= level)
            found["student"] += probability * bool(student(means[None], margin)[0] <= level)
    return {name: float(value) for name, value in found.items()}


def main() -> int:
    """Write the table; return 1 where more lines than allowed promote, or a power is off by more than 2 points."""
    began = time.process_time()
    played = {}
    for place, name in enumerate(SCENARIOS):
        played[name] = lines(name, 50_000 if place == 0 else 10_000)
        sys.stdout.write(f"{name}: {played[name]}\n")
        sys.stdout.flush()
    stated = powers()
    exact = [levels(*row) for row in EXACT]
    result: dict[str, Any] = {"rounds": ROUNDS, "alpha": ALPHA, "lines": played, "power": stated, "levels": exact}
    result["cpu seconds"] = round(time.process_time() - began, 1)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for row in stated:
        sys.stdout.write(f"{row}\n")
    over = any(row["promoted_in_a_year"] > ALPHA for row in played.values())
    over |= any(row["gate"] > row["nominal"] for row in exact)
    return int(over or any(abs(row["stated"] - row["drawn"]) > 0.02 for row in stated))


if __name__ == "__main__":
    sys.exit(main())
