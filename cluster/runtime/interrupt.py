"""Signals that end a run. SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as Ctrl-C does."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gristmill.cluster.contract.errors import TRY_AGAIN

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 2
"""Number of signals after which the process may still shut down by itself. The next signal ends it at once."""


_received: list[str] = []  # names of the signals during the running block of `interruptible`, the first one first


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first of `SIGNALS` that arrives raise KeyboardInterrupt with the signal's name, while the block runs.

    The second signal is ignored, so that the shutdown that the first one started can finish. The third ends the process
    at once.
    """

    def interrupt(number: int) -> None:
        _received.append(signal.Signals(number).name)
        if len(_received) == 1:
            raise KeyboardInterrupt(_received[0])
        if len(_received) > PATIENCE:
            _end_now(number)

    _received.clear()
    with _handled(interrupt):
        yield


_watched: list[int] = []  # the sockets of the running blocks of `leave_within`


def _forget() -> None:
    """Let a forked process write none of its own signals into the socket of its parent."""
    if _watched:
        signal.set_wakeup_fd(-1)
        _watched.clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def leave_within(grace_s: float, record: Callable[[str], None]) -> Iterator[None]:
    """End the process with code 75 if the block has not ended `grace_s` seconds after the first of `SIGNALS`.

    Schedulers kill a process some seconds after SIGTERM. An orderly end may take longer, or hang. Outside the main
    thread, where no signal arrives, this does nothing.

    Args:
        grace_s: seconds.
        record: called with the name of the signal, in another thread, before the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended, (reader, writer) = threading.Event(), socket.socketpair()

    def watch() -> None:
        while not ended.is_set() and (data := reader.recv(1))[0] not in SIGNALS:
            pass  # another signal with a handler, such as that of a child's end, or the end of the block
        if not ended.wait(grace_s):
            try:
                record(signal.Signals(data[0]).name)
            finally:
                os._exit(TRY_AGAIN)

    watcher = threading.Thread(target=watch, daemon=True, name="grace")
    watcher.start()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)  # the number of each signal goes there
    _watched.append(writer.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _watched.pop()
        ended.set()
        writer.send(b"\0")  # closing it would not do: a forked process may have it open too
        watcher.join()
        writer.close()
        reader.close()


@contextmanager
def defer() -> Iterator[Callable[[], None]]:
    """Delay `SIGNALS` while the block runs. After the block, the first of them is handled as it was before the block.

    A handler may raise its exception at any place. In a callback of Python itself, as before and after a fork, the
    exception would be lost and a lock would stay locked. The third signal ends the process at once.

    Yields:
        A function that sets the handlers of the block again, for libraries that replace them.
    """
    arrived: list[int] = []

    def keep(number: int) -> None:
        arrived.append(number)
        if len(arrived) > PATIENCE:
            _end_now(number)

    try:
        with _handled(keep) as put_back:
            yield put_back
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


def signal_name(error: KeyboardInterrupt) -> str:
    """Return the name of the signal that caused an interrupt.

    While Ray waits for a result, its core catches the exception of the handler and raises a new one without the name.
    In this case, return the name of the first signal that `interruptible` received, or the name of Ctrl-C's signal.
    """
    return str(error) or next(iter(_received), signal.SIGINT.name)


@contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Handle `SIGNALS` with this function while the block runs, except signals that are ignored, as under `nohup`.

    Outside the main thread, where Python allows no handlers, this does nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}

    def act(number: int, frame: FrameType | None) -> None:
        del frame
        handle(number)

    def install() -> None:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):  # None: not Python's, and so could not be put back
                signal.signal(number, act)

    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _end_now(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
