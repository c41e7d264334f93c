"""Lines of a text file, and the rows that readers make of them."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.cluster.io.documents import Document
from gristmill.cluster.io.readers.files import BLOCK, File

LONGEST_LINE = 1 << 27
"""Most bytes of a line. The rest of a longer line is skipped, so that a small compressed file cannot fill the
memory."""
RAW_CHARACTERS = 4_000
"""Most characters of a bad row that are kept in its dropped sample."""


BOM = "\ufeff"
"""The byte order mark. If files were joined, it is also at the beginning of later lines."""
_OUTER = " \t\r\n\x0b\x0c\u00a0\u3000\u200b\ufeff"


def column_name(name: str) -> str:
    """Return the form in which a column's name is compared: no outer spaces, lower case, words joined by `_`."""
    return name.strip(_OUTER).lower().replace("-", "_").replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The options for reading rows of text files."""

    separator: str | None = None
    """Character between the cells of a CSV file. By default the suffix or the header decides."""
    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether cells may be in double quotes. `auto` means yes, unless the separator is a tab."""
    repair: bool = False
    """Whether bytes that are not UTF-8 and half surrogate pairs are replaced by U+FFFD."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its columns, or its problem."""

    place: str
    """Place of the row in the file. It is `line 12` for text formats, counted from 1 with the header, and `row 12` for
    formats without lines. For documents it is `document`, `page 12` or `chunk 12`."""
    number: int
    columns: Mapping[str, Any] | None
    raw: str = ""
    """The text of the row as it is in the file, if it has one."""
    problem: str = ""
    document: Document | None = None
    """The document, for formats in which a file is one document. Such a row has no columns."""

    def text(self) -> str:
        """Return the row as text, for the dropped sample that a bad row becomes."""
        columns = {n: v[:RAW_CHARACTERS] if isinstance(v, str) else v for n, v in (self.columns or {}).items()}
        text = self.raw or json.dumps(columns, ensure_ascii=False, default=str)
        return text[:RAW_CHARACTERS].encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, without its line ending."""

    number: int
    text: str
    problem: str = ""

    def row(self, columns: Mapping[str, Any] | None = None, problem: str = "") -> Row:
        """Return the line as a row."""
        problem = self.problem or problem
        return Row(f"line {self.number}", self.number, None if problem else columns, self.text, problem)


def lines(file: File, dialect: Dialect) -> Iterator[Line]:
    """Yield the lines of a file, which end with LF or CRLF.

    If the first `BLOCK` bytes have a CR and no LF, the lines end with CR.
    """
    with file.open_stream() as stream:
        reader = io.BufferedReader(stream, BLOCK)
        head = reader.peek(BLOCK)
        cut = _ended_by_cr(reader) if b"\r" in head and b"\n" not in head else _ended_by_lf(reader)
        for number, data in enumerate(cut, 1):
            yield _line(number, data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data, dialect)


def _ended_by_lf(reader: io.BufferedReader) -> Iterator[bytes]:
    while data := reader.readline(LONGEST_LINE + 1):
        yield data
        while len(data) > LONGEST_LINE and not data.endswith(b"\n"):
            data = reader.readline(LONGEST_LINE + 1)


def _ended_by_cr(reader: io.BufferedReader) -> Iterator[bytes]:
    left = b""
    while block := reader.read(BLOCK):
        *whole, left = (left + block).split(b"\r")
        yield from whole
        left = left[: LONGEST_LINE + 1]
    if left:
        yield left


def _line(number: int, data: bytes, dialect: Dialect) -> Line:
    if len(data) > LONGEST_LINE:
        said = f"is longer than {LONGEST_LINE} bytes, must be shorter"
        return Line(number, data[:RAW_CHARACTERS].decode(errors="replace"), said)
    data = data.rstrip(b"\r\n")
    try:
        return Line(number, data.decode())
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        if dialect.repair:
            return Line(number, text)
        place = len(data[: error.start].decode()) + 1
        return Line(number, text, f"byte 0x{data[error.start]:02x} at character {place} is not UTF-8, must be UTF-8")
