"""The heartbeat: what a run does, when it last got further, what it waits for, and what its age says."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.cli.text import beat_lines, listing, listing_lines, run_lines
from gristmill.cluster.jobs import heartbeat
from gristmill.cluster.jobs.heartbeat import HEARTBEAT, Beat, RunMetrics, beating, read
from gristmill.cluster.jobs.state import json_of, state_of
from gristmill.cluster.runtime.activity import Activity, Step, Wait, waiting, waits
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.ledger import Ledger, lock
from gristmill.cluster.store.store import Store
from tests.generation.ground import a_run

FOLDER = "runs/mill-1"


def until(found: Callable[[], Any], seconds: float = 30) -> Any:
    """What `found` returns, once it is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


@pytest.fixture
def running(store: Store) -> Iterator[Store]:
    """A store with a run that this process executes."""
    store.write_json({"name": "mill"}, FOLDER, "recipe.json")
    Ledger(store, FOLDER).append("run_started", jobs=["select"])
    Ledger(store, FOLDER).append("job_started", job="select", output="select-1")
    with lock(store, FOLDER):
        yield store


def beat(now: float, **step: Any) -> Beat:
    return Beat(now, 7, "node-3", Step("train", progressed=now, **step))


def test_only_what_moves_is_progress() -> None:
    activity = Activity()
    activity.begin("generate")
    begun = activity.step.progressed
    time.sleep(0.01)
    activity.advance("generate", 0, 100, "starting the engine")
    first = activity.step.progressed
    assert first > begun, "another stage"
    time.sleep(0.01)
    activity.advance("generate", 0, 100, "3 tokens/s")
    assert activity.step.progressed == first and activity.step.note == "3 tokens/s"
    activity.advance("generate", 0, 100, "3 tokens/s", work=9)
    second = activity.step.progressed
    assert second > first, "tokens, in a row that is not done"
    time.sleep(0.01)
    activity.advance("generate", 1, 100, "", work=9)
    assert activity.step.progressed > second


def test_waits_end_with_their_block_also_if_it_fails() -> None:
    with waiting("room", "8 GPUs"), waiting("dataset", "generate-1"):
        assert [(wait.reason, wait.what) for wait in waits()] == [("room", "8 GPUs"), ("dataset", "generate-1")]
    with pytest.raises(ValueError, match="no"), waiting("room", "8 GPUs"):
        raise ValueError("no")
    assert waits() == ()


def test_the_bars_of_a_run_are_its_heartbeat_which_ends_with_it(running: Store) -> None:
    run = replace(a_run(running), screen=Screen(quiet=True))
    run.screen.activity.begin("select")
    with beating(run, FOLDER), run.screen.bar("select", total=4) as bar:
        bar.update(3, "exact: 9 left")
        found = until(lambda: read(running, FOLDER))
        assert found.step.stage in ("", "select") and found.process and found.machine
        assert state_of(running, "mill-1").state == "running"
    assert not running.exists(FOLDER, HEARTBEAT)


def test_show_says_what_a_run_does_and_waits_for_and_since_when(running: Store) -> None:
    now = time.time()
    said = replace(
        beat(now, stage="train: steps", done=40, total=1200, note="loss 2.1"),
        waiting=(Wait("room", "8 cores and 8 GPUs of train.workers", now - 132),),
    )
    running.write_json(asdict(said), FOLDER, HEARTBEAT)
    lines = list(run_lines(running, "mill-1"))
    assert lines[0] == "mill-1: running"
    assert lines[1] == "  train: steps: 40 of 1,200, loss 2.1"
    assert lines[2].startswith("  last progress ") and lines[2].endswith(" s ago")
    since = time.strftime("%H:%M:%S", time.localtime(now - 132))
    assert lines[3] == f"  waiting for 8 cores and 8 GPUs of train.workers since {since}"
    value = json_of(running, "mill-1")
    assert value["exit_code"] is None and value["jobs"]["select"]["state"] == "running"
    assert value["heartbeat"]["waiting"][0]["reason"] == "room"
    assert 0 <= value["heartbeat"]["progress_age_s"] < 60
    shown = list(listing_lines(listing(running, ["mill-1"])))
    assert "last progress" in shown[0] and " s ago" in shown[1]


