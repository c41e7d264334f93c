"""The recipes of `examples/`: each loads and can be planned, and together they use every method and filter."""

from pathlib import Path

import pytest

from gristmill.cluster.cli.explain import classes
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.generation.filters import AnyFilter
from gristmill.generation.job import Generate
from gristmill.generation.methods import AnyMethod
from gristmill.selection.job import Select
from gristmill.selection.selectors import AnySelector
from tests.paths import EXAMPLES

RECIPES = sorted(EXAMPLES.glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_can_be_planned(path: Path, tmp_path: Path) -> None:
    recipe, works = open_recipe(path, [f"store={tmp_path}"])
    store = Store(recipe.store)
    for name, job in recipe.jobs.items():
        assert job.plan(store, works[name]).state == "to do"


def kinds(union: object) -> set[str]:
    return {str(step.model_fields["kind"].default) for step in classes(union)}


def test_every_method_and_filter_stands_in_some_recipe() -> None:
    jobs = [job for path in RECIPES for job in open_recipe(path)[0].jobs.values() if isinstance(job, Generate)]
    assert {method.kind for job in jobs for method in job.methods} == kinds(AnyMethod)
    without_model = {"reward"}  # needs a classifier of one's own; its tests bring one
    assert {step.kind for job in jobs for step in job.filters} == kinds(AnyFilter) - without_model


def test_every_selector_stands_in_some_recipe() -> None:
    jobs = [job for path in RECIPES for job in open_recipe(path)[0].jobs.values() if isinstance(job, Select)]
    assert {step.kind for job in jobs for step in job.steps} == kinds(AnySelector)
