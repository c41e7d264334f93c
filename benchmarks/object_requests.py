"""How many requests a shard of `generate` takes in an object store, and whether a run ends where requests fail.

    python benchmarks/object_requests.py

The job runs on a scripted engine in one process, with the lease, the ledger and the workers' code of a real run,
against the object store of the tests, which counts. In the second run, one request in five fails: it is refused, the
connection is closed before, or the answer is lost after. The dataset must have the bytes of the first one.
"""

import re
import time
from collections import Counter
from typing import Any

from common import write

from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Store
from tests.fake_objects import Objects, serving
from tests.generation.ground import WORK, contents, ground, job, with_seeds

TARGET, SHARD_SIZE = 400, 8


def run(server: Objects) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Make the dataset in an empty store; return the figures and the content."""
    server.objects.clear()
    store = with_seeds(Store(server.uri))
    server.requests.clear()
    server.log.clear()
    start = time.monotonic()
    with making(store, WORK.output, say=print) as held:
        ground(held, job(target=TARGET, shard_size=SHARD_SIZE))
    seconds, total = time.monotonic() - start, server.requests.total()
    shards = len(store.manifest(WORK.output).shards)
    kinds = Counter(re.sub(r"\d+", "#", line.partition("?")[0]) for line in server.log)
    figures = {
        "shards": shards,
        "requests": dict(server.requests),
        "requests_per_shard": round(total / shards, 2),
        "most_frequent": dict(kinds.most_common(10)),
        "seconds": round(seconds, 1),
    }
    return figures, contents(store)


def main() -> None:
    """Run it without and with failing requests, and write the figures."""
    with serving() as server:
        plain, first = run(server)
        server.failing = 0.2
        failing, second = run(server)
    assert first == second, "the dataset has other bytes where requests fail"
    write("object_requests", {"plain": plain, "one_in_five_fails": {**failing, "equal": True}})


if __name__ == "__main__":
    main()
