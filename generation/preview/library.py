"""A preview for Python callers: a few samples of a recipe with every prompt, reply and verdict. Nothing is kept."""

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.library import Given
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.runtime.progress import Screen
from gristmill.generation.preview import record


def preview(recipe: Given, n: int = 5, *overrides: str, quiet: bool = False) -> record.Preview:
    """Make `n` draws of a recipe's `[generate]` with its real engine; return the samples with all prompts and replies.

    Raises:
        JobError: when the recipe generates nothing, or is wrong.
    """
    loaded, works = open_recipe(recipe, overrides)
    if "generate" not in works:
        raise JobError(f"{loaded.path}: has no section [generate], must have one to be previewed")
    if n < 1:
        raise JobError(f"preview: {n} draws, must be at least 1")
    return record.preview(loaded, works["generate"], n, Screen(quiet=quiet))
