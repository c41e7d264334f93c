"""What a process needs: as set, else by the cluster that is up, and what can never be placed."""

import os
import threading
import time

import pytest

from gristmill.cluster.contract.errors import BusyError, JobError
from gristmill.cluster.runtime.activity import waits
from gristmill.cluster.runtime.resources import Need, await_room, call, need_of, release, require, reserve, spawn


class Where:
    def cores(self) -> int:
        """How many cores Ray counts for this process."""
        import ray

        return int(ray.get_runtime_context().get_assigned_resources()["CPU"])


def pid() -> int:
    return os.getpid()


def test_needs_are_as_set_and_the_rest_is_shared() -> None:
    assert need_of("x.gpus", 3, 0) == Need(3)
    assert need_of("x.gpus", None, 2) == Need(1, 2)
    assert need_of("x.gpus", None, None).gpus == 0
    assert need_of("x.gpus", None, None, 10_000) == Need(1)


def test_gpus_are_named_only_where_there_are_any() -> None:
    assert Need(2).bundle() == {"CPU": 2}
    assert Need(2, 0.5).bundle() == {"CPU": 2, "GPU": 0.5}


@pytest.mark.ray
def test_a_process_gets_what_it_needs(ray_session: None) -> None:
    import ray

    assert need_of("x.gpus", None, None) == Need(2)
    actor = spawn(Where, Need(2))
    assert ray.get(actor.cores.remote()) == 2
    ray.kill(actor)
    assert call(pid, Need(1)) != os.getpid()


@pytest.mark.ray
def test_asking_for_more_than_the_cluster_has_is_refused_with_both_numbers(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    with pytest.raises(JobError, match="needs 64 CPU, the cluster has 2"):
        require("generate.engine", [Need(32)] * 2)
    with pytest.raises(JobError, match="needs 1 GPU, the cluster has 0"):
        require("generate.engine", [Need(1, 1)])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0})  # of many machines of two cores
    with pytest.raises(JobError, match="needs 3 CPU on one machine, and no machine has them"):
        require("generate.engine", [Need(3)])


@pytest.mark.ray
def test_a_job_waits_for_room_and_then_ends_with_what_is_free(
    ray_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process holds both cores, for longer than the job waits, and then for less."""
    groups = reserve("generate.engine", [Need(1), Need(1)], 60)
    busy = r"train.workers: needs 1 places of 1 cores .* gave 0 within 2 s .*cluster.wait_s"
    with pytest.raises(BusyError, match=busy):
        await_room("train.workers", [Need(1)], 0)
    seen: list[str] = []

    def let_go() -> None:
        deadline = time.monotonic() + 60
        while not waits() and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.extend(wait.what for wait in waits())
        release(groups)

    other = threading.Thread(target=let_go)
    other.start()
    await_room("train.workers", [Need(2)], 120)
    other.join()
    assert seen == ["2 cores and 0 GPUs of train.workers"] and waits() == ()
    assert "train.workers: waiting for 2 cores and 0 GPUs, which are in use, at most 120 s" in caplog.text
    assert call(pid, Need(2)) != os.getpid(), "the places were given back"
