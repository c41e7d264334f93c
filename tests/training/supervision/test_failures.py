"""The cause of an end by the errors that Ray Train raises, budgets by cause, and the number of workers by places."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.runtime.resources import Need
from gristmill.training.job import Train
from gristmill.training.supervision import elastic
from gristmill.training.supervision.failures import Failure, failure_of, full
from gristmill.training.supervision.supervisor import Attempts, advice
from gristmill.training.zero import Zero
from tests.training.supervision.test_heartbeat import BEAT


def no_memory() -> list[Exception]:
    """Errors of full memory as they are raised, not as we imagine them."""
    import torch

    found: list[Exception] = []
    for ask in (lambda: torch.empty(1 << 60), lambda: np.empty(1 << 58, np.int8), lambda: bytearray(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        found.append(caught.value)
    return [
        *found,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ]


def test_full_memory_is_recognised_whoever_says_it() -> None:
    from ray.exceptions import OutOfMemoryError

    for error in [*no_memory(), OutOfMemoryError("Task was killed due to the node running low on memory")]:
        assert full(error), error
    for other in (RuntimeError("Connection closed by peer"), ValueError("out of memory"), KeyError("x")):
        assert not full(other), other


def test_full_memory_comes_before_the_errors_of_those_who_waited() -> None:
    from ray.exceptions import OutOfMemoryError
    from ray.train import ControllerError, WorkerGroupError

    lost = RuntimeError("[enforce fail] gloo: Connection closed by peer")
    found = failure_of(WorkerGroupError("two failed", {0: lost, 1: no_memory()[0]}), {1: BEAT})
    assert found.kind == "memory"
    assert found.what.startswith("worker 1 had no more memory at step 12 (RuntimeError: ")
    found = failure_of(ControllerError(OutOfMemoryError("1.9GB used / 2.0GB")), {})
    assert found == Failure("memory", "Ray ended a worker because the machine's memory was full (1.9 of 2.0 GiB)")


def test_a_machine_that_was_taken_back_is_lost() -> None:
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError

    nobody: Any = None
    taken = RayActorError(nobody, "its machine was drained", False, True)
    found = failure_of(WorkerGroupError("it ended", {0: RuntimeError("closed"), 1: taken}), {})
    assert found == Failure("lost", "a machine was taken back")


def test_lost_machines_do_not_use_up_the_budget_of_failures_and_full_memory_has_none() -> None:
    job, attempts = Train(max_failures=1, max_preemptions=2), Attempts()
    lost, code = Failure("lost", ""), Failure("code", "")
    assert [attempts.left(job, one) for one in (lost, code, lost, lost)] == [True, True, True, False]
    assert not attempts.left(job, Failure("hang", "")), "a hang counts as a failure, and one was before"
    assert not Attempts().left(job, Failure("memory", ""))


def test_advice_names_what_continues_before_what_begins_anew() -> None:
    said = advice(Train(micro_batch_size=4, workers=(1, 2)))
    assert said == (
        "set train.gradient_checkpointing = true, or lower train.micro_batch_size (4), or end other programs; what "
        "else helps begins anew: raise train.zero.stage (1), or lower train.max_length (512)"
    )


def test_only_numbers_that_divide_the_batch_are_used(tiny: str) -> None:
    assert Train(workers=(1, 8), global_batch_size=12).worlds == (1, 2, 3, 4, 6)
    assert Train(workers=(1, 8), global_batch_size=12, micro_batch_size=2).worlds == (1, 2, 3, 6)
    assert Train(workers=3, global_batch_size=12).worlds == (3,)
    job = Train(workers=(1, 8), global_batch_size=12, micro_batch_size=2)
    assert [(job.batching(w).accumulation, w) for w in job.worlds] == [(6, 1), (3, 2), (2, 3), (1, 6)]
    for job, said in (
        (Train(model=tiny, workers=(3, 2)), "workers: [3, 2], must be the smallest number, then the largest"),
        (Train(model=tiny, workers=(5, 7)), "global_batch_size: 4 rows, must be a multiple of micro_batch_size x"),
        (Train(model=tiny, workers=(1, 2), zero=Zero(stage=3)), "workers: [1, 2] at zero.stage 3, must be one number"),
    ):
        (found,) = job.check(Path())
        assert found.startswith(said)
    assert Train(workers=(1, 8)).fingerprint() == Train().fingerprint()


def test_places_are_counted_machine_by_machine() -> None:
    two_halves = [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 4.0}]
    assert elastic.room(Need(2.0), two_halves) == 1
    assert elastic.room(Need(1.0, 1.0), two_halves) == 2
    assert elastic.room(Need(0.5), [{"CPU": 1.9999999}, {}]) == 4
    assert [elastic.largest((1, 2, 3, 6), places) for places in (0, 1, 4, 5, 9)] == [0, 1, 3, 3, 6]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_number_follows_the_room_of_the_cluster_and_a_run_without_room_ends_with_what_to_do() -> None:
    assert elastic.choose((1, 2), Need(1.0), wait_s=60) == 2
    assert elastic.choose((1, 4), Need(1.0), wait_s=60, settle_s=0.5) == 1
    with pytest.raises(BusyError, match="room for 2 workers after 1 s, must have room for 3"):
        elastic.choose((3,), Need(1.0), wait_s=1.0, settle_s=0.1)
