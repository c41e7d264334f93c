"""Real DeepSpeed under real Ray Train: whole runs, killed runs, every stage, and what comes out of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.sample import Message, from_table, seed
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
from gristmill.training.data.prepare import Bins
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.suites.items import read as read_items
from gristmill.training.figures import TrainFigures
from gristmill.training.job import Train
from gristmill.training.loop import separation, stopping
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, left_out, read_journal
from gristmill.training.optim import schedule
from gristmill.training.zero import Batching, Zero
from tests.training.conftest import chats, dataset
from tests.training.drive import train

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
STEPS, KILL_AT, SAVE_EVERY = 80, 30, 10
SAMPLES, WEIGHED = "select-000000000000", "select-000000000001"


def settings(tiny: str) -> dict[str, Any]:
    return {
        "model": tiny, "steps": STEPS, "save_steps": SAVE_EVERY, "precision": "fp32", "global_batch_size": 2,
        "max_length": 256, "learning_rate": 1e-2, "validation": 0.2,
        "tuning": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.1},
    }  # fmt: skip


def shelve(folder: Path) -> Store:
    store = Store(str(folder))
    dataset(store, chats(60))
    return store


def journal(store: Store, output: str) -> list[dict[str, Any]]:
    return read_journal(store.folder(output) / METRICS)


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


def rehearse(courses: list[loop.WorkerPlan], workers: int) -> None:
    """Run several courses one after the other in one group of workers."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    def work(config: dict[str, list[loop.WorkerPlan]]) -> None:
        for plan in config["courses"]:
            loop.work({"course": plan})

    TorchTrainer(
        work,
        train_loop_config={"courses": courses},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(storage_path=f"{courses[0].store.uri}/ray"),
    ).fit()


