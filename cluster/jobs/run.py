"""Execution of a recipe, job by job. A run that was stopped continues after its committed shards."""

import logging
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from gristmill.cluster.contract.errors import BusyError, GristmillError, JobError, RunError
from gristmill.cluster.contract.secrets import public_text, public_uri
from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.heartbeat import beating
from gristmill.cluster.jobs.job import SAMPLE_JOBS, Job, Run, Work
from gristmill.cluster.jobs.recipe import Recipe, check_inputs
from gristmill.cluster.jobs.state import RUNS, recipe_of
from gristmill.cluster.report import run as report
from gristmill.cluster.report.material import plain_reason
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.activity import waiting
from gristmill.cluster.runtime.interrupt import leave_within, signal_name
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.lease import making, tidy
from gristmill.cluster.store.ledger import Ledger, lock
from gristmill.cluster.store.store import Store

logger = logging.getLogger(__name__)
MOST_REASONS = 3
"""Number of drop reasons of an input that the terminal names."""


def execute(recipe: Recipe, works: Mapping[str, Work], only: Sequence[str], screen: Screen) -> str:
    """Make the outputs of the chosen jobs of a recipe, and return the run's id.

    An output that is complete in the store is not made again. Ray starts only if there is work left.

    Raises:
        JobError: if an input is missing. Nothing has started then.
        BusyError: if another process executes the run, or what it needs of the cluster stays in use.
        GristmillError: if a job fails. The ledger records this. The same command continues after the committed shards.
    """
    store = Store(recipe.store)
    if store.is_file():
        raise JobError(f"{recipe.path}: store: {recipe.store} is a file, must be a folder or a URI")
    lacking = check_inputs(recipe, store, only, works)
    if lacking:
        raise JobError("\n".join(f"{recipe.path}: {line}" for line in lacking))
    run_id = recipe.run_id(works)
    folder = f"{RUNS}/{run_id}"
    logs = str(store.folder(f"{folder}/logs")) if store.local else None
    with lock(store, folder):
        log.driver(Path(logs) if logs else None)
        store.write_json(recipe.resolve(works), folder, "recipe.json")
        run = Run(run_id, store, Ledger(store, folder), screen, logs, recipe.ground.wait_s)
        late = partial(_record_late, run)
        with _recorded(run, only), leave_within(recipe.ground.grace_s, late), beating(run, folder):
            _make_all(recipe, works, only, run)
        report.write(store, run_id)
    return run_id


def _make_all(recipe: Recipe, works: Mapping[str, Work], only: Sequence[str], run: Run) -> None:
    for name in only:
        for role, source in recipe.jobs[name].sources().items():
            if not source.dataset:
                _ingest(run, source, works[name].inputs[role])
    jobs = recipe.jobs
    pending = [name for name in only if not _reused(run, name, works[name].output, jobs[name].working)]
    if not pending:
        return
    with _ray(recipe, works, pending, run):
        for name in pending:
            with making(run.store, works[name].output, say=run.screen.say) as store:
                if not _reused(run, name, works[name].output, jobs[name].working):
                    _make(jobs[name], replace(run, store=store), works[name])


def _reused(run: Run, name: str, output: str, working: Sequence[str]) -> bool:
    """Return whether the output of a job is complete, and say so if it is."""
    if not run.store.complete(output):
        return False
    tidy(run.store, output, working)  # the run that made it may have been killed before it did so
    run.screen.say(f"{name}: {run.store.at(output)} is complete, nothing to do")
    run.ledger.append("job_done", job=name, output=output, figures=run.store.figures(output), reused=True)
    return True


def _make(job: Job, run: Run, work: Work) -> None:
    run.ledger.append("job_started", job=job.name, output=work.output)
    run.screen.activity.begin(job.name)
    start = time.monotonic()
    try:
        measured = job.make(run, work)
    except BaseException as error:
        event = "job_stopped" if isinstance(error, KeyboardInterrupt | BusyError) else "job_failed"
        run.ledger.append(event, job=job.name, seconds=round(time.monotonic() - start, 1))
        raise
    run.ledger.append("job_done", job=job.name, output=work.output, figures=measured.to_json())


@contextmanager
def _ray(recipe: Recipe, works: Mapping[str, Work], pending: Sequence[str], run: Run) -> Iterator[None]:
    """Keep a session of Ray open while the block runs, if one of the jobs uses it."""
    ground = recipe.ground
    if not any(recipe.jobs[name].uses_ray(run.store, works[name]) for name in pending):
        yield
        return
    run.screen.say("starting Ray")
    dashboard = any(recipe.jobs[name].dashboard for name in pending)
    with ExitStack() as stack:
        with waiting("ray", "Ray to start"):
            stack.enter_context(session(ground.address, ground.num_cpus, ground.num_gpus, dashboard=dashboard))
        yield


