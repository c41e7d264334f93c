"""SIGTERM, SIGHUP and Ctrl-C end a run alike, whatever it is doing, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.store.store import Store
from tests.cluster.runtime.test_session import processes_of
from tests.invariants import samples_of

pytestmark = pytest.mark.ray

RECIPE = """
name = "interrupted"
store = "{store}"
[cluster]
num_cpus = 1
num_gpus = 0

[generate]
input = "seeds.jsonl"
target = 120
shard_size = 8
filters = []

[generate.engine]
cpus = 1
"""
TOPICS = ("age", "air", "bar", "end", "sea", "sun")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    seeds = [
        {"messages": [{"role": "user", "content": f"Write of the {topic}"}, {"role": "assistant", "content": "Well."}]}
        for topic in TOPICS
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(json.dumps(seed) for seed in seeds))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(store=tmp_path / "store"))
    return tmp_path / "recipe.toml"


def start(recipe: Path, seconds: float) -> "subprocess.Popen[str]":
    """Start a run in a process of its own whose engine takes so long for each request."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.generation.drive", str(recipe), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def homes(pid: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"gristmill-{pid}-*"))


def events(recipe: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for ledger in (recipe.parent / "store").glob("runs/*/ledger.jsonl")
        for line in ledger.read_text().splitlines()
    ]


def has_folder(pid: int, recipe: Path) -> bool:
    del recipe
    return bool(homes(pid))


def has_raylet(pid: int, recipe: Path) -> bool:
    del recipe
    return bool(homes(pid)) and any(
        b"raylet/raylet" in Path(f"/proc/{found}/cmdline").read_bytes() for found in processes_of(str(homes(pid)[0]))
    )


def has_work(pid: int, recipe: Path) -> bool:
    del pid
    return any(event["event"] == "shard_done" for event in events(recipe))


def wait_until(moment: Callable[[int, Path], bool], driver: "subprocess.Popen[str]", recipe: Path) -> None:
    deadline = time.monotonic() + 120
    while not moment(driver.pid, recipe):
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_end(driver: "subprocess.Popen[str]", recipe: Path, folder: Path, name: str) -> None:
    _, said = driver.communicate(timeout=60)
    assert said == f"gristmill: interrupted by {name}; the same command continues after what is committed\n"
    assert driver.returncode == 75
    assert events(recipe)[-1]["event"] == "run_stopped"
    assert events(recipe)[-1]["error"] == f"interrupted by {name}"
    assert processes_of(str(folder)) == []
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, has_folder),
        pytest.param(signal.SIGINT, has_raylet, marks=pytest.mark.long),
        (signal.SIGINT, has_work),
        pytest.param(signal.SIGHUP, has_work, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_the_run_in_order(
    number: signal.Signals, moment: Callable[[int, Path], bool], recipe: Path
) -> None:
    driver = start(recipe, seconds=0.3)
    wait_until(moment, driver, recipe)
    [folder] = homes(driver.pid)
    driver.send_signal(number)
    check_end(driver, recipe, folder, number.name)


def test_a_second_signal_during_the_shutdown_changes_nothing_and_the_same_command_finishes(recipe: Path) -> None:
    driver = start(recipe, seconds=0.3)
    wait_until(has_work, driver, recipe)
    [folder] = homes(driver.pid)
    driver.send_signal(signal.SIGTERM)
    time.sleep(1)  # Ray is shutting down, and has given SIGTERM its default action
    driver.send_signal(signal.SIGTERM)
    check_end(driver, recipe, folder, "SIGTERM")
    with start(recipe, seconds=0) as again:
        _, said = again.communicate(timeout=180)
    assert (again.returncode, said) == (0, "")
    assert events(recipe)[-1]["event"] == "run_done"
    store = Store(str(recipe.parent / "store"))
    [output] = [name for name in store.names() if name.startswith("generate-")]
    rows = samples_of(store, output)
    assert sum(row.dropped is None for row in rows) == 120
    assert len({row.id for row in rows}) == len(rows)
