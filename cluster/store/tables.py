"""The bytes of a shard: an Arrow IPC file of one of the schemas of `contract.schema`."""

import hashlib

import pyarrow as pa
from pyarrow import ipc

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.schema import ITEMS, SAMPLES, vectors


def contract(table: pa.Table) -> pa.Schema:
    """Return the schema that a table must have.

    It is VECTORS for a table with the column `vector`, ITEMS for one with `prompt_digest`, and SAMPLES for any other.
    """
    if "vector" not in table.column_names:
        return ITEMS if "prompt_digest" in table.column_names else SAMPLES
    kind = table.schema.field("vector").type
    return vectors(kind.list_size, kind.value_type) if pa.types.is_fixed_size_list(kind) else SAMPLES


def to_bytes(table: pa.Table, *, compress: bool) -> pa.Buffer:
    """Return a table as an Arrow IPC file. The same table always gives the same bytes."""
    sink = pa.BufferOutputStream()
    options = ipc.IpcWriteOptions(compression="zstd" if compress else None)
    with ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def from_bytes(data: pa.Buffer, where: str, advice: str) -> pa.Table:
    """Read an Arrow IPC file, without a copy where that is possible.

    Raises:
        StoreError: if it is none. The message begins with `where` and ends with `advice`.
    """
    try:
        table = ipc.open_file(data).read_all()
        table.validate(full=True)  # without this, damaged offsets would let Arrow read beyond its memory
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise StoreError(f"{where}: no table ({said}), although its digest is right; {advice}") from error
    return table


def digest(data: pa.Buffer | bytes) -> str:
    """Return the digest of a shard that its manifest has."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
