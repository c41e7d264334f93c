"""The page and the summary show what suites really measured, and no text of theirs can break the page."""

from dataclasses import replace
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, seed
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.evaluate.suites import compare
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.figures import EvaluateFigures
from gristmill.training.report import EvaluatePresentation
from tests.cluster.report.test_report import EVALUATED, NASTY
from tests.test_figures import page_of
from tests.training.evaluate.items import Models, gathered_from, says
from tests.training.evaluate.test_suites import DRAWS, answers, bench, frozen, knows, rows


def evaluated(store: Store, suites: list[Suite], engines: Models) -> EvaluateFigures:
    """An evaluation of these suites, whole in the store."""
    bench(store, suites).run_models(engines.open, None)
    values = gathered_from(store, "evaluate-1", suites)
    found = compare.compare(suites, ["base", "tuned"], values, {suites[0].name: (2, 3)}, DRAWS)
    figures = replace(EVALUATED, suites=found)
    shards = tuple(store.committed("evaluate-1").values())
    store.write_json({"smoke": []}, "evaluate-1", "evaluation.json")
    store.commit(Manifest("evaluate-1", "evaluation", "evaluate", "f", {}, {}, shards), figures.to_json())
    return figures


@pytest.fixture
def figures(store: Store) -> EvaluateFigures:
    """Labels, of which the tuned model knows all; and a suite of one item whose texts are hostile."""
    nasty = [seed([Message("user", f"Say {NASTY}"), Message("assistant", NASTY)])]
    suites = [frozen(store, samples=rows(40)), frozen(store, "exact_match", nasty, "nasty", made=True)]

    def tuned(request: Any) -> Any:
        return says(NASTY) if "script" in request.messages[-1].text else answers(knows)(request)

    return evaluated(store, suites, Models(b=answers(lambda _: "good"), t=tuned))


def test_the_summary_says_what_each_suite_shows(figures: EvaluateFigures) -> None:
    said = list(EvaluatePresentation().summary(figures))
    assert "suite mine, tuned model: labels 0.500 -> 1.000 (+0.500 [" in said[1] and said[1].endswith("]): better")
    assert (
        said[2] == "suite nasty, tuned model: exact_match 0.000 -> 1.000 (+1.000): one family says nothing about others"
    )
    assert len(said) == 3, "neither suite leaves open what it could show"


def test_the_page_shows_models_measures_confusion_and_items_that_changed(
    store: Store, figures: EvaluateFigures
) -> None:
    page = page_of(store, {"evaluate": "evaluate-1"}, {})
    mine, _ = figures.suites
    for text in ("<h2>Suites</h2>", "<h2>Suite mine</h2>", "macro f1", "roc auc", "written accuracy", "20 / 0"):
        assert text in page, text
    assert "tuned model: items by right label and likeliest label" in page
    assert "2 items are near copies of 3 rows that were trained on" in page
    assert f"{mine.models[1].p_adjusted or 1:.3f}" in page or "&lt; 0.001" in page
    assert "bad (0.50); writes: good" in page, "the base model says good of anything, which calibration takes out"
    assert "items made by a model in 1 families" in page
    assert NASTY not in page and "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_an_evaluation_without_suites_has_no_section_of_them(store: Store) -> None:
    store.write_json({"smoke": []}, "evaluate-2", "evaluation.json")
    store.commit(Manifest("evaluate-2", "evaluation", "evaluate", "f", {}, {}, ()), EVALUATED.to_json())
    assert "<h2>Suites</h2>" not in page_of(store, {"evaluate": "evaluate-2"}, {})
