"""Readers: files of outside data, local or by URI, become rows that know their place in the file."""

import csv
import fnmatch
import glob
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs, ipc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io import documents
from gristmill.cluster.io.documents import Document, DocumentError

FileFormat = Literal["jsonl", "json", "csv", "parquet", "arrow", "text", "markdown", "html", "pdf", "document"]

SUFFIXES: Mapping[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
}
WHOLE = frozenset({"markdown", "html", "pdf", "document"})
"""Formats in which a file is one document, which ingest cuts into chunks; in all others a file has many rows."""
HEADS: Mapping[bytes, FileFormat] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"{": "jsonl",
    b"[": "json",
    documents.PDF_HEAD: "pdf",
    b"<!DOCTYPE html": "html",
    b"<!doctype html": "html",
    b"<html": "html",
}
"""How files of some formats begin, for files without a known suffix. Any other file is plain text, one document a
line."""
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
"""Suffixes after which text formats are decompressed while they are read."""
BATCH_ROWS = 1024
LONGEST_CELL = 1 << 24
"""Characters of a CSV cell after which its opening quote counts as never closed."""
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source: its name for people, its path, its format, and the digest of its bytes."""

    name: str
    system: fs.FileSystem
    path: str
    format: FileFormat
    digest: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is in a file: its columns, or what is wrong with it."""

    place: str
    """`line 12` for text formats, counted from 1 with the header; `row 12` for formats without lines; `document`."""
    number: int
    columns: Mapping[str, Any] | None
    raw: str = ""
    """The line as it is in the file, for formats with lines."""
    problem: str = ""
    document: Document | None = None
    """The whole file, for formats in which a file is one document; such a row has no columns."""

    def text(self) -> str:
        """Return the row as text, for the dropped sample that a bad row becomes."""
        text = self.raw or json.dumps(self.columns, ensure_ascii=False, default=str)
        return text.encode(errors="replace").decode()


def find(paths: tuple[str, ...], format_name: str) -> list[File]:
    """Return the files of a source in the order of its paths, the files of one glob by name.

    Every file is read once for its digest (about a second a gigabyte on a local disk).

    Raises:
        JobError: for a path that does not exist, a folder, an empty file, or a glob that matches nothing.
    """
    return [_file(name, system, path, format_name) for given in paths for name, system, path in _resolve(given)]


def _resolve(given: str) -> list[tuple[str, fs.FileSystem, str]]:
    if "://" not in given:
        expanded = str(Path(given).expanduser())
        local = fs.LocalFileSystem()
        if glob.has_magic(expanded) and not Path(expanded).exists():
            root = Path(Path(expanded).anchor)
            found = root.glob(str(Path(expanded).relative_to(root)))
            matches = sorted(str(m) for m in found if m.is_file() and not m.name.startswith("."))
            return _some(given, [(m, local, m) for m in matches])
        return [(given, local, expanded)]
    try:
        head, _, tail = given.rpartition("/")
        if not glob.has_magic(tail):
            system, path = fs.FileSystem.from_uri(given)
            return [(given, system, path)]
        system, base = fs.FileSystem.from_uri(head)
        infos = system.get_file_info(fs.FileSelector(base))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise JobError(f"{given}: cannot be reached ({error}); check the URI and the credentials") from error
    remote = sorted(i.path for i in infos if i.is_file and fnmatch.fnmatch(i.base_name, tail))
    return _some(given, [(f"{head}/{path.rsplit('/', 1)[-1]}", system, path) for path in remote])


def _some(given: str, found: list[tuple[str, fs.FileSystem, str]]) -> list[tuple[str, fs.FileSystem, str]]:
    if not found:
        raise JobError(f"{given}: matches no file, must match at least one; check the pattern")
    return found


def _file(name: str, system: fs.FileSystem, path: str, format_name: str) -> File:
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise JobError(f"{name}: no such file; check the path; relative ones are looked up next to the recipe")
        if info.type == fs.FileType.Directory:
            raise JobError(f"{name}: is a folder, must be a file or a pattern such as {name.rstrip('/')}/*.jsonl")
        total = hashlib.blake2b(digest_size=16)
        head = b""
        with system.open_input_stream(path, compression=None) as source:
            while block := source.read(BLOCK):
                head = head or bytes(block[:64])
                total.update(block)
    except (pa.ArrowException, OSError) as error:
        raise JobError(f"{name}: cannot be read ({error}); check that it exists and may be read") from error
    known = _format(path, head, format_name)
    if not head and known not in WHOLE:
        raise JobError(f"{name}: is empty, must hold at least one row")
    return File(name, system, path, known, total.hexdigest())


def _format(path: str, head: bytes, format_name: str) -> FileFormat:
    stem = Path(path.lower())
    suffix = stem.with_suffix("").suffix if stem.suffix in COMPRESSED else stem.suffix
    if format_name == "document":
        structured = SUFFIXES.get(suffix)
        return structured if structured in WHOLE else "document"
    known: FileFormat | None = next((f for f in SUFFIXES.values() if f == format_name), SUFFIXES.get(suffix))
    if known:
        return known
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((f for magic, f in HEADS.items() if text.startswith(magic)), "text")