def plan(
    store: Store, model: str, output: str, workers: int = 2, steps: int = 3, samples: str = SAMPLES, **changed: Any
) -> loop.WorkerPlan:
    given = {"global_batch_size": 4, "save_steps": 99, "workers": workers}
    job = Train.model_validate({**settings(model), **given, **changed})
    data.prepare(store, output, {"samples": samples}, model, job)
    micro = job.micro_batch_size
    cut = Batching(micro, job.global_batch_size // (workers * micro), workers)
    return loop.WorkerPlan(job, store, output, model, steps, cut, Need(1), f"{store.uri}/logs")


def damaged(tiny: str, folder: Path) -> str:
    """Write the tiny model with an infinite embedding of `+`, which one chat has and no probe takes."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = LlamaForCausalLM.from_pretrained(tiny, tie_word_embeddings=False, dtype=torch.float32)
    model.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids("+")] = float("inf")
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def test_every_stage_and_number_of_workers_gives_the_same_losses(shelf: Path, tiny: str) -> None:
    store = Store(str(shelf / "stages"))
    dataset(store, [*chats(60), seed([Message("user", "Is 1 + 1 2?"), Message("assistant", "It is.")])])
    weighed = [replace(row, scores={"weight": 0.25 + n % 4}) for n, row in enumerate(chats(60))]
    dataset(store, weighed, WEIGHED)
    full: dict[str, Any] = {"tuning": {"kind": "full"}, "learning_rate": 1e-3}
    lora: dict[str, Any] = {"tuning": {"kind": "lora", "r": 4, "alpha": 8}}
    two = {
        **{
            f"lora-{stage}": plan(store, tiny, f"lora-{stage}", zero=Zero(stage=stage), **lora)
            for stage in (0, 1, 2, 3)
        },
        "explodes": plan(store, tiny, "explodes", learning_rate=1e30, max_grad_norm=0),
        "weighed": plan(store, tiny, "weighed", samples=WEIGHED, **full),
        **{f"full-{stage}": plan(store, tiny, f"full-{stage}", zero=Zero(stage=stage), **full) for stage in (1, 3)},
    }
    bad = damaged(tiny, shelf / "damaged")
    # the second one is run twice, so that it continues from its newest checkpoint
    broken = [plan(store, bad, name, steps=10, save_steps=4) for name in ("damaged", "damaged-2", "damaged-2")]
    half: dict[str, Any] = {"precision": "bf16", "global_batch_size": 8, "save_steps": 2, **lora}
    sums = [
        plan(store, tiny, name, zero=Zero(stage=stage), **half)
        for name, stage in (("half-1", 1), ("half-2", 2), ("half-3", 3), ("half-1-again", 1), ("half-1-again", 1))
    ]
    adapter = {"kind": "lora", "r": 4, "alpha": 8}
    ways = {
        "dora-2": (2, {**adapter, "dora": True}),
        "pissa-1": (1, {**adapter, "init": "pissa"}),
        "pissa-2": (2, {**adapter, "init": "pissa", "rslora": True}),
        "plus-2": (2, {**adapter, "b_rate": 16}),
        "plus-3": (3, {**adapter, "b_rate": 16}),
        "freeze-1": (1, {"kind": "freeze", "last_layers": 1}),
        "freeze-3": (3, {"kind": "freeze", "last_layers": 1}),
    }
    tuned = [
        plan(store, tiny, name, zero=Zero(stage=stage), tuning=way, save_steps=2)  # type: ignore[arg-type]
        for name, (stage, way) in ways.items()
    ]
    tuned += [
        plan(store, tiny, f"{name}-again", zero=Zero(stage=1), tuning=ways[name][1], save_steps=2)
        for name in ("pissa-1", "pissa-1", "freeze-1", "freeze-1")
    ]
    muon = {"optimizer": {"kind": "muon"}, "zero": Zero(stage=0), "tuning": {"kind": "full"}, "save_steps": 2}
    tuned += [plan(store, tiny, name, **muon) for name in ("muon-0", "muon-0-again", "muon-0-again")]
    noisy = {"neftune_alpha": 5.0, "label_smoothing": 0.1, "logits_at_once": 16, "attention": "eager", "save_steps": 2}
    tuned += [plan(store, tiny, name, **noisy) for name in ("noisy-1", "noisy-1-again", "noisy-1-again")]
    rising = {"tuning": {"kind": "full"}, "learning_rate": 0.3, "eval_steps": 1, "early_stopping": 2, "keep": "best"}
    tuned += [plan(store, tiny, name, steps=9, save_steps=2, **rising) for name in ("best", "best-again", "best-again")]
    one = {
        "lora-alone": plan(store, tiny, "lora-alone", workers=1, **lora),
        "full-alone": plan(store, tiny, "full-alone", workers=1, **full),
        "weighed-alone": plan(store, tiny, "weighed-alone", workers=1, samples=WEIGHED, micro_batch_size=4, **full),
    }
    rehearse([*two.values(), *broken, *sums, *tuned], 2)
    rehearse(list(one.values()), 1)
    assert "the loss is nan, must be finite; 3 batches" in store.read_json("explodes", loop.FAILED)["error"]
    assert len(left_out(journal(store, "explodes"))) == 3
    for kind in ("lora", "full", "weighed"):
        curves = {n: [m["loss"] for m in journal(store, n) if "step" in m] for n in (*two, *one) if n.startswith(kind)}
        norms = {n: [m["grad_norm"] for m in journal(store, n) if "step" in m] for n in curves}
        assert all(len(curve) == 3 for curve in curves.values()), curves
        first = next(name for name in curves if norms[name][0])
        for name, curve in curves.items():
            assert curve == pytest.approx(curves[first], abs=1e-5), name
            if norms[name][0]:
                assert norms[name] == pytest.approx(norms[first], rel=1e-3), name
    logits_of_exports_agree(store, "full-1", "full-3")
    logits_of_exports_agree(store, "lora-1", "lora-3")


def logits_of_exports_agree(store: Store, first: str, second: str) -> None:
    from safetensors.torch import load_file

    one, other = (load_file(str(store.folder(name) / "merged" / "model.safetensors")) for name in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() < 1e-4, name


def test_every_tuning_and_optimizer_trains_alike_at_its_stages_and_in_a_run_that_continues(
    shelf: Path, tiny: str
) -> None:
    from safetensors.torch import load_file

    store = Store(str(shelf / "stages"))

    def lines(name: str, key: str) -> list[Any]:
        return [m[key] for m in journal(store, name) if key in m]

    for name in ("dora-2", "pissa-1", "pissa-2", "plus-2", "freeze-1", "muon-0"):
        assert len(lines(name, "loss")) == 3
        assert lines(name, "loss")[2] < lines(name, "loss")[0] - 0.05, name
        assert all(value < 1e-4 for value in lines(name, "merged_difference")), name
    assert lines("lora-1", "merged_difference") and not lines("freeze-1", "merged_difference")
    assert lines("plus-3", "loss") == pytest.approx(lines("plus-2", "loss"), abs=1e-5)
    assert lines("freeze-3", "loss") == pytest.approx(lines("freeze-1", "loss"), abs=1e-5)
    assert lines("plus-2", "loss")[1:] != pytest.approx(lines("lora-2", "loss")[1:], abs=1e-3), "B has no own rate"
    assert lines("noisy-1", "apart")[0].endswith("; logits of 16 tokens at a time")
    for name in ("pissa-1", "freeze-1", "muon-0", "noisy-1"):
        assert lines(f"{name}-again", "start") == [0, 2]
        for key in ("loss", "holdout_loss"):
            assert lines(f"{name}-again", key) == lines(name, key), name
    base, made = (load_file(f"{folder}/model.safetensors") for folder in (tiny, store.folder("freeze-3") / "merged"))
    changed = {name for name in made if not made[name].equal(base[name])}
    assert changed and all(name.startswith("model.layers.1.") for name in changed)


def test_training_ends_when_the_held_out_loss_rises_and_keeps_the_best_weights(shelf: Path) -> None:
    from gristmill.training.loop.losses import sample_losses
    from gristmill.training.tuning.model import load

    store = Store(str(shelf / "stages"))
    lines, again = journal(store, "best"), journal(store, "best-again")
    held, end = stopping.measured(lines), lines[-1]
    assert stopping.stale(held) == 2 and stopping.stale(held[:-1]) == 1
    assert end["end"] == len(held) < 9, "it did not end early"
    assert (end["holdout_loss"], end["kept"]) == stopping.best(held)
    assert end["kept"] == end["end"] - 2
    bins = Bins.open(store, "best", data.HELDOUT)
    count = 1 + max(int(bins.column("samples", place).max()) for place in range(len(bins)))
    summed, tokens = sample_losses(load(str(store.folder("best") / "merged"), "fp32").eval(), bins, count, "positions")
    assert summed.sum() / tokens.sum() == pytest.approx(end["holdout_loss"], abs=1e-4)
    assert [m["start"] for m in again if "start" in m][1:], "it did not continue"
    assert (stopping.measured(again), again[-1]) == (held, end)


def test_sums_of_bf16_gradients_train_alike_at_every_stage_and_in_a_run_that_continues(shelf: Path) -> None:
    store = Store(str(shelf / "stages"))
    first, again = journal(store, "half-1"), journal(store, "half-1-again")
    curves = {name: [m["loss"] for m in journal(store, name) if "step" in m] for name in ("half-1", "half-2", "half-3")}
    assert len(curves["half-1"]) == 3
    assert curves["half-2"] == pytest.approx(curves["half-1"], abs=2e-3)
    assert curves["half-3"] == pytest.approx(curves["half-1"], abs=2e-3)
    assert [m["start"] for m in again if "start" in m] == [0, 2]
    for name in ("loss", "holdout_loss"):
        assert [m[name] for m in first if name in m] == [m[name] for m in again if name in m]


def test_a_batch_whose_loss_is_not_finite_is_left_out_and_stays_so_when_the_run_continues(
    shelf: Path, tiny: str
) -> None:
    from transformers import AutoTokenizer

    store = Store(str(shelf / "stages"))
    plus = AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids("+")
    bins = Bins.open(store, "damaged", data.PACKED)
    (bad,) = (place for place in range(len(bins)) if plus in bins.column("input_ids", place))
    batches = [schedule.global_batch(n, seed=0, bins=len(bins), batch=4).tolist() for n in range(13)]
    first, again = journal(store, "damaged"), journal(store, "damaged-2")
    outs = [line for line in first if "left_out" in line]
    assert [out["left_out"] for out in outs] == [n for n in range(13) if bad in batches[n]] == [0, 6, 11]
    assert [(out["at"], out["back"]) for out in outs] == [(1, 0), (6, 4), (10, 8)]
    assert {out["why"] for out in outs} == {"the loss is nan"}
    assert [m["start"] for m in again if "start" in m] == [0, 8]
    for lines in (first, again):
        steps = [m for m in lines if "step" in m]
        assert [m["step"] for m in steps] == list(range(1, 11))
        taken = [n for n in range(13) if n not in (0, 6, 11)]
        assert [m["trained_tokens"] for m in steps] == [int(bins.trained[batches[n]].sum()) for n in taken]
    assert [m["loss"] for m in first if "step" in m] == [m["loss"] for m in again if "step" in m]
    assert [m["holdout_loss"] for m in first if "end" in m] == [m["holdout_loss"] for m in again if "end" in m]


@pytest.mark.parametrize(("output", "samples"), [("full-1", SAMPLES), ("weighed", WEIGHED)])
def test_the_loss_of_a_step_is_the_mean_over_its_tokens_by_weight(
    shelf: Path, tiny: str, output: str, samples: str
) -> None:
    """The first loss that two workers report is that of the base model over the same rows in one process."""
    import torch

    from gristmill.training.loop.losses import tensors, token_losses
    from gristmill.training.tuning.model import load

    store = Store(str(shelf / "stages"))
    bins = Bins.open(store, output, data.PACKED)
    places = schedule.global_batch(0, seed=0, bins=len(bins), batch=4)
    first = next(m for m in journal(store, output) if m.get("step") == 1)
    assert first["trained_tokens"] == bins.trained[places].sum()
    score = {row.id: row.scores.get("weight", 1) for row in from_table(store.read(samples))}
    rows = packed_ids(store, output, samples)
    model, total, weight = load(tiny, "fp32").eval(), 0.0, 0.0
    for place in places:
        batch = separation.batches(bins.rows(np.array([place])), "positions")[0]
        with torch.no_grad():
            values, at = token_losses(model, tensors(batch, "cpu"), "positions")
        for sample, value in zip(batch["sample"][0, at.numpy()], values[0].tolist(), strict=True):
            count = score[rows[bins.column("samples", int(place))[sample]]]
            total, weight = total + count * value, weight + count
    assert (weight == first["trained_tokens"]) == (samples == SAMPLES)
    assert first["loss"] == pytest.approx(total / weight, abs=1e-4)


def packed_ids(store: Store, output: str, samples: str) -> list[str]:
    """Return the ids of the rows that could be encoded, which the bins count by their place."""
    table = store.read(samples)
    return table["id"].filter(pa.array(data.usable(table)[0])).to_pylist()


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
