"""What each worker of Ray Train does: load, resume, step, evaluate, checkpoint, export.

Every step is a function of (settings, step) alone: its rows, its learning rate, its random numbers. So a run that is
killed and goes on from a checkpoint repeats the losses of an unbroken one bit for bit, on the same number of workers.

The loss of a step is the mean over all of its trained tokens, wherever they lie: each worker knows their number before
it starts, for the bins carry their counts, and scales its part accordingly. The mean of means that accumulation and
data parallelism otherwise make weighs short answers too much.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster import dtypes
from cluster.errors import GristmillError, RunError
from cluster.ids import request_seed
from cluster.log import to_file
from cluster.store import Store
from training import checkpoint, data, losses, model, schedule, zero

if TYPE_CHECKING:
    from training.job import Train

METRICS, FAILED = "metrics.jsonl", "failed.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Course:
    """What a worker is handed."""

    job: "Train"
    store: Store
    output: str
    base: str
    """Local folder of the base model."""
    steps: int
    batching: zero.Batching
    gpu: bool
    logs: str | None


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is alive in a worker."""

    course: Course
    precision: model.Precision
    engine: Any
    device: Any
    rank: int
    train: data.Bins
    heldout: data.Bins
    folder: Path


def work(config: Mapping[str, Course]) -> None:
    """Run one worker; an error that trying again would not help is written down for the driver and ends it."""
    import ray.train

    course, rank = config["course"], ray.train.get_context().get_world_rank()
    to_file(course.logs, f"train-{rank}")
    try:
        _work(course, rank)
    except GristmillError as error:
        log.exception("rank %d gives up", rank)
        course.store.write_json({"error": str(error)}, course.output, FAILED)


def _work(course: Course, rank: int) -> None:
    began = time.monotonic()
    folder = course.store.folder(course.output) / checkpoint.FOLDER
    found = checkpoint.newest(folder)
    bench, why = _set_up(course, rank, found)
    if found:
        checkpoint.load(bench.engine, found, only_trainable=course.job.lora != "none")
    first = found.step if found else 0
    journal = Journal(bench.folder / METRICS) if rank == 0 else None
    if journal:
        journal.rewind(first)
        seconds = round(time.monotonic() - began, 1)
        journal.add(start=first, workers=course.batching.world, precision=bench.precision, why=why, seconds=seconds)
    log.info("rank %d starts at step %d of %d after %.1f s", rank, first, course.steps, time.monotonic() - began)
    for step in range(first, course.steps):
        facts = _step(bench, step)
        done, job = step + 1, course.job
        if job.eval_every and done % job.eval_every == 0 and done < course.steps:
            facts["holdout_loss"] = _holdout_loss(bench)
        if journal:
            journal.add(step=done, **facts)
        if done % job.save_every == 0 and done < course.steps:
            only, keep = job.lora != "none", job.keep_checkpoints
            checkpoint.save(bench.engine, folder, done, precision=bench.precision, keep=keep, only_trainable=only)
    last = _holdout_loss(bench)
    _export(bench)
    if journal:  # the driver takes this line as the sign that everything stands
        journal.add(end=course.steps, holdout_loss=last)
    log.info("rank %d is done after %.1f s", rank, time.monotonic() - began)


def _set_up(course: Course, rank: int, found: checkpoint.Checkpoint | None) -> tuple[_Bench, str]:
    """Return what is alive in this worker, and why it computes in its precision."""
    import torch
    from ray.train.torch import get_device

    job = course.job
    if not course.gpu:
        torch.set_num_threads(max(1, int(job.cpus_per_worker)))
    began = time.monotonic()
    zero.begin(gpu=course.gpu)
    log.info("process group adopted after %.1f s", time.monotonic() - began)
    precision, why = precision_of(job, found)
    log.info("%s: %s", precision, why)
    configuration = zero.config(job.zero, course.batching, clip=job.clip, bf16=precision == "bf16", gpu=course.gpu)
    with zero.partitioned(configuration):
        loaded = model.load(course.base, precision)
    tuned = model.trainable(loaded, job.lora, job.seed, recompute=job.recompute)
    log.info("model loaded after %.1f s", time.monotonic() - began)
    engine = zero.engine(tuned, configuration, lr=job.lr, weight_decay=job.weight_decay)
    log.info("engine made after %.1f s", time.monotonic() - began)
    bench = _Bench(
        course,
        precision,
        engine,
        get_device(),
        rank,
        data.Bins.open(course.store, course.output, data.PACKED),
        data.Bins.open(course.store, course.output, data.HELDOUT),
        course.store.folder(course.output),
    )
    return bench, why


