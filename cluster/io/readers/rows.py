"""Rows: the content of a file of any format, one row at a time."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import IO

import pyarrow as pa

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.io import contexts, documents
from gristmill.cluster.io.documents import DocumentError
from gristmill.cluster.io.readers.columnar import arrow_rows, parquet_rows, plain
from gristmill.cluster.io.readers.delimited import csv_rows
from gristmill.cluster.io.readers.files import File
from gristmill.cluster.io.readers.lines import BOM, Dialect, Row, column_name, lines

MOST_BYTES = 1 << 30
"""Most bytes of a file that must be read into memory at once, which is a JSON array or a document."""


def rows(file: File, dialect: Dialect | None = None) -> Iterator[Row]:
    """Yield the rows of a file in order.

    Files are read in batches. Only a JSON array or a document is read into memory at once.

    Raises:
        JobError: if the file does not have its format.
    """
    dialect = dialect or Dialect()
    try:
        if file.format in ("parquet", "arrow"):
            yield from (parquet_rows if file.format == "parquet" else arrow_rows)(file)
            return
        readers = {"jsonl": _jsonl, "json": _json, "csv": csv_rows, "text": _text}
        yield from readers.get(file.format, _document)(file, dialect)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise JobError(
            f"{file.name}: cannot be read as {file.format} ({said}); name its format or repair it"
        ) from error


def _jsonl(file: File, dialect: Dialect) -> Iterator[Row]:
    for line in lines(file, dialect):
        if line.problem:
            yield line.row()
        elif line.text.strip():
            row = line.row()
            try:
                value = gate.parse(line.text.lstrip(BOM), repair=dialect.repair)
            except GateError as error:
                wanted = ", must be one JSON object a line" if str(error).startswith("is not JSON") else ""
                yield replace(row, problem=f"{error}{wanted}")
                continue
            yield _columns(row, value)


def _columns(row: Row, value: object) -> Row:
    """Return the row with the columns of a JSON object, under their names in the form of `column_name`.

    A float that is a whole number becomes an int.
    """
    if not isinstance(value, dict):
        problem = "is not a JSON object, must be one with named fields"
        return replace(row, raw=row.raw or gate.to_text(value), problem=problem)
    columns = {column_name(key): plain(inner) if type(inner) is float else inner for key, inner in value.items()}
    if len(columns) < len(value):
        names: dict[str, str] = {}
        one, other = next((names[k], key) for key in value if names.setdefault(k := column_name(key), key) != key)
        problem = f"keys {one!r} and {other!r} are one column, must have two names; rename or remove one"
        return replace(row, raw=row.raw or gate.to_text(value), problem=problem)
    return replace(row, columns=columns)


def _json(file: File, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of an array of objects, of an object whose `data` is such an array, or of one object.

    An article in the form of SQuAD's files becomes a row for each of its questions. A file that has several JSON values
    is read as JSON lines.
    """
    with file.open_stream() as stream:
        data = _whole(stream)
    if data is None:
        raise JobError(f"{file.name}: is longer than {MOST_BYTES} bytes, must be shorter, or JSON lines; convert it")
    try:
        text = data.decode("utf-8-sig", errors="replace" if dialect.repair else "strict")
        value, doubt = gate.suspect(text)
    except UnicodeDecodeError as error:
        raise JobError(f"{file.name}: byte {error.start} is not UTF-8, must be UTF-8; convert it") from error
    except GateError as error:
        if "(Extra data" in str(error):  # there is a second value, so it is JSON lines
            yield from _jsonl(file, dialect)
            return
        raise JobError(f"{file.name}: {error}, must be an array of objects; repair it") from error
    inner = value.get("data", [value]) if isinstance(value, dict) else value
    if isinstance(value, dict) and not isinstance(inner, list):
        inner = [value]
    if not isinstance(inner, list):
        raise JobError(f'{file.name}: is a JSON {type(value).__name__}, must be an array or {{"data": [...]}}')
    flat = chain.from_iterable(list(contexts.questions_of(entry)) or [entry] for entry in inner)
    for number, entry in enumerate(flat, 1):
        row = Row(f"row {number}", number, None)
        try:
            yield _columns(row, gate.admit(entry, repair=dialect.repair) if doubt else entry)
        except GateError as error:
            yield replace(row, raw=gate.to_text(entry), problem=str(error))


def _whole(stream: IO[bytes]) -> bytes | None:
    """Return all bytes of a stream, or None if there are too many."""
    data = stream.read(MOST_BYTES + 1)
    return None if len(data) > MOST_BYTES else data


def _text(file: File, dialect: Dialect) -> Iterator[Row]:
    for line in lines(file, dialect):
        if line.problem or line.text.strip():
            yield line.row({"text": line.text.lstrip(BOM).strip()})


def _document(file: File, _: Dialect) -> Iterator[Row]:
    """Yield each page that cannot be read, as a row with a problem, and then the document.

    The file is read into memory at once.
    """
    with file.open_stream() as stream:
        data = _whole(stream)
    if data is None:
        yield Row("document", 1, None, file.format, f"is longer than {MOST_BYTES} bytes, must be shorter; split it")
        return
    try:
        document = documents.read(data, file.format)
    except DocumentError as error:
        yield Row("document", 1, None, file.format, str(error))
        return
    for page, problem in document.problems:
        yield Row(f"page {page}", page, None, f"{file.format}, page {page}", problem)
    yield Row("document", 1, None, "", "", document)
