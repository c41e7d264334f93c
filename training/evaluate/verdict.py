"""The decision of an evaluation, computed again from what is stored: the items, and the values of each model."""

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites import compare
from gristmill.training.evaluate.suites.freeze import opened
from gristmill.training.evaluate.suites.values import gathered
from gristmill.training.figures import EvaluateFigures
from gristmill.training.gate import Decision, decide


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
    suites = [opened(store, one.suite, job.suites[one.suite], one.folder) for one in said]
    values = gathered(store, evaluation, manifest.shards, suites)
    near = {one.suite: (one.contaminated, one.leaks) for one in said}
    models = [one.model for one in said[0].models]
    compared = compare.compare(suites, models, values, near, compare.Draws(job.bootstrap, job.seed))
    return decide(job.gate, compare.trials(suites, models[:2], values, compared))
