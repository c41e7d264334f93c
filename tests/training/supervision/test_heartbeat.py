"""Hung workers are found, and workers that are only slow are not, by real processes and by arithmetic."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.training.supervision import heartbeat
from gristmill.training.supervision.failures import end_process
from gristmill.training.supervision.heartbeat import Beat, Watch
from tests.paths import ROOT

BEAT = Beat(0, 7, "n", 1, 3, "step", 12, 4.0, 1.5, 0.0, 0)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Two processes that beat and never finish their fourth step."""
    command = [sys.executable, "-m", "tests.training.supervision.lonely", str(tmp_path)]
    started = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(2)]
    deadline = time.monotonic() + 60
    while len([b for b in heartbeat.read(tmp_path).values() if b.step == 4]) < 2:
        assert time.monotonic() < deadline, "they do not beat"
        time.sleep(0.05)
    yield started
    for process in started:
        end_process(process.pid)
        process.wait()


def watched(folder: Path, timeout: float, most: float) -> heartbeat.Hang | None:
    watch, began = Watch(timeout), time.monotonic()
    while time.monotonic() - began < most:
        if hang := watch.look(heartbeat.read(folder), time.monotonic()):
            return hang
        time.sleep(0.05)
    return None


def test_a_stopped_process_hangs_alone_and_ends_all_the_same(
    two: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    os.kill(two[1].pid, signal.SIGSTOP)
    hang = watched(tmp_path, 1.0, 10)
    assert hang == heartbeat.Hang((1,), f"worker 1 (process {two[1].pid}) has not answered for 1 s")
    end_process(two[1].pid)
    assert two[1].wait(10) == -signal.SIGKILL
    end_process(two[1].pid)  # it is gone, which is no error


def test_a_loop_that_never_returns_hangs_although_the_process_beats(
    two: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    assert len(two) == 2
    hang = watched(tmp_path, 1.5, 30)
    assert hang is not None and hang.ranks == (0, 1)
    assert "in the phase `step` of step 4 for " in hang.what and "; before, it took at most 0." in hang.what


def looks(watch: Watch, beats: list[Beat], every: float) -> list[bool]:
    return [watch.look({0: beat}, n * every) is not None for n, beat in enumerate(beats)]


def test_a_step_may_take_five_times_as_long_as_those_before_it() -> None:
    alive = [replace(BEAT, count=n, usual_s=40.0) for n in range(120)]
    found = looks(Watch(90), alive, 2.0)
    assert found.index(True) == 101, "200 s are over at the 101st look of 2 s each"


def test_a_phase_that_is_not_measured_may_take_half_an_hour() -> None:
    for phase in ("start", "step", "save", "export"):
        alive = [replace(BEAT, count=n, phase=phase, usual_s=0.0) for n in range(1000)]
        assert looks(Watch(90), alive, 2.0).index(True) == 901, phase


def test_a_worker_that_is_done_and_a_timeout_of_zero_never_hang() -> None:
    assert not any(looks(Watch(90), [replace(BEAT, phase="end")] * 500, 5.0))
    assert not any(looks(Watch(0), [BEAT] * 500, 5.0))


def test_the_time_in_which_the_driver_was_stopped_does_not_count() -> None:
    watch = Watch(90)
    assert watch.look({0: BEAT}, 0.0) is None
    for hour in range(1, 10):
        assert watch.look({0: BEAT}, 3600.0 * hour) is None
    assert watch.look({0: replace(BEAT, count=2)}, 36_001.0) is None


def test_what_is_usual_leaves_out_the_first_and_what_is_long_ago() -> None:
    assert heartbeat.usual([]) == heartbeat.usual([99.0]) == 0.0
    assert heartbeat.usual([99.0, 1.0, 3.0, 2.0]) == 3.0
    assert heartbeat.usual([99.0, 50.0, *[1.0] * heartbeat.RECENT]) == 1.0


def test_a_file_of_another_version_or_in_part_is_no_beat(tmp_path: Path) -> None:
    heart = heartbeat.Heartbeat(tmp_path, 3, "n", 60.0)
    (tmp_path / heartbeat.FOLDER / "rank-00000.json").write_text('{"rank": 0}')
    (tmp_path / heartbeat.FOLDER / "rank-00001.json").write_text('{"ra')
    found = heartbeat.read(tmp_path)
    assert found.keys() == {3} and found[3].pid == os.getpid()
    assert 0.01 < found[3].peak_gib < 64
    heart.end()
    assert heartbeat.read(tmp_path)[3].phase == "end"
    heartbeat.forget(tmp_path)
    assert heartbeat.read(tmp_path) == {}


def test_the_begin_of_a_checkpoint_is_written_soon(tmp_path: Path) -> None:
    heart = heartbeat.Heartbeat(tmp_path, 0, "n", 600.0)
    heart.enter("save", 3)
    deadline = time.monotonic() + 30
    while heartbeat.read(tmp_path)[0].phase != "save":
        assert time.monotonic() < deadline, "only the clock writes"
        time.sleep(0.01)
    heart.end()
    assert heartbeat.read(tmp_path)[0].phase == "end"
