"""How much of what many engines can give comes out: the real driver, pool and store, in virtual time.

    python -m tests.proof.goodput benchmarks/goodput.json     16 to 1,024 engines, and machines that are taken away

An engine answers `BATCH` requests at a time, each after 5 to 15 seconds. The driver's own CPU time moves the virtual
clock, so a driver that cannot follow keeps engines waiting. Ray's part of a call and of a wait is not in it: it is
measured on real actors first, and added. The result for 16 engines is compared with a real job on 16 real actors whose
engines wait (`benchmarks/overhead.py`).

`efficiency` is the share of the slots of all engines in which a request was answered, from the start of the last engine
until the driver gave out its last shard. `whole` is the same from each engine's start to the end of the job, which has
the tail of the last rows. With machines that are taken away, a request that was not finished counts as lost, and an
engine counts from its start to its end.
"""

import asyncio
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from gristmill.cluster.contract.sample import Message, Origin, Sample, to_table
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.dispatch import _Piece
from gristmill.generation.pipeline.plan import RawShard, ShardReport
from tests.generation.ground import WORK, with_seeds
from tests.paths import ROOT
from tests.proof.simulator import MACHINE, VirtualActors
from tests.virtual import Ref, VirtualActor, VirtualCalls

BATCH, LATENCY_S = 16, 10.0
START_S = 60.0
"""Seconds in which an engine loads its model."""
GONE_S = 120.0
"""Seconds until another machine comes for one that was taken away."""
HOUR_S = 3600.0


class BusyCalls(VirtualCalls):
    """Calls in virtual time, in which the driver's CPU time passes too."""

    def __init__(self, machines: dict[str, int], start_s: float, ray: "RayCost") -> None:
        super().__init__(machines, start_s)
        self._ray, self._mark, self.driver_s = ray, time.thread_time(), 0.0

    def spend(self, seconds: float) -> None:
        """Let the driver work for so long."""
        self.driver_s += seconds
        self.clock += seconds

    def wait(self, refs: Sequence[Ref], timeout_s: float) -> Sequence[Ref]:
        self.spend(time.thread_time() - self._mark + self._ray.wait(len(refs)))
        end = self.clock + timeout_s
        while not self._ready and self._events and self._events[0][0] <= end:
            when, _, action = heapq.heappop(self._events)
            self.clock = max(self.clock, when)
            action()
        if not self._ready:
            self.clock = end
        ready, self._ready = self._ready, []
        self._mark = time.thread_time()
        return ready


@dataclass(frozen=True)
class RayCost:
    """Seconds of the driver that Ray takes for a call of an actor, its result, and a wait for so many references."""

    call_s: float = 0.0
    get_s: float = 0.0
    wait_s: float = 0.0
    ref_s: float = 0.0

    def wait(self, refs: int) -> float:
        """Return the seconds of a wait for so many references."""
        return self.wait_s + self.ref_s * refs


class Slots:
    """The slots of one engine: each request takes the slot that is free first."""

    def __init__(self, begin: float) -> None:
        self.begin, self.end = begin, float("inf")
        self._free = [begin] * BATCH
        self.taken: list[tuple[float, float]] = []

    def take(self, now: float, seconds: Sequence[float]) -> list[tuple[float, float]]:
        """Return when each request begins and ends."""
        found = []
        for each in seconds:
            begin = max(now, heapq.heappop(self._free))
            found.append((begin, begin + each))
            heapq.heappush(self._free, begin + each)
        self.taken += found
        return found


