"""Export: a SAMPLES dataset as Parquet, JSON lines, ShareGPT or Alpaca; a folder also gets a dataset card."""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.io import card
from gristmill.cluster.store.store import Store

ExportForm = Literal["parquet", "jsonl", "sharegpt", "alpaca"]

SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
"""Roles as the ShareGPT form names them."""


@dataclass
class ColumnUse:
    """What at least one of the rows to be written has, so that every row gets the same columns."""

    rows: int = 0
    tags: set[str] = field(default_factory=set)
    turns: bool = False
    """Whether any conversation has more than one question and answer."""
    system: bool = False
    """Whether any conversation has a system turn."""


@dataclass(frozen=True)
class ExportOptions:
    """The form in which rows are written, and which rows."""

    form: ExportForm
    census: ColumnUse
    dropped: bool


def export(store: Store, name: str, target: Path, form: ExportForm, *, dropped: bool = False) -> int:
    """Write a dataset in a form that other tools read and return the number of samples written.

    A target with a suffix becomes one file, replaced if it is there; any other becomes a folder with one file a shard
    under `data/` and a dataset card, which `datasets.load_dataset` opens by its path. Both appear whole or not at all.
    Shards are read one at a time, twice: once for the names of the tags, once to write.

    Args:
        store: where the dataset is.
        name: the dataset's folder.
        target: file or folder to write, on this machine.
        form: `parquet` holds the SAMPLES columns, maps as lists of (key, value); `jsonl` holds id, messages and tags,
            an absent tag as an empty word; `sharegpt` holds id and conversations; `alpaca` holds instruction, input
            and output, and history and system where any sample has them.
        dropped: write the dropped samples too, with a column that has the reason, empty for kept ones.

    Raises:
        JobError: for a folder that already holds something, a dataset without rows to write or of another kind, or a
            sample that the form cannot hold.
        StoreError: when the dataset is absent, incomplete or corrupt.
    """
    if store.manifest(name).kind != "samples":
        raise JobError(f"{name}: holds {store.manifest(name).kind}, must be a dataset of samples to be exported")
    whole = not target.suffix
    if whole and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise JobError(f"{target}: holds something already, must be absent or empty; remove it or name another")
    if not whole and target.is_dir():
        raise JobError(f"{target}: is a folder, must be a file because of its suffix; name it without one")
    how = ExportOptions(form, _column_use(_chosen(store, name, dropped=dropped)), dropped)
    if not how.census.rows:
        raise JobError(f"{name}: no kept samples, must hold at least one; ask for the dropped ones too")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    tables = _chosen(store, name, dropped=dropped)
    try:
        if whole:
            _write_folder(store, name, temporary, tables, how)
        else:
            _write_file(temporary, tables, how)
        if whole and target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
    return how.census.rows


def _chosen(store: Store, name: str, *, dropped: bool) -> Iterator[pa.Table]:
    """Yield the rows to write, a shard at a time; shards without any are left out."""
    for table in store.scan(name):
        chosen = table if dropped else table.filter(pc.is_null(table["dropped"]))
        if chosen.num_rows:
            yield chosen


def _column_use(tables: Iterable[pa.Table]) -> ColumnUse:
    census = ColumnUse()
    for table in tables:
        census.rows += table.num_rows
        for sample in from_table(table.select(SAMPLES.names)):
            roles = [message.role for message in sample.messages]
            census.tags.update(sample.tags)
            census.turns |= roles.count("user") > 1
            census.system |= "system" in roles
    return census


def _write_file(path: Path, tables: Iterable[pa.Table], how: ExportOptions) -> None:
    if how.form == "parquet":
        _write_parquet(path, tables)
        return
    with path.open("w", encoding="utf-8") as out:
        for table in tables:
            _write_lines(out, from_table(table), how)
        out.flush()
        os.fsync(out.fileno())


def _write_lines(out: IO[str], samples: Iterable[Sample], how: ExportOptions) -> None:
    row_of = {"jsonl": _messages_row, "sharegpt": _sharegpt_row, "alpaca": _alpaca_row}[how.form]
    for sample in samples:
        row = row_of(sample, how.census)
        if how.dropped:
            row["dropped"] = sample.dropped or ""
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_folder(store: Store, name: str, folder: Path, tables: Iterable[pa.Table], how: ExportOptions) -> None:
    suffix = "parquet" if how.form == "parquet" else "jsonl"
    data = folder / "data"
    data.mkdir(parents=True)
    for number, table in enumerate(tables):
        _write_file(data / f"train-{number:05d}.{suffix}", [table], how)
    columns = _features(how)
    (folder / "README.md").write_text(card.write(store, name, how.form, how.census.rows, columns), encoding="utf-8")


def _features(how: ExportOptions) -> str:
    """Return the YAML of columns that a reader cannot infer from a first file in which they are empty."""
    if how.form != "alpaca" or not how.census.turns:
        return ""
    names = ["instruction", "input", "output", *(["system"] if how.census.system else [])]
    names += ["dropped"] if how.dropped else []
    words = "".join(f"  - name: {name}\n    dtype: string\n" for name in names)
    return f"dataset_info:\n  features:\n{words}  - name: history\n    list:\n      list: string"


# -- the forms --------------------------------------------------------------------------------------------------


def _messages_row(sample: Sample, census: ColumnUse) -> dict[str, Any]:
    row: dict[str, Any] = {"id": sample.id, "messages": [message._asdict() for message in sample.messages]}
    if census.tags:  # the same words in every row: readers infer the columns from the first ones
        row["tags"] = {tag: sample.tags.get(tag, "") for tag in sorted(census.tags)}
    return row


def _sharegpt_row(sample: Sample, _: ColumnUse) -> dict[str, Any]:
    return {"id": sample.id, "conversations": [{"from": SPEAKERS[m.role], "value": m.content} for m in sample.messages]}


def _alpaca_row(sample: Sample, census: ColumnUse) -> dict[str, Any]:
    turns = list(sample.messages)
    system = turns.pop(0).content if turns and turns[0].role == "system" else ""
    if len(turns) % 2:  # the last question has no answer
        turns.append(turns[-1]._replace(role="assistant", content=""))
    questions, answers = turns[::2], turns[1::2]
    if any(m.role != "user" for m in questions) or any(m.role != "assistant" for m in answers) or not turns:
        roles = ", ".join(m.role for m in sample.messages)
        raise JobError(
            f"sample {sample.id}: its turns are {roles}, must be user and assistant by turns for the alpaca form; "
            "export as jsonl"
        )
    row: dict[str, Any] = {"instruction": questions[-1].content, "input": "", "output": answers[-1].content}
    if census.turns:
        row["history"] = [[q.content, a.content] for q, a in zip(questions[:-1], answers[:-1], strict=True)]
    if census.system:
        row["system"] = system
    return row


def _write_parquet(path: Path, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(path, _PARQUET, compression="zstd") as writer:
        for table in tables:
            writer.write_table(_without_maps(table))


def _pairs(field_: pa.Field) -> pa.Field:
    """Return a column with its map type as a list of (key, value): readers in the wild know no maps."""
    if not pa.types.is_map(field_.type):
        return field_
    pair = pa.struct([pa.field("key", pa.string(), nullable=False), field_.type.item_field.with_name("value")])
    return field_.with_type(pa.list_(pa.field("item", pair, nullable=False)))


_PARQUET = pa.schema([_pairs(column) for column in SAMPLES])


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
