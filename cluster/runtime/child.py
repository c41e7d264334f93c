"""A server in a child process that ends with this process, together with all processes that it started."""

import ctypes
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gristmill.cluster.contract.errors import RunError

PR_SET_PDEATHSIG = 1
"""The call of Linux by which a process gets a signal when its parent ends (prctl(2))."""
POLL_S = 0.3
"""Seconds between two looks at a server that starts."""
END_S = 30.0
"""Seconds in which a server may end by itself after SIGTERM. It is killed then."""
SHOWN = 3
"""Number of lines of the log that an error shows."""


@contextmanager
def serving(words: Sequence[str], environment: Mapping[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a server while the block runs. Its output is appended to a log file.

    After the block, the server gets SIGTERM. It also gets SIGTERM when this process is killed.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environment), start_new_session=True,
            preexec_fn=_ends_with(prctl, os.getpid()),  # noqa: PLW1509 - it takes no lock, and allocates nothing
        )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def _ends_with(prctl: Callable[..., int] | None, parent: int) -> Callable[[], None]:
    """Return a function for the child, which asks Linux for SIGTERM when its parent ends."""

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before the call
                os._exit(1)

    return ask


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server of `serving` and every process of its group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the group, of which children may be left
    process.wait()


def await_health(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait until a server answers at an address.

    Raises:
        RunError: when its process ends before that.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with suppress(OSError), opener.open(url, timeout=5):
            return
        if process.poll() is not None:
            raise RunError(f"the server did not start (exit code {process.returncode}); see {log}\n{last_lines(log)}")
        time.sleep(POLL_S)


def last_lines(log: Path) -> str:
    """Return the last lines of a log file."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-SHOWN:])
