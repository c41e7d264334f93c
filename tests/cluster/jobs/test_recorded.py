"""The end of a run that failed: what the ledger and the user are told."""

import json

import pytest
from ray.exceptions import RayTaskError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.run import _recorded
from gristmill.cluster.store.store import Store
from tests.generation.ground import a_run


def test_an_error_of_a_process_is_told_without_its_traceback(store: Store) -> None:
    error = RayTaskError("open", "Traceback: many lines", JobError("lift.seeds: 1 label, must be two or more"))
    run = a_run(store)
    with pytest.raises(JobError) as caught, _recorded(run, ["lift"]):
        raise error.as_instanceof_cause()
    assert str(caught.value) == "lift.seeds: 1 label, must be two or more"
    assert not isinstance(caught.value, RayTaskError)
    assert json.loads(run.ledger.lines[-1])["error"] == str(caught.value)
