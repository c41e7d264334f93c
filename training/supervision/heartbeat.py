"""Heartbeats: each worker writes a small file, and the driver finds workers that hang.

    <output>/heartbeats/rank-00000.json   a worker's `Beat`

A thread of the worker writes the file again and again, which shows that the process is alive. The training loop says
what it does now (`enter`), which shows that it makes progress. Both are counters, so clocks of machines are never
compared.
"""

import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

FOLDER = "heartbeats"
Phase = Literal["start", "step", "evaluate", "save", "export", "end"]
"""What a worker does: load the model and the checkpoint, take a step, measure the held-out loss, write a checkpoint,
write the model, or nothing any more."""
RECENT = 20
"""Number of last durations of a phase that are compared."""
PATIENCE = 5.0
"""A phase may take this many times as long as the longest of its recent durations."""
UNMEASURED_S = 1800.0
"""Seconds that a phase may take as long as it is not measured: the first step may compile kernels, and the export of a
large model writes for minutes. It is also the limit of collective operations (`zero.COLLECTIVE_TIMEOUT`)."""
LARGEST_GAP_S = 5.0
"""Largest number of seconds that count between two looks of the driver. A driver that was stopped, or whose machine
slept, has not watched the workers in the meantime."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker says of itself."""

    rank: int
    pid: int
    node: str
    """Id of the machine in the Ray cluster."""
    count: int
    """Number of times that the file was written."""
    mark: int
    """Number of phases that the worker has entered."""
    phase: Phase
    step: int
    usual_s: float
    """Longest of the recent durations of this phase in seconds; 0 if it is not measured."""
    peak_gib: float
    """Most memory that the process has had (VmHWM), in GiB."""
    gpu_gib: float
    """Most memory that torch has had on the worker's GPU, in GiB; 0 without one."""
    oom_kills: int
    """Number of processes that the kernel has ended on this machine because memory was full; -1 if not known."""


class Heartbeat:
    """Writes the heartbeat of this worker; `enter` says what the worker does from now on."""

    def __init__(self, folder: Path, rank: int, node: str, every_s: float) -> None:
        """Write the first beat, and start the thread that writes the others.

        Args:
            folder: output folder of the run.
            rank: the worker's number.
            node: id of the machine in the Ray cluster.
            every_s: seconds between two beats.
        """
        self._path = folder / FOLDER / f"rank-{rank:05d}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rank, self._node, self._every_s = rank, node, every_s
        self._count, self._mark, self._step = 0, 0, 0
        self._phase: Phase = "start"
        self._durations: dict[Phase, list[float]] = {}
        self._since = monotonic()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._over = False
        self.write()
        threading.Thread(target=self._beat, daemon=True).start()

    def enter(self, phase: Phase, step: int) -> None:
        """Say that the worker begins a phase; the phase before it is over. Other phases than steps are written soon."""
        now = monotonic()
        with self._lock:
            self._durations.setdefault(self._phase, []).append(now - self._since)
            self._phase, self._step, self._mark, self._since = phase, step, self._mark + 1, now
        if phase != "step":  # a step is too short for a file of its own
            self._wake.set()

    def end(self) -> None:
        """Write the last beat and stop."""
        self._over = True
        self.enter("end", self._step)
        self.write()

    def write(self) -> None:
        """Write the file, which a reader never sees in part."""
        with self._lock:
            self._count += 1
            beat = Beat(
                self._rank, os.getpid(), self._node, self._count, self._mark, self._phase, self._step,
                usual(self._durations.get(self._phase, [])), peak_gib(), gpu_gib(), oom_kills(),
            )  # fmt: skip
            temporary = self._path.with_suffix(".part")
            temporary.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            temporary.replace(self._path)

    def _beat(self) -> None:
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if self._over:
                return
            try:
                self.write()
            except OSError:  # the folder is gone after the run, or its disk is full; the training loop says so
                if not self._path.parent.exists():
                    return


def usual(durations: list[float]) -> float:
    """Return the longest of the recent durations, or 0; the first one is left out, because it may have compiled."""
    return max(durations[1:][-RECENT:], default=0.0)


def every_s(hang_timeout: float) -> float:
    """Return the seconds between two beats."""
    return min(5.0, max(0.5, hang_timeout / 10)) if hang_timeout else 5.0


def read(folder: Path) -> dict[int, Beat]:
    """Return the newest beat of each worker of a run, by rank."""
    found = {}
    for path in (folder / FOLDER).glob("rank-*.json"):
        try:
            beat = Beat(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # the run of another version has left it
            continue
        found[beat.rank] = beat
    return dict(sorted(found.items()))


def forget(folder: Path) -> None:
    """Delete the beats of earlier workers."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Hang:
    """Workers that hang, and why we think so."""

    ranks: tuple[int, ...]
    what: str


class Watch:
    """Finds workers that hang, by the beats that the driver reads from time to time."""

    def __init__(self, timeout: float) -> None:
        """Take the seconds after which a worker that does not beat hangs; with 0, none ever does."""
        self._timeout = timeout
        self._seen: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
        self._silent: dict[int, float] = {}
        self._stuck: dict[int, float] = {}
        self._last: float | None = None

    def look(self, beats: Mapping[int, Beat], now: float) -> Hang | None:
        """Return the workers that hang now, or None.

        Args:
            beats: the newest beats.
            now: seconds on the driver's own clock.
        """
        gap = min(now - self._last, LARGEST_GAP_S) if self._last is not None else 0.0
        self._last = now
        if not self._timeout:
            return None
        for rank, beat in beats.items():
            life, progress = (beat.pid, beat.count), (beat.pid, beat.mark)
            before = self._seen.get(rank, ((0, 0), (0, 0)))
            self._silent[rank] = self._silent.get(rank, 0.0) + gap if before[0] == life else 0.0
            self._stuck[rank] = self._stuck.get(rank, 0.0) + gap if before[1] == progress else 0.0
            self._seen[rank] = (life, progress)
        running = {rank: beat for rank, beat in beats.items() if beat.phase != "end"}
        silent = tuple(rank for rank in running if self._silent[rank] > self._timeout)
        if silent:
            who = ", ".join(f"{rank} (process {running[rank].pid})" for rank in silent)
            return Hang(silent, f"worker {who} has not answered for {self._timeout:g} s")
        for rank, beat in running.items():
            limit = bound(beat, self._timeout)
            if self._stuck[rank] > limit:
                usually = f"; before, it took at most {beat.usual_s:.1f} s" if beat.usual_s else ""
                what = (
                    f"worker {rank} has been in the phase `{beat.phase}` of step {beat.step} for {limit:.0f} s{usually}"
                )
                return Hang(tuple(running), what)
        return None


def bound(beat: Beat, timeout: float) -> float:
    """Return the seconds after which a worker that is alive hangs in its phase."""
    return max(timeout, PATIENCE * beat.usual_s if beat.usual_s else UNMEASURED_S)


def peak_gib() -> float:
    """Return the most memory that this process has had, in GiB; 0 where the kernel does not say it."""
    return _number(Path("/proc/self/status"), "VmHWM:") / 2**20


def gpu_gib() -> float:
    """Return the most memory that torch has had on this process's GPU, in GiB; 0 without one."""
    import sys

    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return 0.0
    return float(torch.cuda.max_memory_reserved()) / 2**30


def oom_kills() -> int:
    """Return how many processes the kernel has ended here because memory was full; -1 if it does not say."""
    counts = [
        _number(path, "oom_kill ", missing=-1) for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
    ]
    return max(counts)


def _number(path: Path, name: str, missing: int = 0) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return missing
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), missing)
