"""Deaths in one line: the figures of Ray's own text, texts without them, and whole sessions whose memory is full."""

import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.models.engine import Engine
from gristmill.cluster.runtime import deaths
from gristmill.cluster.runtime.deaths import Memory
from tests.paths import ROOT

TEXT = (Path(__file__).parent / "out_of_memory.txt").read_text(encoding="utf-8")
"""What Ray 2.60 said of an actor that it ended; only the folders and names of programs were changed."""


def killed(text: str) -> Exception:
    from ray.exceptions import OutOfMemoryError

    error: Exception = OutOfMemoryError(text)
    return error


def test_the_figures_of_rays_text_are_found() -> None:
    top = (("ray::A.fill", 0.56), ("python fill.py", 0.09), ("ray::DashboardAgent", 0.07))
    assert deaths.parse(TEXT) == Memory(1.99, 23.54, top)


def test_a_death_for_full_memory_is_one_line_with_figures() -> None:
    assert deaths.ended("worker 0", killed(TEXT)) == (
        "Ray ended worker 0 because the machine's memory was full "
        "(2.0 of 23.5 GiB; most in ray::A.fill 0.6, python fill.py 0.1, ray::DashboardAgent 0.1 GiB)"
    )
    short = "Ray ended worker 0 because the machine's memory was full (2.0 of 23.5 GiB)"
    assert deaths.ended("worker 0", killed(TEXT), top=False) == short


def test_a_text_without_processes_gives_the_figures_alone() -> None:
    text = TEXT.split("Top 10 memory users")[0]
    assert deaths.parse(text) == Memory(1.99, 23.54)
    assert deaths.ended("it", killed(text)) == "Ray ended it because the machine's memory was full (2.0 of 23.5 GiB)"


def test_a_text_in_other_words_is_replaced_by_what_is_measured() -> None:
    assert deaths.parse("the node had no memory left") is None
    line = deaths.ended("worker 1", killed("the node\nhad no memory left"))
    assert line.startswith("Ray ended worker 1 because the machine's memory was full")
    assert "\n" not in line
    memory = deaths.measure()
    assert memory is None or 0 < memory.used < memory.limit


def test_any_other_death_is_one_line_of_limited_length() -> None:
    from ray.exceptions import ActorUnavailableError, NodeDiedError, RayTaskError, WorkerCrashedError

    line = deaths.ended("worker 0", ActorUnavailableError("lost\n\tits way " * 99, None))
    assert line.startswith("worker 0 died: The actor None is unavailable: lost its way")
    assert len(line) < deaths.LONGEST + 20
    assert isinstance(NodeDiedError("gone"), deaths.deaths())
    assert isinstance(WorkerCrashedError(), deaths.deaths())
    assert not issubclass(RayTaskError, deaths.deaths())


def test_only_settings_that_can_be_lowered_are_advised() -> None:
    engine = Engine(actors=1, kv_cache_gib=4)
    found = deaths.lowerable("generate.engine", engine, "kv_cache_gib", "max_num_seqs", "actors")
    assert found == "generate.engine.kv_cache_gib (4), generate.engine.max_num_seqs (256)"
    assert deaths.advice("") == "end other programs, or use a machine with more memory"


def fill(folder: Path, lives: int, count: int) -> "subprocess.CompletedProcess[str]":
    """Run a pool whose worker fills the memory in so many lives, on so many numbers."""
    free = next(line for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if "MemAvail" in line)
    if int(free.split()[1]) < 8 * 2**20:
        pytest.skip("needs 8 GiB of free memory")
    command = [sys.executable, "-m", "tests.cluster.runtime.fill", str(folder), str(lives), str(count)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)


def log_of(folder: Path) -> str:
    return (folder / "logs" / "driver.log").read_text(encoding="utf-8")


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_a_worker_that_ray_ends_for_full_memory_comes_back_and_no_piece_is_blamed(tmp_path: Path) -> None:
    ended = fill(tmp_path, 1, 6)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{[(n, n * n) for n in range(6)]}\n"
    lines = ended.stderr.splitlines()
    assert lines
    for line in lines:  # one a death: it may be two, where other programs take memory meanwhile
        assert line.startswith("square: Ray ended worker 0 because the machine's memory was full (")
        assert line.endswith(" GiB); started again")
    assert "Top 10 memory users" in log_of(tmp_path)


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_memory_that_is_full_again_and_again_ends_the_run_in_one_line_with_figures_and_advice(tmp_path: Path) -> None:
    ended = fill(tmp_path, 99, 1)
    assert ended.returncode == 1, ended.stderr
    assert not ended.stdout
    first, second, line = ended.stderr.splitlines()
    assert first.endswith("started again")
    assert second.endswith("started again")
    assert line.startswith("gristmill: square: 3 deaths with nothing finished in between, the last: Ray ended worker 0")
    assert " GiB; most in " in line
    assert line.endswith("; lower square.actors (2), or end other programs")
