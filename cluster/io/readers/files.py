"""Files of a source, found by path, glob or URI, with their format, compression and digest."""

import fnmatch
import glob
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.secrets import public_text, public_uri
from gristmill.cluster.io import documents
from gristmill.cluster.store.uri import UriError, expanded, file_system

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
"""Formats in which a file is one document. Ingest cuts it into chunks. In all other formats a file has many rows."""
TABLES = frozenset({"jsonl", "json", "csv", "parquet", "arrow"})
"""Formats that `format = "document"` refuses, because their rows, quotes and commas would become one text."""
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
"""First bytes of some formats, for files without a known suffix. Any other such file is plain text, in which each line
is a document."""
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
"""Suffixes of compressed files. They do not say the format. The first bytes of a file say whether it is compressed."""
COMPRESSIONS: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
OTHERS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a ZIP archive (or a file of an office program, which is one)",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"SQLite format 3\x00": "an SQLite database",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe\x00\x00": "UTF-32",
    **{magic: f"compressed twice, inside with {name}" for magic, name in COMPRESSIONS.items()},
}
"""First bytes of files that cannot be read as rows, whatever their names are. The longest match counts."""
TAR = slice(257, 262)
"""Place of the bytes `ustar` in a tar archive."""
BINARY = frozenset({"parquet", "arrow", "pdf"})
HEAD = 512
"""Bytes at the beginning of a file that are read to recognise it."""
BLOCK = 1 << 20
MOST_RATIO = 100
"""Most bytes that a byte of a compressed file may become. Texts become 3 to 30, and a bomb 1,000."""
LEAST_BOUND = 1 << 26
"""Number of bytes that any compressed file may become."""


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with an error after a number of bytes, as of a decompression bomb."""

    def __init__(self, stream: Any, most: int) -> None:  # noqa: ANN401 - pyarrow has no types
        self._stream, self._most, self._count = stream, most, 0

    def readable(self) -> bool:
        """Say that the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - what may be written into
        """Read the next bytes."""
        read = int(self._stream.readinto(buffer))
        self._count += read
        if self._count > self._most:
            raise OSError(f"it grows to more than {self._most} bytes, {MOST_RATIO} times its size; decompress it first")
        return read

    def close(self) -> None:
        """Close the file too."""
        self._stream.close()
        super().close()


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source: its name for people, its path, its format, and the digest of its bytes."""

    name: str
    system: fs.FileSystem
    path: str
    format: FileFormat
    digest: str
    compression: str | None = None

    def open_stream(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Open the file to read it from beginning to end, decompressed.

        Raises:
            OSError: while it is read, if it grows to more than `MOST_RATIO` times its size.
        """
        stream = self.system.open_input_stream(self.path, compression=self.compression)
        if self.compression is None:
            return stream
        return _Bounded(stream, max(LEAST_BOUND, MOST_RATIO * self.system.get_file_info(self.path).size))

    def open_file(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Open the file to read it at any place, without decompression."""
        return self.system.open_input_file(self.path)


def find(paths: tuple[str, ...], format_name: str) -> list[File]:
    """Return the files of a source in the order of its paths. The files of one glob are sorted by name.

    Every file is read once for its digest, which takes about a second a gigabyte on a local disk.

    Raises:
        JobError: for a path that does not exist, a folder, an empty file, or a glob that matches nothing.
    """
    return [_file(name, system, path, format_name) for given in paths for name, system, path in _resolve(given)]


def _resolve(given: str) -> list[tuple[str, fs.FileSystem, str]]:
    if "://" not in given:
        here = expanded(given)
        local = fs.LocalFileSystem()
        if glob.has_magic(str(here)) and not here.exists():
            return _some(given, [(m, local, m) for m in sorted(map(str, _matches(here)))])
        return [(given, local, str(here))]
    uri, settings = _split(given)
    head, _, tail = uri.rpartition("/")
    if glob.has_magic(head):
        raise JobError(f"{given}: has a pattern before the last /, must have it after that; name the folders")
    try:
        if not glob.has_magic(tail):
            system, path = file_system(uri + settings)
            return [(public_uri(given), system, path)]
        system, base = file_system(head + settings)
        infos = system.get_file_info(fs.FileSelector(base, allow_not_found=True))
    except UriError as error:
        raise JobError(f"{given}: {error}") from None
    except (pa.ArrowException, OSError) as error:
        said = public_text((str(error) or type(error).__name__).splitlines()[0])
        raise JobError(f"{given}: cannot be read ({said}); check the URI and the credentials") from error
    shown = (i for i in infos if i.is_file and (tail.startswith(".") or not i.base_name.startswith(".")))
    remote = sorted(i.path for i in shown if fnmatch.fnmatch(i.base_name, tail))
    return _some(given, [(f"{public_uri(head)}/{path.rsplit('/', 1)[-1]}", system, path) for path in remote])


def _split(uri: str) -> tuple[str, str]:
    """Return a URI and the settings of its file system, such as `?endpoint_override=…`.

    A `?` without a word and `=` after it belongs to a pattern.
    """
    found = re.search(r"\?\w+=", uri)
    return (uri[: found.start()], uri[found.start() :]) if found else (uri, "")


def _matches(pattern: Path) -> list[Path]:
    """Return the files that a pattern matches, without hidden files and hidden folders unless the pattern names them.

    If the beginning of the pattern exists under this name, such as a folder `data[1]`, it is a name and no pattern.
    """
    root, parts = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while parts and (root / parts[0]).exists():
        root /= parts.pop(0)
    found = (path for path in root.glob(str(Path(*parts))) if path.is_file())
    return [path for path in found if not any(_hidden(part, parts) for part in path.relative_to(root).parts)]


def _hidden(name: str, pattern: list[str]) -> bool:
    return name.startswith(".") and not any(part.startswith(".") and fnmatch.fnmatch(name, part) for part in pattern)


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
                head = head or bytes(block[:HEAD])
                total.update(block)
        compression = next((c for magic, c in COMPRESSIONS.items() if head.startswith(magic)), None)
        if compression:
            with system.open_input_stream(path, compression=compression) as source:
                head = source.read(HEAD)
    except (pa.ArrowException, OSError) as error:
        advice = "check that it exists, may be read, and is whole"
        raise JobError(f"{name}: cannot be read ({error}); {advice}") from error
    known = _format(name, path, head, format_name)
    if not head and known not in WHOLE:
        raise JobError(f"{name}: is empty, must hold at least one row")
    _require_rows(name, head, known)
    name = name.encode(errors="surrogateescape").decode(errors="replace")  # as the system has it, it may be no UTF-8
    return File(name, system, path, known, total.hexdigest(), compression)


def _require_rows(name: str, head: bytes, known: FileFormat) -> None:
    """Refuse a file of a text format if its first bytes show that it is not text."""
    if known in BINARY:
        return
    what = max((magic for magic in OTHERS if head.startswith(magic)), key=len, default=b"")
    said = OTHERS.get(what, "a tar archive" if head[TAR] == b"ustar" else "")
    if not said and head.count(0) > len(head) // 4:
        said = "UTF-16, UTF-32 or no text"
    if said:
        advice = "convert it" if "UTF" in said else "unpack it, or save it in a format that is read"
        raise JobError(f"{name}: is {said}, must be UTF-8 text where it is read as {known}; {advice}")


def _format(name: str, path: str, head: bytes, format_name: str) -> FileFormat:
    stem = Path(path.lower())
    suffix = stem.with_suffix("").suffix if stem.suffix in COMPRESSED else stem.suffix
    if format_name == "document":
        structured = SUFFIXES.get(suffix)
        if structured in TABLES:
            raise JobError(
                f'{name}: is {structured} by its name, which has rows, must be one text under format = "document"; '
                "leave the format out, so that each row is a text"
            )
        return structured if structured in WHOLE else "document"
    known: FileFormat | None = next((f for f in SUFFIXES.values() if f == format_name), SUFFIXES.get(suffix))
    if known:
        return known
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((f for magic, f in HEADS.items() if text.startswith(magic)), "text")
