"""Progress for people: rich bars on a terminal, a plain line every few seconds where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 10.0


class Bar:
    """One piece of long work: how much is done of how much, and figures beside it."""

    def __init__(self, screen: "Screen", title: str, total: int | None) -> None:
        self._screen, self._title, self._total = screen, title, total
        self._done, self._note, self._said, self._start, self._unsaid = 0, "", 0.0, time.monotonic(), True
        self._task = screen.rich.add_task(title, total=total, note="") if screen.rich else None

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Say how much is done in all, with figures such as `412 tokens/s`."""
        self._done, self._note, self._total, self._unsaid = done, note, total or self._total, True
        if self._screen.rich and self._task is not None:
            self._screen.rich.update(self._task, completed=done, note=note, total=self._total)
        elif time.monotonic() - self._said >= PLAIN_EVERY_S:
            self._line()

    def close(self) -> None:
        """Leave the last state standing."""
        if not self._screen.rich and self._unsaid:
            self._line()

    def _line(self) -> None:
        self._said, self._unsaid = time.monotonic(), False
        of = f"/{self._total}" if self._total else ""
        elapsed = time.monotonic() - self._start
        note = f", {self._note}" if self._note else ""
        count = f" {self._done}{of}" if self._done or of else ""
        self._screen.say(f"{self._title}:{count}{note} ({elapsed:.0f} s)")


class Screen:
    """Where a run speaks to people."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Speak on standard error, so that standard output stays for results; `quiet` says nothing."""
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.rich: Progress | None = None
        self._quiet = quiet

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        if self._quiet:
            return
        if self.console.is_terminal:
            self.console.print(line, markup=False)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        """Show one bar while the block runs."""
        if not self.console.is_terminal or self._quiet:
            bar = Bar(self, title, total)
            try:
                yield bar
            finally:
                bar.close()
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as self.rich:
            try:
                yield Bar(self, title, total)
            finally:
                self.rich.refresh()
        self.rich = None