def _ingest(run: Run, source: ingest.Source, folder: str) -> None:
    with making(run.store, folder, say=run.screen.say) as store:
        reused = store.complete(folder)
        if not reused:
            run.ledger.append("job_started", job="ingest", output=folder)
            run.screen.activity.begin("ingest")
            ingest.ingest(store, source, run.screen)
    manifest = run.store.manifest(folder)
    if reused:
        ingest.warn_of_columns(source, manifest.metadata)
    dropped = manifest.rows - manifest.kept
    note = f", {dropped} dropped ({_reasons(run.store, folder)})" if dropped else ""
    run.screen.say(f"ingest: {manifest.kept} samples from {', '.join(map(public_uri, source.path))}{note}")
    figures = Figures(rows=manifest.rows, kept=manifest.kept)
    run.ledger.append("job_done", job="ingest", output=folder, figures=figures.to_json(), reused=reused)


def _reasons(store: Store, folder: str) -> str:
    """Return the most frequent drop reasons of a dataset with their numbers of rows, in words."""
    columns = (table["dropped"].drop_null().to_pylist() for table in store.scan(folder, ["dropped"]))
    counts = Counter(textwrap.shorten(plain_reason(reason), 90) for column in columns for reason in column)
    more = ["other reasons"] if len(counts) > MOST_REASONS else []
    return ", ".join([*(f"{count} {reason}" for reason, count in counts.most_common(MOST_REASONS)), *more])


@contextmanager
def _recorded(run: Run, only: Sequence[str]) -> Iterator[None]:
    """Write the start and the end of a run into its ledger, also if the run fails."""
    run.ledger.append("run_started", jobs=list(only), pid=os.getpid())
    try:
        yield
    except GristmillError as error:
        cause = getattr(error, "cause", None)  # Ray's error for a process has a traceback as its text
        event = "run_stopped" if isinstance(error, BusyError) else "run_failed"
        run.ledger.append(event, error=str(cause or error))
        if isinstance(cause, GristmillError):
            raise cause from error
        raise
    except KeyboardInterrupt as error:
        run.ledger.append("run_stopped", error=f"interrupted by {signal_name(error)}")
        raise
    except Exception as error:
        logger.exception("the run failed")
        run.ledger.append("run_failed", error=public_text(f"{type(error).__name__}: {error}"))
        where = f"; the traceback is in {run.logs}/driver.log" if run.logs else ""
        first = str(error).strip().splitlines() or [""]
        raise RunError(f"{run.id}: {type(error).__name__}: {first[0]}{where}") from error
    run.ledger.append("run_done")


def _record_late(run: Run, name: str) -> None:
    """Write and print that a run was interrupted by a signal, and did not shut down in time."""
    said = f"interrupted by {name}, ended without a shutdown in order"
    run.ledger.append("run_stopped", error=said)
    sys.stderr.write(f"gristmill: {said}; the same command continues after what is committed\n")
    sys.stderr.flush()


def runs(store: Store) -> list[str]:
    """Return the ids of the runs in a store."""
    return [name for name in store.names(RUNS) if store.exists(RUNS, name, "recipe.json")]


def samples_of(store: Store, run_id: str) -> tuple[str, str]:
    """Return (job, folder) of the run's last dataset of samples. The folder need not exist yet.

    Raises:
        JobError: if the run makes no dataset of samples.
    """
    outputs = recipe_of(store, run_id).outputs
    made = [(job, str(outputs[job])) for job in SAMPLE_JOBS if job in outputs]
    if not made:
        raise JobError(f"{run_id}: makes no dataset of samples, must make one; name a dataset")
    return made[-1]


def ended_samples(store: Store, run_id: str) -> str:
    """Return the folder of the run's last dataset of samples.

    Raises:
        JobError: if the job that makes it has not ended. The message names the datasets that are complete.
    """
    job, output = samples_of(store, run_id)
    if store.complete(output):
        return output
    shards = len(store.committed(output)) + len(store.committed(output, prefix="raw-"))
    outputs = recipe_of(store, run_id).outputs
    there = [folder for name, folder in outputs.items() if name in SAMPLE_JOBS and store.complete(folder)]
    others = f", or name {' or '.join(there)}" if there else ""
    raise JobError(
        f"{run_id}: its {job} has not ended ({shards} shards are committed), must have; run its recipe again, or look "
        f"at what is committed with `gristmill head {run_id} --committed`{others}"
    )


def find(store: Store, name: str) -> tuple[str, str]:
    """Return the kind, `"run"` or `"dataset"`, and the full name of the run or dataset with this name.

    The beginning of the name is enough, if only one name begins with it.

    Raises:
        JobError: if no name, or more than one name, begins with this.
    """
    datasets = [n for n in store.names() if store.complete(n)]
    found = [("run", n) for n in runs(store) if n.startswith(name)]
    found += [("dataset", n) for n in datasets if n.startswith(name)]
    exact = [f for f in found if f[1] == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise JobError(
            f"{store.uri}: nothing begins with {name!r}, must be a run or dataset; `gristmill show` lists them"
        )
    raise JobError(f"{name!r}: {len(found)} things begin so ({', '.join(n for _, n in found)}), give more letters")
