"""The train job: a dataset and a base model become an adapter and a merged model, under Ray Train with DeepSpeed.

<output>/adapter/…        PEFT adapter, if the tuning makes one
         merged/…         the finished model with its tokenizer, in files that transformers and vLLM load
         holdout.arrow    SAMPLES: the held-out rows, with the tag `family`
         left_out.json    by reason, the ids of rows that are not trained on because of held-out or test rows
         metrics.jsonl    one line for each step (`gristmill.training.loop.journal`)
         checkpoints/…    deleted when the manifest is written
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.runtime import deaths
from gristmill.cluster.runtime.log import tail
from gristmill.cluster.runtime.progress import Bar
from gristmill.cluster.runtime.resources import Need, need_of, require
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training import checkpoint, trials
from gristmill.training.data import facts
from gristmill.training.data import prepare as data
from gristmill.training.data.forecast import forecast
from gristmill.training.figures import TrainFigures
from gristmill.training.folds import FOLDS, run_folds
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, left_out, read_journal
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.optim.schedule import num_steps
from gristmill.training.search import TRIALS, Search
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import heads
from gristmill.training.tasks import prepare as tasks
from gristmill.training.trackers import STATE, following
from gristmill.training.tuning.model import ADAPTER, MERGED
from gristmill.training.zero import Batching

log = logging.getLogger(__name__)

RAY_FOLDER = "ray"
POLL_S = 0.5


class Train(TrainSettings, Job):
    """`[train]`: fine-tune a model on the assistant's turns in the kept samples."""

    name: ClassVar[str] = "train"
    figures: ClassVar[type[Figures]] = TrainFigures
    presentation: ClassVar[str] = "gristmill.training.report:TrainPresentation"
    example: ClassVar[Mapping[str, Any]] = {"input": "samples.jsonl"}
    upstream: ClassVar[tuple[str, ...]] = ("lift", "select", "review", "generate")
    dashboard: ClassVar[bool] = True
    not_identity: ClassVar[frozenset[str]] = Job.not_identity | TrainSettings.not_identity

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the model; contents of base model and template replace their paths."""
        value = super().identity()
        if not self.search.space:
            del value["fields"]["search"]
        if not self.folds:
            del value["fields"]["folds"]
        value["fields"]["model"] = models.identity(self.model)
        if self.template:
            value["fields"]["template"] = Path(self.template).read_text(encoding="utf-8")
        if self.task.causal:  # as before there were other tasks
            del value["fields"]["task"]
        return value

    def check(self, base: Path) -> list[str]:
        """Return the problems of the settings beyond their types."""
        del base
        found = self.setting_problems() + self.trackers.problems()
        found += self.search.problems(self.model_copy(update={"search": Search()}), Train.setting_problems)
        problem = models.missing(self.model)
        if problem:
            found.append(f"model: {self.model}: {problem}")
        else:
            found += facts.problems(self.model, self.max_length)
            found += heads.problems(self.task, self.model, self.max_length)
        return found + self.encoding_problems() + self.task_problems()

    def sources(self) -> dict[str, Source]:
        """Return the inputs that no job of the recipe makes, by role."""
        found = super().sources()
        if isinstance(self.validation, Source):
            found[data.VALIDATION] = self.validation
        return found | {data.TEST + (f"-{n}" if n > 1 else ""): source for n, source in enumerate(self.test, 1)}

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the dataset of the recipe's seeds if a share of the seeds is held out; else nothing."""
        if self.validation_split == "samples" or isinstance(self.validation, Source):
            return {}
        if "ingest" not in outputs:
            raise JobError(
                'train.validation_split: "seeds", but no job before train has an input; must be "samples", or give '
                "generate.input"
            )
        return {data.SEEDS: outputs["ingest"]}

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan of the training. Steps and tokens are counted from the rows if the rows exist already."""
        plan = Plan(self.name, work.output, actors=self.workers, cpus=self.workers * self.cpus_per_worker, shards=1)
        plan.gpus = self.workers * (self.gpus_per_worker or 0)
        plan.state = "done" if store.complete(work.output) else "continues" if store.exists(work.output) else "to do"
        plan.samples = plan.kept = work.num_samples(store)
        found = forecast(store, work.inputs.get("samples", ""), plan.samples, self)
        plan.tokens = found.tokens
        task = "" if self.task.causal else f"{self.task.kind}, "
        how = f"{task}{self.tuning.said}, {self.optimizer.kind}, ZeRO-{self.zero.stage}, {self.precision}"
        plan.notes.append(f"{self.model}, {how}, {found.how}")
        plan.notes.extend(found.notes)
        more = self.search.count + self.folds
        if more:
            plan.tokens *= 1 + more
            plan.notes.append(
                f"{self.search.count} trials of a search and {self.folds} folds before the model is trained, one after "
                "the other; the tokens are those of all"
            )
        types = {"auto": ("bfloat16", "float32"), "bf16": ("bfloat16",), "fp32": ("float32",)}[self.precision]
        if held := models.memory(self.model, types):
            plan.notes.append(f"a worker holds weights, {held}, in addition to gradients and optimizer states")
        return plan

    def make(self, run: Run, work: Work) -> TrainFigures:
        """Search for settings if this is asked for, then train with the best ones."""
        if not self.search.space:
            return self._make(run, work)
        self._require()
        chosen, done, best = trials.Trials(run, work, _fit).run_search(self)
        assert isinstance(chosen, Train)
        return chosen._make(run, work, trials=len(done), chosen=dict(best.values))

    def _make(self, run: Run, work: Work, **found: Any) -> TrainFigures:  # noqa: ANN401 - figures of a search
        """Pack, train, export and commit; continue from the newest checkpoint if there is one."""
        began = time.monotonic()
        folder = run.store.folder(work.output)
        self._say_other_world(run, folder)
        base = models.local(self.model)
        each = self._require()
        run.ledger.append("shards_planned", job=self.name, shards=1, committed=0)
        with run.screen.bar("train: packing"):
            prepare = data.prepare if self.task.causal else tasks.prepare
            packed = prepare(run.store, work.output, work.inputs, base, self)
        self._say_held_out(run, packed)
        for what, count in packed.notes.items():
            run.screen.say(f"train: {count} {what}")
        if packed.drops:
            run.screen.say(f"train: samples not used: {', '.join(f'{n} {why}' for why, n in packed.drops.items())}")
        packing_s = time.monotonic() - began
        if self.folds:
            found["fold_losses"] = run_folds(self, run, work, _fit)
        steps = self.steps or num_steps(self.epochs, packed.bins, self.global_batch_size)
        cut = Batching(
            self.micro_batch_size, self.global_batch_size // (self.micro_batch_size * self.workers), self.workers
        )
        head = tasks.head(run.store, work.output, self)
        if head:
            run.screen.say(f"train: {head.said}")
        plan = WorkerPlan(self, run.store, work.output, base, steps, cut, each, run.logs, head)
        config = self.model_dump(mode="json")
        with following(self.trackers, folder, run.store.folder(""), config, run.screen.say) as lost:
            _fit(self, plan, run, folder)
        journal = read_journal(folder / METRICS)
        figures = replace(
            _figures(packed, journal, steps),
            task=self.task.kind,
            labels=head.names if head else (),
            packing_seconds=round(packing_s, 1),
            untracked={kind: count for kind, count in lost.items() if count},
            **found,
            seconds=round(time.monotonic() - began, 1),
        )
        self._commit(run, work, folder, figures)
        run.ledger.append("shard_done", job=self.name, shard=MERGED, rows=packed.samples, kept=packed.samples,
                          seconds=figures.seconds)  # fmt: skip
        return figures

    def _require(self) -> Need:
        """Return the needs of a worker, and refuse workers that do not fit into the cluster at once."""
        each = need_of("train.gpus_per_worker", self.cpus_per_worker, self.gpus_per_worker)
        require("train.workers", [each] * self.workers)
        return each

    def _say_held_out(self, run: Run, packed: data.PackedCounts) -> None:
        """Print how many rows are held out, and how many are not used for each reason."""
        what = f"{packed.holdout} of {packed.families} families"
        run.screen.say(f"train: {packed.samples} samples to train on, {what} held out")
        for what, drops in (("not trained on", packed.drops), ("validation samples not used", packed.holdout_drops)):
            if drops:
                reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
                run.screen.say(f"train: {what}: {reasons}")
        if packed.relatives:
            run.screen.say(
                f"train: {packed.relatives} of the held-out samples share a parent with samples trained on, because "
                'each was made from several; hold out seeds for a stricter test (train.validation_split = "seeds")'
            )

    def _say_other_world(self, run: Run, folder: Path) -> None:
        """Print a note if a run continues with another number of workers; refuse this at ZeRO stage 3."""
        found = checkpoint.newest(folder / checkpoint.FOLDER)
        if found and found.world != self.workers and self.zero.stage == 3:
            raise JobError(
                f"train.workers: {self.workers}, must be {found.world} at zero.stage 3, as when the checkpoint of step "
                f"{found.step} in {folder} was written; or change train.seed, which begins anew in another folder"
            )
        if found and found.world != self.workers:
            run.screen.say(
                f"train: continues from step {found.step} with {self.workers} workers in place of {found.world}: the "
                "same batches, losses that are equal but for rounding, and other random numbers of dropout and noise"
            )

    def _commit(self, run: Run, work: Work, folder: Path, figures: TrainFigures) -> None:
        held = run.store.committed(work.output, data.HOLDOUT)[data.HOLDOUT]
        files = [p for part in (ADAPTER, MERGED) for p in sorted((folder / part).rglob("*")) if p.is_file()]
        files += [path for path in (folder / name for name in (TRIALS, FOLDS)) if path.exists()]
        shards: list[Shard] = [file_shard(p, folder) for p in [*files, folder / data.LEFT_OUT, folder / METRICS]]
        run.store.commit(
            self.manifest(work, "model", (held, *shards), {"precision": figures.precision}),
            figures.to_json(),
        )
        data.sweep(run.store, work.output)
        run.store.delete(work.output, tasks.LABELS)  # the finished model has them
        run.store.delete(work.output, STATE)
        for name in (checkpoint.FOLDER, checkpoint.BEST, RAY_FOLDER, trials.FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)


def _fit(job: Train, plan: WorkerPlan, run: Run, folder: Path) -> None:
    """Run the workers and show their steps; start them again if Ray ended one because memory was full.

    Ray Train itself restarts the workers after any other failure. After an OutOfMemoryError it fails, because version
    2.60 expects a RayActorError or a RayTaskError (train/v2/_internal/callbacks/backend_setup.py).

    Raises:
        RunError: when workers die more than `max_failures` times, or a worker reports an error that a restart cannot
            fix.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # 2 s by default, and the end waits that long
    plan.store.delete(plan.output, loop.FAILED)
    with run.screen.bar("train: steps", plan.steps) as bar:
        error = _attempt(job, plan, run, folder, bar)
        for _ in range(job.max_failures):
            if error is None or not deaths.out_of_memory(_died(error)):
                break
            what = deaths.ended("a worker", _died(error), top=False)
            run.screen.say(f"train: {what}; started again from the last checkpoint")
            error = _attempt(job, plan, run, folder, bar)
    if run.store.exists(plan.output, loop.FAILED):
        raise RunError(str(run.store.read_json(plan.output, loop.FAILED)["error"]))
    if error and deaths.out_of_memory(_died(error)):
        what = f"{job.max_failures + 1} deaths, the last: {deaths.ended('a worker', _died(error))}"
        raise RunError(f"train: {what}; {_advice(job)}; run again to continue from the last checkpoint") from error
    if error or not any("end" in m for m in read_journal(folder / METRICS)):
        last = tail(run.logs, "train-0", 3)
        raise RunError(
            f"train: the workers died more than {job.max_failures} times; run again to continue from the last "
            f"checkpoint; see {run.logs}/train-*.log\n{last}"
        ) from error