def rows(file: File) -> Iterator[Row]:
    """Yield the rows of a file in order, read in batches; only a JSON array is read into memory as a whole.

    Raises:
        JobError: when the file as a whole does not have its format.
    """
    readers = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet, "arrow": _arrow, "text": _text}
    try:
        yield from readers.get(file.format, _document)(file)
    except (pa.ArrowException, OSError, EOFError) as error:
        said = str(error).splitlines()[0]
        raise JobError(
            f"{file.name}: cannot be read as {file.format} ({said}); name its format or repair it"
        ) from error


def _lines(file: File) -> Iterator[tuple[int, str]]:
    """Yield (number, line) without line ends; a byte that is no UTF-8 comes as a lone surrogate."""
    with file.system.open_input_stream(file.path) as stream:
        for number, line in enumerate(io.BufferedReader(stream, BLOCK), 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise JobError(f"{file.name}: is UTF-16, must be UTF-8; convert it")
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            yield number, data.decode("utf-8", errors="surrogateescape").rstrip("\r\n")


def _line_row(number: int, line: str) -> Row:
    """Return a row for a whole line, not parsed yet."""
    problem = ""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        problem = f"byte 0x{byte:02x} at character {error.start + 1} is not UTF-8, must be UTF-8"
    return Row(f"line {number}", number, None, line, problem)


def _jsonl(file: File) -> Iterator[Row]:
    for number, line in _lines(file):
        if line.strip():
            row = _line_row(number, line)
            yield row if row.problem else _parsed(row)


def _parsed(row: Row) -> Row:
    try:
        value = json.loads(row.raw)
    except (ValueError, RecursionError) as error:
        return Row(row.place, row.number, None, row.raw, f"is not JSON ({error}), must be one JSON object a line")
    return _columns(row, value)


def _columns(row: Row, value: object) -> Row:
    if not isinstance(value, dict):
        raw = row.raw or json.dumps(value)
        return Row(row.place, row.number, None, raw, "is not a JSON object, must be one with named fields")
    return Row(row.place, row.number, {key.strip().lower(): inner for key, inner in value.items()}, row.raw)


def _json(file: File) -> Iterator[Row]:
    """Read an array of objects, or an object whose `data` is one; JSON lines under this suffix are read as such."""
    with file.system.open_input_stream(file.path) as stream:
        data = stream.read()
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise JobError(f"{file.name}: byte {error.start} is not UTF-8, must be UTF-8; convert it") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # a second value: one a line
            yield from _jsonl(file)
            return
        raise JobError(f"{file.name}: is not JSON ({error}), must be an array of objects; repair it") from error
    inner = value.get("data") if isinstance(value, dict) else value
    if not isinstance(inner, list):
        raise JobError(f'{file.name}: is a JSON {type(value).__name__}, must be an array or {{"data": [...]}}')
    for number, entry in enumerate(inner, 1):
        yield _columns(Row(f"row {number}", number, None), entry)


def _csv(file: File) -> Iterator[Row]:
    """Read a table whose first line names the columns; `.tsv` is split at tabs, all else at commas."""
    csv.field_size_limit(LONGEST_CELL)
    tabs = ".tsv" in Path(file.path.lower()).suffixes
    reader = csv.reader((line + "\n" for _, line in _lines(file)), delimiter="\t" if tabs else ",")
    header = [name.strip().lower() for name in next(reader, [])]
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(f"line {number}", number, None, "", f"is not CSV ({error}), must have its quotes closed")
            continue
        if not cells:
            continue
        row = _line_row(number, ",".join(cells))
        if row.problem:
            yield row
        elif len(cells) != len(header):
            problem = f"has {len(cells)} cells, must have {len(header)} as the header; quote cells that hold commas"
            yield Row(row.place, number, None, row.raw, problem)
        else:
            yield Row(row.place, number, dict(zip(header, cells, strict=True)), row.raw)


def _text(file: File) -> Iterator[Row]:
    for number, line in _lines(file):
        if line.strip():
            row = _line_row(number, line)
            yield row if row.problem else Row(row.place, number, {"text": line.strip()}, line)


def _document(file: File) -> Iterator[Row]:
    """Yield the pages that cannot be read, as rows with a problem, then the document, read into memory as a whole."""
    with file.system.open_input_stream(file.path) as stream:
        data = stream.read()
    try:
        document = documents.read(data, file.format)
    except DocumentError as error:
        yield Row("document", 1, None, file.format, str(error))
        return
    for page, problem in document.problems:
        yield Row(f"page {page}", page, None, f"{file.format}, page {page}", problem)
    yield Row("document", 1, None, "", "", document)


def _parquet(file: File) -> Iterator[Row]:
    with file.system.open_input_file(file.path) as source:
        yield from _batches(pq.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS))


def _arrow(file: File) -> Iterator[Row]:
    """Read an IPC file, or a stream where the file's magic is absent."""
    with file.system.open_input_file(file.path) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if not is_file:
            yield from _batches(iter(ipc.open_stream(source)))
            return
        reader = ipc.open_file(source)
        yield from _batches(reader.get_batch(place) for place in range(reader.num_record_batches))


def _batches(batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for value in batch.slice(start, BATCH_ROWS).to_pylist():
                number += 1
                columns = {str(key).strip().lower(): inner for key, inner in value.items()}
                yield Row(f"row {number}", number, columns)
