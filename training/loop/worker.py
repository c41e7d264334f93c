"""The work of each worker of Ray Train: load, resume, step, evaluate, checkpoint, export.

The rows, the learning rate and the random numbers of a step depend only on the settings and the step number. So a run
that is killed and continues from a checkpoint repeats the losses of an unbroken run bit for bit, on the same number of
workers.

The loss of a step is the weighted mean over its trained tokens on all workers; each token has the weight of its sample.
Each worker knows the total weight before the step, because the bins have it, and divides its part by this weight. The
usual mean, over the means of micro-batches and workers, would give short answers too much weight.
"""

import gc
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import GristmillError, RunError
from gristmill.cluster.contract.ids import request_seed
from gristmill.cluster.runtime.log import to_file
from gristmill.training import checkpoint, zero
from gristmill.training.data import chat
from gristmill.training.data import prepare as data
from gristmill.training.loop import losses, noise, separation, stopping, validation
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.loop.state import TrainState, WorkerPlan, loaded_base, of_first, set_up
from gristmill.training.optim import schedule
from gristmill.training.settings import TrainSettings
from gristmill.training.supervision import heartbeat
from gristmill.training.tasks import batches, heads, reader
from gristmill.training.tuning import model

FAILED = "failed.json"
RESIZE = "resize"
"""File by which the driver asks the workers to end at their next checkpoint, for another number of workers."""
COMPARED = 64
"""Largest number of tokens for which the logits of base and adapter are compared with those of the merged model."""
MOST_LEFT_OUT = 3
"""Largest number of batches that may be left out because of numbers that are not finite. If there were more, the cause
would not be the samples."""
log = logging.getLogger(__name__)


def work(config: Mapping[str, WorkerPlan]) -> None:
    """Run one worker.

    An error that another attempt cannot fix is written to a file for the driver, and ends the worker.
    """
    import ray.train

    plan, rank = config["course"], ray.train.get_context().get_world_rank()
    to_file(plan.logs, f"train-{rank}")
    node = ray.get_runtime_context().get_node_id()
    heart = heartbeat.Heartbeat(plan.store.folder(plan.output), rank, node, heartbeat.every_s(plan.job.hang_timeout))
    try:
        _work(plan, rank, heart)
    except GristmillError as error:
        log.exception("rank %d gives up", rank)
        plan.store.write_json({"error": str(error)}, plan.output, FAILED)
    except Resized as reason:
        log.info("rank %d ends at step %s, for another number of workers", rank, reason)
    except Exception:
        heart.write()  # the driver reads from it how much memory was used
        log.exception("rank %d fails", rank)
        raise
    heart.end()


class Resized(Exception):  # noqa: N818 - not an error
    """All workers have ended at a checkpoint, because the driver asked for it."""


def _work(plan: WorkerPlan, rank: int, heart: heartbeat.Heartbeat) -> None:
    again = False
    while not _attempt(plan, rank, heart, again=again):
        again = True
        gc.collect()  # an engine is in reference cycles, and the next one needs its memory


def _attempt(plan: WorkerPlan, rank: int, heart: heartbeat.Heartbeat, *, again: bool) -> bool:
    """Continue training from the newest checkpoint, or from the start.

    Return True when everything is written, or False if a batch must be left out before training continues.

    Args:
        plan: the plan of this worker.
        rank: the worker's number.
        heart: the worker's heartbeat.
        again: whether this process goes back to the checkpoint because a batch gave numbers that are not finite.
    """
    began = time.monotonic()
    heart.enter("start", 0)
    folder = plan.store.folder(plan.output) / checkpoint.FOLDER
    found = checkpoint.newest(folder)
    worker, why, apart = set_up(plan, rank, found, heart)
    if found:
        checkpoint.load(worker.engine, found, only_trainable=plan.job.tuning.partial)
    first = found.step if found else 0
    if worker.journal:
        worker.journal.rewind(first)
    if worker.journal and not again:
        seconds = round(time.monotonic() - began, 1)
        worker.journal.add(
            start=first, workers=plan.batching.world, precision=worker.precision, why=why, seconds=seconds,
            separation=worker.way, apart=apart,
        )  # fmt: skip
    log.info("rank %d starts at step %d of %d after %.1f s", rank, first, plan.steps, time.monotonic() - began)
    journal = read_journal(worker.folder / METRICS) if rank == 0 else []
    held: list[stopping.Measured] = of_first(stopping.measured(journal, plan.job.metric))
    checkpoint.forget(worker.folder / checkpoint.BEST, first)
    done = _steps(worker, folder, first, held)
    if not done:
        worker.engine.destroy()
        return False
    heart.enter("evaluate", done)
    kept = _keep(worker, [*held, stopping.of_line(_measure(worker), done, plan.job.metric)])
    heart.enter("export", done)
    measured = _export(worker) if plan.exports else {}
    if worker.journal:  # the driver reads this line as the sign that everything is written
        measures = {"measures": dict(kept.measures)} if kept.measures else {}
        worker.journal.add(end=done, holdout_loss=kept.loss, kept=kept.step, **measures, **measured)
    zero.clear_files(worker.engine.config)
    log.info("rank %d is done after %.1f s", rank, time.monotonic() - began)
    return True


