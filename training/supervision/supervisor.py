"""The restarts of a training run: start the workers, watch them, and start them again from the newest checkpoint.

Ray Train runs one attempt at a time. It does not restart the workers itself, because it does not distinguish full
memory from other failures, finds a hung worker after ten minutes, and its elastic policy stops workers in the middle of
a step and takes any number of them, also one that does not divide the global batch (version 2.60).
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.runtime import deaths
from gristmill.cluster.runtime.autoscaling import autoscales
from gristmill.cluster.runtime.log import tail
from gristmill.cluster.runtime.progress import Bar
from gristmill.cluster.runtime.resources import await_room, require
from gristmill.training import checkpoint
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, events, read_journal
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.settings import TrainSettings
from gristmill.training.supervision import elastic, heartbeat
from gristmill.training.supervision.failures import Failure, failure_of, kill

log = logging.getLogger(__name__)
RAY_FOLDER = "ray"
POLL_S = 0.5
GROW_EVERY_S = 10.0
"""Seconds between two looks for room for more workers."""
ANSWER_S = 120.0
"""Seconds in which a worker must answer Ray Train, whose own limit is 600; it counts also before the first beat."""


@dataclass
class Attempts:
    """The attempts of a run so far."""

    failed: dict[str, int] = field(default_factory=dict)
    """Number of attempts that ended, by the kind of failure."""
    peak_gib: float = 0.0
    """Most memory that a worker has had, in GiB."""

    def left(self, job: TrainSettings, failure: Failure) -> bool:
        """Count a failure, and return whether the workers may be started again after it."""
        kind = "lost" if failure.kind == "lost" else "code"
        self.failed[kind] = self.failed.get(kind, 0) + 1
        budget = job.max_preemptions if kind == "lost" else job.max_failures
        return failure.kind != "memory" and self.failed[kind] <= budget


def fit(
    job: TrainSettings, plan: WorkerPlan, run: Run, planned: str = "", ended: threading.Event | None = None
) -> Attempts:
    """Run the workers until the model is written; start them again after failures, and on another number of machines.

    Args:
        job: the settings.
        plan: the plan of the workers; the number of workers follows from the cluster at each start.
        run: the run.
        planned: the planned memory in words, for a message.
        ended: ends the workers when it is set; then nothing needs the model any more.

    Raises:
        JobError: when the only possible number of workers cannot read the checkpoint.
        RunError: when a budget is used up, memory is full, a worker reports an error that a restart cannot fix, or
            `ended` is set.
    """
    _limit_ray(job)
    folder, attempts, ended = run.store.folder(plan.output), Attempts(), ended or threading.Event()
    plan.store.delete(plan.output, loop.FAILED)
    with run.screen.bar("train: steps", plan.steps) as bar:
        while True:
            if ended.is_set():
                raise RunError(f"train: {plan.output} was ended because another training failed")
            world = _world(job, plan, run.wait_s, restarted=bool(attempts.failed))
            say_other_world(job, run, folder, world)
            attempt = _Attempt(job, replace(plan, batching=job.batching(world)), run, folder, bar)
            failure = attempt.run(ended)
            attempts.peak_gib = max([attempts.peak_gib, *(beat.peak_gib for beat in attempt.beats.values())])
            if run.store.exists(plan.output, loop.FAILED):
                raise RunError(str(run.store.read_json(plan.output, loop.FAILED)["error"]))
            if failure is None and any("end" in m for m in read_journal(folder / METRICS)):
                return attempts
            if failure is None and attempt.resized:
                continue
            failure = failure or Failure("code", "the workers ended without a model")
            if not attempts.left(job, failure):
                raise RunError(_give_up(job, run, failure, attempt.beats, planned)) from attempt.error
            run.screen.say(f"train: {failure.what}; the workers are started again from the last checkpoint")


def say_other_world(job: TrainSettings, run: Run, folder: Path, world: int) -> None:
    """Print a note if a run continues with another number of workers; refuse this if its checkpoints do not allow it.

    Raises:
        JobError: at ZeRO stage 3.
    """
    found = checkpoint.newest(folder / checkpoint.FOLDER)
    if not found or found.world == world:
        return
    if job.zero.stage == 3:
        raise JobError(
            f"train.workers: {world}, must be {found.world} with zero.stage 3, as when the checkpoint of step "
            f"{found.step} in {folder} was written; or change train.seed, which begins anew in another folder"
        )
    run.screen.say(
        f"train: continues from step {found.step} with {world} workers instead of {found.world}: the "
        "same batches, losses that are equal but for rounding, and other random numbers of dropout and noise"
    )


def _world(job: TrainSettings, plan: WorkerPlan, wait_s: float, *, restarted: bool) -> int:
    """Return the number of workers to start now; wait for room, or for machines if too many were lost."""
    if not job.elastic and not restarted:
        await_room("train.workers", [plan.need] * job.worlds[0], wait_s)
        return job.worlds[0]
    if not restarted:
        return elastic.choose(job.worlds, plan.need, wait_s=wait_s)
    if autoscales():
        require("train.workers", [plan.need] * job.worlds[0])
    return elastic.choose(job.worlds, plan.need, wait_s=max(elastic.MACHINES_S, wait_s))


def _limit_ray(job: TrainSettings) -> None:
    """Set how often Ray Train asks its workers, and when it takes one for dead that does not answer."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # 2 s by default, and the end waits that long
    answer = max(ANSWER_S, job.hang_timeout + 30) if job.hang_timeout else 10**9
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(answer))


