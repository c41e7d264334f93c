"""Real DeepSpeed under real Ray Train: whole runs, killed runs, and what comes out of them."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # it comes with Ray
import pytest

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites.items import read as read_items
from gristmill.training.figures import TrainFigures
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.supervision import heartbeat
from tests.invariants import check_clean
from tests.training.conftest import chats, dataset
from tests.training.drive import train
from tests.training.rehearsal import SAVE_EVERY, STEPS, journal, settings

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
KILL_AT, STOP_AT = 30, 60
HANG_S = 8.0


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
    check_clean(store, output)
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


def test_a_killed_worker_and_one_that_hangs_change_no_loss(unbroken: tuple[Store, str], shelf: Path, tiny: str) -> None:
    store = shelve(shelf / "worker")

    killer = at_step(store, KILL_AT, lambda folder: os.kill(heartbeat.read(folder)[1].pid, signal.SIGKILL))
    stopper = at_step(store, STOP_AT, lambda folder: os.kill(heartbeat.read(folder)[1].pid, signal.SIGSTOP))
    output = train(store.uri, settings(tiny) | {"hang_timeout": HANG_S})
    assert not killer.is_alive() and not stopper.is_alive()
    starts = [m["start"] for m in journal(store, output) if "start" in m]
    assert starts[0] == 0
    assert len(starts) == 3, "a worker was not killed, or not stopped, while it trained"
    assert starts[1] >= KILL_AT - SAVE_EVERY and starts[2] >= STOP_AT - SAVE_EVERY
    assert losses_of(journal(store, output)) == losses_of(journal(*unbroken))


def test_a_killed_driver_goes_on_from_its_checkpoint(unbroken: tuple[Store, str], shelf: Path, tiny: str) -> None:
    import json

    store = shelve(shelf / "driver")

    command = [sys.executable, "-m", "tests.training.drive", store.uri, json.dumps(settings(tiny))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        at_step(store, KILL_AT, lambda folder: driver.kill())
        assert driver.wait(300) == -signal.SIGKILL
    (output,) = [name for name in store.names() if name.startswith("train-")]
    assert not store.complete(output)
    assert train(store.uri, settings(tiny)) == output
    starts = [m["start"] for m in journal(store, output) if "start" in m]
    assert starts[0] == 0
    assert starts[-1] >= KILL_AT - SAVE_EVERY, "it began anew"
    assert losses_of(journal(store, output)) == losses_of(journal(*unbroken))


def test_a_worker_without_memory_ends_the_run_with_what_to_set(shelf: Path, tiny: str) -> None:
    store = shelve(shelf / "memory")

    def limit() -> None:
        path = Path(store.uri) / "runs/test/logs/train-1.log"
        while not path.exists() or "engine made after" not in path.read_text():
            time.sleep(0.02)
        (folder,) = Path(store.uri).glob("train-*")
        most = psutil.Process(pid := heartbeat.read(folder)[1].pid).memory_info().vms + (64 << 20)
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))  # a batch of 65,536 tokens needs ten times as much

    limiter = threading.Thread(target=limit, daemon=True)
    limiter.start()
    large = {"max_length": 1024, "micro_batch_size": 64, "global_batch_size": 128, "logits_at_once": 0}
    with pytest.raises(RunError) as caught:
        train(store.uri, settings(tiny) | large)
    assert not limiter.is_alive()
    said = str(caught.value)
    assert said.startswith("train: worker 1 had no more memory"), said
    assert "set train.gradient_checkpointing = true, or lower train.micro_batch_size (64), train.workers (2)" in said
    (output,) = [name for name in store.names() if name.startswith("train-")]
    assert len([m for m in journal(store, output) if "start" in m]) <= 1, "it was tried again"


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
