"""One whole train job in a process of its own, which the tests kill: python -m tests.training.drive STORE SETTINGS."""

import json
import sys

from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training.job import Train


def train(root: str, settings: dict[str, object], samples: str = "select-000000000000") -> str:
    """Make the model of these settings in a store and return its folder's name; Ray must be up."""
    store, job = Store(root), Train.model_validate(settings)
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), f"{root}/runs/test/logs")
    work = Work(f"train-{job.fingerprint()[:12]}", job.fingerprint(), {"samples": samples})
    job.make(run, work)
    return work.output


if __name__ == "__main__":
    with session(None, 2, 0, dashboard=True):
        train(sys.argv[1], json.loads(sys.argv[2]))
