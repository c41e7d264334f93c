"""What a sample costs outside the engine: the whole job with an engine that only waits, and then answers.

    python benchmarks/overhead.py [--samples 10000 100000 1000000] [--engines 64] [--latency 10]

`cpu`: one actor, an engine that answers at once; CPU time of driver and actor for each sample, and the driver's memory
at the end of jobs of growing length. `efficiency`: many actors whose engines answer after a latency drawn around the
given seconds, so many at a time; the rows that came out over those that the engines could give, each from its first
request to the end of the job.
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

from cluster.engine import Engine, Reply, Request

WORDS = ("river", "lamp", "winter", "baker", "stone", "window", "garden", "orange", "travel", "music", "letter", "sea")
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=40)).capitalize() for n in range(512)]
RULES: list[dict[str, Any]] = [{"kind": "length"}, {"kind": "repetition"}, {"kind": "refusal"}]


class WaitingEngine:
    """Answers after a while, so many requests at a time, as an engine that is full."""

    def __init__(self, settings: Engine, latency: float, notes: str) -> None:
        self._slots = asyncio.Semaphore(settings.max_num_seqs)
        self._latency, self._notes, self._asked, self._began = latency, notes, 0, 0.0

    async def ready(self) -> dict[str, Any]:
        return {"engine_start_s": 0.0}

    def stats(self) -> Mapping[str, float]:
        return {"steps": float(self._asked), "running": 0.0, "waiting": 0.0}

    def _note(self, what: str, value: float) -> None:
        Path(self._notes, f"{what}-{os.getpid()}").write_text(repr(value))

    async def ask(self, request: Request) -> Reply:
        if not self._asked:
            self._note("first", time.time())
            self._began = time.process_time()
        self._asked += 1
        text = f"{TEXTS[request.seed % len(TEXTS)]} {request.seed}."  # all differ, and cost next to nothing to make
        if self._latency:
            async with self._slots:
                await asyncio.sleep(self._latency * (0.5 + request.seed / 2**31))
        if self._asked % 512 == 0:
            self._note("cpu", time.process_time() - self._began)
        return Reply(text, "stop", 60, 50)


class Opens:
    """Opens a `WaitingEngine` in the worker."""

    def __init__(self, latency: float, notes: str) -> None:
        self.latency, self.notes = latency, notes

    def __call__(self, settings: Engine) -> WaitingEngine:
        return WaitingEngine(settings, self.latency, self.notes)


def job(given: argparse.Namespace) -> dict[str, Any]:
    """Make so many samples on so many waiting engines in this process' driver."""
    from cluster.session import session
    from generation.job import Generate

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
                "filters": RULES,
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
            "samples": figures["rows"],
            "seconds": round(ended - min(firsts), 2),
            "last_start_s": round(max(firsts) - min(firsts), 2),
            "engine_s": round(sum(ended - first for first in firsts), 1),
            "driver_cpu_ms_per_sample": round((time.process_time() - before) / figures["rows"] * 1e3, 4),
            "worker_cpu_ms_per_sample": round(workers / figures["rows"] * 1e3, 4),
            "driver_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }


def main() -> None:
    """Run the jobs, each in a process of its own, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--many", type=int, default=260_000, help="samples for the many engines")
    parser.add_argument("--latency", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="overhead", help="of the result file")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(job(given)))
        return
    cpu = [
        in_process("overhead.py", ["--only", f"--samples={n}", "--engines=1", "--latency=0", "--shard-size=256"], {})
        for n in given.samples
    ]
    for run in cpu:
        run["cpu_ms_per_sample"] = round(run["driver_cpu_ms_per_sample"] + run["worker_cpu_ms_per_sample"], 4)
    own = [f"--samples={given.many}", f"--engines={given.engines}", f"--latency={given.latency}"]
    many = in_process("overhead.py", ["--only", *own, f"--batch={given.batch}"], {})
    each = given.batch / given.latency  # rows a second of one engine
    many |= {"engines": given.engines, "efficiency": round(many["samples"] / (many["engine_s"] * each), 4)}
    peaks = [run["driver_peak_mib"] for run in cpu]
    write(
        given.name,
        {
            "what": "cost of a sample outside the engine; efficiency of many engines that only wait",
            "settings": {"filters": RULES, "latency_s": given.latency, "batch": given.batch},
            "bound": "0 ms and 1.0",
            "cpu": cpu,
            "driver_memory_growth": round(max(peaks) / min(peaks), 3),
            "many": many,
        },
    )


if __name__ == "__main__":
    main()