class BusyActors(VirtualActors):
    """Virtual actors whose engines only take time."""

    calls: BusyCalls

    def __init__(
        self, run: Run, generate: Generate, calls: BusyCalls, ray: RayCost, hazard_s: float, seed: int
    ) -> None:
        self._at = generate.place(run.store, WORK, None)
        size = generate.schedule(run.store, WORK).size
        super().__init__(run, self._at, generate.pipeline(run.id), (None, None), size)  # type: ignore[arg-type]
        self.calls, self._cost, self._rng = calls, ray, Random(seed)
        self.engines: list[Slots] = []
        self.last_call = 0.0
        self.lost_s, self.preempted = 0.0, 0
        self._logged: dict[int, set[int]] = {}
        self._times: dict[Ref, tuple[int, list[tuple[int, float, float]]]] = {}
        for name in calls.room if hazard_s else ():
            calls.after(self._rng.expovariate(1 / hazard_s), lambda name=name: self._preempt(name, hazard_s))  # type: ignore[misc]

    def _look(self) -> dict[str, float]:
        self.calls.spend(
            len(self.engines) * (self._cost.call_s + self._cost.get_s)
        )  # each engine is asked for its stats
        return {}

    def _spawn(self, place: int) -> VirtualActor:
        return self.calls.spawn(place)

    def _engine_of(self, actor: VirtualActor) -> Slots:
        if actor.state is None:
            actor.state = Slots(self.calls.clock)
            self.engines.append(actor.state)
        engine: Slots = actor.state
        return engine

    def _call(self, actor: VirtualActor, piece: _Piece) -> Ref:
        ref, shard, now = self.calls.call(actor), piece.shard, self.calls.clock
        self.calls.spend(self._cost.call_s + self._cost.get_s)
        there = self._logged.setdefault(shard.place, set())
        left = [n for n in range(shard.first, shard.first + shard.draws) if n not in there]
        seconds = [LATENCY_S * (0.5 + Random(n).random()) for n in left]
        taken = self._engine_of(actor).take(now, seconds)
        self._times[ref] = shard.place, [(n, *one) for n, one in zip(left, taken, strict=True)]
        self.last_call = now
        ends = max((end for _, end in taken), default=now)
        self.calls.after(ends - now, lambda: self._end_of(ref, shard))
        return ref

    def _end_of(self, ref: Ref, shard: RawShard) -> None:
        if not ref.ready:
            del self._times[ref]
            self._logged.pop(shard.place, None)
            self._at.store.commit_shard(self._at.output, str(shard), to_table(rows_of(shard)))
            self.calls.finish(ref, ShardReport(rows=shard.draws, kept=shard.draws, seconds=1.0))

    def busy(self, begin: float, end: float) -> float:
        """Return the seconds between two times in which slots had a request."""
        return sum(
            _within((start, min(stop, engine.end)), begin, end)
            for engine in self.engines
            for start, stop in engine.taken
            if start < engine.end
        )

    def _preempt(self, name: str, hazard_s: float) -> None:
        """Take a machine away. Finished rows are in the log, requests that are under way are lost."""
        now, room = self.calls.clock, self.calls.room[name]
        self.preempted += 1
        for actor in [actor for actor in self.calls.actors if actor.machine == name and actor.state]:
            actor.state.end = now
            for ref in [ref for ref in actor.calls if not ref.ready]:
                place, times = self._times.pop(ref)
                self._logged[place] |= {n for n, _, end in times if end <= now}
                self.lost_s += sum(now - begin for _, begin, end in times if begin < now < end)
        self.calls.lose(name)
        new = f"{name}'"

        def back() -> None:
            self.calls.add(new, room)
            self.calls.after(self._rng.expovariate(1 / hazard_s), lambda: self._preempt(new, hazard_s))

        self.calls.after(GONE_S, back)


def rows_of(shard: RawShard) -> list[Sample]:
    """Return some rows for the draws of a shard."""
    origin = Origin("run-1", "step", "model", 1, 60, 50, "stop")
    return [
        Sample(
            id=f"{n:032x}", messages=(Message("user", f"Write number {n} of the list"), Message("assistant", "Well.")),
            method="respond", round=shard.round, origin=origin,
        )
        for n in range(shard.first, shard.first + shard.draws)
    ]  # fmt: skip


