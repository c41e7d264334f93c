"""Logs: everything goes to the run's log files; our own warnings and all errors go to the terminal too."""

import logging
import os
import sys
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(process)d: %(message)s"


def to_file(folder: str | None, name: str) -> None:
    """Send this process' logging, and everything it or its libraries print, to `<folder>/<name>.log`.

    An actor calls it first. Without a folder (the store is remote) the output stays in Ray's own worker logs.
    """
    if folder is None:
        logging.basicConfig(level=logging.INFO, format=FORMAT, force=True)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(Path(folder) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    logging.basicConfig(level=logging.INFO, format=FORMAT, force=True)


class _Terminal(logging.Handler):
    """Writes our own warnings, which concern people's data and settings, and errors of anybody, to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line to the current standard error. Progress bars replace it while they are shown."""
        if record.levelno >= logging.ERROR or record.name.startswith("gristmill"):
            sys.stderr.write(f"{record.levelname.lower()}: {self.format(record)}\n")


def driver(folder: Path | None) -> None:
    """Set up the driver: all records go to `driver.log`; our own warnings and all errors go to standard error too."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.INFO)
    root.addHandler(_Terminal(logging.WARNING))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / "driver.log", encoding="utf-8")
        file.setFormatter(logging.Formatter(FORMAT))
        root.addHandler(file)


def tail(folder: str | None, name: str, lines: int = 5) -> str:
    """Return the last lines of a process' log for an error message, or the empty string."""
    path = Path(folder or "/nonexistent") / f"{name}.log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
