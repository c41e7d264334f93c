"""Prove that 95 % intervals of the evaluation cover what they should: differences are drawn from a known truth.

    make proof

draws comparisons of two models in ways that families are found in data, and writes `benchmarks/intervals.json`: how
often the interval holds the true difference, how often that of today's usual bootstrap of rows would, and how often two
equal models are told apart.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.training.evaluate import statistics

RESULT = Path(__file__).parents[2] / "benchmarks" / "intervals.json"
TRIALS, DRAWS = 1_000, 500
FAMILIES = (5, 10, 20, 30, 100)
TRUTH = -0.05
Rng = np.random.Generator
Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """Rows of a drawn comparison."""

    change: Floats
    """[rows] nats of difference, summed over the tokens of each row."""
    tokens: Floats
    families: NDArray[np.int64]


def one_a_row(rng: Rng, count: int) -> NDArray[np.int64]:
    """Every row its own family."""
    del rng
    return np.ones(count, np.int64)


def augmented(rng: Rng, count: int) -> NDArray[np.int64]:
    """1 to 19 rows made from each seed."""
    return rng.integers(1, 20, count)


def unequal(rng: Rng, count: int) -> NDArray[np.int64]:
    """Sizes with a heavy tail: most families of one to five rows, some of sixty."""
    return np.asarray(1 + np.minimum(rng.pareto(1.5, count) * 3, 60), np.int64)


def normal(rng: Rng, count: int, spread: float) -> Floats:
    """Errors with two equal tails."""
    return rng.normal(0, spread, count)


def skewed(rng: Rng, count: int, spread: float) -> Floats:
    """Errors with one long tail, as where few rows change much."""
    return rng.exponential(spread, count) - spread


SCENARIOS: dict[str, tuple[Callable[[Rng, int], NDArray[np.int64]], Callable[[Rng, int, float], Floats]]] = {
    "rows without kin": (one_a_row, normal),
    "rows without kin, skewed": (one_a_row, skewed),
    "augmented": (augmented, normal),
    "augmented, skewed": (augmented, skewed),
    "unequal families": (unequal, normal),
}


def drawn(rng: Rng, scenario: str, count: int, truth: float) -> Comparison:
    """Draw a comparison over `count` families whose true difference is `truth` nats per token."""
    sizes, errors = SCENARIOS[scenario]
    families = np.repeat(np.arange(count), sizes(rng, count))
    tokens = np.maximum(3, rng.lognormal(3.5, 0.8, len(families))).round()
    own = errors(rng, count, 0.15)[families] + errors(rng, len(families), 0.2)
    return Comparison((truth + own) * tokens, tokens, families)


def held(found: statistics.Interval, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def of_families(comparison: Comparison, seed: int, draws: int = DRAWS) -> statistics.Interval:
    """The interval that evaluation gives."""
    sums, sizes = (statistics.by_family(x, comparison.families) for x in comparison[:2])
    return statistics.interval(sums, sizes, draws=draws, seed=seed)


def of_rows(rng: Rng, comparison: Comparison) -> bool:
    """Say whether a percentile bootstrap of rows holds the truth, as evaluation had it before."""
    count = len(comparison.change)
    counts = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    low, high = np.percentile((counts @ comparison.change) / (counts @ comparison.tokens), [2.5, 97.5])
    return bool(low <= TRUTH <= high)


def coverage(scenario: str, count: int, trials: int = TRIALS, draws: int = DRAWS) -> dict[str, float]:
    """Return the shares of trials: the interval holds the truth; that of rows does; equal models are told apart."""
    rng = np.random.default_rng([count, *scenario.encode()])
    inside = rows = apart = 0
    for trial in range(trials):
        comparison = drawn(rng, scenario, count, TRUTH)
        inside += held(of_families(comparison, trial, draws), TRUTH)
        rows += of_rows(rng, comparison) if trial < trials // 5 else 0
        apart += of_families(drawn(rng, scenario, count, 0.0), trial, draws).differs
    return {
        "covered": round(inside / trials, 4),
        "covered by rows": round(rows / max(1, trials // 5), 4),
        "equal models told apart": round(apart / trials, 4),
    }


def main() -> int:
    """Write the table and return 1 where a coverage is outside 93 to 97 % by more than chance."""
    began = time.process_time()
    found = {name: {str(count): coverage(name, count) for count in FAMILIES} for name in SCENARIOS}
    cells = [cell for row in found.values() for cell in row.values()]
    all_of = {key: round(float(np.mean([cell[key] for cell in cells])), 4) for key in cells[0]}
    result = {"trials": TRIALS, "draws": DRAWS, "mean": all_of, "by families": found}
    RESULT.write_text(json.dumps(result | {"cpu seconds": round(time.process_time() - began, 1)}, indent=1) + "\n")
    for name, row in found.items():
        sys.stdout.write(f"{name:28s}" + "".join(f"  {n}: {cell['covered']:.3f}" for n, cell in row.items()) + "\n")
    sys.stdout.write(f"mean {all_of}\n")
    chance = 2 * (0.95 * 0.05 / TRIALS) ** 0.5
    return int(any(not 0.93 - chance <= cell["covered"] <= 0.97 + chance for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
