"""What this process does now: its job, how far it is, when it last got further, and what it waits for."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

Time = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds since 1970."""

Reason = Literal["ray", "room", "machines", "dataset"]
"""What a process can wait for: Ray to start, cores and GPUs that are in use, machines that an autoscaler brings, and a
dataset that another process makes."""


@dataclass(frozen=True)
class Wait:
    """One thing that the process waits for."""

    reason: Reason
    what: str
    since: Time


_waits: list[Wait] = []  # of this process; a list, because a wait can begin inside another one
_guard = threading.Lock()


@contextmanager
def waiting(reason: Reason, what: str) -> Iterator[None]:
    """Let the heartbeat of the run say that the process waits for `what`, while the block runs."""
    wait = Wait(reason, what, time.time())
    with _guard:
        _waits.append(wait)
    try:
        yield
    finally:
        with _guard:
            _waits.remove(wait)


def waits() -> tuple[Wait, ...]:
    """Return what the process waits for now, the longest wait first."""
    with _guard:
        return tuple(_waits)


@dataclass(frozen=True)
class Step:
    """How far a process is."""

    job: str = ""
    stage: str = ""
    """Title of the progress bar, such as `train: steps`."""
    done: int = 0
    total: int = 0
    """It is 0 if it is not known."""
    note: str = ""
    progressed: Time = 0.0
    """When the process last got further: more was done, or another stage or job began."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures of the job by name, such as `loss`."""


class Activity:
    """How far a run is. Progress bars write it, and the heartbeat, which is another thread, reads it."""

    def __init__(self) -> None:
        self._step, self._work = Step(progressed=time.time()), 0.0

    @property
    def step(self) -> Step:
        """How far the run is now."""
        return self._step

    def begin(self, job: str) -> None:
        """Begin a job."""
        self._step, self._work = Step(job, progressed=time.time()), 0.0

    def advance(
        self, stage: str, done: int, total: int, note: str, *, work: float = 0.0, figures: Mapping[str, float] = {}
    ) -> None:
        """Take over the state of a progress bar.

        Args:
            stage: title of the bar.
            done: how much is done.
            total: how much there is to do, or 0.
            note: figures in words.
            work: a number that grows as long as anything moves, for jobs in which `done` stays the same for minutes.
            figures: figures by name.
        """
        last = self._step
        moved = (stage, done, work) != (last.stage, last.done, self._work)
        progressed = time.time() if moved else last.progressed
        self._work = work
        self._step = Step(last.job, stage, done, total, note, progressed, dict(figures))
