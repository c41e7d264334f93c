"""The examples of reviews, entities and answers: from their recipes to figures of a suite, with a tiny base model."""

from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.training.figures import EvaluateFigures, TrainFigures
from tests.paths import EXAMPLES

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
SMALL = ["train.steps=2", "train.precision=fp32", "train.workers=1", "evaluate.precision=fp32", "evaluate.bootstrap=50"]


def run(path: Path, store: Path, base: str, *settings: str) -> tuple[TrainFigures, EvaluateFigures]:
    sets = [f"store={store}", f"train.model={base}", *SMALL, *settings]
    assert main(["run", str(path), *(part for one in sets for part in ("--set", one))]) == 0
    _, works = open_recipe(path, sets)
    made = Store(str(store))
    return (
        TrainFigures.read(made.figures(works["train"].output)),
        EvaluateFigures.read(made.figures(works["evaluate"].output)),
    )


def part(name: str, section: str, folder: Path) -> Path:
    """The recipe from a section on. A real engine makes the parts before it small, with those of the other recipes."""
    whole = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    recipe = folder / f"{name}.toml"
    text = whole[whole.index(f"\n[{section}]") :].replace('"data/', f'"{EXAMPLES}/data/')
    recipe.write_text(text, encoding="utf-8")
    return recipe


def test_the_example_of_reviews_trains_on_what_lift_passes_on(tmp_path: Path, bases: dict[str, str]) -> None:
    settings = ["lift.probe.features=characters", "lift.bootstrap=200", "train.tuning.last_layers=1"]
    trained, found = run(part("reviews", "lift", tmp_path), tmp_path / "store", bases["bert"], *settings)
    assert trained.rows >= 6, "the seeds, and more if an arm helps, which character n-grams need not show"
    [suite] = found.suites
    assert (suite.suite, suite.items, suite.made) == ("reviews", 160, True)
    base, tuned = suite.models
    assert all({"accuracy", "macro_f1", "roc_auc"} <= one.measures.keys() for one in (base, tuned))


@pytest.mark.long
def test_the_example_of_entities_trains_on_seeds_and_their_variants(tmp_path: Path, bases: dict[str, str]) -> None:
    settings = ["generate.methods.0.min_cosine=0", 'select.steps=[{kind = "exact"}]', "train.tuning.last_layers=1"]
    trained, found = run(EXAMPLES / "entities.toml", tmp_path / "store", bases["bert"], *settings)
    built, seeds = trained.mixture
    assert (seeds["samples"] + trained.holdout >= 30, built["samples"] > seeds["samples"]) == (True, True)
    assert not {reason for reason in trained.drop_reasons if "entit" in reason}, "every variant has its entities"
    [suite] = found.suites
    assert (suite.suite, suite.items) == ("names", 107)
    assert all(0 <= one.measures["micro_f1"] <= 1 for one in suite.models)


@pytest.mark.long
def test_the_example_of_answers_trains_and_asks_a_head(tmp_path: Path, bases: dict[str, str]) -> None:
    seeds = f"{EXAMPLES}/data/question_answering_seeds.jsonl"
    settings = [f"train.input={seeds}", "train.mixture=[]", "train.max_length=128", "evaluate.against=[]"]
    recipe = part("question_answering", "train", tmp_path)
    trained, found = run(recipe, tmp_path / "store", bases["bert"], *settings)
    assert trained.kept + trained.holdout == 16 and not trained.drop_reasons
    [suite] = found.suites
    assert (suite.suite, suite.items) == ("answers", 28)
    assert all(0 <= one.measures["exact"] <= one.value <= 1 for one in suite.models)
