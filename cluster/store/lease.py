"""One process at a time makes a dataset. Another one that needs it waits, and then reads what was made.

Runs share the datasets of a store, because the name of a dataset follows from its settings and inputs. Without a lease,
two runs that share a job write the same shards at the same time.

A lease has a number, which grows with each holder. The holder and its workers write with that number, and a write with
an older number is refused (`Fence`): of a worker whose driver was killed, of a process that was stopped and wakes up,
and of a worker that ends after the folder was completed.

    <store>/.leases/<dataset>         files: locked as long as a process makes the dataset; who that is, as JSON
                                      objects: the number, and who it is, as JSON; written again every few seconds
                    <dataset>.fence   files: the number

The system ends a lock of a file with its process. A lease of an object ends when it was not written again for some
time. Each waiting process measures that time with its own clock, so the clocks of two machines are never compared.
"""

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.runtime.activity import waiting
from gristmill.cluster.runtime.temporary import Owner, has_ended, this_process
from gristmill.cluster.store.backend import in_words
from gristmill.cluster.store.files import next_number
from gristmill.cluster.store.objects import Objects, number_of
from gristmill.cluster.store.store import LEASES, Store

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Seconds between two tries to get a lease of files."""
LOOK_AT_OBJECT_S = 2.0
"""Seconds between two looks at a lease of objects."""
RENEW_S = 10.0
"""Seconds between two writings of a lease of objects by its holder."""
LIFE_S = 45.0
"""Seconds without a new writing after which a lease of objects is over. A holder may miss three writings."""
SKEW_S = 900.0
"""Most seconds by which the clock of the object store may differ from ours. S3 refuses requests that differ by more. A
lease that is older than this and `LIFE_S` together is over at the first look."""

Say = Callable[[str], None]


@contextmanager
def making(store: Store, *datasets: str, say: Say, patient: bool = True) -> Iterator[Store]:
    """Hold the leases of datasets while the block runs; first wait until no other process holds them.

    Inside the block, ask again whether a dataset is complete: another process may have made it. When the block ends
    without an error, the files that a complete dataset has left from its making are deleted.

    Args:
        store: the store of the datasets.
        datasets: names of the datasets, or of other folders.
        say: prints a line to people, when it has to wait.
        patient: whether `say` is called as soon as a holder is seen. If not, it is called when a holder surely lives;
            of a lease of objects this takes up to `RENEW_S` seconds.

    Yields:
        the store to write the datasets with. Its writes are refused after another process has got a lease.
    """
    with ExitStack() as stack:
        names = sorted(set(datasets))  # in one order, so that no two processes wait for each other
        yield store.with_fences({name: stack.enter_context(_held(store, name, say, patient=patient)) for name in names})


@contextmanager
def _held(store: Store, name: str, say: Say, *, patient: bool) -> Iterator[int]:
    lease = _lease(store, name)
    with ExitStack() as wait:

        def told(line: str) -> None:
            say(line)
            wait.enter_context(waiting("dataset", f"{name}, which another process makes"))

        number = lease.wait(told, patient=patient)
    try:
        yield number
        lease.seal()
        if store.complete(name):
            store.delete(name, *(entry.path for entry in store.leftovers(store.manifest(name))))
    finally:
        lease.release()


def tidy(store: Store, name: str, working: Sequence[str] = ()) -> None:
    """Delete the files that a complete dataset has left from its making, unless a process holds its lease.

    `working` has patterns of further paths of such files; see `Store.leftovers`.
    """
    left = store.leftovers(store.manifest(name), working)
    if left and free(store, name):
        with making(store, name, say=log.info):
            store.delete(name, *(entry.path for entry in left))


def free(store: Store, name: str) -> bool:
    """Say whether no process holds the lease of a dataset."""
    return _lease(store, name).is_free()


@contextmanager
def only_driver(store: Store, folder: str) -> Iterator[None]:
    """Hold the lease of a run in an object store while the block runs.

    Raises:
        BusyError: if another process holds it. It takes up to `RENEW_S` seconds to see that it lives, and up to
            `LIFE_S` seconds to see that it does not.
    """
    lease = ObjectLease(store, f"{folder}/.lock")

    def busy(_: str) -> None:
        raise BusyError(f"{folder}: another process is executing this run; wait for it or end it")

    lease.wait(busy, patient=False)
    try:
        yield
    finally:
        lease.release()


def driver_lives(store: Store, folder: str) -> bool:
    """Say whether a run in an object store has a driver, as far as its lease tells."""
    return not ObjectLease(store, f"{folder}/.lock").is_free()


def _lease(store: Store, name: str) -> "FileLease | ObjectLease":
    return FileLease(store, name) if store.local else ObjectLease(store, f"{LEASES}/{name}")


class FileLease:
    """A lease that is a lock of a file. It ends with its process, even if that is killed."""

    def __init__(self, store: Store, name: str) -> None:
        """Take the name of a dataset in a store of files."""
        self._name, self._path = name, Path(store.path(LEASES, name))
        self._file: IO[str] | None = None

    def wait(self, say: Say, *, patient: bool = True) -> int:
        """Wait for the lease, and return its number. A lock of a file is only held by a living process."""
        del patient
        with in_words(str(self._path)):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="utf-8")
        said = False
        while not self._lock():
            if not said:
                said = True
                say(_waiting(self._name, _holder(self._file)))
            time.sleep(LOOK_S)
        with in_words(str(self._path)):
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "since": _now()}))
            self._file.flush()
            return next_number(str(self._path))

    def seal(self) -> None:
        """Refuse all further writes with the number of this lease."""
        with in_words(str(self._path)):
            next_number(str(self._path))

    def release(self) -> None:
        """Give the lease back."""
        if self._file is not None:
            self._file.close()

    def is_free(self) -> bool:
        """Say whether no process holds the lease."""
        with in_words(str(self._path)):
            if not self._path.exists():
                return True
            with self._path.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
            return True

    def _lock(self) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@dataclass(frozen=True)
class _Written:
    """The content of a lease of objects after its first line, which has the number."""

    process: int
    machine: str
    since: int
    nonce: str
    """Drawn by each holder, so that it knows its own writing again when an answer was lost."""
    beat: int = 0
    """Counts the writings of a holder."""
    free: bool = False
    owner: Owner | None = field(default=None)


class ObjectLease:
    """A lease that is an object, which its holder writes again every `RENEW_S` seconds."""

    def __init__(self, store: Store, name: str) -> None:
        """Take the path of the lease in an object store."""
        assert isinstance(store.backend, Objects)
        self._objects, self._path = store.backend, store.path(name)
        self._name, self._shown = name.rpartition("/")[2], store.at(name)
        self._mine = _Written(
            os.getpid(), socket.gethostname(), _now(), secrets.token_hex(8), owner=this_process(self._path)
        )
        self._number = 0
        self._version: dict[str, Any] | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()

    def wait(self, say: Say, *, patient: bool = True) -> int:
        """Wait for the lease, and return its number. The first `say` comes at once, or when a holder surely lives."""
        seen, since, said, first = None, _clock(), False, True
        while True:
            with in_words(self._shown):
                there = self._look()
                if there is None or self._over(*there) or (there[2] == seen and _clock() - since > LIFE_S):
                    if self._take(there[0] if there else 0, there[2] if there else None):
                        break
                    continue
            if there[2] != seen:
                lives = not first
                seen, since, first = there[2], _clock(), False
                if not said and (patient or lives):
                    said = True
                    holder = (
                        f"process {there[1].process} of {there[1].machine} makes since {_clock_time(there[1].since)}"
                    )
                    say(_waiting(self._name, holder))
            time.sleep(LOOK_AT_OBJECT_S)
        threading.Thread(target=self._renew, daemon=True, name=f"lease {self._name}").start()
        return self._number

    def seal(self) -> None:
        """Refuse all further writes with the number of this lease."""
        with in_words(self._shown), self._lock:
            self._write(self._number + 1)

    def release(self) -> None:
        """Give the lease back, unless another process has got it. If that fails, the lease ends by itself."""
        self._ended.set()
        try:
            with self._lock:
                self._mine = replace(self._mine, free=True)
                self._write(self._number)
        except OSError as error:  # what the block raised is what people must see
            log.info("%s: the lease was not given back, it ends in %.0f s: %s", self._shown, LIFE_S, error)

    def is_free(self) -> bool:
        """Say whether no process holds the lease."""
        with in_words(self._shown):
            there = self._look()
        return there is None or self._over(*there)

    def _look(self) -> tuple[int, _Written, dict[str, Any], float] | None:
        """Return (number, content, version, server's time of writing) of the lease, or None if there is none."""
        try:
            data, version, written = self._objects.tagged(self._path)
        except FileNotFoundError:
            return None
        try:
            said = _WRITTEN.validate_json(data.partition(b"\n")[2])
        except ValidationError:  # of another version, or altered: it is over when it is not written again
            said = _Written(0, "an unknown machine", 0, "")
        return number_of(data), said, version, written

    def _over(self, number: int, said: _Written, version: dict[str, Any], written: float) -> bool:
        """Say whether a lease is surely over at the first look."""
        del number, version
        ended = said.owner is not None and has_ended(said.owner, self._path)
        return said.free or ended or time.time() - written > LIFE_S + SKEW_S

    def _take(self, number: int, version: dict[str, Any] | None) -> bool:
        self._version = version
        return self._write(number + 1)

    def _write(self, number: int) -> bool:
        """Write the lease with this number, and say whether we hold it now."""
        self._mine = replace(self._mine, beat=self._mine.beat + 1)
        data = f"{number}\n{json.dumps(_WRITTEN.dump_python(self._mine, mode='json'))}\n".encode()
        written = self._objects.swap(self._path, data, self._version)
        if written is None:  # by another one, or by us, and the answer was lost
            there = self._look()
            if there is None or there[1].nonce != self._mine.nonce or there[0] != number:
                return False
            written = there[2]
        self._version, self._number = written, number
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                with self._lock:
                    if self._ended.is_set():
                        return
                    if not self._write(self._number):
                        log.warning("%s: another process has got the lease", self._name)
                        return
            except OSError as error:  # tried again; if it lasts, another process gets the lease
                log.warning("%s: the lease was not renewed: %s", self._name, error)


_WRITTEN = TypeAdapter(_Written)


def _waiting(name: str, holder: str) -> str:
    after = "it is read then, or made here if that process ends before"
    return f"waiting for {name}, which {holder}; {after}"


def _holder(file: IO[str]) -> str:
    """Return who holds a lease of files, as far as its file says so."""
    file.seek(0)
    try:
        held = json.loads(file.read())
        since, machine = _clock_time(held["since"]), held["machine"]
    except (ValueError, KeyError, TypeError):  # it is just being written
        return "another process makes"
    return f"process {held['process']} of {machine} makes since {since}"


def _clock_time(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _now() -> int:
    return round(time.time())


def _clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
