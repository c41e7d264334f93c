"""Compare: the results of each model in each suite, and the interval of its difference from the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.training.evaluate import statistics
from gristmill.training.evaluate.scorers.contract import OWN, Judgements
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import Judged, judged_of
from gristmill.training.evaluate.suites.reducers import column, measures
from gristmill.training.figures import ModelFigures, SuiteFigures

Floats = NDArray[np.float64]


class Draws(NamedTuple):
    """The bootstrap of the intervals."""

    number: int
    seed: int


def compare(
    suites: Sequence[Suite],
    models: Sequence[str],
    scores: Mapping[tuple[str, str], Mapping[str, Judgements]],
    contaminated: Mapping[str, tuple[int, int]],
    draws: Draws,
) -> tuple[SuiteFigures, ...]:
    """Return the figures of all suites, with p-values adjusted over the suites of each model.

    Args:
        suites: the frozen suites.
        models: their names, the base model first.
        scores: by (model, suite) and item.
        contaminated: by suite, items near a row trained on, and such rows.
        draws: number and seed of the bootstrap draws.
    """
    found = [_suite(suite, models, scores, contaminated.get(suite.name, (0, 0)), draws) for suite in suites]
    return adjusted(found)


def adjusted(found: Sequence[SuiteFigures]) -> tuple[SuiteFigures, ...]:
    """Return the figures with each model's p-values adjusted over the suites by Holm's procedure."""
    tables = [{model.model: model for model in suite.models} for suite in found]
    for name in {name for table in tables for name in table}:
        mine = [table for table in tables if name in table and table[name].p is not None]
        values = statistics.holm([table[name].p or 0.0 for table in mine])
        for table, value in zip(mine, values, strict=True):
            table[name] = replace(table[name], p_adjusted=value)
    return tuple(replace(suite, models=tuple(table.values())) for suite, table in zip(found, tables, strict=True))


def _suite(
    suite: Suite,
    models: Sequence[str],
    scores: Mapping[tuple[str, str], Mapping[str, Judgements]],
    contaminated: tuple[int, int],
    draws: Draws,
) -> SuiteFigures:
    by_model = [judged_of(suite.items, scores.get((model, suite.name), {})) for model in models]
    asked = np.array([all(_told(row) for row in rows) for rows in zip(*by_model, strict=True)], np.bool_)
    tables = [[row for row, taken in zip(judged, asked, strict=True) if taken] for judged in by_model]
    kin = np.unique(suite.families[asked], return_inverse=True)[1].astype(np.int64)
    scorer = suite.scorer
    return SuiteFigures(
        suite=suite.name,
        folder=suite.folder,
        kind=scorer.kind,
        role=scorer.role,
        made=scorer.made,
        items=int(asked.sum()),
        families=int(kin.max(initial=-1)) + 1,
        unasked=int((~asked).sum()),
        dropped=dict(suite.dropped),
        contaminated=contaminated[0],
        leaks=contaminated[1],
        effect=scorer.effect,
        models=tuple(
            _model(suite, model, judged, tables[0], kin, draws)
            for model, judged in zip(models, tables, strict=True)
            if judged
        ),
    )


def _told(row: Judged) -> bool:
    return all(score.value is not None for score in row.scores.values())


def _model(
    suite: Suite, name: str, judged: Sequence[Judged], base: Sequence[Judged], kin: NDArray[np.int64], draws: Draws
) -> ModelFigures:
    """Return one model's figures; `base` has the same items."""
    values, others = column(judged, OWN), column(base, OWN)
    sizes = statistics.by_family(np.ones_like(values), kin)
    own = statistics.interval(statistics.by_family(values, kin), sizes, draws=draws.number, seed=draws.seed)
    figures = ModelFigures(
        model=name, value=own.value, low=own.low, high=own.high, measures=measures(suite.scorer, judged, base)
    )
    if judged is base:
        return figures
    change = values - others
    found = statistics.interval(statistics.by_family(change, kin), sizes, draws=draws.number, seed=draws.seed)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    single = np.isin(np.concatenate([values, others]), (0.0, 1.0)).all() and len(sizes) == len(values)
    return replace(
        figures,
        difference=found.value,
        ci_low=found.low,
        ci_high=found.high,
        p=statistics.mcnemar(better, worse) if single and len(values) > 1 else found.p,
        better=better,
        worse=worse,
        detectable=statistics.detectable(found.error) if found.error else None,
        needed=_needed(found, suite.scorer.effect),
    )


def _needed(found: statistics.Interval, effect: float) -> int | None:
    """Return how many families are needed to show an effect.

    Where no item differs, up to 3 of n may still do (95 %): the rule of three (Hanley & Lippman-Hand 1983, JAMA 249).
    """
    if found.error == 0:
        return statistics.items_needed(effect, 3 / found.families)
    return statistics.families_needed(found, effect)
