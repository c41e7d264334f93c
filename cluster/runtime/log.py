"""Logs: all records go to the run's log files. Our own warnings and all errors also go to the terminal."""

import logging
import os
import sys
from pathlib import Path

from gristmill.cluster.contract.secrets import public_text
from gristmill.cluster.text.terminal import visible

FORMAT = "%(asctime)s %(levelname)s %(name)s %(process)d: %(message)s"


class _Public(logging.Formatter):
    """A formatter that leaves credentials in URIs out, of tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return public_text(super().format(record))


def to_file(folder: str | None, name: str) -> None:
    """Send the log records of this process, and all that it and its libraries print, to `<folder>/<name>.log`.

    An actor calls it first. If `folder` is None, because the store is remote, the output stays in Ray's worker logs.
    """
    if folder is None:
        _to_stderr()
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(Path(folder) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    _to_stderr()


def _to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Public(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _Terminal(logging.Handler):
    """A handler that writes our own warnings and all errors to standard error.

    Our own warnings are about the user's data and settings.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line to the current `sys.stderr`. Progress bars replace that while they are shown."""
        if record.levelno >= logging.ERROR or record.name.startswith("gristmill"):
            sys.stderr.write(f"{record.levelname.lower()}: {visible(self.format(record))}\n")


def driver(folder: Path | None) -> None:
    """Set up the logs of the driver.

    All records go to `driver.log` in the folder, if there is one. Our own warnings and all errors also go to standard
    error.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.INFO)
    terminal = _Terminal(logging.WARNING)
    terminal.setFormatter(_Public())
    root.addHandler(terminal)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "driver.log", encoding="utf-8")
        file.setFormatter(_Public(FORMAT))
        root.addHandler(file)


def tail(folder: str | None, name: str, lines: int = 5) -> str:
    """Return the last lines of a process' log for an error message, or the empty string."""
    path = Path(folder or "/nonexistent") / f"{name}.log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
