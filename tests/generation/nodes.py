"""A generate job on a real cluster of Ray with two machines, of which one is lost without a spare and comes back.

    python -m tests.generation.nodes FOLDER

It writes what it measured to `FOLDER/nodes.json`: the rows a second of two engines, of the one that is left, and of two
again.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from socket import socket
from typing import Any

from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.actors import LiveEngine
from tests.fakes import ScriptedEngine, open_hashing_encoder
from tests.generation.ground import WORK, job, with_seeds

SLOTS, LATENCY_S = 8, 0.4
SETTLED_S = 6.0
"""Seconds after a change before the rate is measured."""
MEASURED_S = 12.0
LONGEST_S = 100.0
TARGET = 600


class Full(ScriptedEngine):
    """Answers so many requests at a time, each after a while."""

    def __init__(self, settings: Engine) -> None:
        super().__init__(settings)
        self._slots = asyncio.Semaphore(SLOTS)

    async def ask(self, request: Request) -> Reply:
        async with self._slots:
            await asyncio.sleep(LATENCY_S)
        return await super().ask(request)


def full(settings: Engine) -> LiveEngine:
    return Full(settings)


class Said(Screen):
    """Keeps the lines for people."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def made(store: Store) -> list[tuple[float, int]]:
    """Return the times and rows of the committed shards."""
    events = (json.loads(line) for line in Ledger(store, "run-1").lines)
    return [(event["time"], event["rows"]) for event in events if event["event"] == "shard_done"]


def rate(store: Store, begin: float, end: float) -> float:
    return sum(rows for at, rows in made(store) if begin < at <= end) / (end - begin)


def measure(store: Store) -> float:
    """Wait until a change has settled, and return the rows a second from then on."""
    time.sleep(SETTLED_S)
    begin = time.time()
    time.sleep(MEASURED_S)
    return round(rate(store, begin, begin + MEASURED_S), 2)


def wait_for(lines: list[str], what: str) -> float:
    """Wait until a line has this text, and return the seconds that it took."""
    begin = time.monotonic()
    while not any(what in line for line in lines):
        if time.monotonic() - begin > LONGEST_S:
            raise TimeoutError(f"{what!r} is not in {lines}")
        time.sleep(0.1)
    return round(time.monotonic() - begin, 1)


def main(folder: Path) -> int:
    import ray
    from ray.cluster_utils import Cluster

    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.driver(folder / "logs")
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "dashboard_port": port})
    node = cluster.add_node(num_cpus=1)
    variables = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ray.init(
        address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables}
    )
    store, screen = with_seeds(Store(str(folder / "store"))), Said()
    generate = job(target=TARGET, engine=Engine(actors=2, cpus=1, max_num_seqs=SLOTS))
    run = Run("run-1", store, Ledger(store, "run-1"), screen, str(folder / "logs"))
    figures: dict[str, Any] = {"slots": SLOTS, "latency_s": LATENCY_S}
    work = threading.Thread(
        target=lambda: figures.update(kept=generate.make_on(run, WORK, full, open_hashing_encoder).kept), daemon=True
    )
    work.start()
    while work.is_alive() and len(made(store)) < 8:
        time.sleep(0.2)
    figures["two"] = measure(store)
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    figures["noticed_s"] = wait_for(screen.lines, "is lost")
    figures["one"] = measure(store)
    cluster.add_node(num_cpus=1)
    figures["back_s"] = wait_for(screen.lines, "runs again")
    figures["two_again"] = measure(store)
    work.join(LONGEST_S)
    figures["said"] = screen.lines
    (folder / "nodes.json").write_text(json.dumps(figures))
    ray.shutdown()
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
