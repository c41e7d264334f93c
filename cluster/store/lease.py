"""One process at a time makes a dataset. Another one that needs it waits, and then reads what was made.

Runs share the datasets of a store, because the name of a dataset follows from its settings and inputs. Without a lease,
two runs that share a job write the same shards at the same time.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from gristmill.cluster.store.store import Store

LEASES = ".leases"
"""Folder of a local store with a file for each dataset that was ever made. A file is locked as long as a process makes
the dataset, and has that process's id, its machine and the time when it began."""
LOOK_S = 0.5
"""Seconds between two tries to get a lease."""


@contextmanager
def making(store: Store, *datasets: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the leases of datasets while the block runs; first wait until no other process holds them.

    Inside the block, ask again whether a dataset is complete: another process may have made it. The system ends a lease
    together with the process that holds it, even if that is killed, so no lease outlives its holder.

    An object store has no leases. There, two processes may make a dataset twice; they commit the same bytes.

    Args:
        store: the store of the datasets.
        datasets: names of the datasets.
        say: prints a line to people, when it has to wait.
    """
    with ExitStack() as stack:
        if store.local is not None:
            for name in sorted(set(datasets)):  # in one order, so that no two processes wait for each other
                _wait(stack.enter_context((store.folder(LEASES) / name).open("a+")), name, say)
        yield


def _wait(file: IO[str], name: str, say: Callable[[str], None]) -> None:
    said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said:
                said = True
                after = "it is read then, or made here if that process ends before"
                say(f"waiting for {name}, which {_holder(file)}; {after}")
            time.sleep(LOOK_S)
            continue
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "since": round(time.time())}))
        file.flush()
        return


def _holder(file: IO[str]) -> str:
    """Return who holds a lease, as far as its file says so."""
    file.seek(0)
    try:
        held = json.loads(file.read())
        since, machine = time.strftime("%H:%M:%S", time.localtime(held["since"])), held["machine"]
    except (ValueError, KeyError, TypeError):  # it is just being written
        return "another process makes"
    return f"process {held['process']} of {machine} makes since {since}"
