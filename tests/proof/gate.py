"""Play years of rounds through the gate: how often a line whose challengers are never better promotes one of them.

    python -m tests.proof.gate              100,000 lines of 52 rounds, 10,000 of them in each of the harder scenarios

Each line has one champion, whose answers are used again in all rounds until a challenger is promoted. Written to
`benchmarks/gate.json`: the share of lines with a promotion, with one look a round and with four, beside that of a gate
that tests each round at 2.5 %; the level of Student's test in the same comparisons; power and share of the items
asked, beside those that `plan` states; and lines whose challengers are all a little worse, with an anchor and without
one.
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

from gristmill.training.gate import looks as sequential
from gristmill.training.gate.exact import chance
from gristmill.training.gate.looks import Suite
from gristmill.training.gate.rule import Gate, Trial, decide

RESULT = Path(__file__).parents[2] / "benchmarks" / "gate.json"
ROUNDS, ALPHA, LOOKS = 52, 0.05, 4
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
    found[near] = [chance(means[place], margin) for place in near]
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
    promoted = weekly = false = tests = by_student = early = 0
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
        early += any(
            bool((p_values(means[:, : scenario.families * look // LOOKS], -scenario.loss, most) <= most).any())
            for look, most in enumerate(sequential.levels(level, LOOKS), 1)
        )
    return {
        "lines": number,
        "promoted_in_a_year": promoted / number,
        f"promoted_in_a_year_with_{LOOKS}_looks": early / number,
        "promoted_in_a_year_at_0.025_a_round": weekly / number,
        "level_of_a_round": false / tests,
        "level_of_students_test": by_student / tests,
    }


def powers(draws: int = 4_000) -> list[dict[str, float]]:
    """Return the stated power of some comparisons beside the share of drawn ones that show the difference."""
    found = []
    rng = np.random.default_rng(1)
    for effect, changed, margin in COMPARISONS:
        for rounds in (1, ROUNDS):
            suite = Suite(effect, changed, ALPHA / rounds, margin)
            families = sequential.families_needed(suite)
            assert families is not None
            shares = [(changed + effect) / 2, (changed - effect) / 2]
            counts, times = np.unique(
                rng.multinomial(families, [*shares, 1 - changed], size=draws), axis=0, return_counts=True
            )
            shown = sum(
                int(time_)
                for (gains, losses, rest), time_ in zip(counts.tolist(), times, strict=True)
                if chance(np.repeat([1.0, -1.0, 0.0], (gains, losses, rest)), margin) <= suite.level
            )
            found.append(
                {
                    "effect": effect, "changed": changed, "margin": margin, "rounds": rounds, "families": families,
                    "stated": round(sequential.power(suite, families), 4), "drawn": round(shown / draws, 4),
                }
            )  # fmt: skip
    return found


def asked(draws: int = 2_000, looks: int = LOOKS) -> list[dict[str, float]]:
    """Return power and mean share of the items that are asked with looks, as stated and as drawn.

    The number of families is that for the effect with one look. The true difference is none, half of it, all of it or
    twice as much.
    """
    found = []
    rng = np.random.default_rng(2)
    for effect, changed, margin in (COMPARISONS[0], COMPARISONS[3]):
        rule = Gate(rounds=ROUNDS, looks=looks, margins={"x": margin})
        suite = Suite(effect, changed, rule.level, margin, looks)
        families = sequential.families_needed(suite._replace(looks=1))
        assert families is not None
        block = 1 + np.arange(families) * looks // families
        for true in [margin + part * (effect - margin) for part in (0.0, 0.5, 1.0, 2.0)]:
            shown, share = 0, 0.0
            for _ in range(draws):
                means = rng.choice(
                    [1.0, -1.0, 0.0], families, p=[(changed + true) / 2, (changed - true) / 2, 1 - changed]
                )
                verdict, look = played(rule, means, block, effect)
                shown += verdict == "promote"
                share += look / looks / draws
            walks = sequential.walks(suite, families, true)
            found.append(
                {
                    "effect": effect, "changed": changed, "margin": margin, "looks": looks, "families": families,
                    "true": round(true, 4), "stated": round(sum(walks.above), 4), "drawn": round(shown / draws, 4),
                    "stated_share_asked": round(sequential.share_asked(suite, families, true), 4),
                    "drawn_share_asked": round(share, 4),
                }
            )  # fmt: skip
    return found


def played(rule: Gate, means: Floats, block: NDArray[np.int64], effect: float) -> tuple[str, int]:
    """Return the verdict on a suite of families of one item, and the look after which nothing more is asked."""
    for look in range(1, rule.looks + 1):
        count = int(np.searchsorted(block, look, side="right"))
        trial = Trial(
            suite="x", role="target", champion=np.zeros(count), challenger=means[:count], families=np.arange(count),
            measures={}, looks=block[:count], look=look, effect=effect,
        )  # fmt: skip
        decision = decide(rule, [trial])
        if not decision.waits:
            break
    return decision.verdict, look


EPSILON, TOTAL = 0.03, 0.05
"""Margin of the champion and of the anchor in the lines that get a little worse."""


def anchored(number: int, loss: float, families: int = 2_000, rounds: int = ROUNDS) -> dict[str, float]:
    """Play lines in which each challenger is worse than its champion by `loss`, which the gate is to allow.

    The challenger passes its target suite each time. Answers change both ways: 3 % of them besides the loss.

    Returns:
        shares of lines whose last champion is worse than the first one by more than `TOTAL`.
    """
    level, churn = ALPHA / rounds, 0.03
    rng = np.random.default_rng([3, int(loss * 1e6)])
    fallen = {True: 0, False: 0}
    for guarded in fallen:
        for _ in range(number):
            mean, anchor = 0.8, rng.random(families) < 0.8
            champion = anchor
            for _ in range(rounds):
                lose, gain = loss / mean + churn / 2 / mean, churn / 2 / (1 - mean)
                drawn = rng.random(families)
                challenger = np.where(champion, drawn >= lose, drawn < gain)
                change, fall = (challenger.astype(float) - side for side in (champion, anchor))
                if chance(change, -EPSILON) > level or (guarded and chance(fall, -TOTAL) > level):
                    continue
                champion, mean = challenger, mean - loss
            fallen[guarded] += 0.8 - mean > TOTAL + 1e-9
    return {
        "loss": loss, "epsilon": EPSILON, "total": TOTAL, "families": families, "lines": number,
        "fallen_with_the_anchor": fallen[True] / number, "fallen_without": fallen[False] / number,
    }  # fmt: skip


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
            found["gate"] += probability * (chance(means, margin) <= level)
            found["student"] += probability * bool(student(means[None], margin)[0] <= level)
    return {name: float(value) for name, value in found.items()}


def main() -> int:
    """Write the table; return 1 where more lines than allowed promote, or a power is off by more than 2 points."""
    began = time.process_time()
    found = {}
    for place, name in enumerate(SCENARIOS):
        found[name] = lines(name, 50_000 if place == 0 else 10_000)
        sys.stdout.write(f"{name}: {found[name]}\n")
        sys.stdout.flush()
    stated, looked = powers(), asked()
    exact = [levels(*row) for row in EXACT]
    falls = [anchored(200, part * EPSILON) for part in (0.3, 0.5, 0.7, 0.9)]
    result: dict[str, Any] = {"rounds": ROUNDS, "alpha": ALPHA, "lines": found, "power": stated, "looks": looked}
    result |= {"anchor": falls, "levels": exact, "cpu seconds": round(time.process_time() - began, 1)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for row in (*stated, *looked, *falls):
        sys.stdout.write(f"{row}\n")
    over = any(
        row[name] > ALPHA
        for row in found.values()
        for name in row
        if name.startswith("promoted") and "0.025" not in name
    )
    over |= any(row["gate"] > row["nominal"] for row in exact)
    over |= any(row["fallen_with_the_anchor"] > ALPHA for row in falls)
    return int(over or any(abs(row["stated"] - row["drawn"]) > 0.02 for row in (*stated, *looked)))


if __name__ == "__main__":
    sys.exit(main())