def test_a_driver_that_is_alive_and_silent_hangs() -> None:
    now = time.time()
    assert [line for line in beat_lines(beat(now - 50), now) if "hangs" in line] == []
    (hangs,) = [line for line in beat_lines(beat(now - 300, done=1), now) if "hangs" in line]
    assert hangs == "  no heartbeat of process 7 of node-3 since 300 s: it hangs"
    assert next(line for line in beat_lines(beat(now - 300), now) if "progress" in line) == "  last progress 5 min ago"
    assert list(beat_lines(None, now)) == ["  no heartbeat yet"]


def test_a_damaged_heartbeat_is_named_and_does_not_hide_the_run(
    running: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for text in (
        b"",
        b"{",
        b"[]",
        b'{"time": "x"}',
        b'{"time": 1, "process": 1, "machine": "a", "step": {"done": {}}}',
    ):
        running.write_bytes(text, FOLDER, HEARTBEAT)
        caplog.clear()
        assert "  no heartbeat yet" in list(run_lines(running, "mill-1"))
        assert HEARTBEAT in caplog.text


def test_a_loss_without_a_finite_value_is_not_in_the_file(running: Store) -> None:
    run = a_run(running)
    run.screen.activity.advance("train: steps", 1, 9, "", figures={"loss": float("nan"), "tokens_per_s": 3.0})
    with beating(run, FOLDER):
        found = until(lambda: read(running, FOLDER))
        assert found.step.figures == {"tokens_per_s": 3.0}
        assert "NaN" not in json.dumps(json_of(running, "mill-1"))


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_run(
    running: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    (running.folder(FOLDER) / HEARTBEAT).mkdir()  # a folder of that name: no file can take its place
    with beating(a_run(running), FOLDER):
        until(lambda: "cannot be written" in caplog.text)
        time.sleep(0.1)
    assert caplog.text.count("cannot be written") == 1


def test_a_run_that_waits_for_another_process_says_so_from_outside(
    running: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is this one: a lease belongs to an open file."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)

    def wait() -> None:
        with beating(a_run(running), FOLDER), making(running, "select-1", say=lambda line: None):
            pass

    with making(running, "select-1", say=print):
        run = threading.Thread(target=wait)
        run.start()

        def held() -> Any:
            assert main(["show", "mill-1", "--json", "--store", str(running.local)]) == 0
            value = json.loads(capsys.readouterr().out)
            assert value["schema"] == 1 and value["run"] == "mill-1"
            return value["heartbeat"] and value["heartbeat"]["waiting"]

        (found,) = until(held)
        assert found["reason"] == "dataset" and found["what"] == "select-1, which another process makes"
    run.join(60)
    assert waits() == ()


def test_metrics_are_those_of_the_heartbeat_and_a_wait_that_is_over_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    import ray.util.metrics as of_ray

    values: dict[tuple[str, ...], float] = {}

    class Heard:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description.endswith(".")
            self.name, self.keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.keys)
            values[self.name, *tags.values()] = value

    monkeypatch.setattr(of_ray, "Gauge", Heard)
    metrics, now = RunMetrics("mill-1"), time.time()
    said = beat(now, stage="train: steps", done=4, total=9, figures={"loss": 2.5})
    metrics.update(replace(said, waiting=(Wait("room", "x", now - 30), Wait("room", "y", now - 60))))
    assert values == {}, "without Ray there are none"
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    metrics.update(replace(said, waiting=(Wait("room", "x", now - 30), Wait("room", "y", now - 60))))
    assert values["gristmill_run_done", "mill-1", "train: steps"] == 4
    assert values["gristmill_train_loss", "mill-1"] == 2.5
    assert values["gristmill_run_waiting_seconds", "mill-1", "room"] == pytest.approx(60)
    assert values["gristmill_run_progress_timestamp_seconds", "mill-1"] == now
    assert values["gristmill_run_driver_memory_bytes", "mill-1"] > 1e6
    metrics.update(said)
    assert values["gristmill_run_waiting_seconds", "mill-1", "room"] == 0


def test_a_ray_that_another_thread_is_just_importing_has_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    metrics = RunMetrics("mill-1")
    metrics.update(beat(time.time()))
    assert not metrics._gauges
