"""What a sample costs outside the engine: the whole job with an engine that only waits, and then answers.

    python benchmarks/overhead.py [--parts cost efficiency] [--samples 10000 100000 1000000] [--engines 64]

`cost`: one actor, an engine that answers at once; CPU time of driver and actor for each sample, and the driver's memory
at the end of jobs of growing length. `efficiency`: many actors whose engines answer after a latency drawn around the
given seconds, so many at a time; the rows that came out over those that the engines could give, each from its first
request to the end of the job. They begin when all are up, because to start so many processes keeps the cores busy for
minutes.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jobs
from common import in_process, write

from gristmill.cluster.models.engine import Choose, Engine, Reply, Request, Score

WORDS = ("river", "lamp", "winter", "baker", "stone", "window", "garden", "orange", "travel", "music", "letter", "sea")
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=40)).capitalize() for n in range(512)]
ONE = ["--only", "--engines=1", "--latency=0", "--batch=256", "--shard-size=256"]
RULES: list[dict[str, Any]] = [{"kind": "length"}, {"kind": "repetition"}, {"kind": "refusal"}]
FILTERS: dict[str, dict[str, Any]] = {"rules": {"filters": RULES}, "default": {}}


class WaitingEngine:
    """Answers after a while, so many requests at a time, as an engine that is full."""

    def __init__(self, settings: Engine, latency: float, notes: str) -> None:
        self._all = settings.actors
        self._slots = asyncio.Semaphore(settings.max_num_seqs)
        self._latency, self._notes, self._asked, self._began = latency, notes, 0, 0.0

    async def ready(self) -> dict[str, Any]:
        self._note("up", time.time())
        while self._up() < self._all:  # noqa: ASYNC110 - the others are other processes
            await asyncio.sleep(0.5)
        return {"engine_start_s": 0.0}

    def stats(self) -> Mapping[str, float]:
        return {"steps": float(self._asked), "running": 0.0, "waiting": 0.0}

    def _up(self) -> int:
        return len(list(Path(self._notes).glob("up-*")))

    def _note(self, what: str, value: float) -> None:
        path = Path(self._notes, f"{what}-{os.getpid()}")
        path.with_name(f".{path.name}").write_text(repr(value))
        path.with_name(f".{path.name}").replace(path)  # whole, whenever the process is ended

    async def ask(self, request: Request) -> Reply:
        seed = 0 if isinstance(request, Score) else request.seed
        if not self._asked:
            self._note("first", time.time())
            self._began = time.process_time()
        self._asked += 1
        text = f"{TEXTS[seed % len(TEXTS)]} {seed}."  # all differ, and cost next to nothing to make
        if self._latency:
            async with self._slots:
                await asyncio.sleep(self._latency * (0.5 + seed / 2**31))
        if self._asked % 512 == 0:
            self._note("cpu", time.process_time() - self._began)
        if isinstance(request, Choose):  # the last choice of a judge is the best grade
            rest = dict.fromkeys(request.choices[:-1], 0.1 / max(1, len(request.choices) - 1))
            return Reply(request.choices[-1], "stop", 60, 1, choices={**rest, request.choices[-1]: 0.9})
        return Reply(text, "stop", 60, 50)


class Opens:
    """Opens a `WaitingEngine` in the worker."""

    def __init__(self, latency: float, notes: str) -> None:
        self.latency, self.notes = latency, notes

    def __call__(self, settings: Engine) -> WaitingEngine:
        return WaitingEngine(settings, self.latency, self.notes)


def job(given: argparse.Namespace) -> dict[str, Any]:
    """Make so many samples on so many waiting engines in this process' driver."""
    from gristmill.cluster.runtime.session import session
    from gristmill.generation.job import Generate

    number = given.samples[0]
    with tempfile.TemporaryDirectory() as folder, session(None, given.engines if given.latency else 2, 0):
        texts = [f"Write line number {n} of the list" for n in range(min(number, 4096))]
        store, seeds = jobs.inputs(folder, texts)
        engine = Engine(actors=given.engines, cpus=1, max_num_seqs=given.batch)
        method = {"kind": "respond", "max_tokens": 96}
        generate = Generate.model_validate(
            {
                "target": number,
                "engine": engine,
                "methods": [method],
                **FILTERS[given.filters],
                "shard_size": given.shard_size,
                "prior": 1.0,
            }
        )
        before = time.process_time()
        opens: Any = Opens(given.latency, folder)
        figures = jobs.make(generate, store, seeds, opens)
        ended = time.time()
        firsts = [float(path.read_text()) for path in Path(folder).glob("first-*")]
        workers = sum(float(path.read_text()) for path in Path(folder).glob("cpu-*"))
        return {
            "samples": figures.rows,
            "kept": figures.kept,
            "seconds": round(ended - min(firsts), 2),
            "last_start_s": round(max(firsts) - min(firsts), 2),
            "engine_s": round(sum(ended - first for first in firsts), 1),
            "driver_cpu_ms_per_sample": round((time.process_time() - before) / figures.rows * 1e3, 4),
            "worker_cpu_ms_per_sample": round(workers / figures.rows * 1e3, 4),
            "driver_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }


def cost(samples: list[int]) -> None:
    """Run jobs of these lengths on one engine that answers at once, and write what a sample costs.

    `rules` has three filters that only read the sample; `default` has all default filters, novelty and the judge too.
    """
    result: dict[str, Any] = {}
    for name, filters in FILTERS.items():
        runs = [in_process("overhead.py", [*ONE, f"--filters={name}", f"--samples={n}"], {}) for n in samples]
        for run in runs:
            run["cpu_ms_per_sample"] = round(run["driver_cpu_ms_per_sample"] + run["worker_cpu_ms_per_sample"], 4)
        peaks = [run["driver_peak_mib"] for run in runs]
        result[name] = {**filters, "cpu": runs, "driver_memory_growth": round(max(peaks) / min(peaks), 3)}
    write("overhead", {"what": "cost of a sample outside the engine", "bound": "0 ms", **result})


def efficiency(given: argparse.Namespace) -> None:
    """Run one job on many engines that only wait, and write how much of what they could give came out."""
    names = ("engines", "latency", "batch", "shard_size")
    settings = {name: getattr(given, name) for name in names}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    many = in_process("overhead.py", ["--only", f"--samples={given.many}", *arguments], {})
    each = given.batch / given.latency  # rows a second of one engine
    many["efficiency"] = round(many["samples"] / (many["engine_s"] * each), 4)
    last = round(
        given.latency * (1.5 - 13 / 24) * given.engines / many["engine_s"], 4
    )  # a slot's last row: E[X^2] / 2 E[X]
    what = "rows of many engines that only wait, over those that they could give"
    write("efficiency", {"what": what, "settings": settings, "bound": 1.0, "lost_to_the_last_rows": last, "many": many})


def main() -> None:
    """Run the jobs, each in a process of its own, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=("cost", "efficiency"), default=["cost", "efficiency"])
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--filters", choices=FILTERS, default="rules", help=argparse.SUPPRESS)
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--many", type=int, default=250_000, help="samples for the many engines")
    parser.add_argument("--latency", type=float, default=10.0, help="seconds, on average")
    parser.add_argument("--batch", type=int, default=64, help="requests that an engine answers at a time")
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(job(given)))
        return
    if "cost" in given.parts:
        cost(given.samples)
    if "efficiency" in given.parts:
        efficiency(given)


if __name__ == "__main__":
    main()
