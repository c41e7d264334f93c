"""The heartbeat of a run: every few seconds the driver writes what it does into the run's folder and Ray's metrics.

The file says whether a run is stuck, in a folder and in an object store alike. The metrics are those of the driver,
which Prometheus scrapes at the port of its node, and which `deploy/prometheus-rules.yml` and `deploy/grafana.json` use.
"""

import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.runtime.activity import Activity, Step, Time, Wait, waits
from gristmill.cluster.store.store import Store

log = logging.getLogger(__name__)
HEARTBEAT = "heartbeat.json"
BEAT_S, BEAT_OBJECT_S = 5.0, 30.0
"""Seconds between two heartbeats: in a folder, and in an object store, where each is a request."""
PREFIX = "gristmill_run_"
OF_RUN = {
    "heartbeat_timestamp_seconds": "Time of the driver's last heartbeat, in seconds since 1970.",
    "progress_timestamp_seconds": "Time when the run last got further, in seconds since 1970.",
    "driver_memory_bytes": "Resident memory of the driver.",
    "driver_cpu_seconds": "Processor time that the driver has used.",
}
"""Gauges with the label `run`."""
OF_STAGE = {
    "done": "How much of the stage is done.",
    "total": "How much the stage has to do; 0 if it is not known.",
}
"""Gauges with the labels `run` and `stage`, such as `train: steps`."""
OF_REASON = {"waiting_seconds": "Seconds for which the run waits; 0 when the wait is over."}
"""Gauges with the labels `run` and `reason`."""


@dataclass(frozen=True)
class Beat:
    """One heartbeat."""

    time: Time
    process: int
    machine: str
    step: Step = field(default_factory=Step)
    waiting: tuple[Wait, ...] = ()


def read(store: Store, folder: str) -> Beat | None:
    """Return the last heartbeat of a run; None if there is none, or if it cannot be read."""
    if not store.exists(folder, HEARTBEAT):
        return None
    try:
        return store.read_as(Beat, folder, HEARTBEAT)
    except StoreError as error:
        log.warning("%s", error)
        return None


@contextmanager
def beating(run: Run, folder: str) -> Iterator[None]:
    """Write heartbeats while the block runs. Afterwards the ledger says how the run ended, and the file is deleted."""
    heart = _Heart(run.id, run.store, folder, run.screen.activity)
    heart.start()
    try:
        yield
    finally:
        heart.end()


class _Heart(threading.Thread):
    def __init__(self, run_id: str, store: Store, folder: str, activity: Activity) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self._store, self._path, self._activity = store, (folder, HEARTBEAT), activity
        self._metrics = RunMetrics(run_id)
        self._every_s = BEAT_S if store.local else BEAT_OBJECT_S
        self._ended = threading.Event()
        self._failed = False

    def run(self) -> None:
        written = -self._every_s
        while True:
            now = time.monotonic()
            beat = Beat(time.time(), os.getpid(), socket.gethostname(), self._activity.step, waits())
            if now - written >= self._every_s:
                written = now
                self._write(beat)
            self._metrics.update(beat)
            if self._ended.wait(min(self._every_s, BEAT_S)):
                return

    def end(self) -> None:
        """Stop, and delete the file."""
        self._ended.set()
        self.join()
        try:
            self._store.delete(*self._path)
        except (StoreError, OSError) as error:
            log.warning("the heartbeat cannot be deleted: %s", error)

    def _write(self, beat: Beat) -> None:
        """Write the file. A run goes on without it, so an error is said once and does not end the run.

        JSON has no infinite numbers, so a loss that is one is left out.
        """
        figures = {name: value for name, value in beat.step.figures.items() if math.isfinite(value)}
        try:
            self._store.write_json(asdict(replace(beat, step=replace(beat.step, figures=figures))), *self._path)
            self._failed = False
        except (StoreError, OSError) as error:
            if not self._failed:
                log.warning("the heartbeat cannot be written: %s", error)
            self._failed = True


class RunMetrics:
    """Ray's metrics of a driver. They are exported as long as a session of Ray is open."""

    def __init__(self, run_id: str) -> None:
        self._run = run_id
        self._gauges: dict[str, Any] = {}
        self._reasons: set[str] = set()

    def update(self, beat: Beat) -> None:
        """Report a heartbeat, if a session of Ray is open."""
        # Ray is not imported for this: a run without it has no metrics. Another thread may just be importing it
        has_session = getattr(sys.modules.get("ray"), "is_initialized", None)
        if has_session is None or not has_session():
            return
        import psutil  # psutil comes with Ray

        step, process = beat.step, psutil.Process()
        self._set(OF_RUN, "heartbeat_timestamp_seconds", beat.time)
        self._set(OF_RUN, "progress_timestamp_seconds", step.progressed)
        self._set(OF_RUN, "driver_memory_bytes", process.memory_info().rss)
        self._set(OF_RUN, "driver_cpu_seconds", sum(process.cpu_times()[:2]))
        self._set(OF_STAGE, "done", step.done, stage=step.stage or step.job)
        self._set(OF_STAGE, "total", step.total, stage=step.stage or step.job)
        for name, value in step.figures.items():
            self._set({name: f"{name} of the job {step.job}, now."}, name, value, prefix=f"gristmill_{step.job}_")
        longest: dict[str, float] = dict.fromkeys(self._reasons, 0.0)
        for wait in beat.waiting:
            longest[wait.reason] = max(longest.get(wait.reason, 0.0), beat.time - wait.since)
        self._reasons |= longest.keys()
        for reason, seconds in longest.items():
            self._set(OF_REASON, "waiting_seconds", seconds, reason=reason)

    def _set(self, texts: Mapping[str, str], name: str, value: float, prefix: str = PREFIX, **labels: str) -> None:
        from ray.util.metrics import Gauge

        tags = {"run": self._run, **labels}
        if prefix + name not in self._gauges:
            self._gauges[prefix + name] = Gauge(prefix + name, texts[name], tuple(tags))
        self._gauges[prefix + name].set(value, tags)
