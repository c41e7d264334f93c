"""The canary of a line: the first rows that a new champion writes, before anything is trained on them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gristmill.cluster.refresh import replay, watch
from gristmill.cluster.refresh.registry import Round
from gristmill.cluster.refresh.watch import Measure, first_rows
from gristmill.cluster.store.store import Store

GENERATE, SELECT = "generate", "select"
AGAINST = "against: "
"""Beginning of the drop reasons of rows that are near rows of earlier rounds."""
INPUTS = ("input", "documents")
"""Settings that name data. They differ from round to round, and do not make other rows."""
WORSE = {"diversity": -1, "copies": 1}
"""Measures whose trend is watched: -1 if lower is worse, 1 if higher is. `copies` is the share of rows near those of
earlier rounds, which the step `against` of `[select]` drops."""


def alarms(store: Store, before: Sequence[Round], one: Round, dataset: str) -> tuple[str, ...]:
    """Return why the champion must be rolled back: measures of its first rows outside of their control limits.

    It is compared with earlier rounds that have the same section `[generate]`. There are no reasons if it did not write
    the rows itself, or if there are too few such rounds.

    Args:
        store: the store of the line.
        before: the rounds before this one.
        one: the round.
        dataset: the output of its job `generate`.
    """
    if not one.writer or one.writer != one.start:
        return ()
    rows = int(one.settings["canary"])
    known = list(_measures(store, before, one, rows))
    return watch.alarms(first_rows(store, dataset, rows), known, watch.LEVEL) if len(known) >= watch.LEAST else ()


def trends(store: Store, rounds: Sequence[Round]) -> tuple[str, ...]:
    """Return which measures of the first rows have got worse over the rounds of a line, for people."""
    if not rounds or not rounds[-1].settings.get("canary"):
        return ()
    like, rows = rounds[-1], int(rounds[-1].settings["canary"])
    known = [
        found | _copies(store, one)
        for one, found in zip(_like(rounds, like), _measures(store, rounds, like, rows), strict=True)
    ]
    return watch.trends(known, WORSE)


def _copies(store: Store, one: Round) -> dict[str, Measure]:
    """Return the share of the rows of a round that are near rows of earlier rounds; nothing without earlier ones."""
    dataset = one.outputs.get(SELECT, "")
    if not one.earlier or not dataset:
        return {}
    return {"copies": watch.share(sum(replay.reasons(store, dataset, AGAINST).values()), store.manifest(dataset).rows)}


def _measures(store: Store, rounds: Sequence[Round], like: Round, rows: int) -> Iterator[dict[str, Measure]]:
    """Yield the measures of the first rows of the rounds that ended, and that have the section of another one."""
    for one in _like(rounds, like):
        yield first_rows(store, one.outputs[GENERATE], rows)


def _like(rounds: Sequence[Round], like: Round) -> list[Round]:
    return [one for one in rounds if one.outputs.get(GENERATE) and _section(one) == _section(like)]


def _section(one: Round) -> Mapping[str, Any]:
    return {name: value for name, value in one.tables.get(GENERATE, {}).items() if name not in INPUTS}
