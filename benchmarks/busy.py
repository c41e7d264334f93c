"""The engine beside other work: output tokens a second on a quiet machine, and beside one busy process per core.

    python benchmarks/busy.py [--dtypes float32 bfloat16] [--pairs 10] [--busy-pairs 5]

Two engines of the same model run in two processes, one with the threads as they are set now, see
`generation/engines/spinning.py`, and one as Intel's OpenMP has them: a thread that waits spins for 200 ms and yields.
They work in turn, so that a pair sees the same machine; the one that does not work sleeps. A busy process is a loop of
Python that never waits. The fair share beside as many busy processes as cores is 0.5 of the quiet rate.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common import HERE, interval, write

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.dtypes import LIMITS
from gristmill.cluster.models.engine import Engine, Write
from gristmill.generation.engines.placement import environment

BEFORE = {"KMP_BLOCKTIME": "200"}
"""The default of the library, in milliseconds; set, it is never changed."""
WORK = {"float32": (64, 24), "bfloat16": (16, 8)}
"""Requests and tokens of one turn, about 10 s each on a quiet machine without AVX-512."""


def serve(dtype: str) -> None:
    """Answer every line of standard input with a turn of work; run in a process of its own."""
    import asyncio

    from gristmill.generation.engines.vllm import VllmEngine

    engine = VllmEngine(Engine(dtype=dtype, max_model_len=1024))
    requests, tokens = WORK[dtype]
    turn = 0

    async def work() -> dict[str, float]:
        begin = time.monotonic()
        asked = (
            Write((Message("user", f"Tell a story of {n + 7 * turn} ships."),), tokens, seed=n, min_p=0.05)
            for n in range(requests)
        )
        replies = await asyncio.gather(*(engine.ask(request) for request in asked))
        seconds = time.monotonic() - begin
        made = sum(reply.reply_tokens for reply in replies)
        return {"tokens": made, "seconds": round(seconds, 3), "tokens_per_s": round(made / seconds, 2)}

    asyncio.run(engine.ready())
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(asyncio.run(work())), flush=True)
        turn += 1


class Server:
    """One engine in a process of its own."""

    def __init__(self, dtype: str, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "busy.py"), f"--serve={dtype}"],
            env={**os.environ, "PYTHONPATH": str(HERE.parent), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def turn(self) -> float:
        """Return the tokens a second of one turn of work."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer()["tokens_per_s"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"the engine ended with exit code {self._process.wait()}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def spin() -> None:
    while True:
        pass


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep so many processes busy while the block runs."""
    spinning = [multiprocessing.Process(target=spin, daemon=True) for _ in range(number)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.join()


def _turns(
    dtype: str, order: tuple[str, str], pairs: dict[str, int], cores: int, rates: dict[str, dict[str, list[float]]]
) -> None:
    """Start both settings in this order and add the rates of some pairs of turns."""
    variables = environment(Engine(), cores, 0)
    settings = {"now": variables, "before": {**variables, **BEFORE}}
    servers = {which: Server(dtype, settings[which]) for which in order}
    try:
        for server in servers.values():  # the first requests compile and fill caches
            server.turn()
        for load, number in (("quiet", 0), ("busy", cores)):
            with busy(number):
                for pair in range(pairs[load]):
                    for which in order if pair % 2 == 0 else reversed(order):
                        rates[load][which].append(servers[which].turn())
                        print(dtype, load, which, rates[load][which][-1], file=sys.stderr, flush=True)
    finally:
        for server in servers.values():
            server.end()


def measured(dtype: str, given: argparse.Namespace, cores: int) -> dict[str, Any]:
    """Return the rates of both settings, quiet and busy.

    Two processes with the same settings differ by some per cent for as long as they live, so both are started twice,
    the other one first the second time.
    """
    rates: dict[str, dict[str, list[float]]] = {load: {"now": [], "before": []} for load in ("quiet", "busy")}
    for half, order in enumerate((("now", "before"), ("before", "now"))):
        pairs = {"quiet": (given.pairs + half) // 2, "busy": (given.busy_pairs + half) // 2}
        _turns(dtype, order, pairs, cores, rates)
    quiet = {which: statistics.median(found) for which, found in rates["quiet"].items()}
    loaded = {which: statistics.median(found) for which, found in rates["busy"].items()}
    ratios = [now / before for now, before in zip(rates["quiet"]["now"], rates["quiet"]["before"], strict=True)]
    return {
        "tokens_per_s": {"quiet": quiet, "busy": loaded},
        "quiet_now_over_before": interval(ratios),
        "busy_over_quiet": {which: round(loaded[which] / quiet[which], 3) for which in quiet},
        "runs": rates,
    }


def main() -> None:
    """Measure each type and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--busy-pairs", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    cores = len(os.sched_getaffinity(0))
    found = {dtype: measured(dtype, given, cores) for dtype in given.dtypes}
    now = environment(Engine(), cores, 0)
    write(
        "busy",
        {
            "what": "output tokens/s of one engine, quiet and beside one busy process per core, in turn with the "
            "threads as OpenMP has them",
            "settings": {
                "model": Engine().model,
                "work": WORK,
                "now": {key: now[key] for key in sorted(now) if key.startswith(("KMP", "OMP"))},
                "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
                "before": BEFORE,
            },
            "bound": "busy over quiet: 0.5, the fair share beside one busy process per core",
            "by_dtype": found,
        },
    )


if __name__ == "__main__":
    main()
