"""The Arrow schemas SAMPLES, VECTORS and ITEMS, and the check of every table that the store writes."""

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.errors import SchemaError

SCHEMA_VERSION = 2
"""Version of the schemas, which is increased when a column changes its meaning. Every manifest has it."""

_CALL = pa.struct(
    [
        pa.field("id", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("arguments", pa.string(), nullable=False),
    ]
)
_MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("tool_calls", pa.list_(pa.field("item", _CALL, nullable=False))),
        pa.field("tool_call_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("train", pa.bool_(), nullable=False),
        pa.field("parts", pa.string()),
    ]
)
_ORIGIN = pa.struct(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("reply_tokens", pa.int32(), nullable=False),
        pa.field("finish", pa.string(), nullable=False),
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("parents", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False),
        pa.field("messages", pa.list_(pa.field("item", _MESSAGE, nullable=False)), nullable=False),
        pa.field("tools", pa.string()),
        pa.field("method", pa.string(), nullable=False),
        pa.field("round", pa.int16(), nullable=False),
        pa.field("scores", pa.map_(pa.string(), pa.field("value", pa.float32(), nullable=False)), nullable=False),
        pa.field("tags", pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False)), nullable=False),
        pa.field("dropped", pa.string()),
        pa.field("origin", _ORIGIN),
    ]
)
"""Schema of samples, with one row for each. `dropped` is null if the sample is kept. `origin` is null if the sample is
a seed. `tools` is JSON text, or null without tools. A higher score is better. `sample.Message` describes the fields of
a turn."""

ITEMS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("suite", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("prompt_digest", pa.string(), nullable=False),
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("reply", pa.string(), nullable=False),
    ]
)
"""Schema of evaluation values. A row has one value that a scorer gives to one model's reply to an item of a suite.
`scorer` is the kind of the scorer, or `kind.measure` for its further values. A higher `value` is better. `value` is
null if the model could not be asked, and `reply` then says why."""


def vectors(dim: int, dtype: pa.DataType | None = None) -> pa.Schema:
    """Return the VECTORS schema for unit vectors of `dim` numbers (float32 by default, float16 allowed).

    The column `script` is the script of most of the text. The column `unknown` is the share of the text's tokens, 0 to
    1, that the encoder does not know or knows only as single letters.
    """
    value = pa.field("item", dtype or pa.float32(), nullable=False)
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("script", pa.string(), nullable=False),
            pa.field("unknown", pa.float32(), nullable=False),
            pa.field("vector", pa.list_(value, dim), nullable=False),
        ]
    )


def check(table: pa.Table, schema: pa.Schema, where: str = "table") -> pa.Table:
    """Check that a table has a schema, and return it.

    Names, order and types of the columns must be equal. No `nullable=False` column or inner field may hold a null,
    which pyarrow itself does not check.

    Raises:
        SchemaError: if they differ. The message names the column, what it is and what it must be.
    """
    if table.schema.names != schema.names:
        raise SchemaError(f"{where}: columns are {table.schema.names}, must be {schema.names}")
    for column in schema:
        actual = table.schema.field(column.name).type
        if actual != column.type:
            raise SchemaError(f"{where}: column {column.name} is {actual}, must be {column.type}")
        for chunk in table.column(column.name).chunks:
            _refuse_nulls(chunk, column, f"{where}: column {column.name}")
    return table


def _refuse_nulls(array: pa.Array, column: pa.Field, where: str) -> None:
    if not column.nullable and array.null_count:
        raise SchemaError(f"{where} has {array.null_count} nulls, must have none")
    kind = column.type
    if pa.types.is_map(kind):
        # keys and items are those of the whole parent; look at this slice's alone
        first, count = array.offsets[0].as_py(), array.offsets[-1].as_py() - array.offsets[0].as_py()
        _refuse_nulls(array.keys.slice(first, count), kind.key_field, f"{where} (keys)")
        _refuse_nulls(array.items.slice(first, count), kind.item_field, f"{where} (values)")
    elif pa.types.is_list(kind):
        _refuse_nulls(array.flatten(), kind.value_field, f"{where} (items)")
    elif pa.types.is_struct(kind):
        valid = array.filter(pc.is_valid(array)) if array.null_count else array
        for place in range(kind.num_fields):
            _refuse_nulls(valid.field(place), kind.field(place), f"{where}.{kind.field(place).name}")
