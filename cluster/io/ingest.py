"""Ingest: makes a SAMPLES dataset of seeds from files. An error names a bad row by file, line and field.

`readers` turns files into rows, `shapes` turns rows into conversations, and this file makes the dataset from both. The
dataset depends only on the content of the files, and not on their names or folders.

A Markdown, HTML or PDF file is one document, and so is any file under `format = "document"`. Documents are cut into
chunks. Each chunk is a row with one user turn and these tags:

- `document`: the first 12 digits of the file's digest. The manifest has the digest of each file by its name.
- `chunk`: the number of the chunk, from 1.
- `span`: character offsets in the file's text, such as `"0-3987"`, with the end excluded.
- `title`, `heading` and `page`, if the file has them.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
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
from gristmill.cluster.contract.secrets import public_uri
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io import documents
from gristmill.cluster.io.account import Account, account_line
from gristmill.cluster.io.conversation import COMMON, OWN, Conversation, reason_of
from gristmill.cluster.io.documents import Document
from gristmill.cluster.io.readers.files import WHOLE, File, FileFormat, find
from gristmill.cluster.io.readers.lines import Dialect, Row, column_name
from gristmill.cluster.io.readers.rows import rows
from gristmill.cluster.io.shapes import LAYOUTS, document_of, language, shape_of
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
    "choice",
    "calls",
    "squad",
    "preference",
    "feedback",
    "candidates",
    "label",
    "document",
    "self_instruct",
]

STORED = "dataset:"
"""Beginning of a path that names a dataset of the store, such as `dataset:select-0123456789ab`."""
SHARD_ROWS = 65_536
SHAPE_ROWS = 1_000
"""Number of rows at the beginning of a file whose columns decide its shape."""
SHAPE_CHARACTERS = 1 << 26
"""Number of characters of rows after which no further row is looked at for this."""


class Source(Settings):
    """Data from outside: a path such as `"my/*.jsonl"`, a list of paths, or a table with `path` and how to read it."""

    revision: ClassVar[int] = 5  # since 5: thoughts in columns, names inside columns, and numbers as JSON writes them
    not_identity: ClassVar[frozenset[str]] = frozenset({"path", "format"})

    path: tuple[str, ...] = Field(min_length=1)
    """Files, globs or URIs. A relative path starts at the recipe's folder. A string is the same as a list of one.
    `dataset:NAME` is a dataset of samples in the store of the recipe. It must be the only path, and is read as it is,
    with its ids and parents."""
    format: Literal["auto", FileFormat] = "auto"
    """Format of the files. `auto` decides by the suffix. If the suffix is unknown, it decides by the first bytes. In
    the format `text`, which `auto` chooses for `.txt`, each line is one document. With `document`, each file is one
    document: Markdown, HTML or PDF by its suffix, and plain text for any other suffix, also for `.txt`."""
    shape: Shape = "auto"
    """Layout of a row. With `auto`, the columns of the first 1,000 rows of a file decide. The shapes are tried in a
    fixed order, and the first one that any of these rows has is taken for the file."""
    on_bad_row: Literal["error", "drop"] = "error"
    """`error` refuses the file, and names line and field of the bad row. `drop` keeps the row as a dropped sample with
    the reason. A document, or a page of a PDF, that cannot be read also counts as a bad row."""
    chunk_chars: int | None = Field(default=None, gt=0)
    """Most characters of a chunk of a document. A chunk ends after a paragraph if possible, else after a sentence.
    Without a value, files that are one document are cut at 4,000 characters, and rows of other files are not cut."""
    overlap_chars: int = Field(default=200, ge=0)
    """Most characters that a chunk repeats from the chunk before it. It never repeats more than half of that chunk."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Character between the cells of a CSV file. By default it is a tab in a `.tsv` file. In other files it is a comma
    if the header has one, else the most frequent of semicolon, tab and `|` in the header."""
    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether cells of a CSV file may be in double quotes. `auto` means yes, unless the separator is a tab."""
    columns: dict[str, str] = Field(default={})
    """Other names for columns of the files, so that a shape reads them. `{question = "subject", answer = "reply"}`
    reads the column `subject` as `question`, and the column `reply` as `answer`."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out, and keys of turns, such as `messages[].time`. Every other column that is not read is
    printed. It is an error instead if the column says something about a sample: a system prompt, tools, history,
    context, choices, a second question or answer, a label, a weight, a thought, an image, or `dropped`."""
    repair_text: bool = False
    """Whether bytes that are not UTF-8, and halves of surrogate pairs, are replaced by U+FFFD. If not, a row with them
    is a bad row."""

    @property
    def dataset(self) -> str:
        """Name of the dataset of the store that is read; empty for files."""
        return self.path[0].removeprefix(STORED) if self.path[0].startswith(STORED) else ""

    @property
    def dialect(self) -> Dialect:
        """The options for the readers of text files."""
        return Dialect(self.separator, self.quoting, self.repair_text)

    @field_validator("path")
    @classmethod
    def _one_dataset(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 1 and any(path.startswith(STORED) for path in value):
            raise ValueError(f"has {len(value)} paths, must be one path if it names a dataset")
        return value

    @field_validator("columns", "ignore", mode="after")
    @classmethod
    def _names(cls, value: Any) -> Any:  # noqa: ANN401 - a table or a tuple
        """Bring names to the form in which columns are compared, and refuse names that no shape reads."""
        if isinstance(value, tuple):
            return tuple(name if "[]." in name else column_name(name) for name in value)  # else a key of a turn
        known = {name for layout in LAYOUTS.values() for name in layout.reads}
        unknown = next((name for name in value if name not in known), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no column that a shape reads, must be one of {', '.join(sorted(known))}")
        return {name: column_name(column) for name, column in value.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the short forms to the JSON schema: a path, a list of paths, and a table whose path is a string."""
        table = handler.resolve_ref_schema(handler(core_schema))
        paths = table["properties"]["path"]
        table["properties"]["path"] = {"anyOf": [{"type": "string"}, paths], "description": paths["description"]}
        return {"anyOf": [{"type": "string"}, paths, dict(table)]}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any TOML value comes in
        """Accept a path or a list of paths instead of a table. Relative paths start at the recipe's folder."""
        if isinstance(value, str | list):
            value = {"path": value}
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            value = {**value, "path": (value["path"],)}
        base = (info.context or {}).get("base")
        if base and isinstance(value, dict) and isinstance(value.get("path"), list | tuple):
            absolute = (p if _is_address(str(p)) else str(base / expanded(str(p))) for p in value["path"])
            value = {**value, "path": tuple(absolute)}
        return value


def _is_address(path: str) -> bool:
    """Say whether a path has the same meaning in each folder."""
    return "://" in path or path.startswith(STORED)


def place_of(source: Source) -> str:
    """Return the name of the folder of the dataset that a source becomes, or that it names.

    Every file is read once, for its digest.

    Raises:
        JobError: for a path that does not exist, a folder, an empty file, or a glob that matches nothing.
    """
    return source.dataset or _place(source, find(source.path, source.format))[0]


def _place(source: Source, files: Iterable[File]) -> tuple[str, str]:
    inputs = {f"file-{number:05d}": f"{file.format}:{file.digest}" for number, file in enumerate(files, 1)}
    return place("ingest", source.identity(), inputs)


def ingest(store: Store, source: Source, screen: Screen | None = None, shard_rows: int = SHARD_ROWS) -> str:
    """Make the dataset of a source, and return the name of its folder.

    A dataset that the store already has is not made again. Memory holds one shard of `shard_rows` rows, and an index
    for duplicates of about 150 bytes a row.

    Raises:
        JobError: if files cannot be read, if there is a bad row and `on_bad_row` is `error`, or if no row is good. Then
            nothing of the dataset is left in the store.
    """
    if source.dataset:
        return source.dataset
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
            store.delete_folder(name)
        raise
    manifest = Manifest(
        name=name,
        kind="samples",
        job="ingest",
        fingerprint=fingerprint,
        inputs={},
        settings=source.public(),
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
        JobError: if files cannot be read, or if there is a bad row and `on_bad_row` is `error`.
    """
    pass_ = _Pass(source, find(source.path, source.format))
    yield from pass_.samples()
    warn_of_columns(source, pass_.account.to_metadata())


def warn_of_columns(source: Source, metadata: Mapping[str, str]) -> None:
    """Log a warning about the columns that were not read. The terminal shows it."""
    line = account_line(metadata)
    if line:
        log.warning("%s: %s", ", ".join(map(public_uri, source.path)), line)


def _write(store: Store, name: str, samples: Iterable[Sample], shard_rows: int, bar: Bar | None) -> list[Shard]:
    shards: list[Shard] = []
    for held in shards_of(samples, shard_rows):
        shards.append(store.commit_shard(name, f"shard-{len(shards):05d}", to_table(held)))
        if bar:
            bar.update(sum(shard.rows for shard in shards))
    return shards


def _begin(read: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows whose columns decide the shape. Further rows stay in `read`."""
    size = 0
    for row in islice(read, SHAPE_ROWS):
        yield row
        size += len(row.raw) + _characters(row.columns)
        if size > SHAPE_CHARACTERS:
            return


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(map(_characters, inner))


@dataclass
class _Pass:
    """The state of reading one source."""

    source: Source
    files: list[File]
    first: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    """For the id of each conversation, the first row that has it, as (number of the file, place in the file)."""
    account: Account = field(default_factory=Account)
    worst: str = ""
    """The first bad row, for the error when a source has no good row."""

    def __post_init__(self) -> None:
        """Make the account from the columns that the recipe maps and ignores."""
        self.account = Account(self.source.columns, frozenset(self.source.ignore))

    def samples(self) -> Iterator[Sample]:
        """Yield every row of every file as a sample."""
        for number, file in enumerate(self.files, 1):
            yield from self._file(number, file)

    def refuse_nothing(self, shards: Iterable[Shard]) -> None:
        """Refuse a source without a kept row.

        Raises:
            JobError: if no row is kept. The message has the first bad row, if there is one.
        """
        if not any(shard.kept for shard in shards):
            names = ", ".join(file.name for file in self.files)
            raise JobError(f"{names}: holds no good row, must hold at least one; {self.worst or 'add some'}")

    def _file(self, number: int, file: File) -> Iterator[Sample]:
        shape: str = "" if self.source.shape == "auto" else self.source.shape
        if file.format in WHOLE and shape not in ("", "document"):
            raise JobError(f"{file.name}: is {file.format}, its shape must be document and not {shape}; change it")
        read = map(self.account.open, rows(file, self.source.dialect))
        begin = list(_begin(read))
        shape = shape or shape_of(file.name, [row.columns for row in begin if row.columns is not None])
        for row in chain(begin, read):
            for piece in self._pieces(file, row, shape):
                yield from self._samples(number, file, piece, shape or "document", whole=piece is row)

    def _pieces(self, file: File, row: Row, shape: str) -> Iterator[Row]:
        """Yield the chunks of a document as rows, and any other row unchanged."""
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
        """Yield the samples of a row or of a chunk: several for a row of candidates, else one.

        `whole` is False for a chunk, whose columns are not counted again.
        """
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