def play(
    engines: int,
    seconds: float,
    ray: RayCost | None = None,
    *,
    hazard_s: float = 0.0,
    per_machine: int = 8,
    size: int = 64,
) -> dict[str, Any]:
    """Run a job of about so many seconds on so many engines, and return what came out.

    Args:
        engines: number of engines.
        seconds: about how long the engines have work.
        ray: what Ray costs the driver.
        hazard_s: mean seconds until a machine is taken away; 0 for never.
        per_machine: engines of a machine.
        size: largest number of draws of a shard.
    """
    ray, began = ray or RayCost(), time.monotonic()
    target = int(engines * BATCH / LATENCY_S * seconds)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as folder:
        store = with_seeds(Store(folder))
        generate = Generate.model_validate(
            {
                "target": target, "shard_size": size, "prior": 1.0, "filters": [{"kind": "length"}],
                "methods": [{"kind": "respond"}], "engine": Engine(actors=engines, cpus=1, max_num_seqs=BATCH),
            }
        )  # fmt: skip
        run = Run("run-1", store, Ledger(store, "run-1"), Screen(quiet=True), None, wait_s=1e9)
        machines = {f"m{n}": per_machine for n in range(-(-engines // per_machine))}
        calls = BusyCalls(machines, START_S, ray)
        actors = BusyActors(run, generate, calls, ray, hazard_s, seed=engines)
        with actors:
            figures = generate.drive(run, WORK, actors)
    begin, end = (START_S if hazard_s else max(one.begin for one in actors.engines)), actors.last_call
    busy = actors.busy(begin, end)
    up = BATCH * sum(_within((one.begin, one.end), begin, end) for one in actors.engines)
    whole = BATCH * engines * (end - begin)
    found = {
        "engines": engines, "shard_size": size, "rows": figures.rows, "steady_s": round(end - begin, 1),
        "tail_s": round(calls.clock - end, 1), "efficiency": round((busy - actors.lost_s) / up, 4),
        "driver_cores": round(calls.driver_s / calls.clock, 3),
        "driver_cpu_ms_per_row": round(calls.driver_s / figures.rows * 1e3, 4),
        "wall_s": round(time.monotonic() - began, 1),
    }  # fmt: skip
    if not hazard_s:
        given = sum(calls.clock - one.begin for one in actors.engines)
        found["whole"] = round(figures.rows * LATENCY_S / BATCH / given, 4)
    else:
        found |= {
            "taken_away": actors.preempted,
            "machine_hours_between": round(hazard_s / HOUR_S, 2),
            "lost_with_requests_under_way": round(actors.lost_s / up, 4),
            "of_all_time_with_starts_and_gaps": round((busy - actors.lost_s) / whole, 4),
        }
    return found


def _within(span: tuple[float, float], begin: float, end: float) -> float:
    return max(0.0, min(span[1], end) - max(span[0], begin))


def cost_of_ray(actors: int = 4, few: int = 48, many: int = 3072) -> RayCost:
    """Measure on real actors what calls, results, and waits for few and for many references take: medians."""
    import ray

    @ray.remote(num_cpus=0)
    class Sleeper:
        async def make(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    with session(None, 2, 0):
        sleepers = [Sleeper.options(max_concurrency=2 * many).remote() for _ in range(actors)]  # type: ignore[attr-defined]
        ray.get([one.make.remote(0) for one in sleepers])
        pending, calls = [], []
        waits: dict[int, list[float]] = {few: [], many: []}
        gets = []
        for number in range(many):
            begin = time.perf_counter()
            pending.append(sleepers[number % actors].make.remote(HOUR_S))
            calls.append(time.perf_counter() - begin)
        for count in (few, many):
            for _ in range(30):
                done = sleepers[0].make.remote(0)
                ray.wait([done])
                begin = time.perf_counter()
                ray.get(done)
                gets.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                assert ray.wait([*pending[: count - 1], done], num_returns=1, timeout=1.0)[0] == [done]
                waits[count].append(time.perf_counter() - begin)
    low, high = (statistics.median(waits[count]) for count in (few, many))
    each = max(0.0, (high - low) / (many - few))
    return RayCost(statistics.median(calls), statistics.median(gets), max(0.0, low - each * few), each)


def real(engines: int, rows: int, size: int) -> dict[str, Any]:
    """Run a real job on so many real actors whose engines wait, and return what came out, as `whole` is counted."""
    arguments = [f"--samples={rows}", f"--engines={engines}", f"--latency={LATENCY_S}", f"--batch={BATCH}"]
    command = [sys.executable, "benchmarks/overhead.py", "--only", *arguments, f"--shard-size={size}"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {**found, "whole": round(found["samples"] * LATENCY_S / BATCH / found["engine_s"], 4)}


def main(arguments: Sequence[str]) -> int:
    """Play the whole, and write it; say whether every figure is as it must be."""
    cost = cost_of_ray()
    first = play(16, 300.0, cost)
    found: dict[str, Any] = {
        "what": __doc__.splitlines()[0], "batch": BATCH, "latency_s": LATENCY_S, "machine": MACHINE,
        "ray_s": asdict(cost), "real_16": real(16, first["rows"], first["shard_size"]), "engines": [first],
    }  # fmt: skip
    for engines in (64, 256, 1024):
        found["engines"].append(play(engines, 300.0, cost))
        sys.stdout.write(f"{found['engines'][-1]}\n")
        sys.stdout.flush()
    found["machines"] = play(512, 1800.0, cost, hazard_s=HOUR_S)
    sys.stdout.write(f"{json.dumps(found, indent=1)}\n")
    if arguments:
        Path(arguments[0]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    least = [one["efficiency"] >= (0.97 if one["engines"] <= 64 else 0.95) for one in found["engines"]]
    near = abs(first["whole"] - found["real_16"]["whole"]) <= 0.03
    return 0 if all(least) and near and found["machines"]["efficiency"] >= 0.97 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