class _Attempt:
    """One start of the workers, until they end."""

    def __init__(self, job: TrainSettings, plan: WorkerPlan, run: Run, folder: Path, bar: Bar) -> None:
        self._job, self._plan, self._run, self._folder, self._bar = job, plan, run, folder, bar
        self._errors: list[Exception] = []
        self.beats: dict[int, heartbeat.Beat] = {}
        self.resized = False

    @property
    def error(self) -> Exception | None:
        """The error that Ray Train raised."""
        return self._errors[0] if self._errors else None

    def run(self, ended: threading.Event) -> Failure | None:
        """Run the workers once and show their steps; return why they ended, or None if none failed.

        When `ended` is set, the workers are ended.
        """
        heartbeat.forget(self._folder)
        (self._folder / loop.RESIZE).unlink(missing_ok=True)
        # in another thread, so that this one can show the bar and an interrupt ends the run at once
        fit = threading.Thread(target=self._fit, daemon=True)
        fit.start()
        known = len(events(read_journal(self._folder / METRICS)))
        watch, hang, grown = heartbeat.Watch(self._job.hang_timeout), None, time.monotonic()
        while fit.is_alive():
            fit.join(POLL_S)
            self.beats = heartbeat.read(self._folder) or self.beats
            journal = read_journal(self._folder / METRICS)
            _show(self._bar, journal)
            known = _say_events(self._run, journal, known)
            if hang is None and (hang := watch.look(self.beats, time.monotonic())):
                log.warning("%s; all workers are ended", hang.what)
                kill(self.beats)
            if ended.is_set():
                kill(self.beats)
            if self._job.elastic and time.monotonic() - grown > GROW_EVERY_S:
                grown = time.monotonic()
                self._grow()
        self.beats = heartbeat.read(self._folder) or self.beats
        self.resized = (self._folder / loop.RESIZE).exists()
        if self.error is None:
            return None
        log.info("the workers failed: %s", self.error)
        return Failure("hang", hang.what) if hang else failure_of(self.error, self.beats)

    def _grow(self) -> None:
        """Ask the workers to end at their next checkpoint if the cluster has room for more of them."""
        world, marker = self._plan.batching.world, self._folder / loop.RESIZE
        if len(self.beats) < world or world == self._job.worlds[-1] or marker.exists():
            return
        places = elastic.room(self._plan.need, elastic.free(self._plan.need, list(self.beats.values())))
        more = elastic.largest(self._job.worlds, places)
        if more > world:
            marker.touch()
            self._run.screen.say(
                f"train: the cluster has room for {more} workers; {world} of them end at the next checkpoint"
            )

    def _fit(self) -> None:
        import ray.train
        from ray.train.torch import TorchTrainer

        from gristmill.training.loop.rendezvous import Rendezvous

        gpu = self._plan.need.gpus > 0
        own_budget: dict[str, Any] = {"max_preemption_failures": 0}  # an argument that Ray's type hints lack
        trainer = TorchTrainer(
            loop.work,
            train_loop_config={"course": self._plan},
            torch_config=Rendezvous(backend="nccl" if gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._plan.batching.world,
                use_gpu=gpu,
                resources_per_worker=self._plan.need.bundle(),
            ),
            run_config=ray.train.RunConfig(
                name=f"try-{time.time_ns()}",
                storage_path=str(self._folder / RAY_FOLDER),
                failure_config=ray.train.FailureConfig(max_failures=0, **own_budget),
            ),
        )
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            self._errors.append(error)