def _attempt(job: Train, plan: WorkerPlan, run: Run, folder: Path, bar: Bar) -> Exception | None:
    """Run the workers once and show their steps; return the error that Ray raised, or None."""
    errors: list[Exception] = []
    # in another thread, so that this one can show the bar and an interrupt ends the run at once
    fit = threading.Thread(target=_train_workers, args=(job, plan, folder, errors), daemon=True)
    fit.start()
    known = len(_events(read_journal(folder / METRICS)))
    while fit.is_alive():
        fit.join(POLL_S)
        journal = read_journal(folder / METRICS)
        _show(bar, journal)
        known = _say_events(run, journal, known)
    if errors:
        log.info("the workers failed: %s", errors[0])
    return errors[0] if errors else None


def _train_workers(job: Train, plan: WorkerPlan, folder: Path, errors: list[Exception]) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from gristmill.training.loop.rendezvous import Rendezvous

    gpu = plan.need.gpus > 0
    trainer = TorchTrainer(
        loop.work,
        train_loop_config={"course": plan},
        torch_config=Rendezvous(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.workers, use_gpu=gpu, resources_per_worker=plan.need.bundle()
        ),
        run_config=ray.train.RunConfig(
            name=f"try-{time.time_ns()}",
            storage_path=str(folder / RAY_FOLDER),
            failure_config=ray.train.FailureConfig(max_failures=job.max_failures),
        ),
    )
    try:
        trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        errors.append(error)