def precision_of(job: "Train", found: checkpoint.Checkpoint | None) -> tuple[model.Precision, str]:
    """Return what all workers compute in, and why; every worker calls it."""
    import torch.distributed as dist

    if job.precision != "auto":
        return job.precision, "as the recipe says"
    if found:
        return found.precision, f"as the checkpoint of step {found.step}"
    if job.zero.stage == 0:
        return "fp32", "at zero.stage 0 DeepSpeed keeps no fp32 weights to step beside others"
    choices: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(choices, dtypes.choose(job.model))
    choice = dtypes.suit_slowest(choices)
    return model.PRECISIONS[choice.dtype], choice.reason


def _step(bench: _Bench, step: int) -> dict[str, Any]:
    """Take one optimizer step; return its loss (nats a trained token), rate, gradient norm, tokens and seconds."""
    import torch

    job, cut, began = bench.course.job, bench.course.batching, time.monotonic()
    rate = schedule.learning_rate(step, steps=bench.course.steps, peak=job.lr, warmup=job.warmup, schedule=job.schedule)
    for group in bench.engine.optimizer.param_groups:
        group["lr"] = rate
    places = schedule.global_batch(step, seed=job.seed, bins=len(bench.train), batch=job.batch)
    trained = int(bench.train.trained[places].sum())
    torch.manual_seed(request_seed(f"{job.seed}-{step}", bench.rank))
    bench.engine.train()
    total = torch.zeros(1, dtype=torch.float64, device=bench.device)
    for micro in schedule.share(places, bench.rank, cut.world, cut.micro):
        summed = _summed(bench, bench.train, micro)
        # DeepSpeed divides by accumulation and averages over workers: undo both, divide by the tokens of the whole step
        bench.engine.backward(summed * (cut.accumulation * cut.world / trained))
        bench.engine.step()
        total += summed.detach().double()
    loss = _over_workers(total)[0] / trained
    if not np.isfinite(loss):
        raise RunError(f"train, step {step + 1}: the loss is {loss}, must be finite; lower train.lr, delete the folder")
    norm = bench.engine.get_global_grad_norm()
    return {
        "loss": float(loss),
        "lr": rate,
        "grad_norm": None if norm is None else float(norm),
        "tokens": bench.train.tokens(places),
        "trained_tokens": trained,
        "seconds": round(time.monotonic() - began, 3),
    }


def _summed(bench: _Bench, bins: data.Bins, places: NDArray[np.int64]) -> Any:  # noqa: ANN401 - a tensor
    batch = losses.tensors(bins.batch(places), bench.device)
    return losses.token_losses(bench.engine, batch)[0].sum()


def _over_workers(values: Any) -> list[float]:  # noqa: ANN401 - a tensor
    import torch.distributed as dist

    dist.all_reduce(values)
    return [float(v) for v in values.tolist()]


def _holdout_loss(bench: _Bench) -> float:
    """Return the mean loss of the held-out tokens; every worker takes its share of the bins, in as many rounds."""
    import torch

    world, bins = bench.course.batching.world, bench.heldout
    bench.engine.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=bench.device)
    with torch.no_grad():
        for start in range(0, len(bins), world):
            place = start + bench.rank
            summed = _summed(bench, bins, np.array([place if place < len(bins) else start]))
            if place < len(bins):  # else it went along because a partitioned model needs every worker in each round
                sums += torch.tensor([float(summed), float(bins.trained[place])], dtype=torch.float64).to(sums)
    total, tokens = _over_workers(sums)
    return total / tokens


def _export(bench: _Bench) -> None:
    """Write adapter and merged model; all workers gather, then rank 0 goes on alone."""
    job = bench.course.job
    if job.lora == "none":
        state = zero.whole_state(bench.engine, job.zero.stage, bench.rank)
        if bench.rank == 0:
            model.write_full(bench.engine.module, state, bench.course.base, bench.folder / model.MERGED)
        return
    state = zero.trainable_state(bench.engine.module, bench.rank)
    if bench.rank == 0:
        adapter = bench.folder / model.ADAPTER
        model.write_adapter(bench.engine.module, state, adapter)
        model.write_merged(bench.course.base, adapter, bench.folder / model.MERGED, bench.precision)


class Journal:
    """`metrics.jsonl`: a line a step, kept by rank 0, wound back to the checkpoint that a run goes on from.

    {"start": step, "workers": n, "precision": …, "why": …, "seconds": s}
                                                       each time a worker group begins; seconds of loading
    {"step": n, "loss": nats, "lr": …, "grad_norm": …, "tokens": …, "trained_tokens": …, "seconds": …}
                                                       and "holdout_loss" where it was asked for
    {"end": step, "holdout_loss": nats}
    """

    def __init__(self, path: Path) -> None:
        """Continue the file, or begin it."""
        self._path = path

    def rewind(self, step: int) -> None:
        """Forget the steps behind `step`, and an end."""
        kept = [m for m in read_journal(self._path) if m.get("step", 0) <= step and "end" not in m]
        temporary = self._path.with_name(f".{METRICS}")
        temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        temporary.replace(self._path)

    def add(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(facts) + "\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal; one that is being written is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
