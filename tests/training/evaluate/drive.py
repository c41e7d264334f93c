"""One evaluation in its own process, which a test kills: python -m tests.training.evaluate.drive STORE SETTINGS."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites import ask
from gristmill.training.figures import EvaluateFigures

PART = 4
"""Number of items in a part, so that a short suite has many."""


def evaluate(root: str, settings: Mapping[str, Any], output: str, run: str) -> EvaluateFigures:
    """Make an evaluation in a folder of a store; Ray must be up. `inputs` of the settings are those of the job."""
    store = Store(root)
    job = Evaluate.model_validate({name: value for name, value in settings.items() if name != "inputs"})
    made = Run(run, store, Ledger(store, f"runs/{run}"), Screen(quiet=True), f"{root}/runs/{run}/logs")
    return job.make(made, Work(output, job.fingerprint(), dict(settings["inputs"])))


if __name__ == "__main__":
    ask.AT_ONCE = PART
    with session(None, 2, 0, dashboard=True):
        evaluate(sys.argv[1], json.loads(sys.argv[2]), "evaluate-x", "killed")
