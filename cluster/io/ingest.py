"""Ingest: files in the common shapes become a SAMPLES dataset of seeds; a bad row is named by file, line and field.

`readers` turns files into rows, `shapes` turns rows into conversations, and this file makes the dataset from both. The
dataset depends only on the content of the files, and not on their names or folders.

A Markdown, HTML or PDF file is one document, and so is any file under `format = "document"`. Documents are cut into
chunks, a row each: one user turn, with the tags `document` (the first 12 digits of the file's digest, which the
manifest has beside its name), `chunk` (counted from 1), `span` (`"0-3987"`: offsets in the text that was taken from the
file, the end excluded), and `title`, `heading` and `page` where the file says them.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gristmill.cluster.contract import ids
from gristmill.cluster.contract import sample as bounds
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, seed, seed_id, shards_of, size_of, to_table
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io import documents
from gristmill.cluster.io.account import Account, account_line
from gristmill.cluster.io.conversation import COMMON, OWN, Conversation, reason_of
from gristmill.cluster.io.documents import Document
from gristmill.cluster.io.readers.files import WHOLE, File, FileFormat, find
from gristmill.cluster.io.readers.lines import Dialect, Row, column_name
from gristmill.cluster.io.readers.rows import rows
from gristmill.cluster.io.shapes import LAYOUTS, detect, document_of, language
from gristmill.cluster.io.turns import RowError
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.runtime.progress import Bar, Screen
from gristmill.cluster.store.store import Manifest, Shard, Store, place
from gristmill.cluster.store.uri import expanded

log = logging.getLogger(__name__)
Shape = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "completion",
    "calls",
    "preference",
    "feedback",
    "candidates",
    "label",
    "document",
    "self_instruct",
]

SHARD_ROWS = 65_536
SHAPE_ROWS = 1_000
"""Rows of a file that are read to find its shape, by their columns."""


class Source(Settings):
    """Data from outside: `input = "my/*.jsonl"`, a list of paths, or a table with the path and how to read it."""

    revision: ClassVar[int] = 5  # since 5: thoughts in columns, names inside columns, and numbers as JSON writes them
    not_identity: ClassVar[frozenset[str]] = frozenset({"path", "format"})

    path: tuple[str, ...] = Field(min_length=1)
    """Files, globs or URIs; relative ones are looked up next to the recipe. A string is the same as a list of one."""
    format: Literal["auto", FileFormat] = "auto"
    """Format of the files. `auto` decides by the suffix, and without a known one by the first bytes. `text`, also for
    `.txt`, is one document a line. With `document` each file is one document: Markdown, HTML or PDF by its suffix, else
    plain text, `.txt` included."""
    shape: Shape = "auto"
    """Layout of a row. `auto` takes, for each file, the first shape that any of its first 1,000 rows has."""
    on_bad_row: Literal["error", "drop"] = "error"
    """`error` refuses the file and names line and field; `drop` keeps the row as a dropped sample with its reason. A
    page of a PDF that cannot be read counts as a bad row, and so does an unreadable document."""
    chunk_chars: int | None = Field(default=None, gt=0)
    """Most characters of a chunk of a document. A chunk ends after a paragraph if possible, else after a sentence. By
    default 4,000 for files that are one document; rows of other files are not cut."""
    overlap_chars: int = Field(default=200, ge=0)
    """Most characters that a chunk repeats from the chunk before it; never more than half of that chunk."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """What is between the cells of a CSV file: by default a tab in `.tsv`, else the one of comma, semicolon, tab and
    `|` that the header has."""
    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether cells of a CSV file may be in double quotes; `auto` means yes, unless the separator is a tab."""
    columns: dict[str, str] = Field(default={})
    """Columns of the files by the names that shapes read: `columns = {question = "subject", answer = "reply"}`."""
    ignore: tuple[str, ...] = ()
    """Columns that are left out, and keys of turns, as `messages[].time`. Any other column that is not read is printed,
    or is an error where it says something about a sample: a system prompt, tools, history, context, choices, a second
    question or answer, a label, a weight, a thought, an image, `dropped`."""
    repair_text: bool = False
    """Whether bytes that are not UTF-8, and halves of surrogate pairs, are replaced by U+FFFD. If not, their row is a
    bad one."""

    @property
    def dialect(self) -> Dialect:
        """How text files are to be read."""
        return Dialect(self.separator, self.quoting, self.repair_text)

    @field_validator("columns", "ignore", mode="after")
    @classmethod
    def _names(cls, value: Any) -> Any:  # noqa: ANN401 - a table or a tuple
        """Compare names as those of columns are."""
        if isinstance(value, tuple):
            return tuple(name if "[]." in name else column_name(name) for name in value)  # else a key of a turn
        known = {name for layout in LAYOUTS.values() for name in layout.reads}
        unknown = next((name for name in value if name not in known), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no column that a shape reads, must be one of {', '.join(sorted(known))}")
        return {name: column_name(column) for name, column in value.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Allow the short forms too: a path, or a table whose path is one."""
        table = handler.resolve_ref_schema(handler(core_schema))
        paths = table["properties"]["path"]
        table["properties"]["path"] = {"anyOf": [{"type": "string"}, paths], "description": paths["description"]}
        return {"anyOf": [{"type": "string"}, paths, dict(table)]}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any TOML value comes in
        """Accept a path or a list of them for the whole table; resolve relative paths from the recipe's folder."""
        if isinstance(value, str | list):
            value = {"path": value}
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            value = {**value, "path": (value["path"],)}
        base = (info.context or {}).get("base")
        if base and isinstance(value, dict) and isinstance(value.get("path"), list | tuple):
            absolute = (p if "://" in str(p) else str(base / expanded(str(p))) for p in value["path"])
            value = {**value, "path": tuple(absolute)}
        return value


def place_of(source: Source) -> tuple[str, str]:
    """Return (folder name, fingerprint) of the dataset that a source becomes; reads the files only for their digests.

    Raises:
        JobError: for a path that does not exist, a folder, an empty file, or a glob that matches nothing.
    """
    return _place(source, find(source.path, source.format))


def _place(source: Source, files: Iterable[File]) -> tuple[str, str]:
    inputs = {f"file-{number:05d}": f"{file.format}:{file.digest}" for number, file in enumerate(files, 1)}
    return place("ingest", source.identity(), inputs)


def ingest(store: Store, source: Source, screen: Screen | None = None, shard_rows: int = SHARD_ROWS) -> str:
    """Make the dataset of a source and return its folder's name; content that the store already has is not made again.

    Memory holds one shard of `shard_rows` rows and an index of about 150 bytes a row for duplicates.

    Raises:
        JobError: for files that cannot be read, a bad row where `on_bad_row` is `error`, or no good row at all. Nothing
            is left in the store then.
    """
    begin = time.monotonic()
    files = find(source.path, source.format)
    name, fingerprint = _place(source, files)
    if store.complete(name):
        log.info("ingest: %s is there already", name)
        return name
    pass_ = _Pass(source, files)
    try:
        if screen:
            with screen.bar("ingest") as bar:
                shards = _write(store, name, pass_.samples(), shard_rows, bar)
        else:
            shards = _write(store, name, pass_.samples(), shard_rows, None)
        pass_.refuse_nothing(shards)
    except JobError:
        if store.exists(name) and not store.complete(name):
            store.fs.delete_dir(store.at(name))
        raise
    manifest = Manifest(
        name=name,
        kind="samples",
        job="ingest",
        fingerprint=fingerprint,
        inputs={},
        settings=source.model_dump(mode="json"),
        shards=tuple(shards),
        metadata={
            "files": json.dumps({file.name: file.digest for file in files}, ensure_ascii=False),
            **pass_.account.to_metadata(),
        },
    )
    figures = Figures(rows=manifest.rows, kept=manifest.kept, seconds=round(time.monotonic() - begin, 3))
    store.commit(manifest, figures.to_json())
    dropped = manifest.rows - manifest.kept
    warn_of_columns(source, manifest.metadata)
    log.info("ingest: %s, %d rows of %d files, %d dropped", name, manifest.rows, len(files), dropped)
    return name


def read(source: Source) -> Iterator[Sample]:
    """Yield the seeds of a source, kept and dropped, in the order of its files and rows; every id comes once.

    Raises:
        JobError: as `ingest`.
    """
    pass_ = _Pass(source, find(source.path, source.format))
    yield from pass_.samples()
    warn_of_columns(source, pass_.account.to_metadata())


def warn_of_columns(source: Source, metadata: Mapping[str, str]) -> None:
    """Log the columns that were not read, which is shown on the terminal."""
    line = account_line(metadata)
    if line:
        log.warning("%s: %s", ", ".join(source.path), line)


def _write(store: Store, name: str, samples: Iterable[Sample], shard_rows: int, bar: Bar | None) -> list[Shard]:
    shards: list[Shard] = []
    for held in shards_of(samples, shard_rows):
        shards.append(store.commit_shard(name, f"shard-{len(shards):05d}", to_table(held)))
        if bar:
            bar.update(sum(shard.rows for shard in shards))
    return shards


@dataclass
class _Pass:
    """The state of reading one source."""

    source: Source
    files: list[File]
    first: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    """The number of the file and the place of the first row that has a conversation, by the conversation's id."""
    account: Account = field(default_factory=Account)
    worst: str = ""
    """The first bad row, for the error when a source has no good row."""

    def __post_init__(self) -> None:
        """Open the account with what the recipe maps and ignores."""
        self.account = Account(self.source.columns, frozenset(self.source.ignore))

    def samples(self) -> Iterator[Sample]:
        """Yield every row of every file as a sample."""
        for number, file in enumerate(self.files, 1):
            yield from self._file(number, file)

    def refuse_nothing(self, shards: Iterable[Shard]) -> None:
        """Refuse a source without a kept row.

        Raises:
            JobError: with the first bad row, if there is one.
        """
        if not any(shard.kept for shard in shards):
            names = ", ".join(file.name for file in self.files)
            raise JobError(f"{names}: holds no good row, must hold at least one; {self.worst or 'add some'}")

    def _file(self, number: int, file: File) -> Iterator[Sample]:
        shape: str = "" if self.source.shape == "auto" else self.source.shape
        if file.format in WHOLE and shape not in ("", "document"):
            raise JobError(f"{file.name}: is {file.format}, its shape must be document and not {shape}; change it")
        read = map(self.account.open, rows(file, self.source.dialect))
        begin = list(islice(read, SHAPE_ROWS))
        shape = shape or _detected(file, begin)
        for row in chain(begin, read):
            for piece in self._pieces(file, row, shape):
                yield from self._samples(number, file, piece, shape or "document", whole=piece is row)

    def _pieces(self, file: File, row: Row, shape: str) -> Iterator[Row]:
        """Yield the chunks of a document as rows, and any other row as it is."""
        size, document, tags = self.source.chunk_chars, row.document, {"document": file.digest[: ids.SHORT_HEX]}
        place, columns = "", row.columns or {}
        if document is None and size and shape == "document":
            try:
                [conversation] = self.account.read(file, row, shape, document_of)
            except RowError:  # reported with its place when the row is read
                yield row
                return
            whole = seed_id(conversation.messages)
            document, place = Document(conversation.messages[-1].text), f"{row.place}, "
            tags = {**conversation.tags, "document": whole[: ids.SHORT_HEX]}
        if document is None:
            yield row
            return
        for chunk in documents.chunks(document.text, size or documents.CHUNK_CHARS, self.source.overlap_chars):
            text = document.text[chunk.begin : chunk.end]
            known = {**tags, **documents.tags_at(document, chunk)}
            chunked = {**{name: columns[name] for name in COMMON | OWN if name in columns}, "text": text, "tags": known}
            yield Row(f"{place}chunk {chunk.number}", row.number, chunked, text)

    def _samples(self, number: int, file: File, row: Row, shape: str, *, whole: bool) -> Iterator[Sample]:
        """Yield the sample of a row or of a chunk of a document; a row of candidates gives several samples."""
        if row.columns is None:
            yield self._bad(number, file, row, row.problem)
            return
        try:
            reader = LAYOUTS[shape].read
            conversations = self.account.read(file, row, shape, reader) if whole else reader(row.columns)
        except RowError as bad:
            yield self._bad(number, file, row, str(bad))
            return
        longest = max((size_of(each.messages, each.tools) for each in conversations), default=0)
        if longest > bounds.LONGEST_SAMPLE:
            most = bounds.LONGEST_SAMPLE
            yield self._bad(number, file, row, f"holds {longest} characters, must hold at most {most}; split it")
            return
        reason = reason_of(row.columns)
        for candidate, conversation in enumerate(conversations):
            yield self._sample(number, file, row, candidate, conversation, reason)

    def _sample(
        self, number: int, file: File, row: Row, candidate: int, conversation: Conversation, reason: str | None
    ) -> Sample:
        prompt_for = conversation.tags.get("language") or language(conversation.messages)
        tags = {**conversation.tags, **({"language": prompt_for} if prompt_for else {})}
        sample = replace(seed(conversation.messages, tags, reason, conversation.tools), scores=conversation.scores)
        here, key = self._where(number, row), bytes.fromhex(sample.id)
        if key not in self.first:
            self.first[key] = (number, row.place)
            return sample
        first_number, first_place = self.first[key]
        first = first_place if first_number == number else f"{first_place} of file {first_number}"
        log.info("%s: %s is the same conversation as %s", file.name, row.place, first)
        unique = ids.digest("ingest", sample.id, here, *([candidate] if candidate else []))
        return replace(sample, id=unique, scores={}, dropped=f"ingest: same conversation as {first}")

    def _bad(self, number: int, file: File, row: Row, problem: str) -> Sample:
        line = row.place.removeprefix("line ")
        said = f"{file.name}:{line}: {problem}"
        if self.source.on_bad_row == "error":
            raise JobError(f'{said}; fix it or set on_bad_row = "drop"')
        self.worst = self.worst or said
        here = self._where(number, row)
        message = Message("user", row.text())
        return Sample(ids.digest("ingest", "bad row", here), (message,), dropped=f"ingest: {here}: {problem}")

    def _where(self, number: int, row: Row) -> str:
        """Return the place of a row without the file's name, because the dataset must not depend on that name."""
        return row.place if len(self.files) == 1 else f"{row.place} of file {number}"


def _detected(file: File, begin: Sequence[Row]) -> str:
    """Return the first shape that one of the first rows has, or the empty string if no row could be read."""
    found = {tuple(row.columns) for row in begin if row.columns is not None}
    columns = {name for names in found for name in names}
    shape = detect(found)
    if not shape and any(row.columns is not None for row in begin):
        raise JobError(
            f"{file.name}: the columns {', '.join(sorted(columns)) or '(none)'} fit no shape; name the shape, one of "
            f"{', '.join(LAYOUTS)}, and rename the columns as the shape needs them"
        )
    return shape