def _steps(worker: TrainState, folder: Path, first: int, held: list[stopping.Measured]) -> int:
    """Take the steps after the first ones, and return the number of steps that are done in the end.

    If numbers are not finite, write to the journal that the batch is left out, and return 0.

    Args:
        worker: the live objects.
        folder: folder of the checkpoints.
        first: number of steps that are done already.
        held: measurements in these steps; new ones are appended.

    Raises:
        RunError: when too many batches have been left out before.
    """
    plan, job = worker.plan, worker.plan.job
    for step in range(first, plan.steps):
        worker.heart.enter("step", step + 1)
        batch = schedule.batch_of(step, worker.left_out)
        facts, broken = _step(worker, step, batch, _rate(job, step, plan.steps, held))
        done = step + 1
        saves, last = done % job.save_steps == 0, done == plan.steps
        measures = bool(plan.eval_steps) and done % plan.eval_steps == 0 and not last
        # at stage 0 DeepSpeed returns no norm, and steps even if gradients are not finite
        looks = saves or last or measures or facts["grad_norm"] is None
        if not broken and looks and not zero.finite(worker.engine):
            broken = "weights are not finite after it"
        if broken:
            _leave_out(worker, batch, done, broken, back=first)
            return 0
        if measures:
            worker.heart.enter("evaluate", done)
            facts |= _measure(worker)
            held.append(stopping.of_line(facts, done, job.metric))
        if worker.journal:
            worker.journal.add(step=done, **facts)
        if measures and job.keep == "best" and stopping.best(held).step == done:
            _save(worker, worker.folder / checkpoint.BEST, done, keep=1)
        if saves and not last:
            _save(worker, folder, done, keep=job.save_total_limit)
            first = done
            _end_if_asked(worker, done)
        if measures and held[-1].error > plan.bars.get(done, math.inf):
            log.info("the held-out %s is worse than that of earlier trials; training ends", job.metric)
            return done
        if measures and job.early_stopping and stopping.stale(held) >= job.early_stopping:
            log.info("held-out %s was best at step %d; training ends", job.metric, stopping.best(held).step)
            return done
    return plan.steps


def _save(worker: TrainState, folder: Path, done: int, *, keep: int) -> None:
    """Write a checkpoint after so many steps; every worker must call this."""
    worker.heart.enter("save", done)
    only_trainable = worker.plan.job.tuning.partial
    checkpoint.save(worker.engine, folder, done, precision=worker.precision, keep=keep, only_trainable=only_trainable)


def _end_if_asked(worker: TrainState, done: int) -> None:
    """End here if the driver wants another number of workers; every worker must call this, after a checkpoint.

    Raises:
        Resized: if the driver asked for it.
    """
    if worker.plan.job.elastic and of_first((worker.folder / RESIZE).exists()):
        raise Resized(done)


def _keep(worker: TrainState, held: Sequence[stopping.Measured]) -> stopping.Measured:
    """Load the weights that the finished model will have, and return what was measured of them.

    Args:
        worker: the live objects.
        held: measurements; the last one belongs to the present weights.
    """
    kept = stopping.best(held) if worker.plan.job.keep == "best" else held[-1]
    if kept.step != held[-1].step:
        found = checkpoint.newest(worker.folder / checkpoint.BEST)
        if not found or found.step != kept.step:
            raise RunError(
                f"{worker.folder / checkpoint.BEST}: holds no checkpoint of step {kept.step}, must hold it; run again "
                "with another train.seed, which begins anew in another folder"
            )
        checkpoint.load(worker.engine, found, only_trainable=worker.plan.job.tuning.partial)
    return kept


