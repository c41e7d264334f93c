"""A suite that real engines answer, its driver and an engine killed meanwhile: nothing is lost or asked again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gristmill.cluster.store.store import Shard, Store
from gristmill.training.evaluate.suites import ask, items
from tests.training.conftest import dataset
from tests.training.evaluate.drive import PART, evaluate
from tests.training.evaluate.test_suites_flow import ASKED, SMALL, a_training, chat

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
ITEMS = 40


def answers(store: Store) -> dict[str, Shard]:
    """Return the parts with answers that are committed, by the names of their files."""
    complete = store.complete("evaluate-x")
    shards = store.manifest("evaluate-x").shards if complete else store.committed("evaluate-x").values()
    return {one.name: one for one in shards if one.name.startswith(ask.ANSWERS)}


def when(holds: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something once as soon as something holds."""

    def watch() -> None:
        while not holds():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def engine() -> psutil.Process:
    """Return the process of the engine that this test's Ray runs."""
    every = psutil.Process().children(recursive=True)
    [found] = [one for one in every if "ray::EngineActor" in "".join(one.cmdline()[:1])]
    return found


def asked(store: Store, run: str) -> list[str]:
    """Return the parts that a run asked and committed, in their order."""
    lines = (json.loads(line) for line in (store.folder(f"runs/{run}") / "ledger.jsonl").read_text().splitlines())
    return [
        line["shard"]
        for line in lines
        if line.get("event") == "shard_done" and str(line["shard"]).startswith(ask.ANSWERS)
    ]


@pytest.mark.long
def test_a_killed_driver_and_a_killed_engine_change_no_answer(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "AT_ONCE", PART)
    store = Store(str(tmp_path / "store"))
    rows = [chat(ASKED, "the elbe"), *(chat(f"Which lake is number {n}?", f"Como {n}") for n in range(ITEMS - 1))]
    suite = {"kind": "exact_match", "input": "rivers.jsonl", "max_tokens": 48}
    settings: dict[str, Any] = {
        "precision": "fp32", "smoke_prompts": 0, "bootstrap": 200, "suites": {"rivers": suite}, "engine": SMALL,
        "inputs": {"model": a_training(store, tiny), "suites.rivers": dataset(store, rows, "ingest-000000000001")},
    }  # fmt: skip
    unbroken = evaluate(store.uri, settings, "evaluate-y", "unbroken")

    command = [sys.executable, "-m", "tests.training.evaluate.drive", store.uri, json.dumps(settings)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        when(lambda: len(answers(store)) >= 3, driver.kill)
        assert driver.wait(300) == -signal.SIGKILL
    before = answers(store)
    parts = 2 * ITEMS // PART
    assert 3 <= len(before) < parts and not store.complete("evaluate-x")

    dead: list[int] = []

    def kill() -> None:
        dead.append(engine().pid)
        os.kill(dead[0], signal.SIGKILL)

    killer = when(lambda: len(answers(store)) >= len(before) + 3, kill)
    figures = evaluate(store.uri, settings, "evaluate-x", "again")
    killer.join(1)
    assert dead and not psutil.pid_exists(dead[0]), "the engine was not killed"
    after = answers(store)
    assert {name: after[name] for name in before} == before, "a part was written again"
    assert sorted(asked(store, "again")) == sorted(after.keys() - before.keys()) and len(after) == parts
    table, other = (items.read(store, name) for name in ("evaluate-x", "evaluate-y"))
    key = [(name, "ascending") for name in ("model", "suite", "item", "scorer")]
    assert table.sort_by(key).equals(other.sort_by(key))
    assert figures.suites == unbroken.suites and figures.suites[0].models[1].better == 1
    assert (figures.loss_before, figures.loss_after) == (unbroken.loss_before, unbroken.loss_after)
