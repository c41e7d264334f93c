"""Export of a SAMPLES dataset as Parquet, or as JSON lines in one of the `forms`. A folder also gets a card."""

import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.io import card, croissant
from gristmill.cluster.io.features import Features
from gristmill.cluster.io.forms import GROUPED, ColumnUse, ExportForm, ExportOptions, rows_of
from gristmill.cluster.io.targets import Target, target_of
from gristmill.cluster.store.store import Store


class Choices(TypedDict, total=False):
    """Options of an export, which `forms.ExportOptions` describes."""

    dropped: bool
    provenance: bool
    by: str
    threshold: float


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Numbers of the rows that an export wrote and of the samples that it left out."""

    rows: int
    left_out: Mapping[str, int]
    """Number of samples that the form could not hold, by reason."""


@dataclass
class _Out:
    """The state of an export while it is written."""

    how: ExportOptions
    compression: str | None = None
    features: Features = field(default_factory=Features)
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: str = ""
    """The first sample that the form could not hold, with the reason."""

    def misfit(self, sample: Sample, reason: str) -> None:
        """Count a sample that the form cannot hold."""
        self.first = self.first or f"sample {sample.id}: {reason}"
        self.left_out[reason] += 1


def export(
    store: Store,
    name: str,
    target: str | Path,
    form: ExportForm | None = None,
    *,
    public: bool = False,
    **how: Unpack[Choices],
) -> ExportResult:
    """Write a dataset in a form that other tools read; return the numbers of rows and of samples that did not fit.

    A target with a suffix becomes one file, which replaces an existing file. Any other target becomes a folder with one
    file a shard under `data/`, a dataset card and Croissant metadata. `datasets.load_dataset` opens the folder by its
    path. A local file or folder appears complete or not at all. For a URI or the hub, the file or folder is first made
    in a local temporary folder. Shards are read one at a time, twice: once for the names of the columns, once to write.
    The form `preference` holds all candidates in memory.

    Args:
        store: where the dataset is.
        name: the dataset's folder.
        target: file or folder to write, or its URI. The suffixes `.gz`, `.zst` and `.bz2` after `.jsonl` compress it.
            `hf://datasets/OWNER/NAME` is a repository of the Hugging Face Hub. An absent one is made, as a private one.
        form: form of the rows. By default the suffix decides. The columns of each form are:
            `parquet`: the columns of SAMPLES, with maps as lists of (key, value).
            `jsonl`: id, messages in the OpenAI form, tools, tags and scores. An absent tag is an empty string.
            `sharegpt`: id, conversations and tools.
            `alpaca`: instruction, input and output. History and system are added if any sample has them.
            `preference`: prompt, chosen and rejected. A row pairs the best candidate of a group with a worse one.
            `feedback`: prompt, completion and label.
            `prompts`: prompt and reference.
        public: whether everybody may read the repository of the hub.
        how: further options. `dropped` also writes the dropped samples, and adds a column with the reason, which is
            empty for kept ones. `provenance` adds id, parents, method, round, origin, scores and tags to forms without
            them. `by` names the score that orders candidates and says which answers are good. `threshold` is the least
            score of a good answer.

    Raises:
        JobError: if the suffix is unknown or does not fit the form; if the folder or repository is not empty; if the
            dataset has no samples, none to write, or none that the form can hold; or if no token of the hub is set.
        StoreError: if the dataset is absent, incomplete or corrupt.
    """
    if store.manifest(name).kind != "samples":
        raise JobError(f"{name}: holds {store.manifest(name).kind}, must be a dataset of samples to be exported")
    goal = target_of(target, form, public=public)
    if goal.remote is None:
        Path(goal.path).parent.mkdir(parents=True, exist_ok=True)
        return _export(store, name, Path(goal.path), goal, how)
    with tempfile.TemporaryDirectory(prefix="gristmill-export-") as folder:
        made = Path(folder) / "made"
        done = _export(store, name, made, goal, how)
        goal.upload(made, name)
    return done


def _export(store: Store, name: str, path: Path, goal: Target, how: Choices) -> ExportResult:
    """Write the dataset to a local path."""
    dropped = how.get("dropped", False)
    use = _column_use(_chosen(store, name, dropped=dropped))
    out = _Out(ExportOptions(goal.form, use, **how), goal.compression)
    if not out.how.census.rows:
        raise JobError(f"{name}: no kept samples, must hold at least one; ask for the dropped ones too")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    tables = _chosen(store, name, dropped=dropped)
    try:
        if goal.folder:
            _write_folder(store, name, temporary, tables, out)
        else:
            _write_file(temporary, tables, out)
        if not out.rows:
            raise JobError(f"{name}: the {goal.form} form can hold none of its samples; {out.first}")
        if goal.folder and path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
    return ExportResult(out.rows, dict(out.left_out))


def _chosen(store: Store, name: str, *, dropped: bool) -> Iterator[pa.Table]:
    """Yield the rows to write, one table for each shard that has such rows."""
    for table in store.scan(name):
        chosen = table if dropped else table.filter(pc.is_null(table["dropped"]))
        if chosen.num_rows:
            yield chosen


def _column_use(tables: Iterable[pa.Table]) -> ColumnUse:
    census = ColumnUse()
    for table in tables:
        for sample in from_table(table.select(SAMPLES.names)):
            census.add(sample)
    return census


def _write_file(path: Path, tables: Iterable[pa.Table], out: _Out, *, whole: bool = False) -> int:
    """Write one file and return the number of its rows.

    `whole` says that the file is part of a folder. The folder's card needs the columns of all files.
    """
    if out.how.form == "parquet":
        written = _write_parquet(path, tables)
    else:
        written = 0
        with path.open("wb") as raw, _compressed(raw, out.compression) as file:
            samples = chain.from_iterable(map(from_table, tables))
            for row in rows_of(samples, out.how, out.misfit):
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                if whole:
                    out.features.add(row)
                written += 1
        with path.open("rb") as written_file:
            os.fsync(written_file.fileno())
    out.rows += written
    return written


def _compressed(raw: IO[bytes], compression: str | None) -> AbstractContextManager[IO[bytes]]:
    """Return a stream that compresses the bytes written to it, if it must, and writes them to `raw`."""
    if compression is None:
        return nullcontext(raw)
    packed: AbstractContextManager[IO[bytes]] = pa.CompressedOutputStream(raw, compression)
    return packed


def _write_folder(store: Store, name: str, folder: Path, tables: Iterable[pa.Table], out: _Out) -> None:
    suffix = "parquet" if out.how.form == "parquet" else "jsonl"
    data = folder / "data"
    data.mkdir(parents=True)
    parts = [tables] if out.how.form in GROUPED else ([table] for table in tables)
    for number, part in enumerate(parts):
        file = data / f"train-{number:05d}.{suffix}"
        if not _write_file(file, part, out, whole=True):
            file.unlink()
    if not out.rows:  # the caller refuses the export as a whole
        return
    parquet = out.how.form == "parquet"
    text = card.write(store, name, out.how.form, out.rows, "" if parquet else out.features.yaml())
    (folder / "README.md").write_text(text, encoding="utf-8")
    columns = [_column(column) for column in _PARQUET] if parquet else out.features.columns()
    said = f"{out.rows:,} rows in the form {out.how.form}, made with Gristmill; README.md says where they come from."
    croissant.write(folder, name, said, columns)


def _write_parquet(path: Path, tables: Iterable[pa.Table]) -> int:
    written = 0
    with pq.ParquetWriter(path, _PARQUET, compression="zstd") as writer:
        for table in tables:
            writer.write_table(_without_maps(table))
            written += table.num_rows
    return written


def _pairs(field_: pa.Field) -> pa.Field:
    """Return a column in which lists of (key, value) replace maps, because many readers do not support maps."""
    if not pa.types.is_map(field_.type):
        return field_
    pair = pa.struct([pa.field("key", pa.string(), nullable=False), field_.type.item_field.with_name("value")])
    return field_.with_type(pa.list_(pa.field("item", pair, nullable=False)))


_PARQUET = pa.schema([_pairs(column) for column in SAMPLES])


def _column(column: pa.Field) -> dict[str, Any]:
    """Return the name and the type of a column in the form of dataset cards."""
    kind = column.type
    if pa.types.is_list(kind):
        inner = kind.value_type
        return {"name": column.name, "list": list(map(_column, inner)) if pa.types.is_struct(inner) else str(inner)}
    if pa.types.is_struct(kind):
        return {"name": column.name, "struct": list(map(_column, kind))}
    return {"name": column.name, "dtype": str(kind)}


def _without_maps(table: pa.Table) -> pa.Table:
    columns: Mapping[str, pa.ChunkedArray] = {name: table[name] for name in table.column_names}
    arrays = []
    for column in _PARQUET:
        source = columns[column.name].combine_chunks()
        if not pa.types.is_map(SAMPLES.field(column.name).type):
            arrays.append(source)
            continue
        pairs = pa.StructArray.from_arrays([source.keys, source.items], fields=list(column.type.value_type))
        arrays.append(pa.ListArray.from_arrays(source.offsets, pairs, type=column.type))
    return pa.Table.from_arrays(arrays, schema=_PARQUET)
