"""Readers of Parquet and Arrow. Their rows have values for people, such as names of class labels instead of numbers."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.readers.delimited import require_distinct
from gristmill.cluster.io.readers.files import File
from gristmill.cluster.io.readers.lines import Row, column_name

BATCH_ROWS = 1024
BATCH_BYTES = 1 << 26
"""Most bytes of rows that are turned into Python values at a time, unless a single row has more."""
MOST_BYTES = 1 << 30
"""Number of bytes that any file may become, and most bytes of a column of the rows that are read at a time."""
MOST_RATIO = 1000
"""Most bytes that a byte of a file may become. A text that is the same in all rows is in the file once."""
MARKER = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Bytes at the end of a complete Arrow stream."""
WHOLE_FLOATS = 1 << 53
"""Up to this size a float represents every whole number exactly."""


def parquet_rows(file: File) -> Iterator[Row]:
    """Yield the rows of a Parquet file.

    Raises:
        JobError: if a column grows to more than `MOST_BYTES` and `MOST_RATIO` times its size, as in a bomb.
    """
    with file.open_file() as source:
        opened = pq.ParquetFile(source, page_checksum_verification=True)
        groups = [opened.metadata.row_group(n) for n in range(opened.num_row_groups)]
        rows = _rows_at_a_time(sum(group.total_byte_size for group in groups), opened.metadata.num_rows)
        for group in groups:
            for column in map(group.column, range(group.num_columns)):
                _require_no_bomb(file, column)
                if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                    # each value may be the longest text of the dictionary
                    values = math.ceil(column.num_values / max(group.num_rows, 1))
                    rows = min(rows, max(1, MOST_BYTES // (values * _dictionary_bytes(source, column))))
        yield from _batches(file, opened.schema_arrow, opened.iter_batches(batch_size=rows))


def _require_no_bomb(file: File, column: pq.ColumnChunkMetaData) -> None:
    size = column.total_uncompressed_size
    if size > MOST_BYTES and size > MOST_RATIO * column.total_compressed_size:
        raise JobError(
            f"{file.name}: column {column.path_in_schema} grows from {column.total_compressed_size} to {size} bytes, "
            f"must grow to at most {MOST_RATIO} times its size; write it in smaller row groups"
        )


def _dictionary_bytes(source: Any, column: pq.ColumnChunkMetaData) -> int:  # noqa: ANN401 - a file of pyarrow
    """Return the bytes of a column's dictionary, or those of the whole column if its head has an unusual form.

    The head of a page is in Thrift's compact protocol: its kind and its size without compression come first.
    """
    head = source.read_at(16, column.dictionary_page_offset)
    found = _HEAD.match(head)
    if found is None:
        return max(1, int(column.total_uncompressed_size))
    size: int = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(found[1])) >> 1  # zigzag: no sign
    return max(1, size)


_HEAD = re.compile(rb"\x15\x04\x15([\x80-\xff]{0,4}[\x00-\x7f])", re.DOTALL)
"""Matches the begin of the head of a dictionary page."""


def arrow_rows(file: File) -> Iterator[Row]:
    """Yield the rows of an Arrow IPC file, or of an Arrow stream if the file does not begin with `ARROW1`.

    Raises:
        JobError: if a stream was cut off, even between two batches, or if bytes follow it.
    """
    with file.open_file() as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            opened = ipc.open_file(source)
            batches = (opened.get_batch(place) for place in range(opened.num_record_batches))
            yield from _batches(file, opened.schema, batches)
            return
        stream = ipc.open_stream(source)
        count = 0
        for row in _batches(file, stream.schema, iter(stream)):
            count = row.number
            yield row
        end = source.tell()
        source.seek(max(end - len(MARKER), 0))
        if source.read(len(MARKER)) != MARKER:
            raise JobError(
                f"{file.name}: ends after row {count} without the marker that ends an Arrow stream, must have it; "
                "it was cut off: write it anew"
            )
        if end < source.size():
            raise JobError(
                f"{file.name}: holds {source.size() - end} bytes after the stream that ends with row {count}, must end "
                "with it; two files were joined: name them one by one"
            )


def _batches(file: File, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    require_distinct(file.name, schema.names)
    names, reads = [column_name(name) for name in schema.names], _reads(schema)
    number = size = 0
    most = max(MOST_BYTES, MOST_RATIO * file.system.get_file_info(file.path).size)
    for batch in batches:
        size += batch.nbytes
        if size > most:
            raise JobError(
                f"{file.name}: grows to more than {most} bytes, which is {MOST_RATIO} times its size, at row {number}; "
                "convert it to JSON lines, if it is no bomb"
            )
        rows = _rows_at_a_time(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, rows):
            for values in _values(batch.slice(start, rows)):
                number += 1
                yield _row(number, names, reads, values)


def _rows_at_a_time(size: int, rows: int) -> int:
    """Return how many rows to read at a time, if all `rows` rows have `size` bytes."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))


def _row(number: int, names: list[str], reads: Mapping[int, Callable[[Any], Any]], values: list[Any] | str) -> Row:
    if isinstance(values, str):
        return Row(f"row {number}", number, None, "", values)
    try:
        columns = dict(zip(names, values, strict=True))
        columns |= {names[place]: read(values[place]) for place, read in reads.items()}
    except ValueError as error:
        return Row(f"row {number}", number, None, gate.to_text(columns), str(error))
    return Row(f"row {number}", number, columns)


def _values(batch: pa.RecordBatch) -> Iterator[list[Any] | str]:
    """Yield the values of each row, or the problem of a row that cannot be read, such as text that is not UTF-8."""
    try:
        batch.validate(full=True)  # without this, damaged offsets would let Arrow read beyond its memory
        yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (ValueError, OverflowError, pa.ArrowException) as error:
        if batch.num_rows == 1:
            yield f"cannot be read ({error}), must be text, numbers or dates; repair it"
            return
        for place in range(batch.num_rows):
            yield from _values(batch.slice(place, 1))


def _reads(schema: pa.Schema) -> dict[int, Callable[[Any], Any]]:
    """Return the functions that turn values of columns into values for people, by the place of the column."""
    found: dict[int, Callable[[Any], Any]] = {}
    features = _features(schema)
    for place, column in enumerate(schema):
        read = _named(features.get(column.name), column_name(column.name))
        numbers = _has_numbers(column.type)
        if read:
            found[place] = _plainly(read) if numbers else read
        elif numbers:
            found[place] = plain
    return found


def _plainly(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: plain(read(value))


def _named(feature: Any, where: str) -> Callable[[Any], Any] | None:  # noqa: ANN401 - JSON of another library
    """Return the function that replaces the numbers of class labels in a column by their names, at any depth.

    Return None if the column has no class labels.
    """
    if isinstance(feature, list) and len(feature) == 1:  # how versions before 4 write a list
        return _each(_named(feature[0], f"{where}[]"))
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return _label(where, feature["names"])
    if "_type" in feature:
        return _each(_named(feature.get("feature"), f"{where}[]"))
    inner = {key: read for key, each in feature.items() if (read := _named(each, f"{where}.{key}"))}
    return _fields(inner) if inner else None


def _each(read: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if read is None:
        return None
    return lambda value: [read(inner) for inner in value] if isinstance(value, list) else read(value)


def _fields(reads: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:  # noqa: ANN401 - a table, or a list of them
        if isinstance(value, list):
            return [read(inner) for inner in value]
        return value and {**value, **{key: each(value.get(key)) for key, each in reads.items()}}

    return read


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` writes into the metadata of a schema."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _label(column: str, names: list[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:  # noqa: ANN401 - a number of a class, or what a writer put in its place
        if value is None or value == -1:  # how `datasets` says that there is none
            return None
        if not isinstance(value, int):
            return value
        if not 0 <= value < len(names):
            raise ValueError(f"field '{column}' is {value}, must be one of {len(names)} class labels")
        return str(names[value])

    return read


def _has_numbers(kind: pa.DataType) -> bool:
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    if pa.types.is_dictionary(kind):
        inner.append(kind.value_type)
    found = pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_temporal(kind)
    return found or any(map(_has_numbers, inner))


def plain(value: Any, *, inside: bool = False) -> Any:  # noqa: ANN401 - any value of a column
    """Return a value as text and numbers.

    NaN becomes None. A date or time becomes its ISO text. A float or decimal that is a whole number becomes an int. A
    float inside a list or a table stays a float.
    """
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        whole = (isinstance(value, Decimal) or not inside) and -WHOLE_FLOATS < value < WHOLE_FLOATS
        return int(value) if whole and value == int(value) else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: plain(inner, inside=True) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(inner, inside=True) for inner in value)
    return value
