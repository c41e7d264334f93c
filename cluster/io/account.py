"""The account of a source: which of its columns were read, mapped, ignored, not read, or refused."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.conversation import SYSTEMS, TOOLS, Columns, Conversation, written_by_us
from gristmill.cluster.io.readers.files import File
from gristmill.cluster.io.readers.lines import Row
from gristmill.cluster.io.shapes import CANDIDATES, CHOSEN, DIALOGUES, PROMPTS, REJECTED, REPLIES
from gristmill.cluster.io.turns import CALL_KEYS, THOUGHTS, TURN_CARRIERS, TURN_KEYS

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
UNREAD = ("available_tools", "contexts", "passage", "passages", "choices", "options", "ranks", "ratings", "sys")
UNREAD_THOUGHTS = ("thought", "thoughts", "cot", "chain_of_thought", "complex_cot", "rationale")
CARRIERS = frozenset(
    {
        *("history", "context", "label", "weight", "dropped"),
        *(*SYSTEMS, *TOOLS, *THOUGHTS, *UNREAD, *UNREAD_THOUGHTS, *MEDIA),
    }
)
"""Columns that say something about a sample. Only the recipe can leave them out."""
LISTS = frozenset({*DIALOGUES, *PROMPTS, *REPLIES, *CHOSEN, *REJECTED, "history"})
"""Columns that may be lists of turns."""
TEXTS_OF_SHAPES = frozenset({"instruction", *LISTS, *CANDIDATES}) - {"history"}
"""Columns that shapes read as questions or answers. A row with such a column that was not read is refused, unless the
column only repeats turns that were read."""
METADATA = "columns"
"""Key of the account in the manifest's metadata."""
Reader = Callable[[Columns], Sequence[Conversation]]


class ReadColumns(dict[str, Any]):
    """The columns of a row. The set `seen` has the names of the columns that were read."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """Begin with no column read."""
        super().__init__(columns)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - any value of a column
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as above
        """Return a column, and count it as read."""
        self.seen.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the columns.

        Because this method is defined, `{**row}` reads every column by `__getitem__`.
        """
        return super().__iter__()


