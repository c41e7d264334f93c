"""The decision of an evaluation, computed again from what is stored: the items, and the values of each model."""

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites import compare, looks
from gristmill.training.evaluate.suites.freeze import opened
from gristmill.training.evaluate.suites.values import gathered
from gristmill.training.figures import EvaluateFigures
from gristmill.training.gate.rule import Decision


def decided(store: Store, evaluation: str) -> Decision:
    """Return the decision of a complete evaluation, from its ITEMS and its suites.

    Of its figures only the names of the suites' folders and the numbers of items near rows trained on are read.

    Raises:
        JobError: if the evaluation has no gate.
        StoreError: if a part of it is absent or was altered.
    """
    manifest = store.manifest(evaluation)
    job = Evaluate.model_validate(manifest.settings)
    if job.gate is None:
        raise JobError(f"{evaluation}: has no gate, must have one to decide")
    said = EvaluateFigures.read(store.figures(evaluation)).suites
    suites = [looks.in_blocks(opened(store, one.suite, job.suites[one.suite], one.folder), job.gate) for one in said]
    values = gathered(store, evaluation, manifest.shards, suites)
    near = {one.suite: (one.contaminated, one.leaks) for one in said}
    models, draws = [one.model for one in said[0].models], compare.Draws(job.bootstrap, job.seed)
    found = looks.look(
        suites, models, job.gate, lambda some, of: compare.compare(some, models, of, near, draws), lambda _: values
    )[1]
    assert found is not None
    return found
