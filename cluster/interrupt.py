"""Signals that end a run: SIGTERM and SIGHUP end it as Ctrl-C does, with KeyboardInterrupt in the main thread."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first of `SIGNALS` raise KeyboardInterrupt, with the signal's name, while the block runs.

    The second is ignored, so that what the first began to shut down ends in order (2 to 5 s for a local Ray); the third
    ends the process at once, as without a handler. A signal that was ignored before, as under `nohup`, stays ignored.
    Outside the main thread, where Python allows no handlers, this does nothing.
    """
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        del frame
        received += 1
        if received == 1:
            raise KeyboardInterrupt(signal.Signals(number).name)
        if received > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    put_back = current_handlers()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)
    try:
        yield
    finally:
        put_back()


def current_handlers() -> Callable[[], None]:
    """Return a function that puts the present handlers of `SIGNALS` back, in the main thread, whoever replaced them."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def put_back() -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # None: not Python's, which cannot be put back
                    signal.signal(number, handler)

    return put_back


def signal_name(error: KeyboardInterrupt) -> str:
    """Return the name of the signal that an interrupt came from; Python's own handler of Ctrl-C gives none."""
    return str(error) or signal.SIGINT.name
