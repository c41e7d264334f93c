"""Trainings inside a training: the trials of a search, and the folds of a cross-validation. They write no model."""

import math
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.resources import need_of
from gristmill.training import memory, search
from gristmill.training.data import prepare as data
from gristmill.training.loop import stopping, validation
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.optim.schedule import eval_every, num_steps
from gristmill.training.settings import TrainSettings
from gristmill.training.supervision import elastic
from gristmill.training.tasks import prepare as tasks

FOLDER = "trials"
"""Folder of the trainings, inside that of the training. It is deleted when the model is committed."""
Fit = Callable[..., Any]
"""Trains by a plan, as `gristmill.training.supervision.supervisor.fit` does."""


class Trials:
    """Trainings with other settings or other held-out rows, each in a folder of its own."""

    def __init__(self, run: Run, work: Work, fit: Fit) -> None:
        """Take the run and work of the train job, and its function that trains."""
        self._run, self._work, self._fit = run, work, fit
        self._folder = run.store.folder(work.output)
        self._ended, self._preparing = threading.Event(), threading.Lock()

    def run_search(self, job: TrainSettings) -> tuple[TrainSettings, list[search.Trial], search.Trial]:
        """Return the settings of the best trial, all trials, and the best one. Trials that have ended are not repeated.

        Raises:
            JobError: when no trial ended with a finite loss.
        """
        how, base = job.search, job.model_copy(update={"search": search.Search()})
        done = search.read(self._folder / search.TRIALS)
        total = how.count
        if done:
            self._run.screen.say(f"train: {len(done)} of {total} trials have ended before")

        most = side_by_side(job) if how.independent and not job.elastic else 1
        most = min(most, how.parallel or most, total - len(done))
        if most > 1:
            self._run.screen.say(f"train: {most} trials at a time")

        def try_(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> search.Trial:
            self._run.screen.say(f"train: trial {number + 1} of {total}: {search.as_settings(values)}")
            run = _beside_others(self._run, number) if most > 1 else self._run
            found = self._trial(search.changed(base, values), number, values, bars, run)
            what = "no loss" if found.loss is None else stopping.said(job.metric, found.loss)
            self._run.screen.say(f"train: trial {number + 1}: {found.state} after {found.steps} steps, {what}")
            return found

        def keep(trials: list[search.Trial]) -> None:
            self._run.store.write_json(search.as_json(trials), self._work.output, search.TRIALS)
            shutil.rmtree(self._folder / FOLDER / _name(len(trials) - 1), ignore_errors=True)

        asha = how.method == "asha" and isinstance(job.eval_steps, int)
        rungs = search.rungs(int(job.eval_steps), how.eta, MOST_STEPS) if asha else []
        best = search.run(how, done, rungs, try_, keep, most, self._ended.set)
        shutil.rmtree(self._folder / FOLDER, ignore_errors=True)
        self._run.screen.say(
            f"train: trial {done.index(best) + 1} of {len(done)} is the best one, "
            f"{stopping.said(job.metric, best.loss or 0.0)}; its settings are trained: "
            f"{search.as_settings(best.values)}"
        )
        return search.changed(base, best.values), done, best

    def _trial(
        self, job: TrainSettings, number: int, values: Mapping[str, Any], bars: Mapping[int, float], run: Run
    ) -> search.Trial:
        name, store = f"{self._work.output}/{FOLDER}/{_name(number)}", self._run.store
        try:
            lines, steps = self.train(job, name, bars, run=run)
        except RunError as error:
            if not store.exists(name, loop.FAILED):
                raise  # the cluster failed, not the settings
            self._run.screen.say(f"train: trial {number + 1}: {error}")
            return search.Trial(dict(values), "failed", None, 0)
        end = next(m for m in reversed(lines) if "end" in m)
        losses = tuple((one.step, one.error) for one in stopping.measured(lines, job.metric))
        late = any(step == end["end"] and loss > bars.get(step, math.inf) for step, loss in losses)
        stopped = late and end["end"] < steps
        last = stopping.of_line(end, end["kept"], job.metric).error
        finite = math.isfinite(last)
        state: Any = "stopped" if stopped else "done" if finite else "failed"
        return search.Trial(dict(values), state, last if finite else None, end["end"], losses)

    def train(
        self,
        job: TrainSettings,
        name: str,
        bars: Mapping[int, float],
        fold: tuple[int, int] | None = None,
        run: Run | None = None,
    ) -> tuple[list[dict[str, Any]], int]:
        """Train without writing a model, and return the journal and the number of planned steps.

        A training that has ended in this folder is not repeated.

        Args:
            job: the settings.
            name: the folder, inside the store.
            bars: highest error with which training goes on, by step.
            fold: which fold is held out, of how many; None for the held-out rows of the settings.
            run: the run, if it is not that of the train job.
        """
        run, store, base = run or self._run, self._run.store, models.local(job.model)
        prepare = data.prepare if job.task.causal else tasks.prepare
        with self._preparing:  # chat templates are rendered by one thread at a time
            packed = prepare(store, name, self._work.inputs, base, job, fold)
        steps = job.steps or num_steps(job.epochs, packed.epoch_rows, job.global_batch_size)
        each = need_of("train.gpus_per_worker", job.cpus_per_worker, job.gpus_per_worker)
        cut = job.batching(job.worlds[-1])
        head = tasks.head(store, name, job)
        every = eval_every(job.eval_steps, packed.epoch_rows, job.global_batch_size)
        labels = validation.names(store, self._work.inputs, job)
        plan = WorkerPlan(
            job, store, name, base, steps, cut, each, run.logs, head, exports=False, bars=bars, eval_steps=every,
            labels=labels,
        )  # fmt: skip
        folder = store.folder(name)
        if not any("end" in line for line in read_journal(folder / METRICS)):
            self._fit(job, plan, run, ended=self._ended)
        return read_journal(folder / METRICS), steps


def side_by_side(job: TrainSettings) -> int:
    """Return for how many trainings at a time the cluster has free cores, GPUs and memory, at least 1.

    The memory of machines without GPUs counts only if the shape of the model is known.
    """
    world, each = job.worlds[-1], need_of("train.gpus_per_worker", job.cpus_per_worker, job.gpus_per_worker)
    shape = None if each.gpus else memory.shape_of(models.local(job.model))
    peak = memory.forecast(shape, job, world, gpu=False).peak if shape else 0.0
    free = elastic.free(each)
    places = [elastic.room(each, [have]) for have in free]
    if peak:
        places = [min(n, int(have.get("memory", 0.0) / peak)) for n, have in zip(places, free, strict=True)]
    return max(1, sum(places) // world)


def _name(number: int) -> str:
    """Return the folder of a trial."""
    return f"{number:04d}"


class _Beside(Screen):
    """The screen of a trial that runs together with others: lines with its number, and no bars."""

    def __init__(self, screen: Screen, number: int) -> None:
        super().__init__(quiet=True, every_s=math.inf)
        self.activity, self._screen, self._number = screen.activity, screen, number

    def say(self, line: str) -> None:
        self._screen.say(f"trial {self._number + 1}: {line}")


def _beside_others(run: Run, number: int) -> Run:
    """Return the run with a screen and log files for one of several trials."""
    logs = run.logs and f"{run.logs}/trial-{_name(number)}"
    return replace(run, screen=_Beside(run.screen, number), logs=logs)


MOST_STEPS = 1 << 40
"""More steps than any training has; rungs above the steps of a trial are never reached."""
