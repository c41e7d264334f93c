"""Compare: the results of each model in each suite, and the interval of its difference from the base model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.own import Own
from gristmill.training import gate
from gristmill.training.evaluate import statistics
from gristmill.training.evaluate.scorers.contract import OWN, Judgements
from gristmill.training.evaluate.scorers.pairwise import JUDGE, Pairwise
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import Judged, judged_of
from gristmill.training.evaluate.suites.reducers import column, measures
from gristmill.training.figures import ModelFigures, SuiteFigures

Floats = NDArray[np.float64]
REDRAWS = 200
"""Number of draws for the intervals of measures."""


class Draws(NamedTuple):
    """The number and the seed of the bootstrap draws."""

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
        models: names of the models, the base model first.
        scores: values by (model, suite), then by item.
        contaminated: by suite, the number of items near a row trained on, and the number of these rows.
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
    unfit = _unfit(suite, scores.get((JUDGE, suite.name), {}), tables)
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
        unfit=unfit,
        models=tuple(
            _without_verdict(_model(suite, model, judged, tables[0], kin, draws), unfit)
            for model, judged in zip(models, tables, strict=True)
            if judged
        ),
    )


def trials(
    suites: Sequence[Suite],
    models: Sequence[str],
    scores: Mapping[tuple[str, str], Mapping[str, Judgements]],
    compared: Sequence[SuiteFigures],
) -> list[gate.Trial]:
    """Return what the gate reads of each suite: the values of the base model and of the tuned one for the same items.

    Args:
        suites: the frozen suites.
        models: names of the base model and of the tuned one.
        scores: values by (model, suite), then by item.
        compared: the figures of the suites.
    """
    found = []
    for suite, figures in zip(suites, compared, strict=True):
        champion, challenger = (judged_of(suite.items, scores.get((model, suite.name), {})) for model in models)
        asked = np.array([_told(a) and _told(b) for a, b in zip(champion, challenger, strict=True)], np.bool_)
        values = [column(list(compress(judged, asked)), OWN) for judged in (champion, challenger)]
        found.append(
            gate.Trial(
                suite=suite.name,
                role=suite.scorer.role,
                champion=values[0],
                challenger=values[1],
                families=suite.families[asked],
                measures=next((model.measures for model in figures.models if model.model == models[1]), {}),
                problem=_problem(figures, values),
            )
        )
    return found


def _problem(figures: SuiteFigures, values: Sequence[Floats]) -> str:
    """Return why a suite cannot decide at the gate, or the empty string."""
    if figures.unfit:
        return figures.unfit
    if figures.contaminated:
        return (
            f"has {figures.contaminated} items near rows that were trained on, must have none; name its file in "
            "train.test"
        )
    if any(((side < 0) | (side > 1)).any() for side in values):
        return f"has values outside 0 to 1 (kind {figures.kind}), the gate needs values in it"
    return ""


def _unfit(suite: Suite, known: Mapping[str, Judgements], tables: Sequence[Sequence[Judged]]) -> str:
    """Return why the judge of a suite cannot be believed; empty if it can, or if the suite has no judge."""
    if not isinstance(suite.scorer, Pairwise):
        return ""
    values = [scores[OWN].value for scores in known.values()]
    # the judge is not asked about equal replies, and says nothing of them
    flips = [row.scores["flip"].value for table in tables[1:] for row in table if row.scores[OWN].reply]
    return suite.scorer.unfit(*([value for value in side if value is not None] for side in (values, flips)))


def _without_verdict(figures: ModelFigures, unfit: str) -> ModelFigures:
    if not unfit or figures.difference is None:
        return figures
    return replace(figures, p=None, needed=None, unfit=True)


def _told(row: Judged) -> bool:
    return all(score.value is not None for score in row.scores.values())


def _model(
    suite: Suite, name: str, judged: Sequence[Judged], base: Sequence[Judged], kin: NDArray[np.int64], draws: Draws
) -> ModelFigures:
    """Return one model's figures. `base` has the base model's values of the same items."""
    values, others = column(judged, OWN), column(base, OWN)
    sizes = statistics.by_family(np.ones_like(values), kin)
    own = statistics.interval(statistics.by_family(values, kin), sizes, draws=draws.number, seed=draws.seed)
    share = suite.scorer.kind not in ("loss", "harness") and not isinstance(suite.scorer, Own)
    low, high = _ends(own, 0.0 if share else -math.inf)
    found = measures(suite.scorer, judged, base)
    bounds = _bounds(suite, judged, base, kin, draws.seed) if found else {}
    figures = ModelFigures(model=name, value=own.value, low=low, high=high, measures=found, bounds=bounds)
    if judged is base:
        return figures
    change = values - others
    by_family = statistics.by_family(change, kin)
    paired = statistics.interval(by_family, sizes, draws=draws.number, seed=draws.seed)
    low, high = _ends(paired, -1.0 if share else -math.inf)
    return replace(
        figures,
        difference=paired.value,
        ci_low=low,
        ci_high=high,
        p=_chance(paired, by_family / sizes),
        better=int((change > 0).sum()),
        worse=int((change < 0).sum()),
        detectable=statistics.detectable(paired.error) if paired.error else None,
        needed=_needed(paired, suite.scorer.effect),
    )


def _ends(found: statistics.Interval, least: float) -> tuple[float | None, float | None]:
    """Return the ends of an interval, cut to the possible values; none if all families are equal.

    Values are from `least` to 1, or have no limits if `least` is infinite. Equal families have no spread, and their
    interval would be a point, however few they are.
    """
    if found.low is None or found.high is None or not found.error:
        return None, None
    most = 1.0 if math.isfinite(least) else math.inf
    return max(found.low, least), min(found.high, most)


def _chance(found: statistics.Interval, changes: Floats) -> float | None:
    """Return the p-value of no difference, from the interval and the mean change of each family.

    If all changes have the same size, as with right and wrong answers, only their signs matter. The exact test of signs
    is McNemar's.
    """
    if found.p is None:
        return None
    size = np.abs(changes[changes != 0])
    if np.allclose(size, size[:1]):
        return statistics.mcnemar(int((changes > 0).sum()), int((changes < 0).sum()))
    return found.p


def _bounds(
    suite: Suite, judged: Sequence[Judged], base: Sequence[Judged], kin: NDArray[np.int64], seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each measure over draws of families; no interval if families are few.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    count = int(kin.max(initial=-1)) + 1
    if count < statistics.FEW:
        return {}
    members = [np.flatnonzero(kin == family).tolist() for family in range(count)]
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(REDRAWS):
        rows = [row for family in rng.integers(count, size=count).tolist() for row in members[family]]
        drawn = measures(suite.scorer, [judged[row] for row in rows], [base[row] for row in rows])
        for name, value in drawn.items():
            found.setdefault(name, []).append(value)
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _needed(found: statistics.Interval, effect: float) -> int | None:
    """Return how many families are needed to show an effect.

    If no family differs, a share of up to 3 / families may still differ (with 95 %), by the rule of three (Hanley &
    Lippman-Hand 1983, JAMA 249).
    """
    if found.error == 0:
        return statistics.items_needed(effect, 3 / found.families)
    return statistics.families_needed(found, effect)
