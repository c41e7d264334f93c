"""Progress for people: bars on a terminal, and a plain line every few seconds anywhere else."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from gristmill.cluster.runtime.activity import Activity
from gristmill.cluster.text.terminal import visible

PLAIN_EVERY_S = 10.0
"""Seconds between two lines if there is no terminal."""


class Bar:
    """The progress of one long task, with figures on the line below it.

    While nothing is done yet, a terminal shows a pulsing bar. An empty bar that does not move would look like a hang.
    """

    def __init__(self, screen: "Screen", title: str, total: int | None) -> None:
        self._screen, self._title, self._total = screen, title, total
        self._done, self._note, self._left, self._said, self._unsaid = 0, "", "", 0.0, True
        self._start = time.monotonic()
        self._task = (
            screen.rich.add_task(title, total=None, count=self._count(), note="", left=None) if screen.rich else None
        )
        screen.activity.advance(title, 0, total or 0, "")

    def update(
        self,
        done: int,
        note: str = "",
        total: int | None = None,
        left: str | None = None,
        *,
        work: float = 0.0,
        figures: Mapping[str, float] = {},
    ) -> None:
        """Set how much is done so far.

        Args:
            done: how much is done in all.
            note: figures, such as `412 tokens/s`.
            total: how much there is to do in all, once it is known.
            left: the time left in words, which replaces the estimate from `done`. It is empty at the end.
            work: a number that grows as long as anything moves, if `done` may stay the same for minutes.
            figures: figures by name, which become metrics of the run.
        """
        self._done, self._note, self._left, self._total, self._unsaid = (
            done,
            note,
            left or "",
            total or self._total,
            True,
        )
        self._screen.activity.advance(self._title, done, self._total or 0, note, work=work, figures=figures)
        if self._screen.rich and self._task is not None:
            # a full bar stops its clock, so it is not shown full while time is left
            known = max(self._total, done + bool(left)) if self._total and done else None
            count = self._count()
            self._screen.rich.update(self._task, completed=done, total=known, count=count, note=note, left=left)
        elif time.monotonic() - self._said >= self._screen.every_s:
            self._line()

    def close(self) -> None:
        """Stop, and leave the last state visible on the screen."""
        if not self._screen.rich and self._unsaid:
            self._line()

    def _count(self) -> str:
        of = f"/{self._total}" if self._total else ""
        return f"{self._done}{of}" if self._done or of else ""

    def _line(self) -> None:
        self._said, self._unsaid = time.monotonic(), False
        facts = ", ".join(filter(None, (self._count(), self._note, self._left)))
        elapsed = f"({time.monotonic() - self._start:.0f} s)"
        self._screen.say(" ".join(filter(None, (f"{self._title}:", facts, elapsed))))


class _Left(TimeRemainingColumn):
    """A column with the time left. The job's own text is shown if there is one, else the estimate of rich."""

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        return super().render(task) if left is None else Text(left, style="progress.remaining")


class _Lines(Progress):
    """Bars with their figures on separate lines, because a bar and its figures do not fit on one usual line."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["note"]:
                yield Text(visible(f"  {task.fields['note']}"), no_wrap=True, overflow="ellipsis")


class Screen:
    """The place where a run prints messages to people."""

    def __init__(self, *, quiet: bool = False, every_s: float = PLAIN_EVERY_S) -> None:
        """Print to standard error, so that standard output is free for results. With `quiet`, print nothing.

        Without a terminal, a bar prints a line every `every_s` seconds.
        """
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.rich: Progress | None = None
        self.activity = Activity()
        self._quiet, self.every_s = quiet, every_s

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        if self._quiet:
            return
        line = visible(line)
        if self.console.is_terminal:
            self.console.print(line, markup=False)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        """Show one progress bar while the block runs."""
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
            TextColumn("{task.fields[count]}", style="progress.download"),
            TimeElapsedColumn(),
            _Left(),
        )
        with _Lines(*columns, console=self.console) as self.rich:
            try:
                yield Bar(self, title, total)
            finally:
                self.rich.refresh()
        self.rich = None
