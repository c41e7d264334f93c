"""Compare: the results of each model in each suite, and the interval of its difference from the base model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.own import Own
from gristmill.training.evaluate import statistics
from gristmill.training.evaluate.scorers.contract import OWN
from gristmill.training.evaluate.scorers.pairwise import JUDGE, Pairwise
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.reducers import Numbers, measures
from gristmill.training.evaluate.suites.values import Gathered, Values
from gristmill.training.figures import ModelFigures, SuiteFigures
from gristmill.training.gate import rule as gate

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
    values: Gathered,
    contaminated: Mapping[str, tuple[int, int]],
    draws: Draws,
) -> tuple[SuiteFigures, ...]:
    """Return the figures of all suites, with p-values adjusted over the suites of each model.

    Args:
        suites: the frozen suites.
        models: names of the models, the base model first.
        values: the values of the items by (model, suite).
        contaminated: by suite, the number of items near a row trained on, and the number of these rows.
        draws: number and seed of the bootstrap draws.
    """
    found = [_suite(suite, models, values, contaminated.get(suite.name, (0, 0)), draws) for suite in suites]
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
    values: Gathered,
    contaminated: tuple[int, int],
    draws: Draws,
) -> SuiteFigures:
    none = Values(np.zeros(len(suite.items), np.bool_))
    by_model = [values.get((model, suite.name), none) for model in models]
    asked = np.all([one.asked for one in by_model], axis=0)
    tables = [one.of(asked) for one in by_model]
    kin = np.unique(suite.families[asked], return_inverse=True)[1].astype(np.int64)
    scorer = suite.scorer
    unfit = _unfit(suite, values.get((JUDGE, suite.name), none), tables)
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
            _without_verdict(_model(suite, model, mine, tables[0], kin, draws), unfit)
            for model, mine in zip(models, tables, strict=True)
            if asked.any()
        ),
    )


def trials(
    rule: gate.Gate,
    suites: Sequence[Suite],
    models: Sequence[str],
    values: Gathered,
    compared: Sequence[SuiteFigures],
    looks: Mapping[str, int],
) -> list[gate.Trial]:
    """Return what the gate reads of each suite: the values of two models for the same items.

    These are the base model and the tuned one; and the anchor and the tuned one in the suites in which the tuned one
    may be worse.

    Args:
        rule: the gate.
        suites: the frozen suites, with the items that were asked.
        models: names of the base model and of the tuned one.
        values: the values of the items by (model, suite).
        compared: the figures of the suites.
        looks: number of looks so far at each suite.
    """
    base, tuned = models
    found = []
    for suite, figures in zip(suites, compared, strict=True):
        if not rule.decides(suite.name):
            continue
        role = suite.scorer.role
        others = [base, *([rule.anchor] if rule.anchor and rule.margin(suite.name, role) < 0 else [])]
        for number, other in enumerate(others):
            none = Values(np.zeros(len(suite.items), np.bool_))
            both = [values.get((model, suite.name), none) for model in (other, tuned)]
            asked = both[0].asked & both[1].asked
            champion, challenger = (one.of(asked).get(OWN, np.empty(0)) for one in both)
            found.append(
                gate.Trial(
                    suite=suite.name,
                    role=role,
                    champion=champion,
                    challenger=challenger,
                    families=suite.families[asked],
                    measures=next((model.measures for model in figures.models if model.model == tuned), {}),
                    problem=_problem(figures, [champion, challenger]),
                    looks=None if suite.looks is None else suite.looks[asked],
                    look=looks[suite.name],
                    effect=suite.scorer.effect if role == "target" else 0.0,
                    anchored=number > 0,
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


def _unfit(suite: Suite, known: Values, tables: Sequence[Numbers]) -> str:
    """Return why the judge of a suite cannot be believed; empty if it can, or if the suite has no judge."""
    if not isinstance(suite.scorer, Pairwise):
        return ""
    right = known.of(known.asked).get(OWN, np.empty(0))
    # the judge is not asked about equal replies, and says nothing of them
    flips = [table["flip"][table["compared"] == 1] for table in tables[1:] if "flip" in table]
    return suite.scorer.unfit(right.tolist(), np.concatenate([np.empty(0), *flips]).tolist())


def _without_verdict(figures: ModelFigures, unfit: str) -> ModelFigures:
    if not unfit or figures.difference is None:
        return figures
    return replace(figures, p=None, needed=None, unfit=True)


def _model(suite: Suite, name: str, mine: Numbers, base: Numbers, kin: NDArray[np.int64], draws: Draws) -> ModelFigures:
    """Return one model's figures. `base` has the base model's numbers of the same items."""
    values, others = mine[OWN], base[OWN]
    sizes = statistics.by_family(np.ones_like(values), kin)
    own = statistics.interval(statistics.by_family(values, kin), sizes, draws=draws.number, seed=draws.seed)
    share = suite.scorer.kind not in ("loss", "harness") and not isinstance(suite.scorer, Own)
    low, high = _ends(own, 0.0 if share else -math.inf)
    found = measures(suite.scorer, mine, base)
    bounds = _bounds(suite, mine, base, kin, draws.seed) if found else {}
    figures = ModelFigures(model=name, value=own.value, low=low, high=high, measures=found, bounds=bounds)
    if mine is base:
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
    suite: Suite, mine: Numbers, base: Numbers, kin: NDArray[np.int64], seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each measure over draws of families; no interval if families are few.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    count = int(kin.max(initial=-1)) + 1
    if count < statistics.FEW:
        return {}
    members = np.split(np.argsort(kin, kind="stable"), np.cumsum(np.bincount(kin))[:-1])
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(REDRAWS):
        rows = np.concatenate([members[family] for family in rng.integers(count, size=count).tolist()])
        drawn = measures(suite.scorer, *({name: of[rows] for name, of in side.items()} for side in (mine, base)))
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
