"""Speed and time left of a job, estimated from observations about once a second. This file reads no clock."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

RECENT_S = 10.0
"""Seconds over which the displayed rates are measured."""
TREND_S = 30.0
"""Seconds over which the present speed is measured for the estimate of the time left. Replies of an endpoint count when
they end, so the span must be long enough for many of them."""
EVIDENCE = 3
"""Number of samples that must be done before a time is shown."""
Z = 1.28
"""Half width of an 80 % interval in standard deviations."""
TAIL = (0.25, 2.0)
"""(least, most) time that the last rows need, as a multiple of the time of a row of mean length. The second value comes
from simulated jobs with log-normal lengths of replies: with 1.5 the range contained the true time in 76 to 97 % of the
observations, with 2 in 85 to 99 %."""
SURE = 0.15
"""One figure is shown instead of a range if half of the range's width, relative to its middle, is at most this."""
UNKNOWN = "time left not known yet"
STEPS = ((60, 10), (3600, 60), (36000, 600), (math.inf, 3600))
"""Rounding of durations, in seconds: with (limit, step), durations below the limit are rounded to multiples of the
step."""


SPACING_S = 0.5
"""Smallest number of seconds between two observations that are kept. With small shards there are many a second."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The counts that a driver observes at one moment. They begin with this execution of the job."""

    now: float
    """Seconds, from any origin."""
    missing: int
    """The work that is left: samples to keep, or rows if every input is used once."""
    done: int
    """The work that is done, in the same unit."""
    rows: int
    """Number of rows that are done, kept or dropped."""
    row_tokens: int
    """Reply tokens of these rows."""
    tokens: float
    """Reply tokens made, including rows in the making. The count falls when an engine dies, and grows again from
    there."""
    running: float
    """Requests that the engines work on."""


class Pace:
    """Rates, and the time left as a range.

    Both ends of the range measure the work in reply tokens. The pessimistic end counts all tokens as the cost of the
    rows that are done, at the lower of mean and present speed. The optimistic end counts the tokens of unfinished rows
    as progress, at the higher speed. In a long job the two ends meet.

    The range is then widened, because the counts are random: with k samples done and m missing, the time for m samples
    is the time for k samples times a ratio of gamma variables. The logarithm of the ratio has a variance near
    1/k + 1/m. The ratio has an F distribution, which is approximated as log-normal. At last the time of the last rows
    is added, at the present speed of a single request.

    `tests/generation/pipeline/test_pace.py` measures how often the range contains the true time in simulated jobs.
    """

    def __init__(self) -> None:
        """Begin without observations."""
        self._recent: deque[Observation] = deque()
        self._begin = self._tokens = self._last_tokens = 0.0

    def add(self, seen: Observation) -> None:
        """Add one observation."""
        if not self._recent:
            self._begin, self._last_tokens = seen.now, seen.tokens
        self._tokens += max(0.0, seen.tokens - self._last_tokens)
        self._last_tokens = seen.tokens
        if len(self._recent) > 2 and self._recent[-1].now - self._recent[-2].now < SPACING_S:
            self._recent.pop()
        self._recent.append(replace(seen, tokens=self._tokens))
        while len(self._recent) > 2 and self._recent[1].now <= seen.now - TREND_S:
            self._recent.popleft()

    @property
    def tokens(self) -> int:
        """Reply tokens made since the first observation, including tokens of engines that have died."""
        return round(self._tokens)

    def rate(self, name: str, seconds: float = RECENT_S) -> float:
        """Return the growth of a count (`rows`, `tokens`) per second over the last seconds; never below 0."""
        last = self._recent[-1]
        since = next((seen for seen in reversed(self._recent) if seen.now <= last.now - seconds), self._recent[0])
        grown = getattr(last, name) - getattr(since, name)
        return max(0.0, float(grown)) / (last.now - since.now) if last.now > since.now else 0.0

    def left(self) -> str:
        """Return the time left in words: unknown, a range, or one figure if the range is narrow."""
        found = self._range()
        return UNKNOWN if found is None else words(*found)

    def _range(self) -> tuple[float, float] | None:
        last = self._recent[-1]
        done, rows, missing, spent = last.done, last.rows, last.missing, last.now - self._begin
        if min(done, rows) < EVIDENCE or spent <= 0:
            return None
        work, row_work, name = last.tokens, float(last.row_tokens), "tokens"
        if not work:  # no engine counts its tokens
            work, row_work, name = float(rows), float(rows), "rows"
        row_work = min(row_work, work)
        present = self.rate(name, TREND_S)
        if not present:
            return None
        slow, fast = sorted((work / spent, present))
        chance = math.exp(Z * math.sqrt(1 / done + 1 / missing)) if missing else 1.0
        least = max(0.0, missing * row_work / done - (work - row_work)) / fast / chance
        most = missing * work / done / slow * chance
        mean, age = row_work / rows, (work - row_work) / max(1.0, last.running)
        token_s = last.running / present
        return least + TAIL[0] * mean * token_s, most + TAIL[1] * max(mean, age) * token_s


def words(least: float, most: float) -> str:
    """Return a range of seconds in words; both ends are rounded outward."""
    if most <= STEPS[0][1]:
        return "a few seconds left"
    middle = _rounded((least + most) / 2, round)
    if most - least <= SURE * (most + least):
        return f"about {_duration(middle)} left"
    low, high = _rounded(least, math.floor), _rounded(most, math.ceil)
    if not low:
        return f"up to {_duration(high)} left"
    (one, unit), (other, same) = _duration(low).split(" ", 1), _duration(high).split(" ", 1)
    return f"{one if unit == same and unit in ('s', 'min', 'h') else _duration(low)} to {other} {same} left"


def _rounded(seconds: float, how: Callable[[float], int]) -> int:
    step = next(step for below, step in STEPS if seconds < below)
    return step * how(seconds / step)


def _duration(seconds: int) -> str:
    """Return a rounded duration for people: `40 s`, `6 min`, `2 h 10 min`."""
    hours, minutes = divmod(seconds // 60, 60)
    if seconds < 60:
        return f"{seconds} s"
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes else [])])