def _give_up(job: TrainSettings, run: Run, failure: Failure, beats: Mapping[int, heartbeat.Beat], planned: str) -> str:
    """Return the message of a run that ends."""
    again = "run again to continue from the last checkpoint"
    if failure.kind == "memory":
        return f"train: {failure.what}; {_measured(beats)}{planned}{advice(job)}; {again}"
    if failure.kind == "lost":
        most = f"machines were lost or taken back more than {job.max_preemptions} times (train.max_preemptions)"
        return f"train: {most}, the last time: {failure.what}; {again}"
    last = tail(run.logs, "train-0", 3)
    most = f"the workers died more than {job.max_failures} times (train.max_failures), the last time: {failure.what}"
    return f"train: {most}; {again}; see {run.logs}/train-*.log\n{last}"


def _measured(beats: Mapping[int, heartbeat.Beat]) -> str:
    most = max(beats.values(), key=lambda beat: max(beat.gpu_gib, beat.peak_gib), default=None)
    if most is None:
        return ""
    gpu = f" and {most.gpu_gib:.2f} GiB of its GPU" if most.gpu_gib else ""
    return f"worker {most.rank} had up to {most.peak_gib:.2f} GiB{gpu}, "


def advice(job: TrainSettings) -> str:
    """Return advice for a run that is out of memory; settings with which the run continues come first."""
    on = "" if job.gradient_checkpointing else "set train.gradient_checkpointing = true, or "
    lower = deaths.advice(deaths.lowerable("train", job, "micro_batch_size", "workers"))
    stage = f"raise train.zero.stage ({job.zero.stage}), or " if job.zero.stage < 3 else ""
    anew = f"{stage}lower train.max_length ({job.max_length})"
    return f"{on}{lower}; what else helps begins anew: {anew}"


def _say_events(run: Run, journal: Sequence[Mapping[str, Any]], known: int) -> int:
    """Print the starts and left-out batches after the first `known` ones; return the number of all of them."""
    found = events(journal)
    for event in found[known:]:
        if "start" in event:
            run.screen.say(f"train: {event['precision']}, {event['why']}; {event['apart']}")
        else:
            back = f"step {event['back']}" if event["back"] else "the start"
            what = f"batch {event['left_out'] + 1} is left out"
            run.screen.say(f"train: step {event['at']}: {event['why']}; {what}, training goes on from {back}")
    return len(found)


def _show(bar: Bar, journal: Sequence[Mapping[str, Any]]) -> None:
    steps = [m for m in journal if "step" in m]
    if steps:
        last = steps[-10:]
        rate = sum(m["tokens"] for m in last) / max(1e-9, sum(m["seconds"] for m in last))
        figures = {name: float(steps[-1][name]) for name in ("loss", "grad_norm") if name in steps[-1]}
        figures["tokens_per_s"] = rate
        note = f"loss {figures['loss']:.3f}, {rate:.0f} tokens/s"
        bar.update(steps[-1]["step"], note, figures=figures)
