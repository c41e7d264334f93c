"""Suites in the summary and the report: models side by side, confusion matrices, and items that changed."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.report import charts
from gristmill.cluster.report.material import Material
from gristmill.cluster.report.sections import Panel, Section, Table
from gristmill.cluster.store.store import Store
from gristmill.training.data.tokens import samples_of
from gristmill.training.evaluate.scorers.contract import OWN, Judgements
from gristmill.training.evaluate.scorers.labels import likeliest
from gristmill.training.evaluate.scorers.pairwise import SAID
from gristmill.training.evaluate.suites import items
from gristmill.training.figures import EvaluateFigures, ModelFigures, SuiteFigures

MAX_TEXT = 2_000
MAX_CHANGED = 60
"""Largest number of changed items that are shown for a suite."""
MAX_LABELS = 16
"""Largest number of labels for which a confusion matrix is shown."""


def summary(figures: EvaluateFigures) -> Iterator[str]:
    """Yield a line for each suite and each model except the base model, and a line for each suite that is too small."""
    for suite in figures.suites:
        for place, model in enumerate(suite.models[1:], 1):
            before = f"{suite.models[0].value:.3f} -> "
            yield (
                f"suite {suite.suite}, {_name(model.model, place)}: {suite.kind} {before}{model.value:.3f} "
                f"({_difference(model)}): {model.verdict}"
            )
        if not suite.models:
            yield f"suite {suite.suite}: no item of {suite.unasked} could be asked of all models"
        if suite.undecided:
            yield f"suite {suite.suite}: {suite.undecided}"


def sections(material: Material, figures: EvaluateFigures) -> Iterator[Section]:
    """Yield the differences of all suites as a chart, and a section for each suite."""
    measured = material.manifests.get("evaluate")
    if measured is None or not figures.suites:
        return
    yield _overview(figures.suites)
    values = items.read(material.store, measured.name)
    for suite in figures.suites:
        rows = _rows(material.store, suite.folder)
        tables = [_models(suite), _measures(suite), *_confused(suite, rows, values)]
        if len(suite.models) > 1:
            tables += _changed(suite, rows, values)
        yield Section(f"Suite {suite.suite}", _lead(suite), (), [table for table in tables if table.rows])


def _overview(suites: Sequence[SuiteFigures]) -> Section:
    note = (
        "Mean of the paired differences to the base model with its 95 % interval over families of items. What is said "
        "of a difference follows from its p-value, corrected over all suites by Holm's procedure."
    )
    shares = [suite for suite in suites if suite.kind != "loss"]
    losses = [suite for suite in suites if suite.kind == "loss"]
    panels = [*_panel("Difference to the base model", shares, "difference", note)]
    panels += _panel("Difference of log-likelihood", losses, "nats per token", "Higher is better here too.")
    return Section("Suites", "Every model got the same items, prompts and engine settings.", panels)


def _panel(title: str, suites: Sequence[SuiteFigures], what: str, note: str) -> Iterator[Panel]:
    compared = [(suite, place, model) for suite in suites for place, model in enumerate(suite.models) if place]
    if compared:
        names = [f"{suite.suite}, {_name(model.model, place)}" for suite, place, model in compared]
        values = [(model.difference or 0.0, model.ci_low, model.ci_high) for _, _, model in compared]
        yield Panel(title, charts.intervals(names, values, what), note)


def _lead(suite: SuiteFigures) -> str:
    who = "made by a model" if suite.made else "of people"
    parts = [f"{suite.items:,} items {who} in {suite.families:,} families; {suite.kind}, {suite.role}."]
    if suite.dropped:
        parts.append("Rows that are no items: " + ", ".join(f"{n} {why}" for why, n in suite.dropped.items()) + ".")
    if suite.unasked:
        parts.append(f"{suite.unasked} items could not be asked of all models and are left out.")
    if suite.contaminated:
        parts.append(f"{suite.contaminated} items are near copies of {suite.leaks} rows that were trained on.")
    if suite.undecided:
        parts.append(f"{suite.undecided[:1].upper()}{suite.undecided[1:]}.")
    return " ".join(parts)


def _models(suite: SuiteFigures) -> Table:
    heads = (("model", ""), ("mean value", "num"), ("difference to base", "num"), ("better / worse", "num"))
    columns = (*heads, ("p, corrected", "num"), ("", ""))
    rows = [
        (
            _name(model.model, place),
            f"{model.value:.3f}{_ends(model.low, model.high)}",
            "" if model.difference is None else _difference(model),
            "" if model.difference is None else f"{model.better} / {model.worse}",
            "" if model.p_adjusted is None else _p(model.p_adjusted),
            model.verdict,
        )
        for place, model in enumerate(suite.models)
    ]
    return Table(columns, rows)


def _measures(suite: SuiteFigures) -> Table:
    """Return the measures over all items together, with a row for each measure and a column for each model."""
    names = list(suite.models[0].measures) if suite.models else []
    columns = (("measure", ""), *((_name(model.model, place), "num") for place, model in enumerate(suite.models)))
    rows = [(name.replace("_", " "), *(_measure(model, name) for model in suite.models)) for name in names]
    return Table(columns, rows, "Over all items together.", narrow=True, tall=len(rows) > 12)


def _confused(suite: SuiteFigures, rows: pa.Table, values: pa.Table) -> Iterator[Table]:
    """Yield the confusion matrix of each model, if the suite has labels and not too many of them."""
    if suite.kind != "labels":
        return
    right = {sample.id: sys.intern(sample.answer) for sample in samples_of(rows)}
    for place, model in enumerate(suite.models):
        counts = Counter[tuple[str, str]]()
        for batch in _own(suite, values, model.model).to_batches(max_chunksize=items.BLOCK):
            for name, value, reply in zip(*(batch[key].to_pylist() for key in ("item", "value", "reply")), strict=True):
                if value is not None and name in right:
                    counts[right[name], likeliest(json.loads(reply))] += 1
        labels = sorted({label for pair in counts for label in pair})
        if len(labels) > MAX_LABELS:
            continue
        columns = (("right label", ""), *((label, "num") for label in labels))
        rows = [(label, *(f"{counts.get((label, one), 0):,}" for one in labels)) for label in labels]
        yield Table(
            columns, rows, f"{_name(model.model, place)}: items by right label and likeliest label", narrow=True
        )


def _changed(suite: SuiteFigures, rows: pa.Table, values: pa.Table) -> Iterator[Table]:
    """Yield a table of the items for which the tuned model has another value than the base model, worse ones first."""
    models = [model.model for model in suite.models[:2]]
    base, tuned = (_own(suite, values, model).select(["item", "value"]) for model in models)
    both = base.join(tuned, "item", right_suffix=" after", join_type="inner")
    changes = pc.subtract(both["value after"], both["value"]).to_numpy()
    there = np.flatnonzero(np.nan_to_num(changes) != 0)
    names = both["item"].take(there).to_pylist()
    found = sorted(zip(changes[there].tolist(), names, strict=True))
    shown = _ends_of(found)
    wanted = pa.array([name for _, name in shown], pa.string())
    samples = {one.id: one for one in from_table(rows.filter(pc.is_in(rows["id"], wanted)))}
    few = values.filter(pc.and_(pc.equal(values["suite"], suite.suite), pc.is_in(values["item"], wanted)))
    scores = items.scores_of(few)
    replies = [scores.get((model, suite.suite), {}) for model in models]
    heads = ("item", "right answer", "base model", "tuned model")
    cells = [
        (
            f"{change:+.3f}",
            *(text[:MAX_TEXT] for text in (samples[n].messages[_last_user(samples[n])].text, _answer(samples[n]))),
            *(_said(suite.kind, said[n])[:MAX_TEXT] for said in replies),
        )
        for change, n in shown
        if n in samples
    ]
    told = f"{len(cells)} of {len(found)}" if len(cells) < len(found) else f"{len(cells)}"
    note = f"{told} items with another value than the base model's, those that got worse first"
    columns = (("change", "num"), *((head, "clip") for head in heads))
    yield Table(columns, cells, note, tall=True, fixed=(8, 32, 16, 22, 22))


def _own(suite: SuiteFigures, values: pa.Table, model: str) -> pa.Table:
    """Return the own values of a suite for one model: `item`, `value` and `reply`."""
    mine = pc.and_(pc.equal(values["suite"], suite.suite), pc.equal(values["model"], model))
    return values.filter(pc.and_(mine, pc.equal(values["scorer"], suite.kind))).select(["item", "value", "reply"])


def _ends_of(found: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """Return the first and the last entries of a sorted list if it is too long, else all."""
    half = MAX_CHANGED // 2
    return found if len(found) <= MAX_CHANGED else [*found[:half], *found[-half:]]


def _said(kind: str, scores: Judgements) -> str:
    """Return the reply of a model as text for people."""
    reply = scores[OWN].reply
    if kind == "pairwise" and SAID in scores:
        return scores[SAID].reply
    if kind not in ("labels", "choice"):
        return reply
    rated = json.loads(reply)
    best = likeliest(rated)
    written = f"; writes: {scores['written'].reply}" if "written" in scores else ""
    return f"{best} ({rated[best]:.2f}){written}"


def _rows(store: Store, folder: str) -> pa.Table:
    """Return the rows of a suite that are items."""
    table = store.read(folder) if store.complete(folder) else SAMPLES.empty_table()
    return table.filter(table["dropped"].is_null())


def _last_user(sample: Sample) -> int:
    return max(place for place, turn in enumerate(sample.messages) if turn.role == "user")


def _answer(sample: Sample) -> str:
    return sample.messages[-1].text if sample.messages[-1].role == "assistant" else ""


def _name(model: str, place: int) -> str:
    """Return the name of a model for people; the base model is the first, the tuned one the second."""
    short = Path(model).name if "/" in model else model
    return {0: f"base model ({short})", 1: "tuned model"}.get(place, short)


def _measure(model: ModelFigures, name: str) -> str:
    if name not in model.measures:
        return ""
    return f"{model.measures[name]:.3f}{_ends(*model.bounds.get(name, (None, None)))}"


def _difference(model: ModelFigures) -> str:
    return f"{model.difference or 0.0:+.3f}{_ends(model.ci_low, model.ci_high, '+')}"


def _ends(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"
