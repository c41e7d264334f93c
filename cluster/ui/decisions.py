"""What a person decided about the rows of a dataset, one line a decision, on disk before the page says so.

    <store>/.reviews/<dataset>/ledger.jsonl      the decisions, in the form of a ledger; the last one about a row holds

The dataset itself is never changed. `gristmill.cluster.ui.edit` makes a new one of it and of the decisions.
"""

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.store.ledger import Ledger, lock, read_lines
from gristmill.cluster.store.store import Store

log = logging.getLogger(__name__)
Verdict = Literal["accepted", "rejected", "edited"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FOLDER = ".reviews"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about one row."""

    sample: str
    """Id of the sample."""
    row: int
    """Number of the row in the dataset."""
    verdict: Verdict
    by: str
    """Name of the person."""
    note: str = ""
    texts: tuple[str | None, ...] = ()
    """The content of each turn after an edit, in order; null for a turn without content."""


_DECISION = TypeAdapter(Decision)
NAMES = tuple(field.name for field in fields(Decision))


class Decisions:
    """The decisions about one dataset. All methods may be called from several threads."""

    def __init__(self, store: Store, dataset: str) -> None:
        """Read the decisions so far. Nothing is written before the first `put`."""
        self._store, self._folder = store, f"{FOLDER}/{dataset}"
        self._held = ExitStack()
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()
        self._found = _fold(read_lines(store, self._folder))

    def all(self) -> Mapping[int, Decision]:
        """Return the decisions by the numbers of their rows."""
        with self._lock:
            return dict(self._found)

    def put(self, decision: Decision) -> None:
        """Write a decision. It replaces an earlier one about the same row.

        Raises:
            BusyError: if another process decides about this dataset.
        """
        self._write("decided", **_DECISION.dump_python(decision, mode="json"))

    def withdraw(self, row: int) -> None:
        """Undo the decision about a row, if there is one."""
        if row in self.all():
            self._write("withdrawn", row=row)

    def _write(self, event: str, **facts: object) -> None:
        with self._lock:
            if self._ledger is None:
                self._open()
            assert self._ledger is not None
            self._ledger.append(event, **facts)
            self._found = _fold([self._ledger.lines[-1]], self._found)

    def _open(self) -> None:
        """Take the lock, which this process then holds until it ends, and read what others wrote before."""
        try:
            self._held.enter_context(lock(self._store, self._folder))
        except BusyError:
            name = self._folder.removeprefix(f"{FOLDER}/")
            raise BusyError(f"{name}: another `gristmill ui` decides about it, must be one at a time; end it") from None
        self._ledger = Ledger(self._store, self._folder)
        self._found = _fold(self._ledger.lines)

    def close(self) -> None:
        """Let other processes decide."""
        self._held.close()


def _fold(lines: Iterable[str], before: Mapping[int, Decision] | None = None) -> dict[int, Decision]:
    """Return the decisions after the events of these lines. A line that was altered is skipped."""
    found = dict(before or {})
    for line in lines:
        event = json.loads(line)
        if event["event"] == "withdrawn":
            found.pop(event.get("row"), None)
            continue
        try:
            decision = _DECISION.validate_python({name: event.get(name) for name in NAMES if name in event})
        except ValidationError as error:
            log.warning("a line of the decisions is skipped: %s", error.errors()[0]["msg"])
            continue
        found[decision.row] = decision
    return found