def _leave_out(worker: TrainState, batch: int, step: int, why: str, *, back: int) -> None:
    """Write to the journal that a batch is left out; every worker must call this.

    Raises:
        RunError: when too many batches have been left out before.
    """
    import torch.distributed as dist

    log.info("step %d: %s; batch %d is left out", step, why, batch)
    if len(worker.left_out) == MOST_LEFT_OUT:
        raise RunError(
            f"train, step {step}: {why}, must be finite; {MOST_LEFT_OUT} batches were left out before because of this; "
            "lower train.learning_rate, or look for a damaged weight in train.model; either begins anew in another "
            "folder"
        )
    if worker.journal:
        worker.journal.add(left_out=batch, at=step, why=why, back=back)
    dist.barrier()  # no worker goes back before the journal has it


def _rate(job: TrainSettings, step: int, steps: int, held: Sequence[stopping.Measured]) -> float:
    """Return the learning rate of a step, after some measurements."""
    peak = job.learning_rate
    if job.schedule == "reduce_lr_on_plateau":
        peak *= schedule.plateau(
            [one.error for one in held], patience=job.plateau_patience, factor=job.plateau_factor, lowest=job.min_ratio
        )
    return schedule.learning_rate(
        step, steps=steps, peak=peak, warmup=job.warmup_ratio, schedule=job.schedule, lowest=job.min_ratio,
        decay=job.decay_ratio,
    )  # fmt: skip


def _step(worker: TrainState, step: int, batch: int, rate: float) -> tuple[dict[str, Any], str]:
    """Take one optimizer step; every worker returns the same values.

    Returns:
        Facts of the step: loss (in nats per trained token), rate, gradient norm, tokens and seconds. Then a text that
        says which number is not finite; empty if all are.
    """
    import torch

    job, cut, began = worker.plan.job, worker.plan.batching, time.monotonic()
    zero.set_rate(worker.engine, rate)
    places = schedule.global_batch(batch, seed=job.seed, groups=worker.train.groups, batch=job.global_batch_size)
    weight = float(worker.train.weight[places].sum())
    torch.manual_seed(request_seed(f"{job.seed}-{step}", worker.rank))
    worker.engine.train()
    total = torch.zeros(1, dtype=torch.float64, device=worker.device)
    for micros in zip(*(schedule.share(places, n, cut.teams, cut.micro) for n in range(cut.teams)), strict=True):
        summed = _sum(worker, worker.train, micros)
        # DeepSpeed divides by accumulation and averages over workers: undo both, divide by the weight of the whole step
        worker.engine.backward(summed * (cut.accumulation * cut.world / weight))
        zero.step(worker.engine)
        total += summed.detach().double()
    loss = _over_workers(total)[0] / weight
    norm = zero.gradient_norm(worker.engine)
    broken = "" if np.isfinite(loss) else f"the loss is {loss}"
    skipped = not broken and worker.precision == "fp16" and zero.overflowed(worker.engine)
    if skipped:  # the loss was scaled up too far; DeepSpeed has changed no weight, and scales the next one less
        norm = None
    if not broken and norm is not None and not np.isfinite(norm):
        broken = "the norm of the gradients is not finite"
    facts = {
        "loss": float(loss),
        "lr": rate,
        "grad_norm": norm,
        "tokens": worker.train.tokens(places),
        "trained_tokens": int(worker.train.trained[places].sum()),
        "seconds": round(time.monotonic() - began, 3),
        **({"skipped": True} if skipped else {}),
    }
    return facts, broken


