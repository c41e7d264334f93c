"""A cluster in virtual time: the real driver, pool, quarantine, workers and store, under a schedule of faults.

    python -m tests.proof.simulator --schedules 100000 --minutes 30 --json benchmarks/simulator.json

Only the engines, the actors' processes and the clock are not real. A schedule is drawn from its number: machines and
actors, and crashes, lost machines, full memory, lost acknowledgements, workers that go on although they were given up,
jumps of the clock, and kills of the driver, which is started again. Each job must end with the bytes of a job without
faults, with no row lost or doubled, and with no file that its manifest does not list. Called again, it goes on after
the last schedule in the JSON file.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Engine, Reply, Request, Write
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import MANIFEST, Shard, Store
from gristmill.generation.contracts import MAIN
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.dispatch import Actors, _Piece
from gristmill.generation.pipeline.driver import sweep
from gristmill.generation.pipeline.worker import RowMaker
from tests.fakes import ScriptedEngine, open_hashing_encoder
from tests.generation.ground import WORK, contents, job, with_seeds
from tests.invariants import check_dataset
from tests.virtual import Ref, VirtualActor, VirtualCalls

MACHINE = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}"
FAULTS = ("crash", "machine", "memory", "lost_ack", "duplicate", "clock", "driver")
LATE = "driver, after the manifest"
"""The kill of a driver whose dataset is complete, but that has not deleted the commit files of its shards."""
START_S, SHARD_S = 2.0, 10.0
MOST_FAULTS = 4
"""Most faults of a schedule. A shard of four draws is blamed for no row until five actors have died with it."""
REPLIES: dict[tuple[Request, str], Reply] = {}
"""The replies of the scripted engine, which depend on the request alone."""


class Killed(BaseException):
    """The end of a process, which no code of it can handle."""


class FragileStore(Store):
    """A store whose process ends before a write, when the schedule says so."""

    left = -1

    def write_bytes(self, data: bytes, *names: str) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().write_bytes(data, *names)

    def delete(self, *names: str) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().delete(*names)


class SimulatedEngine(ScriptedEngine):
    """Answers in an order that depends on the seeds, and ends its process after so many requests, or at the poison."""

    def __init__(self, settings: Engine, poison: int) -> None:
        super().__init__(settings)
        self.left, self._poison = -1, poison

    async def ask(self, request: Request) -> Reply:
        if self.left == 0 or (self._poison and isinstance(request, Write) and request.seed == self._poison):
            raise Killed
        self.left -= 1
        for _ in range(getattr(request, "seed", 0) % 7):
            await asyncio.sleep(0)
        if (request, "") not in REPLIES:
            REPLIES[request, ""] = await super().ask(request)
        return REPLIES[request, ""]


class Inline(ThreadPoolExecutor):
    """Works in the thread of the caller, because threads would wait for each other and change the order."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the result
            future.set_exception(error)
        return future

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Stay open for the next loop."""


INLINE = Inline(1)


@dataclass
class Schedule:
    """The faults of one job, drawn from its number."""

    number: int
    faults: list[tuple[float, str]] = field(default_factory=list)
    """Seconds of virtual time, and the kind of fault. The time of a fault of the driver is its number of writes."""

    def __post_init__(self) -> None:
        rng = Random(self.number)
        self.poisoned = rng.random() < 0.1
        self.machines = {f"m{n}": rng.choice((1, 1, 2, 3)) for n in range(rng.choice((1, 2, 2, 3)))}
        kinds = [kind for kind in FAULTS if kind != "crash" or not self.poisoned]
        for _ in range(rng.randint(1, MOST_FAULTS)):
            kind = rng.choice(kinds)
            self.faults.append((rng.randint(0, 40) if kind == "driver" else rng.uniform(0, 60), kind))
        self.rng = rng


class VirtualActors(Actors):
    """The real dispatch on virtual actors, without Ray."""

    calls: VirtualCalls

    def _prepare(self) -> None:
        pass

    def _look(self) -> dict[str, float]:
        return {}

    def _share(self, settled: list[Shard]) -> Sequence[Shard]:
        return tuple(settled)

    def _shared(self, reference: Sequence[Shard]) -> Sequence[Shard]:
        return reference


class SimulatedActors(VirtualActors):
    """Virtual actors that make their shards in this process."""

    def __init__(self, run: Run, generate: Generate, schedule: Schedule, poison: int) -> None:
        pipeline, self._at = generate.pipeline(run.id), generate.place(run.store, WORK, None)
        super().__init__(run, self._at, pipeline, (None, None), generate.schedule(run.store, WORK).size)  # type: ignore[arg-type]
        self.calls = VirtualCalls(schedule.machines, START_S)
        self._schedule, self._poison, self.happened = schedule, poison, Counter[str]()
        self._stragglers: list[Callable[[], None]] = []
        for seconds, kind in schedule.faults:
            if kind != "driver":
                self.calls.after(seconds, lambda kind=kind: self._fault(kind))  # type: ignore[misc]

    def _spawn(self, place: int) -> VirtualActor:
        engine = SimulatedEngine(self._engine, self._poison)
        store = Store(str(self._at.store.local))  # only the driver's own store ends its process
        maker = RowMaker(
            self._pipeline, self._at.__class__(store, *self._fields()), {MAIN: engine}, open_hashing_encoder
        )
        actor = self.calls.spawn(place)
        actor.state = engine, maker
        return actor

    def _fields(self) -> tuple[str, str | None, str | None, None]:
        return self._at.output, self._at.seeds, self._at.documents, None

    def _call(self, actor: VirtualActor, piece: _Piece) -> Ref:
        ref = self.calls.call(actor)
        ref.piece = piece  # type: ignore[attr-defined]
        self.calls.after(self._schedule.rng.uniform(0.5, 1.5) * SHARD_S, lambda: self._finish(actor, ref, piece))
        return ref

    def _finish(self, actor: VirtualActor, ref: Ref, piece: _Piece) -> None:
        if ref.ready:
            return
        try:
            self.calls.finish(ref, self._make(actor, piece))
        except Killed:  # the poison
            self.happened["poison"] += 1
            self.calls.kill(actor)

    def _make(self, actor: VirtualActor, piece: _Piece, most: int = -1) -> object:
        engine, maker = actor.state
        engine.left = most
        with asyncio.Runner() as runner:
            runner.get_loop().set_default_executor(INLINE)
            return runner.run(maker.make(piece.shard, piece.settled))

    # -- faults ---------------------------------------------------------------------------------------------------

    def _fault(self, kind: str) -> None:
        rng = self._schedule.rng
        up = [actor for actor in self.calls.actors if actor.up]
        if kind == "clock":
            self.calls.clock += rng.choice((60.0, 86_400.0))
        elif not up:
            return
        elif kind == "machine":
            name = rng.choice(up).machine or ""
            room = self.calls.room[name]
            for actor in [actor for actor in up if actor.machine == name]:
                self._partly(actor)
            self.calls.lose(name)
            self.calls.after(rng.uniform(5, 100), lambda: self.calls.add(f"{name}'", room))
        else:
            actor = rng.choice(up)
            if kind in ("crash", "memory"):
                self._partly(actor)
            flying = [ref for ref in actor.calls if not ref.ready]
            if kind == "lost_ack" and flying:
                self._whole(actor, rng.choice(flying).piece)  # type: ignore[attr-defined]
            if kind == "duplicate":
                for ref in flying:
                    go_on = lambda piece=ref.piece: self._whole(actor, piece)  # type: ignore[attr-defined]  # noqa: E731
                    self.calls.after(rng.uniform(1, 60), go_on)
                    self._stragglers.append(go_on)
            # the driver does not hear from an actor whose machine was cut off: that is no fault of the pieces
            self.calls.kill(actor, {"crash": "itself", "memory": "memory"}.get(kind, "machine"))
        self.happened[kind] += 1

    def _partly(self, actor: VirtualActor) -> None:
        """Let the process end in the middle of its shards: some rows are in the log, and the last line may be cut."""
        rng = self._schedule.rng
        for ref in [ref for ref in actor.calls if not ref.ready]:
            with suppress(Killed):
                self._make(actor, ref.piece, rng.randint(0, 60))  # type: ignore[attr-defined]
        folder = Path(str(self._at.store.local), self._at.output, "rows")
        for path in sorted(folder.glob("*.jsonl")) if folder.exists() else []:
            if rng.random() < 0.3:
                path.write_bytes(path.read_bytes()[: -rng.randint(1, 40)])

    def _whole(self, actor: VirtualActor, piece: _Piece) -> None:
        with suppress(Killed, Exception):  # the store may refuse it by now
            self._make(actor, piece)

    def stragglers(self) -> None:
        """Let the workers that were given up finish what they had, after the dataset is complete."""
        for go_on in self._stragglers:
            go_on()


def wall_clock(calls: VirtualCalls) -> float:
    """Return the time of day in virtual time."""
    return 1e9 + calls.clock


def simulate(folder: Path, generate: Generate, schedule: Schedule, poison: int = 0) -> Counter[str]:
    """Run one job under its schedule, and return how often each fault happened."""
    with_seeds(Store(str(folder)))
    happened = Counter[str]()
    kills = [int(writes) for writes, kind in schedule.faults if kind == "driver"]
    while True:
        store = FragileStore(str(folder))
        run = Run("run-1", store, Ledger(Store(str(folder)), "run-1"), Screen(quiet=True), None, wait_s=1e6)
        actors = SimulatedActors(run, generate, schedule, poison)
        store.left = kills.pop() if kills else -1
        if store.complete(WORK.output):
            happened[LATE] += 1
            sweep(Store(str(folder)), WORK.output)  # it reuses the dataset, and `gristmill clean` deletes these files
            break
        try:
            with patch("time.time", partial(wall_clock, actors.calls)), actors:
                generate.drive(run, WORK, actors)
            store.left = -1
            sweep(store, WORK.output)
        except Killed:
            happened["driver"] += 1
            schedule.faults = [(seconds, kind) for seconds, kind in schedule.faults if kind == "driver"]
        else:
            break
        finally:
            happened += actors.happened
    actors.stragglers()
    return happened


def problems(folder: Path, expected: Mapping[str, bytes]) -> list[str]:
    """Return what is wrong with a finished job: lost, doubled or other rows, and files that no manifest lists."""
    store = Store(str(folder))
    check_dataset(store, WORK.output, "seeds")
    found = contents(store)
    listed = {shard.name for shard in store.manifest(WORK.output).shards} | {MANIFEST, "figures.json"}
    stray = sorted({path.name for path in Path(folder, WORK.output).iterdir()} - listed)
    other = sorted(name for name in {*found, *expected} - {*stray} if found.get(name) != expected.get(name))
    return [*(f"stray {name}" for name in stray), *(f"differs {name}" for name in other)]


def a_job() -> Generate:
    return job(target=10, shard_size=4, rounds=2, engine=Engine(actors=3, cpus=1, max_num_seqs=4))


@dataclass
class Campaign:
    """Schedules one after the other, each in a folder of its own in memory."""

    root: Path
    generate: Generate = field(default_factory=a_job)
    happened: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        calm = Schedule(0, [])
        calm.faults, calm.machines = [], {"m": 3}
        simulate(self.root / "calm", self.generate, calm)
        self.calm = contents(Store(str(self.root / "calm")))
        rows = check_dataset(Store(str(self.root / "calm")), WORK.output, "seeds")
        self.poison = next(row.origin.seed for row in rows[5:] if row.origin)
        calm = Schedule(0, [])
        calm.faults, calm.machines = [], {"m": 3}
        simulate(self.root / "poisoned", self.generate, calm, self.poison)
        self.poisoned = contents(Store(str(self.root / "poisoned")))

    def run(self, number: int) -> None:
        """Run one schedule and note what happened, and what was wrong with the result."""
        folder, schedule = self.root / f"{number}", Schedule(number)
        poison, expected = (self.poison, self.poisoned) if schedule.poisoned else (0, self.calm)
        try:
            self.happened += simulate(folder, self.generate, schedule, poison)
            self.wrong += [f"{number}: {problem}" for problem in problems(folder, expected)]
        except Exception as error:  # noqa: BLE001 - it is reported with its number, and the campaign goes on
            self.wrong.append(f"{number}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)


def main(arguments: Sequence[str]) -> int:
    """Run schedules until their number or the time is reached, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    known = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    first, begin = known.get("schedules", 0), time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as folder:
        campaign = Campaign(Path(folder))
        number = first
        while number < given.schedules and time.monotonic() - begin < 60 * given.minutes:
            campaign.run(number)
            number += 1
    seconds = time.monotonic() - begin
    faults = Counter(known.get("faults", {})) + campaign.happened
    found: dict[str, Any] = {
        "what": "jobs in virtual time under drawn faults, each compared with a job without faults",
        "schedules": number,
        "wrong": [*known.get("wrong", []), *campaign.wrong],
        "faults": dict(sorted(faults.items())),
        "seconds": round(known.get("seconds", 0) + seconds, 1),
        "machine": MACHINE,
    }
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
