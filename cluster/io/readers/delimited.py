"""A strict reader of CSV and TSV. A quote that is never closed makes only its own row a bad row."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.readers.files import File
from gristmill.cluster.io.readers.lines import BOM, Dialect, Line, Row, column_name, lines

MOST_LINES = 10_000
"""Most lines of one row. If a quote is still open after them, it counts as never closed."""
SEPARATORS = ",;\t|"
SAID_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass
class _Lines:
    """The lines of a file. A line that was read too early can be put back."""

    source: Iterator[Line]
    back: deque[Line] = field(default_factory=deque)

    def take(self) -> Line | None:
        return self.back.popleft() if self.back else next(self.source, None)

    def put_back(self, taken: list[Line]) -> None:
        self.back.extendleft(reversed(taken))


@dataclass(frozen=True, slots=True)
class _Record:
    first: Line
    cells: list[str]
    raw: str
    problem: str = ""


def csv_rows(file: File, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns.

    A cell that begins with a quote ends with the next quote that is not doubled. A separator or the end of the line
    must follow. If not, the row of the opening quote is bad, and the next row begins on the line after it.

    Raises:
        JobError: if the header cannot be read, or gives two columns the same name.
    """
    taken = _Lines(lines(file, dialect))
    begin = _begin(taken)
    said = SAID_SEPARATOR.fullmatch(begin.text) if begin else None
    if said:  # as Excel writes it before the header
        begin = _begin(taken)
    if begin is None:
        return
    taken.put_back([begin])
    separator = dialect.separator or (said[1] if said else _separator(file, begin.text))
    quoted = separator != "\t" if dialect.quoting == "auto" else dialect.quoting == "double"
    head = _record(taken, separator, quoted=quoted)
    names = _header(file, head)
    while record := _record(taken, separator, quoted=quoted):
        problem, cells = record.problem, record.cells
        if head and cells == head.cells:
            problem = "is the header again, must be a row; take it out (two files were joined)"
        if not problem and len(cells) != len(names):
            cells_of = NAMES.get(separator, f"{separator!r}")
            problem = (
                f"has {len(cells)} cells, must have {len(names)} as the header; quote cells that hold {cells_of}, "
                "or name the separator"
            )
        columns = None if problem else dict(zip(names, cells, strict=True))
        yield Row(f"line {record.first.number}", record.first.number, columns, record.raw, problem)


def _separator(file: File, header: str) -> str:
    """Return the separator: a tab in `.tsv`, else a comma if the header has one, else its most frequent separator."""
    if ".tsv" in Path(file.path.lower()).suffixes:
        return "\t"
    bare = re.sub(r'"[^"]*"', "", header)
    return "," if "," in bare else max(SEPARATORS, key=bare.count)


def _header(file: File, record: _Record | None) -> list[str]:
    if record is None or record.problem:
        said = record.problem if record else "is absent"
        raise JobError(f"{file.name}:{record.first.number if record else 1}: the header {said}; repair it")
    names = [column_name(name) for name in record.cells]
    require_distinct(file.name, record.cells)
    return names


def require_distinct(name: str, columns: list[str]) -> None:
    """Refuse two columns whose names are equal in the form of `column_name`.

    Raises:
        JobError: if there are two. The message names both.
    """
    places: dict[str, int] = {}
    for place, column in enumerate(columns):
        first = places.setdefault(column_name(column), place)
        if first != place:
            raise JobError(
                f"{name}: columns {first + 1} and {place + 1} are called {columns[first]!r} and {column!r}, must have "
                "two names; rename or remove one"
            )


def _begin(taken: _Lines) -> Line | None:
    """Return the next line that is not empty, or None at the end."""
    while (line := taken.take()) and not line.text and not line.problem:
        pass
    return line


def _record(taken: _Lines, separator: str, *, quoted: bool) -> _Record | None:
    first = _begin(taken)
    if first is None:
        return None
    if first.text.startswith(BOM):  # two files were joined
        first = replace(first, text=first.text.lstrip(BOM))
    if first.problem:
        return _Record(first, [], first.text, first.problem)
    if quoted and '"' in first.text:
        return _quoted(first, taken, separator)
    problem = "holds a carriage return, must be in quotes or the end of every line" if "\r" in first.text else ""
    return _Record(first, first.text.split(separator), first.text, problem)


def _quoted(first: Line, taken: _Lines, separator: str) -> _Record:
    """Return the record that begins with this line, which has quotes. It may continue on further lines."""
    used, cells, at, line = [first], list[str](), 0, first
    while True:
        if line.text.startswith('"', at):
            opened = at
            parts, line, at = _cell(taken, used, line, at + 1)
            if at < 0:
                taken.put_back(used[1:])
                said = f"opens a quote at character {opened + 1} that is never closed, must close it"
                return _Record(first, [], first.text, said)
            if at < len(line.text) and not line.text.startswith(separator, at):
                taken.put_back(used[1:])
                where = f" of line {line.number}" if line is not first else ""
                said = f"opens a quote at character {opened + 1} that is closed inside a cell, at character {at}{where}"
                return _Record(first, [], first.text, f"{said}; close it, or double the quotes that belong to the text")
            cells.append("".join(parts))
        else:
            end = line.text.find(separator, at)
            begin, at = at, len(line.text) if end < 0 else end
            cells.append(line.text[begin:at])
        if at == len(line.text):
            problem = next((each.problem for each in used if each.problem), "")
            return _Record(first, cells, "\n".join(each.text for each in used), problem)
        at += len(separator)


def _cell(taken: _Lines, used: list[Line], line: Line, at: int) -> tuple[list[str], Line, int]:
    """Return the pieces of a quoted cell, the line where it ends, and the place after its closing quote.

    The place is -1 if the quote is never closed.
    """
    parts: list[str] = []
    while True:
        end = line.text.find('"', at)
        if end < 0:
            following = taken.take() if len(used) < MOST_LINES else None
            if following is None:
                return parts, line, -1
            used.append(following)
            parts += (line.text[at:], "\n")
            line, at = following, 0
        elif line.text.startswith('"', end + 1):
            parts.append(line.text[at : end + 1])
            at = end + 2
        else:
            return [*parts, line.text[at:end]], line, end + 1
