"""Play lines through the watch: how often it gives a false alarm, and how soon it finds a bad champion or a collapse.

    python -m tests.proof.watch             2,000 years of 52 rounds for each kind of line

Written to `benchmarks/watch.json`. Each round has 500 first rows with five measures. Rounds differ by chance alone, or
by as much again (`between` 1), or by three times as much.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.cluster.refresh.watch import CANARY, LEVEL, Measure, alarms, trends

RESULT = Path(__file__).parents[2] / "benchmarks" / "watch.json"
ROUNDS = 52
USUAL = {"acceptance": (0.6, 0.49), "length": (5.5, 0.6), "diversity": (0.8, 0.2), "score.judge": (4.0, 0.7)}
"""Mean and standard deviation of a row of each measure. The fifth one is a rare event, a share of 2 %."""
SHARE = ("copies", 0.02)
WORSE = {"diversity": -1, "copies": 1}


def drawn(rng: np.random.Generator, between: float, shifts: dict[str, float]) -> dict[str, Measure]:
    """Draw the measures of one round. Shifts are in standard deviations of a row."""
    found = {}
    for name, (mean, spread) in USUAL.items():
        centre = mean + shifts.get(name, 0.0) * spread + between * spread / CANARY**0.5 * rng.normal()
        found[name] = Measure(CANARY, float(rng.normal(centre, spread / CANARY**0.5)), spread)
    name, mean = SHARE
    spread = (mean * (1 - mean)) ** 0.5
    centre = mean + shifts.get(name, 0.0) * spread + between * spread / CANARY**0.5 * rng.normal()
    count = rng.binomial(CANARY, min(1.0, max(0.0, centre)))
    part = count / CANARY
    found[name] = Measure(CANARY, part, (part * (1 - part)) ** 0.5)
    return found


def false_alarms(years: int, between: float, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the share of rounds with a false alarm, of years with one, and of years with a false trend."""
    rng = np.random.default_rng([1, int(10 * between)])
    early = late = any_alarm = any_trend = 0
    for _ in range(years):
        line = [drawn(rng, between, {}) for _ in range(rounds)]
        found = [bool(alarms(line[place], line[:place])) for place in range(rounds)]
        early, late = early + sum(found[:10]), late + sum(found[10:])
        any_alarm += any(found)
        any_trend += any(bool(trends(line[: place + 1], WORSE)) for place in range(rounds))
    return {
        "between": between,
        "years": years,
        "false_alarms_a_round_up_to_the_10th": early / years / 7,
        "false_alarms_a_round_after_the_10th": late / years / (rounds - 10),
        "years_with_a_false_alarm": any_alarm / years,
        "years_with_a_false_trend": any_trend / years,
    }


def found_at_once(draws: int, between: float, earlier: int, shifts: dict[str, float]) -> dict[str, Any]:
    """Return the share of bad champions that the canary finds after some good rounds."""
    rng = np.random.default_rng([2, int(10 * between), earlier])
    hits = 0
    for _ in range(draws):
        line = [drawn(rng, between, {}) for _ in range(earlier)]
        hits += bool(alarms(drawn(rng, between, shifts), line))
    return {"between": between, "earlier_rounds": earlier, "shifts": shifts, "found": hits / draws}


def rounds_until(draws: int, between: float, shift: float) -> dict[str, float]:
    """Return after how many rounds a slow collapse is found, in which diversity falls by `shift` a round."""
    rng = np.random.default_rng([3, int(10 * between), int(1000 * shift)])
    when = []
    for _ in range(draws):
        line: list[dict[str, Measure]] = []
        while len(line) < ROUNDS and not trends(line, WORSE):
            line.append(drawn(rng, between, {"diversity": -shift * len(line), "copies": shift * len(line)}))
        when.append(len(line))
    return {"between": between, "shift_a_round": shift, "median_rounds": float(np.median(when))}


def main() -> int:
    """Write the table; return 1 if a round has a false alarm more often than it may."""
    began = time.process_time()
    quiet = [false_alarms(2_000, between) for between in (0.0, 1.0, 3.0)]
    bad = [
        found_at_once(500, between, earlier, shifts)
        for between in (0.0, 1.0)
        for earlier in (3, 5, 10, 25)
        for shifts in ({"acceptance": -0.6}, {"length": -0.5}, {"diversity": -0.5})
    ]
    slow = [rounds_until(200, between, shift) for between in (0.0, 1.0) for shift in (0.02, 0.05)]
    result = {"rows": CANARY, "level": LEVEL, "no_change": quiet, "bad_champion": bad, "collapse": slow}
    RESULT.write_text(json.dumps(result | {"cpu seconds": round(time.process_time() - began, 1)}, indent=1) + "\n")
    for row in (*quiet, *bad, *slow):
        sys.stdout.write(f"{row}\n")
    limit = 2.5 * LEVEL  # after few rounds that differ by three times as much as chance, the factor is known badly
    return int(any(row[name] > limit for row in quiet for name in row if name.startswith("false_alarms_a_round")))


if __name__ == "__main__":
    sys.exit(main())
