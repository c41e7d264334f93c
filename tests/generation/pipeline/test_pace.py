"""The time left, against simulated jobs whose end is known, and the words for it."""

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

from gristmill.generation.pipeline.pace import UNKNOWN, Observation, Pace, words

BATCH, ACCEPTANCE, MOST_TOKENS = 256, 0.4, 512
UNITS = {"s": 1, "min": 60, "h": 3600}


def job(seed: int, target: int, speed: float, shared: float) -> Iterator[Observation]:
    """Yield a job's looks, one a second, until shards in order hold the target.

    The engine makes `speed` tokens a second of each row in a full batch, a third of it in the first 20 s, and of a row
    that is alone `1 + shared` times as many.
    """
    rng = np.random.default_rng(seed)
    size, num = 64, target * 4 // 64 * 64 + 4 * BATCH
    kept = rng.random(num) < ACCEPTANCE
    length = np.minimum(MOST_TOKENS, rng.lognormal(math.log(120), 0.7, num))
    length[~kept & (rng.random(num) < 0.5)] *= 0.3  # dropped before they were answered
    made, handed, second = np.zeros(num), 0, 0
    while True:
        whole = (made >= length).reshape(-1, size).all(axis=1)
        settled = int(np.argmin(whole)) * size
        so_far = int(kept[:settled].sum())
        if so_far >= target:
            return
        while handed - settled < 2 * BATCH and so_far + (handed - settled) * ACCEPTANCE < target * 1.1:
            handed += size
        live = np.flatnonzero(made[:handed] < length[:handed])[:BATCH]
        step = speed * (1 + shared) / (1 + shared * len(live) / BATCH) / (3 if second < 20 else 1)
        made[live] = np.minimum(length[live], made[live] + step)
        second += 1
        ended = made >= length
        done = int((kept & ended).sum())
        row_tokens, tokens = int(made[ended].sum()), float(made.sum())
        yield Observation(float(second), max(0, target - done), done, int(ended.sum()), row_tokens, tokens, len(live))


def seconds(said: str) -> tuple[float, float] | None:
    """Read the words: the shortest and the longest time that they admit."""
    if said == UNKNOWN:
        return None
    if said == "a few seconds left":
        return 0, 10
    unit = said.split()[-2]
    parts = [
        part if re.search("[a-z]", part) else f"{part} {unit}" for part in said.removesuffix(" left").split(" to ")
    ]
    times = [sum(int(n) * UNITS[u] for n, u in re.findall(r"(\d+) (s|min|h)\b", part)) for part in parts]
    if said.startswith("about "):
        return times[0] * 0.85, times[0] * 1.15
    return times[0], times[1]


def looks(seed: int, target: int, speed: float, shared: float) -> Iterator[tuple[float, float, tuple[float, float]]]:
    """Yield (share of the job's time, true time left, the shown range) from the first evidence to the end."""
    seen, pace = list(job(seed, target, speed, shared)), Pace()
    for look in seen:
        pace.add(look)
        if (shown := seconds(pace.left())) is not None:
            yield look.now / seen[-1].now, seen[-1].now - look.now, shown


@pytest.mark.parametrize(("speed", "shared"), [(8.0, 1.0), (1.0, 20.0)], ids=["GPU", "CPU"])
@pytest.mark.parametrize("target", [160, 1000])
def test_the_shown_range_holds_the_true_time_and_narrows(target: int, speed: float, shared: float) -> None:
    found = [look for seed in range(8) for look in looks(seed, target, speed, shared)]
    held = [low <= left <= high for _, left, (low, high) in found]
    assert np.mean(held) >= 0.8
    width = [
        np.mean([high - low for share, _, (low, high) in found if start <= share < start + 0.2])
        for start in (0.2, 0.4, 0.6, 0.8)
    ]
    assert width == sorted(width, reverse=True), "the range must narrow, in seconds"


def test_a_long_job_comes_to_a_single_figure() -> None:
    seen, pace, said = list(job(0, 8000, 8.0, 1.0)), Pace(), list[str]()
    for look in seen:
        pace.add(look)
        said.append(pace.left())
    middle = said[len(said) // 4 : len(said) // 4 * 3]
    assert np.mean([word.startswith("about ") for word in middle]) > 0.5
    known = next(place for place, word in enumerate(said) if word != UNKNOWN)
    assert seen[known].done >= 3 and set(said[:known]) == {UNKNOWN} and UNKNOWN not in said[known:]


def after(first: Observation, last: Observation) -> Pace:
    pace = Pace()
    pace.add(first)
    pace.add(last)
    return pace


def test_rates_are_of_the_last_seconds_and_never_negative() -> None:
    pace = Pace()
    for second in range(60):
        pace.add(Observation(second, 10, 0, 0, 0, 100.0 * max(0, second - 40), 8))
    assert pace.rate("tokens") == 100 and pace.tokens == 1900
    pace.add(Observation(60, 10, 0, 0, 0, 0.0, 8))  # an engine has died
    assert pace.tokens == 1900 and pace.rate("tokens") == 90
    pace.add(Observation(61, 10, 0, 0, 0, 50.0, 8))
    assert pace.tokens == 1950
    assert after(Observation(0, 10, 9, 9, 900, 0, 8), Observation(1, 14, 5, 5, 500, 0, 8)).rate("rows") == 0


def test_an_engine_that_counts_no_tokens_is_measured_by_its_rows() -> None:
    pace = Pace()
    for second in range(101):
        pace.add(Observation(second, 2000 - second * 10, second * 10, second * 20, 0, 0, 0))
    assert pace.left() == "about 2 min left"


def test_nothing_is_said_of_the_time_while_nothing_moves() -> None:
    assert after(Observation(0, 50, 0, 0, 0, 0, 8), Observation(9, 50, 0, 0, 0, 500, 8)).left() == UNKNOWN
    pace = after(Observation(0, 50, 0, 0, 0, 0, 8), Observation(9, 40, 10, 20, 400, 500, 8))
    assert pace.left() != UNKNOWN
    for second in range(10, 60):
        pace.add(Observation(second, 40, 10, 20, 400, 500, 8))
    assert pace.left() == UNKNOWN


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0, 8, "a few seconds left"),
        (4, 41, "up to 50 s left"),
        (22, 58, "20 s to 1 min left"),
        (21, 45, "20 to 50 s left"),
        (290, 850, "4 to 15 min left"),
        (45, 301, "40 s to 6 min left"),
        (320, 400, "about 6 min left"),
        (7700, 8000, "about 2 h 10 min left"),
        (4300, 9100, "1 h 10 min to 2 h 40 min left"),
        (43_000, 115_000, "11 to 32 h left"),
    ],
)
def test_times_are_rounded_outward_for_people(least: float, most: float, said: str) -> None:
    assert words(least, most) == said
    low, high = seconds(said) or (0.0, 0.0)
    assert low <= least <= most <= high or said.startswith("about")
