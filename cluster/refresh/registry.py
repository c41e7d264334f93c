"""The records of a line: its rounds, decisions, rollbacks, and the aliases of its models.

    <store>/lines/<line>/rounds/0001.json      what a round works on, and how it ended; written when it begins and ends
                         decisions/0001.json   the decision on its model; never changed
                         rollbacks/0001.json   what a rollback takes back; never changed
                         aliases.json          which model is `champion`, `previous` and `challenger`

Records hold no clock times and no paths of the store. So a line that was killed has the same bytes as one that was not.
Only the process that has the lease `lines/<line>` writes them; the write of a process that has lost it is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from gristmill.cluster.contract.errors import BusyError, JobError
from gristmill.cluster.store.lease import Say, making
from gristmill.cluster.store.store import Store

LINES = "lines"
ROUNDS, DECISIONS, ROLLBACKS, ALIASES = "rounds", "decisions", "rollbacks", "aliases.json"
MODEL = "merged"
"""Folder of the finished model in a training."""
State = Literal["open", "promoted", "rejected", "inconclusive", "abandoned"]
STATES: dict[str, State] = {"promote": "promoted", "reject": "rejected", "inconclusive": "inconclusive"}
"""State of a round after each verdict."""
T = TypeVar("T")


@dataclass(frozen=True)
class Round:
    """One round of a line. A model is named by its training in the store; the base model is the empty string."""

    number: int
    key: str
    """Key of the tick that began it. Another tick with this key begins no round."""
    alarm: str
    """Why it began before there were enough new rows; empty if there were."""
    start: str
    """The champion when the round began. The challenger is trained from it."""
    writer: str
    """The model that writes the new rows."""
    depth: int
    """Depth of the rows that it writes."""
    inputs: dict[str, str]
    """Dataset of each input, by its key in the recipe."""
    earlier: tuple[str, ...]
    """Datasets of earlier rounds, with which the new rows are compared."""
    replayed: str
    """Dataset of the rows of earlier rounds that are trained on; empty for none."""
    settings: dict[str, Any]
    """The section `[refresh]` of the recipe when the round began."""
    tables: dict[str, Any]
    """The other sections when the round began, with datasets of the store in place of files."""
    state: State = "open"
    run: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    """Output of each job, by its name."""
    rows: str = ""
    """Dataset of the new rows; empty if no job makes samples."""
    challenger: str = ""
    trained_depth: int = 0
    """Largest depth of the rows that the challenger was trained on, those of its champion included."""


@dataclass(frozen=True)
class Aliases:
    """The models of a line by alias, and the last events that moved them."""

    champion: str = ""
    previous: str = ""
    challenger: str = ""
    round: int = 0
    """The last round that ended."""
    rollback: int = 0
    """The last rollback."""


@dataclass(frozen=True)
class Decision:
    """The decision on a challenger, with what it follows from."""

    round: int
    verdict: str
    champion: str
    challenger: str
    rule: dict[str, Any]
    """The gate, as the recipe of the round has it."""
    evidence: dict[str, Any]
    """The numbers of each suite, as the job that evaluates has decided on them."""
    digests: dict[str, dict[str, str]]
    """By folder, the digest of each file that the decision follows from: the values of the items, and the weights."""
    kept_apart: dict[str, int]
    """Number of rows that were not trained on because they are near items of the suites, by reason."""
    version: str
    """Version of gristmill."""


@dataclass(frozen=True)
class Rollback:
    """A rollback from a champion to the one before it."""

    number: int
    model: str
    """The model that was champion."""
    to: str
    reason: str
    after: int
    """The last round before it."""
    quarantined: dict[str, list[str]]
    """Ids of the rows that the model wrote, and of their descendants, by dataset. They are not trained on again."""


class Line:
    """The records of a line."""

    def __init__(self, store: Store, name: str) -> None:
        """Take the store and the name of a line, which need not exist yet."""
        self.store, self.name, self.folder = store, name, f"{LINES}/{name}"

    def exists(self) -> bool:
        """Say whether the line has any record."""
        return self.store.exists(self.folder)

    def rounds(self) -> list[Round]:
        """Return all rounds in their order."""
        return self._all(Round, ROUNDS)

    def rollbacks(self) -> list[Rollback]:
        """Return all rollbacks in their order."""
        return self._all(Rollback, ROLLBACKS)

    def aliases(self) -> Aliases:
        """Return the aliases; before the first round, the base model is the champion."""
        if not self.store.exists(self.folder, ALIASES):
            return Aliases()
        return self.store.read_as(Aliases, self.folder, ALIASES)

    def decision(self, number: int) -> Decision | None:
        """Return the decision of a round, or None if there is none yet."""
        if not self.store.exists(self.folder, DECISIONS, file_of(number)):
            return None
        return self.store.read_as(Decision, self.folder, DECISIONS, file_of(number))

    def write(self, record: Round | Decision | Rollback | Aliases) -> None:
        """Write a record completely or not at all."""
        if isinstance(record, Aliases):
            self.store.write_json(asdict(record), self.folder, ALIASES)
            return
        kind = {Round: ROUNDS, Decision: DECISIONS, Rollback: ROLLBACKS}[type(record)]
        number = record.round if isinstance(record, Decision) else record.number
        self.store.write_json(asdict(record), self.folder, kind, file_of(number))

    def _all(self, kind: type[T], folder: str) -> list[T]:
        names = self.store.names(self.folder, folder)
        return [self.store.read_as(kind, self.folder, folder, name) for name in names]


def model_path(store: Store, name: str) -> str:
    """Return the absolute path of a trained model."""
    return str((store.folder(name) / MODEL).resolve())


def file_of(number: int) -> str:
    """Return the name of the file of a record."""
    return f"{number:04d}.json"


@contextmanager
def holding(store: Store, name: str, say: Say | None = None) -> Iterator[Line]:
    """Hold the lease of a line while the block runs, and yield its records, which only this process can write.

    Args:
        store: the store of the line.
        name: the name of the line.
        say: prints a line to people when it has to wait until another process gives the lease back. Without it, the
            block does not wait.

    Raises:
        BusyError: if another process holds the lease, and there is no `say`.
    """

    def busy(_: str) -> None:
        raise BusyError(f"{LINES}/{name}: another process works on this line; wait for it, or try again later")

    with making(store, f"{LINES}/{name}", say=say or busy, patient=say is not None) as held:
        yield Line(held, name)


def line_of(store: Store, name: str) -> Line:
    """Return the line of this name.

    Raises:
        JobError: if the store has no such line.
    """
    line = Line(store, name)
    if not line.exists():
        known = ", ".join(store.names(LINES)) or "none"
        raise JobError(f"{name}: is no line of {store.uri}, must be one of its lines ({known}); name it, or the store")
    return line


def settled(now: Aliases, closed: Round) -> Aliases:
    """Return the aliases after a round has ended."""
    if now.round >= closed.number:
        return now
    now = replace(now, round=closed.number, challenger=closed.challenger or now.challenger)
    if closed.state == "promoted":
        now = replace(now, champion=closed.challenger, previous=now.champion)
    return now


def champion_before(rounds: Sequence[Round], model: str) -> str:
    """Return the champion that a model replaced; the base model if it replaced none."""
    return next((one.start for one in reversed(rounds) if one.state == "promoted" and one.challenger == model), "")


def depth_of(rounds: Sequence[Round], model: str) -> int:
    """Return the largest depth of the rows that a model was trained on; 0 for the base model."""
    return next((one.trained_depth for one in reversed(rounds) if one.challenger == model and model), 0)
