"""Real DeepSpeed under real Ray Train: whole runs, killed runs, and what comes out of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites.items import read as read_items
from gristmill.training.figures import TrainFigures
from gristmill.training.loop.journal import METRICS, read_journal
from tests.training.conftest import chats, dataset
from tests.training.drive import train
from tests.training.rehearsal import SAVE_EVERY, STEPS, journal, settings

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
KILL_AT = 30


def shelve(folder: Path) -> Store:
    store = Store(str(folder))
    dataset(store, chats(60))
    return store


def losses_of(lines: list[dict[str, Any]]) -> list[float]:
    assert [m["step"] for m in lines if "step" in m] == list(range(1, STEPS + 1)), "a step is missing or appears twice"
    return [m["loss"] for m in lines if "step" in m] + [m["holdout_loss"] for m in lines if "end" in m]


@pytest.fixture(scope="module")
def unbroken(shelf: Path, tiny: str, ray_session: None) -> tuple[Store, str]:
    """The store and folder of a run that nothing disturbed."""
    store = shelve(shelf / "unbroken")
    return store, train(store.uri, settings(tiny))


def at_step(store: Store, step: int, act: Callable[[Path], None]) -> threading.Thread:
    """Do something as soon as a run in this store has reached a step, unless it does not within five minutes."""

    def watch() -> None:
        for _ in range(6000):
            for folder in Path(store.uri).glob("train-*"):
                if any(m.get("step", 0) >= step for m in read_journal(folder / METRICS)):
                    act(folder)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_run_lowers_the_loss_and_leaves_only_what_it_exports(unbroken: tuple[Store, str]) -> None:
    store, output = unbroken
    figures, lines = TrainFigures.read(store.figures(output)), journal(store, output)
    losses = losses_of(lines)
    assert losses[-1] < losses[0] - 0.5
    assert figures.holdout_loss == losses[-1]
    assert figures.kept + figures.holdout + figures.dropped == 60
    assert figures.starts == 1
    left = {name for name in store.names(output) if name not in ("figures.json", "manifest.json")}
    assert left == {"adapter", "merged", "holdout.arrow", "left_out.json", "metrics.jsonl"}
    names = {shard.name for shard in store.manifest(output).shards}
    assert {"adapter/adapter_model.safetensors", "merged/model.safetensors", "merged/tokenizer.json"} <= names
    for shard in store.manifest(output).shards:
        assert (store.folder(output) / shard.name).stat().st_size == shard.bytes


def test_the_merged_model_speaks_like_base_and_adapter(unbroken: tuple[Store, str], tiny: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = unbroken[0].folder(unbroken[1])
    ids = AutoTokenizer.from_pretrained(str(folder / "merged"))("What follows 3?", return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(tiny).eval()
    merged = AutoModelForCausalLM.from_pretrained(str(folder / "merged")).eval()
    with torch.no_grad():
        plain, whole = base(ids).logits, merged(ids).logits
        adapted = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()(ids).logits
    assert (whole - adapted).abs().max() < 1e-4
    assert (whole - plain).abs().max() > 1e-2, "the adapter changes nothing"


def test_a_killed_worker_changes_no_loss(unbroken: tuple[Store, str], shelf: Path, tiny: str) -> None:
    store = shelve(shelf / "worker")

    def kill(folder: Path) -> None:
        del folder
        said = (Path(store.uri) / "runs/test/logs/train-1.log").read_text()
        os.kill(int(re.findall(r"training\.loop\.worker (\d+): rank 1 starts", said)[-1]), signal.SIGKILL)

    watcher = at_step(store, KILL_AT, kill)
    output = train(store.uri, settings(tiny))
    assert not watcher.is_alive()
    starts = [m["start"] for m in journal(store, output) if "start" in m]
    assert starts[0] == 0
    assert len(starts) == 2, "the worker was not killed while it trained"
    assert starts[1] >= KILL_AT - SAVE_EVERY
    assert losses_of(journal(store, output)) == losses_of(journal(*unbroken))


def test_a_killed_driver_goes_on_from_its_checkpoint(unbroken: tuple[Store, str], shelf: Path, tiny: str) -> None:
    import json

    store = shelve(shelf / "driver")
    command = [sys.executable, "-m", "tests.training.drive", store.uri, json.dumps(settings(tiny))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        at_step(store, KILL_AT, lambda _: driver.kill())
        assert driver.wait(300) == -signal.SIGKILL
    (output,) = [name for name in store.names() if name.startswith("train-")]
    assert not store.complete(output)
    assert train(store.uri, settings(tiny)) == output
    starts = [m["start"] for m in journal(store, output) if "start" in m]
    assert starts[0] == 0
    assert starts[-1] >= KILL_AT - SAVE_EVERY, "it began anew"
    assert losses_of(journal(store, output)) == losses_of(journal(*unbroken))


def test_evaluation_scores_both_models_on_the_rows_held_out(unbroken: tuple[Store, str]) -> None:
    from gristmill.cluster.jobs.job import Run, Work
    from gristmill.cluster.runtime.progress import Screen
    from gristmill.cluster.store.ledger import Ledger

    store, model = unbroken
    job = Evaluate(precision="fp32", smoke_prompts=0)
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), f"{store.uri}/runs/test/logs")
    figures = job.make(run, Work("evaluate-x", job.fingerprint(), job.needs({"train": model})))
    assert store.complete("evaluate-x")
    items = read_items(store, "evaluate-x")
    assert figures.rows == len(set(items["item"].to_pylist())) == store.figures(model)["holdout"]
    assert items.num_rows == 4 * figures.rows, "a loss and its tokens, of two models"
    assert figures.loss_after == pytest.approx(store.figures(model)["holdout_loss"], abs=1e-4)
    assert figures.ci_low is not None and figures.ci_high is not None
    assert figures.ci_low < figures.difference < figures.ci_high < 0
