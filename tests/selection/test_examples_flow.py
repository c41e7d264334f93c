"""The recipes that only select, whole, with the real encoders, and what each step of them is there to do."""

from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.ledger import state
from gristmill.cluster.store.store import Store
from gristmill.selection.figures import SelectFigures
from tests.invariants import check_dataset
from tests.test_examples import RECIPES

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]


def selected(name: str, tmp_path: Path) -> tuple[list[Sample], SelectFigures]:
    """Run a recipe by the command line; return its rows and figures."""
    path = next(path for path in RECIPES if path.stem == name)
    store = Store(str(tmp_path))
    assert main(["select", str(path), "--set", f"store={tmp_path}"]) == 0
    _, works = open_recipe(path, [f"store={tmp_path}"])
    (run,) = store.names("runs")
    assert state(store, f"runs/{run}").jobs["select"].state == "done"
    assert "<html" in store.read_bytes("runs", run, "report.html").decode()[:500]
    return check_dataset(store, works["select"].output), SelectFigures.read(store.figures(works["select"].output))


def test_duplicates_and_contamination_go_each_for_its_reason(tmp_path: Path) -> None:
    rows, figures = selected("select_duplicates", tmp_path)
    went = {step.kind: step.rows - step.kept for step in figures.steps}
    assert went["exact"] >= 5
    assert went["minhash"] >= 6
    assert went["minhash"] + went["semantic"] >= 10, "copies whose short answer was changed stay"
    assert went["against"] >= 4
    assert went["decontaminate"] >= 3
    library = [row for row in rows if "opens at nine" in row.messages[-1].text and row.dropped is None]
    assert len(library) == 1, "a passage that three answers share stays in one of them"
    tutor = [row for row in rows if row.tags["source"] == "tutor"]
    lost = [row for row in tutor if row.dropped and row.dropped.startswith(("exact", "minhash", "semantic"))]
    assert len(tutor) == 24
    assert len(lost) <= 1, "different requests behind one shared prompt are no copies"


def test_the_best_of_many_kinds_in_fair_shares(tmp_path: Path) -> None:
    rows, _ = selected("select_scores", tmp_path)
    kept = [row for row in rows if row.dropped is None]
    assert len(kept) == 30
    languages = [row.tags["language"] for row in kept]
    assert abs(languages.count("en") - languages.count("zh")) <= 2
    mean = sum(row.scores["judge"] for row in kept) / len(kept)
    assert mean > sum(row.scores["judge"] for row in rows) / len(rows)


@pytest.mark.long
def test_what_resembles_the_targets_stays(tmp_path: Path) -> None:
    rows, figures = selected("select_relevance", tmp_path)
    kept = [step.kept for step in figures.steps]
    assert kept[:2] == [90, 70]
    assert 30 <= kept[2] <= 50, "who gets no vote goes, whatever the budget"
    assert kept[3] == 30
    private = figures.steps[2].figures
    assert float(private["epsilon"]) == pytest.approx(8.0, rel=0.01)
    assert {"coverage of the pool"} <= set(figures.baselines["chosen"])
    assert figures.topics
    assert sum(topic.kept for topic in figures.topics) == 30
    assert all("relevance" in row.scores for row in rows)


def test_the_baselines_keep_their_budget(tmp_path: Path) -> None:
    rows, figures = selected("select_baselines", tmp_path)
    assert [step.kept for step in figures.steps] == [60, 30]
    assert not figures.embedded
    assert sum(row.dropped is None for row in rows) == 30