def _starts(journal: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [m for m in journal if "start" in m]


def _events(journal: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [m for m in journal if "start" in m or "left_out" in m]


def _say_events(run: Run, journal: Sequence[Mapping[str, Any]], known: int) -> int:
    """Print the starts and left-out batches after the first `known` ones; return the number of all of them."""
    events = _events(journal)
    for event in events[known:]:
        if "start" in event:
            run.screen.say(f"train: {event['precision']}, {event['why']}; {event['apart']}")
        else:
            back = f"step {event['back']}" if event["back"] else "the start"
            what = f"batch {event['left_out'] + 1} is left out"
            run.screen.say(f"train: step {event['at']}: {event['why']}; {what}, training goes on from {back}")
    return len(events)


def _died(error: Exception) -> Exception:
    """Return the error that ended a worker. Ray Train wraps it in other errors."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        found = [_died(failure) for failure in failures.values()]
        return next((one for one in found if deaths.out_of_memory(one)), found[0])
    inner = getattr(error, "health_check_failure", None) or getattr(error, "controller_failure", None)
    return _died(inner) if isinstance(inner, Exception) else error


def _advice(job: Train) -> str:
    """Return advice for a run that is out of memory; settings that do not change the model come first."""
    recompute = "" if job.gradient_checkpointing else "set train.gradient_checkpointing = true, or "
    return recompute + deaths.advice(deaths.lowerable("train", job, "micro_batch_size", "workers", "max_length"))


def _show(bar: Bar, journal: Sequence[Mapping[str, Any]]) -> None:
    steps = [m for m in journal if "step" in m]
    if steps:
        last = steps[-10:]
        rate = sum(m["tokens"] for m in last) / max(1e-9, sum(m["seconds"] for m in last))
        bar.update(steps[-1]["step"], f"loss {steps[-1]['loss']:.3f}, {rate:.0f} tokens/s")


def _figures(packed: data.PackedCounts, journal: list[dict[str, Any]], steps: int) -> TrainFigures:
    done = [m for m in journal if "step" in m]
    end: Mapping[str, Any] = next((m for m in reversed(journal) if "end" in m), {})
    seconds, tokens = sum(m["seconds"] for m in done), sum(m["tokens"] for m in done)
    return TrainFigures(
        rows=packed.samples + packed.holdout,
        kept=packed.samples,
        holdout=packed.holdout,
        families=packed.families,
        relatives=packed.relatives,
        left_out=packed.left_out,
        dropped=sum(packed.drops.values()),
        drop_reasons=dict(sorted(packed.drops.items())),
        packed_rows=packed.bins,
        steps=end.get("end", steps),
        stopped_early=end.get("end", steps) < steps,
        kept_step=end.get("kept"),
        precision=_starts(journal)[-1]["precision"],
        notes=dict(packed.notes),
        separation=_starts(journal)[-1]["separation"],
        tokens=tokens,
        trained_tokens=sum(m["trained_tokens"] for m in done),
        tokens_per_s=round(tokens / seconds, 1) if seconds else 0.0,
        step_seconds=round(seconds, 1),
        loss_first=done[0]["loss"] if done else None,
        loss_last=done[-1]["loss"] if done else None,
        holdout_loss=end.get("holdout_loss"),
        merged_difference=end.get("merged_difference"),
        starts=len(_starts(journal)),
        batches_left_out=len(left_out(journal)),
    )