@dataclass
class Account:
    """Counts of what was done with the columns of all rows so far.

    A column does not count for a row in which it is null or empty.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of columns in the file, by the names that shapes read."""
    ignore: frozenset[str] = frozenset()
    rows: int = 0
    mapped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    """Number of rows by each column that they have and that was not read. It may also be a key of a turn, such as
    `messages[].time`."""
    _known: dict[tuple[str, frozenset[str]], frozenset[str]] = field(default_factory=dict)
    """Columns that are not read, by the shape and the columns of the row. They are found out with the first row that
    has these columns."""

    def open(self, row: Row) -> Row:
        """Return a row with the mapped columns renamed and the ignored columns removed, as the recipe says.

        If a new name is also the name of another column, the row becomes a bad one.
        """
        if row.columns is None or not (self.columns or self.ignore):
            return row
        left = dict(row.columns)
        gone = [name for name in self.ignore if left.pop(name, None) not in (None, "")]
        moved = {name: left.pop(column) for name, column in self.columns.items() if column in left}
        clash = next((name for name in moved if left.get(name) is not None), "")
        if clash:
            given = self.columns[clash]
            problem = f"columns '{clash}' and '{given}' are both '{clash}', must be one; ignore '{clash}' or do not map"
            return replace(row, columns=None, problem=problem)
        self.ignored.update(gone)
        self.mapped.update(f"{self.columns[name]} as {name}" for name in moved)
        return replace(row, columns={**left, **moved})

    def read(self, file: File, row: Row, shape: str, reader: Reader) -> Sequence[Conversation]:
        """Return the conversations that a shape reads from a row, and count the columns that it does not read.

        Raises:
            RowError: if the shape cannot read the row.
            JobError: if a column that says something about the sample is not read.
        """
        columns = row.columns or {}
        there = frozenset([name for name, value in columns.items() if value is not None and value != ""])
        unread = self._known.get((shape, there))
        if unread is None:
            watched = ReadColumns(columns)
            found = reader(watched)
            unread = there - watched.seen - written_by_us(columns)
            self._known[shape, there] = unread
        else:
            found = reader(columns)
        self.rows += 1
        keys = _unread_keys(columns)
        if unread or keys:
            self._require_told(file, row, shape, unread, keys - self.ignore, found)
            self.ignored.update(keys & self.ignore)
            self.unread.update(unread | keys - self.ignore)
        return found

    def _require_told(
        self,
        file: File,
        row: Row,
        shape: str,
        unread: frozenset[str],
        keys: frozenset[str],
        found: Sequence[Conversation],
    ) -> None:
        """Refuse a row if a column that says something about the sample would be lost."""
        columns, where = row.columns or {}, f"{file.name}:{row.place.removeprefix('line ')}"
        other = (name for name in unread & TEXTS_OF_SHAPES if not _repeats(columns[name], found))
        lost = min((*(unread & CARRIERS), *other), default="")
        if lost:
            advice = f'map it to a name that is (columns = {{NAME = "{lost}"}}), or leave it out (ignore = ["{lost}"])'
            raise JobError(f"{where}: column '{lost}' is not read by the shape {shape}, must be; {advice}")
        lost = min((key for key in keys if key.rpartition(".")[2] in TURN_CARRIERS), default="")
        if lost:
            raise JobError(f"{where}: key '{lost}' is not read, must be; leave it out (ignore = [\"{lost}\"])")

    def to_metadata(self) -> dict[str, str]:
        """Return the account as metadata of the manifest. It is empty if every column was read."""
        found = {"not read": self.unread, "ignored": self.ignored, "mapped": self.mapped}
        said = {name: dict(sorted(counts.items())) for name, counts in found.items() if counts}
        return {METADATA: json.dumps({"rows": self.rows, **said}, ensure_ascii=False)} if said else {}


def _repeats(value: object, found: Sequence[Conversation]) -> bool:
    """Say whether a column only repeats turns that were read.

    It may be the text of one turn, a list of turns or their texts, or one text that contains all turns.
    """
    texts = {turn.text.strip() for conversation in found for turn in conversation.messages if turn.text}
    if isinstance(value, str):
        return value.strip() in texts or all(text in value for text in texts)
    if not isinstance(value, list):
        return False
    said = [turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else turn for turn in value]
    return all(isinstance(text, str) and text.strip() in texts for text in said)


def _unread_keys(columns: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of turns, and of the calls in them, that no shape reads."""
    found: set[str] = set()
    for name, turns in columns.items():
        if isinstance(turns, list) and name in LISTS:
            for turn in turns:
                if isinstance(turn, dict) and len(turn) > 2:
                    found |= {f"{name}[].{k}" for k in turn.keys() - TURN_KEYS if turn[k] not in (None, "", [])}
                    calls = turn.get("tool_calls")
                    for call in calls if isinstance(calls, list) else ():
                        keys = call.keys() - CALL_KEYS if isinstance(call, dict) else ()
                        found |= {f"{name}[].tool_calls[].{k}" for k in keys if call[k] is not None}
    return frozenset(found)


def account_rows(metadata: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (outcome, column, share of the rows such as `50%`) for each column in the account of a manifest."""
    account = json.loads(metadata.get(METADATA, "{}"))
    rows = max(account.pop("rows", 0), 1)
    return [(fate, name, f"{n / rows:.0%}") for fate, counts in account.items() for name, n in counts.items()]


def account_line(metadata: Mapping[str, str]) -> str:
    """Return a line for people about columns that were not read, or the empty string."""
    rows = [(name.strip() or "''", share) for fate, name, share in account_rows(metadata) if fate == "not read"]
    unread = [f"{name} ({share} of the rows)" for name, share in rows]
    if not unread:
        return ""
    return f"not read: {', '.join(unread)}; map a column with `columns`, or name it in `ignore`"
