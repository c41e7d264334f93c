"""Figures: what each class holds, and that the page shows what jobs really measured."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import JOBS, figures_class, job_class
from gristmill.cluster.report import run as report
from gristmill.cluster.report.sections import presentation_of
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.selection.job import Select
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from tests.cluster.report.test_report import EVALUATED, TRAINED
from tests.generation.ground import WORK, a_run, ground, job, with_seeds
from tests.generation.reviews import reviewed
from tests.selection.made import work_for

KNOWN = Path(__file__).parent / "figures.json"


def parts(kind: type[Any]) -> dict[str, list[str]]:
    """Fields of a class of figures, and of the classes inside of it, by class."""
    found = {kind.__name__: sorted(field.name for field in fields(kind))}
    for hint in get_type_hints(kind).values():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type) and hasattr(inner, "__dataclass_fields__"):
                found |= parts(inner)
    return found


def test_a_renamed_field_raises_the_version() -> None:
    """Whoever renames one changes this file too, and raises the version of the class."""
    now = {name: {"version": figures_class(name).version, "fields": parts(figures_class(name))} for name in JOBS}
    assert now == json.loads(KNOWN.read_text())


def test_figures_come_back_as_they_went_and_strangers_are_refused() -> None:
    for figures in (TRAINED, EVALUATED, Figures(rows=3, kept=2)):
        assert type(figures).read(json.loads(json.dumps(figures.to_json()))) == figures
    with pytest.raises(StoreError, match="TrainFigures of version 2, must be EvaluateFigures"):
        type(EVALUATED).read(TRAINED.to_json())
    with pytest.raises(StoreError, match="of version 3, must be TrainFigures of version 2"):
        type(TRAINED).read({**TRAINED.to_json(), "version": 3})
    with pytest.raises(StoreError, match=r"TrainFigures\.colour"):
        type(TRAINED).read({**TRAINED.to_json(), "colour": 1})


def page_of(store: Store, outputs: dict[str, str], settings: dict[str, Any]) -> str:
    store.write_json({"name": "x", "jobs": settings, "outputs": outputs}, "runs", "x-1", "recipe.json")
    ledger = Ledger(store, "runs/x-1")
    ledger.append("run_started", jobs=list(outputs))
    for name, output in outputs.items():
        ledger.append("job_done", job=name, output=output, figures=store.figures(output))
    report.write(store, "x-1")
    return store.read_bytes("runs", "x-1", "report.html").decode()


def test_the_page_shows_what_generate_and_select_really_measured(store: Store) -> None:
    generate = job(target=12)
    made = ground(with_seeds(store), generate)
    select = Select(steps=(Exact(), MinHash()))
    work = work_for(select, WORK.output)
    chosen = select.make(a_run(store), work)
    outputs = {"generate": WORK.output, "select": work.output}
    page = page_of(store, outputs, {"generate": generate.model_dump(mode="json")})
    assert f" of {made.rows:,} drafts" in page
    assert f">{made.tokens:,}<" in page
    assert "<h2>Selection, step by step</h2>" in page and "<h2>Compared with the baselines</h2>" in page
    for step in chosen.steps:
        assert f"after {step.kind}" in page
    assert not made.by_round or "Round by round" in page
    for name, figures in (("generate", made), ("select", chosen)):
        assert list(presentation_of(job_class(name).presentation).summary(figures)) or name == "select"


def test_a_job_that_keeps_nothing_says_why(store: Store) -> None:
    short = {"kind": "length", "max_answer_words": 1}
    made = ground(with_seeds(store), job(target="all", methods=[{"kind": "respond"}], filters=[short]))
    (said, *_) = presentation_of(job_class("generate").presentation).summary(made)
    reasons = ", ".join(f"{count} {why}" for why, count in made.dropped.items())
    assert made.kept == 0 and "length: answer too long" in reasons and said == f"no sample is kept; dropped: {reasons}"


def test_the_page_shows_what_a_review_really_measured(store: Store) -> None:
    from gristmill.generation.labels.job import Review

    figures, _, name = reviewed(store, Review())
    page = page_of(store, {"review": name}, {})
    (pair, *_) = figures.agreement
    assert f"{pair.first} and {pair.second}" in page and f"{pair.agree:.0%}" in page


def test_figures_of_another_version_are_said_on_the_page(store: Store) -> None:
    ground(with_seeds(store), job(target=4))
    old = {**store.figures(WORK.output), "version": 0}
    store.write_json(old, WORK.output, "figures.json")
    assert "GenerateFigures of version 0, must be GenerateFigures of version 1" in page_of(
        store, {"generate": WORK.output}, {}
    )
