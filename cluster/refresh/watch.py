"""Watch: is what a new champion writes still like what the line has written before?

Rows of a round are summed up as measures: acceptance, length, diversity, scores. Two rules read them.

- `alarms` compares the first rows of a round (the canary) with the first rows of earlier rounds. An alarm says that
  the new champion writes other rows than its predecessors, so it is rolled back before the round is expensive.
- `trends` looks for measures that fall or rise slowly over all rounds, such as diversity: the collapse of models that
  are trained on their own rows (Shumailov et al. 2024, Nature 631).

`tests/proof/watch.py` plays both (`benchmarks/watch.json`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Store
from gristmill.cluster.text.words import tokens

Floats = NDArray[np.float64]
CANARY = 500
"""Number of first rows of a round that are compared."""
LEVEL = 0.005
"""Probability of a false alarm in a round, over all measures: one in four years of weekly rounds."""
LEAST = 3
"""Least number of earlier rounds to compare with."""
PRIOR, USUAL = 1, 2.0
"""The variance of rounds, in variances of chance, until they show otherwise. It counts as `PRIOR` rounds."""
NGRAM = 3
"""Number of words, or of characters of scripts without spaces, of a sequence whose repeats are counted."""


class Measure(NamedTuple):
    """A measure of the rows of a round."""

    rows: int
    """Number of rows that have it."""
    mean: float
    spread: float
    """Standard deviation of a row."""


def measured(values: Floats) -> Measure:
    """Return the measure of the values of rows, [rows]; at least one."""
    return Measure(len(values), float(values.mean()), float(values.std()))


def measures(samples: Iterable[Sample]) -> dict[str, Measure]:
    """Return the measures of drafts, kept and dropped.

    - `acceptance`: share that is kept;
    - `length`: natural logarithm of the characters of an answer;
    - `diversity`: share of the word sequences of an answer that no other answer of these rows has. It depends on the
      number of rows, so compare equal numbers;
    - `score.NAME`: each score that all kept rows have.

    All but the acceptance are of kept rows. Without any, there is only the acceptance.
    """
    rows = list(samples)
    kept = [row for row in rows if row.dropped is None]
    if not rows:
        return {}
    found = {"acceptance": measured(np.array([row.dropped is None for row in rows], np.float64))}
    if not kept:
        return found
    found["length"] = measured(np.log(1 + np.array([len(row.reply) for row in kept], np.float64)))
    found["diversity"] = measured(_own_share([row.reply for row in kept]))
    for name in sorted(set.intersection(*({*row.scores} for row in kept))):
        found[f"score.{name}"] = measured(np.array([row.scores[name] for row in kept], np.float64))
    return found


def _own_share(texts: Sequence[str]) -> Floats:
    """Return the share of the word sequences of each text that no other text has; 1 for a text without one."""
    sequences = [{*zip(*(tokens(text)[n:] for n in range(NGRAM)), strict=False)} for text in texts]
    counts = Counter(sequence for some in sequences for sequence in some)
    return np.array([np.mean([counts[one] == 1 for one in some]) if some else 1.0 for some in sequences])


def first_rows(store: Store, dataset: str, rows: int = CANARY) -> dict[str, Measure]:
    """Return the measures of the first rows of a dataset, in the order of its shards. It reads no more shards."""
    found: list[Sample] = []
    for table in store.scan(dataset):
        found += from_table(table.slice(0, rows - len(found)))
        if len(found) >= rows:
            break
    return measures(found)


def share(count: int, rows: int) -> Measure:
    """Return the measure of a count of rows, such as near copies of rows of earlier rounds."""
    part = count / rows
    return Measure(rows, part, math.sqrt(part * (1 - part)))


def alarms(
    now: Mapping[str, Measure], earlier: Sequence[Mapping[str, Measure]], level: float = LEVEL
) -> tuple[str, ...]:
    """Return which measures of a round are outside of their control limits, each as a line for people.

    The limits of a measure come from the rounds before, which differ by more than chance: by a factor that is found
    from them, as in Laney's charts. A measure that fewer than `LEAST` of them have has no limits.

    Args:
        now: measures of the first rows of the round.
        earlier: measures of as many first rows of earlier rounds.
        level: probability of a false alarm over all measures.

    Source: Laney 2002, Improved control charts for attributes, Quality Engineering 14; the limits are those of
    prediction by Student's distribution, because earlier rounds are few. Departures: the factor is drawn towards
    `USUAL`.
    """
    from scipy.special import stdtrit

    known = {name: _known(name, earlier) for name in now}
    watched = {name: some for name, some in known.items() if len(some) >= LEAST}
    found = []
    for name, some in watched.items():
        means, weights = _weighted(some)
        centre = float(weights @ means / weights.sum())
        freedom = PRIOR + len(some) - 1
        factor = max(1.0, (PRIOR * USUAL + float(weights @ (means - centre) ** 2)) / freedom)
        mine = float(weights.sum()) * now[name].rows / sum(one.rows for one in some)
        error = math.sqrt(factor * (1 / mine + 1 / float(weights.sum())))
        reach = float(stdtrit(freedom, 1 - level / len(watched) / 2)) * error
        if abs(now[name].mean - centre) > reach:
            limits = f"{centre - reach:.3g} to {centre + reach:.3g}"
            found.append(f"{name}: is {now[name].mean:.3g}, must be {limits} by {len(some)} earlier rounds")
    return tuple(found)


def _known(name: str, rounds: Sequence[Mapping[str, Measure]]) -> list[Measure]:
    return [one[name] for one in rounds if name in one]


def _weighted(some: Sequence[Measure]) -> tuple[Floats, Floats]:
    """Return the means of rounds, and one divided by their variances by chance, both [rounds].

    All rounds have the pooled variance of a row. With its own one, a round with a low share would count too much.
    """
    rows = np.array([one.rows for one in some], np.float64)
    pooled = float(rows @ np.array([one.spread**2 for one in some]) / rows.sum())
    return np.array([one.mean for one in some]), rows / max(pooled, 1 / rows.sum())


def trends(rounds: Sequence[Mapping[str, Measure]], worse: Mapping[str, int], level: float = LEVEL) -> tuple[str, ...]:
    """Return which measures get worse over the rounds, each as a line for people.

    A line is fitted through the means of each measure. Its slope is tested against 0 by Student's distribution, with
    rounds that differ by more than chance as in `alarms`. A measure needs `LEAST` + 1 rounds.

    Args:
        rounds: measures of all rounds in their order.
        worse: -1 for each measure that is worse when it is lower, 1 for one that is worse when it is higher.
        level: probability of a false alarm over all measures, in a round.
    """
    from scipy.special import stdtr

    found = []
    for name, sign, slope, error, freedom in _slopes(rounds, worse):
        if stdtr(freedom, -sign * slope / error) <= level / len(worse):
            way = "rises" if slope > 0 else "falls"
            found.append(f"{name}: {way} by {abs(slope):.3g} a round over {freedom - PRIOR + 2} rounds")
    return tuple(found)


def _slopes(
    rounds: Sequence[Mapping[str, Measure]], worse: Mapping[str, int]
) -> Iterator[tuple[str, int, float, float, int]]:
    """Yield name, sign, slope, its standard error and the degrees of freedom of each measure with enough rounds."""
    for name, sign in worse.items():
        places = np.array([number for number, one in enumerate(rounds) if name in one], np.float64)
        if len(places) <= LEAST:
            continue
        some = _known(name, rounds)
        means, weights = _weighted(some)
        away = places - weights @ places / weights.sum()
        rest = means - weights @ means / weights.sum()
        squares = float(weights @ away**2)
        slope = float(weights @ (away * rest)) / squares
        freedom = PRIOR + len(some) - 2
        factor = max(1.0, (PRIOR * USUAL + float(weights @ (rest - slope * away) ** 2)) / freedom)
        yield name, sign, slope, math.sqrt(factor / squares), freedom
