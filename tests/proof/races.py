"""Races of processes for one dataset: however they are killed or stopped, it ends whole, equal and clean.

    python -m tests.proof.races                  10 races of each kind
    python -m tests.proof.races 200 OUT.json     the whole, written to a file

In a race, three processes want the same ingested dataset and start together. In one race of three a process is killed
at a random moment and then started again; in another one of three a process is stopped until the others have ended,
and then goes on. Stores are a folder, an object store that fails one request in twenty, and the S3 of the package
`moto[server]`, where `moto_server` is on the path. Leases of objects live 8 seconds here, in place of 45.

A race fails if a process that was not killed ends with anything but 0, or 75 if it was stopped; if the dataset has
other bytes than an undisturbed one; if it has a file that its manifest does not list; or if it takes over a minute.
"""

import json
import multiprocessing as mp
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.io.ingest import Source, ingest, place_of
from gristmill.cluster.store import lease
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import FIGURES, MANIFEST, Store
from tests.fake_objects import serving
from tests.invariants import check_dataset
from tests.proof import s3

RACERS, ROWS, SHARD_ROWS = 3, 60, 10
MACHINE = (
    f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, obstore {version('obstore')}"
)
FAILING = 0.05
LONGEST_S = 60.0
LIFE_S, RENEW_S, LOOK_S = 8.0, 0.5, 0.2


def hurry() -> None:
    """Let leases of objects live for a short time."""
    lease.LIFE_S, lease.RENEW_S, lease.LOOK_AT_OBJECT_S = LIFE_S, RENEW_S, LOOK_S


def racer(uri: str, path: str, ready: Any, start: Any, made: Any) -> None:
    """Want the dataset of a file: make it, or wait for it and read it, as `gristmill run` does."""
    hurry()
    store, source = Store(uri), Source(path=(path,))
    name = place_of(source)
    ready.release()
    start.acquire()  # an event has a lock, which a process that is stopped could hold
    try:
        with making(store, name, say=lambda line: None) as held:
            if not held.complete(name):
                ingest(held, source, shard_rows=SHARD_ROWS)
                made.put(os.getpid())
        store.read(name)
    except BusyError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def race(uri: str, folder: Path, number: int, rng: random.Random) -> dict[str, Any]:
    """Run one race, check what it made, and say what was done."""
    context = mp.get_context("forkserver")
    rows = [{"question": f"Race {number}: what is {n}?", "answer": "是的"} for n in range(ROWS)]
    path = folder / f"{number}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ready, start, made = context.Semaphore(0), context.Semaphore(0), context.SimpleQueue()
    disturbed = ("nothing", "killed", "stopped")[number % 3]

    def begin() -> Any:
        process = context.Process(target=racer, args=(uri, str(path), ready, start, made))
        process.start()
        return process

    racers = [begin() for _ in range(RACERS)]
    assert all(ready.acquire(timeout=LONGEST_S) for _ in racers), "the racers did not start"
    victim, moment = rng.randrange(RACERS), rng.expovariate(8)
    began = time.monotonic()
    for _ in range(RACERS + 1):  # one more for a process that is started again
        start.release()
    if disturbed != "nothing":
        time.sleep(moment)
        with suppress(ProcessLookupError):  # it has ended before
            os.kill(racers[victim].pid, signal.SIGKILL if disturbed == "killed" else signal.SIGSTOP)
    if disturbed == "killed":
        racers[victim].join()
        killed = racers[victim].exitcode == -signal.SIGKILL
        racers[victim] = begin()
    others = [process for n, process in enumerate(racers) if n != victim]
    for process in others:
        process.join(LONGEST_S)
    if disturbed == "stopped":
        with suppress(ProcessLookupError):
            os.kill(racers[victim].pid, signal.SIGCONT)
    racers[victim].join(LONGEST_S)
    seconds = time.monotonic() - began
    codes = [process.exitcode for process in racers]
    for process in racers:
        process.kill()
        process.join()
    allowed = {0, 75} if disturbed == "stopped" else {0}
    assert [process.exitcode for process in others] == [0] * (RACERS - 1), f"race {number}: {codes}"
    assert codes[victim] in allowed, f"race {number}: {codes}"
    makers = 0
    while not made.empty():
        made.get()
        makers += 1
    if disturbed == "nothing":  # a killed maker says nothing, and one that was stopped may find the dataset made
        assert makers == 1, f"race {number}: made {makers} times"
    check(Store(uri), Source(path=(str(path),)), folder)
    late = disturbed == "stopped" and codes[victim] == 75
    return {"disturbed": disturbed, "late": late, "killed": disturbed == "killed" and killed, "seconds": seconds}


def check(store: Store, source: Source, folder: Path) -> None:
    """Assert that a dataset is whole, has the bytes of an undisturbed one, and has no other file."""
    alone = Store(str(folder / "alone"))
    name = ingest(alone, source, shard_rows=SHARD_ROWS)
    check_dataset(store, name)
    assert store.manifest(name) == alone.manifest(name)
    listed = {shard.name for shard in store.manifest(name).shards} | {FIGURES, MANIFEST}
    assert {entry.path for entry in store.walk(name)} == listed


def kinds(folder: Path, stack: ExitStack) -> Iterator[tuple[str, str]]:
    """Yield the name and the URI of a store of each kind."""
    yield "folder", str(folder / "runs")
    server = stack.enter_context(serving())
    server.failing = FAILING
    yield f"objects, {FAILING:.0%} of the requests fail", server.uri
    if shutil.which("moto_server") is not None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        moto = s3.started(port)
        stack.callback(moto.wait)
        stack.callback(moto.kill)
        yield "S3 of moto", f"s3://x:y@grain/runs?scheme=http&endpoint_override=127.0.0.1:{port}"


def races(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Run so many races of each kind, and return what was done."""
    mp.set_forkserver_preload(["gristmill.cluster.io.ingest", "gristmill.cluster.store.lease", "tests.proof.s3"])
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for kind, uri in kinds(folder, stack):
            rng = random.Random(f"{seed} {kind}")
            # a lock of a file lasts while its process is stopped, so the others of a race would wait for ever
            numbers = [n for n in range(2 * count) if uri.startswith("s3") or n % 3 != 2][:count]
            done = [race(uri, folder, number, rng) for number in numbers]
            seconds = [one["seconds"] for one in done]
            found[kind] = {
                "races": len(done),
                "failed": 0,
                "disturbed": dict(Counter(one["disturbed"] for one in done)),
                "killed_before_their_end": sum(one["killed"] for one in done),
                "stopped_and_refused_afterwards": sum(one["late"] for one in done),
                "seconds": {"median": round(statistics.median(seconds), 2), "highest": round(max(seconds), 2)},
            }
            sys.stdout.write(f"races: {kind}: {json.dumps(found[kind])}\n")
            sys.stdout.flush()
    return found


def main() -> int:
    """Run the races and write the result, if a file is named."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    hurry()
    with tempfile.TemporaryDirectory() as folder:
        found = races(Path(folder), count)
    if len(sys.argv) > 2:
        result = {"what": __doc__.splitlines()[0], "racers": RACERS, "machine": MACHINE, "stores": found}
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