def _sum(worker: TrainState, bins: data.Bins, places: Sequence[NDArray[np.int64]]) -> Any:  # noqa: ANN401 - a tensor
    """Return the summed loss of this worker's bins, or of its share of their tokens.

    `places` has the bins of every team, by rank. Without sequence parallelism a team is one worker.
    """
    job, training = worker.plan.job, worker.engine.training
    if not job.task.causal:
        smoothing, alpha = (job.label_smoothing, job.neftune_alpha) if training else (0.0, 0.0)
        return batches.summed(worker.engine, job.task, bins, places[worker.rank], smoothing, alpha)
    rounds = 0
    if worker.way == "alone" and worker.plan.job.zero.stage == 3:  # its workers gather the weights for each batch
        rounds = max(separation.num_batches(bins.rows(each)) for each in places)
    mine = places[worker.rank // worker.plan.batching.team]
    parts = separation.batches(bins.rows(mine), worker.way, rounds)
    counts = None if bins.alike else np.append(bins.weights(mine), np.float32(0))  # the last one is for the padding
    each = [_part(worker, part, counts) for part in parts]
    return sum(values.sum() for values in each)


def _part(worker: TrainState, part: Mapping[str, NDArray[np.int64]], counts: NDArray[np.float32] | None) -> Any:  # noqa: ANN401
    """Return the loss of each token of a batch, as a tensor, times the weight of the token's sample."""
    import torch

    job, training = worker.plan.job, worker.engine.training
    how = losses.How(worker.at_once, job.label_smoothing if training else 0.0, worker.team)
    with noise.noisy(separation.inner(worker.engine), part, job.neftune_alpha if training else 0.0):
        values, at = losses.token_losses(worker.engine, losses.tensors(part, worker.device), worker.way, how)
    if counts is None:
        return values
    samples = np.minimum(part["sample"][:, at.cpu().numpy()], len(counts) - 1)
    return values * torch.from_numpy(counts[samples]).to(values)


def _over_workers(values: Any) -> list[float]:  # noqa: ANN401 - a tensor
    import torch.distributed as dist

    dist.all_reduce(values)
    return [float(v) for v in values.tolist()]


def _measure(worker: TrainState) -> dict[str, Any]:
    """Return the held-out loss and the measures of the task as a journal has them; every worker must call this."""
    found: dict[str, Any] = {"holdout_loss": _holdout_loss(worker)}
    if worker.validation:
        found["measures"] = worker.validation.measures(worker.engine, worker.share)
    return found


def _holdout_loss(worker: TrainState) -> float:
    """Return the mean loss of the held-out tokens, in nats; every worker must call this, and computes a share."""
    import torch

    cut, bins = worker.plan.batching, worker.heldout
    own, first = divmod(worker.rank, cut.team)
    worker.engine.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
    with torch.no_grad():
        for start in range(0, len(bins), cut.teams):
            place = start + own
            each = [np.array([start + n if start + n < len(bins) else start]) for n in range(cut.teams)]
            summed = _sum(worker, bins, each)
            if place < len(bins):  # a partitioned model needs every worker in each round
                count = 0.0 if first else float(bins.trained[place])  # the first worker of a team counts for all
                sums += torch.tensor([float(summed), count], dtype=torch.float64).to(sums)
    total, tokens = _over_workers(sums)
    return total / tokens


def _export(worker: TrainState) -> dict[str, float]:
    """Write the adapter, if there is one, and the merged model. All workers gather the weights; rank 0 writes.

    Returns:
        On rank 0, the field `merged_difference` if there is an adapter; else nothing.
    """
    plan, job, tuning = worker.plan, worker.plan.job, worker.plan.job.tuning
    measured = worker.validation
    head = measured.fitted(worker.engine, worker.share) if isinstance(measured, validation.Answers) else None
    if tuning.adapter:
        state = zero.trainable_state(worker.engine.module, worker.rank)
    else:
        state = zero.whole_state(worker.engine, job.zero.stage, worker.rank)
    if worker.rank:
        return {}
    tok = reader.tokenizer(plan.base) if plan.head else chat.tokenizer(plan.base, job.template, job.template_args)
    stops = data.PackedCounts(**plan.store.read_json(plan.output, data.PREPARED)).stops
    auto = heads.auto_class(job.task)
    if not tuning.adapter:
        if job.dropout is not None:
            model.reset_dropout(worker.engine.module.config, plan.base)
        model.write_model(worker.engine.module, tok, stops, worker.folder / model.MERGED, state, auto)
        _describe(worker, head)
        return {}
    adapter = worker.folder / model.ADAPTER
    model.write_adapter(worker.engine.module, tuning.exported(state, worker.initial), adapter)
    ids = worker.heldout.column("input_ids", 0)[:COMPARED].tolist()
    whole, difference = model.merged(model.adapted(loaded_base(plan, worker.precision), adapter), ids)
    model.write_model(whole, tok, stops, worker.folder / model.MERGED, auto=auto)
    _describe(worker, head)
    return {"merged_difference": difference}


def _describe(worker: TrainState, head: heads.Head | None) -> None:
    """Write what the head of a finished model does, if its task has one."""
    if head:
        heads.save(head, worker.folder / model.MERGED)
