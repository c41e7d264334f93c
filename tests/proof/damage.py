"""Damage: of the bytes of a file and of the values of JSON, and eight files of rows to damage.

Whatever is wrong with a file of rows, it is refused, or read with every row accounted for. `tests.proof.fuzz` tries
these and all other kinds of input.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import read
from tests.cluster.io.sources import lines, put, source

TEXTS = [{"text": f"Text number {n}, “quoted”, 第{n}行", "label": str(n % 3)} for n in range(60)]


def _arrow(new: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(TEXTS), pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    return bytes(sink.getvalue())


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(TEXTS), sink)
    return bytes(sink.getvalue())


CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in TEXTS)
WHOLE = {
    "x.jsonl": lines(*TEXTS).encode(),
    "x.json": json.dumps(TEXTS, ensure_ascii=False).encode(),
    "x.csv": CSV.encode(),
    "x.tsv": CSV.replace(",", "\t").encode(),
    "x.jsonl.gz": gzip.compress(lines(*TEXTS).encode()),
    "x.parquet": _parquet(),
    "x.arrow": _arrow(ipc.new_stream),
    "file.arrow": _arrow(ipc.new_file),
}


def damaged(data: bytes, stream: random.Random) -> bytes:
    """Cut a file, flip bytes, put quotes and control characters in, swap pieces, or encode it anew."""
    kind = stream.randrange(6) if len(data) > 1 else 5
    if not data:
        return b"\x00"
    if kind == 0:
        return data[: stream.randrange(1, len(data))]
    if kind == 1 and data[:1] in b"{[t":
        return data.decode(errors="replace").encode(stream.choice(["gb18030", "utf-16", "utf-8-sig", "utf-7"]))
    if kind == 2:
        one, other = sorted(stream.sample(range(len(data)), 2))
        return data[:one] + data[other:] + data[one:other]
    changed = bytearray(data)
    for _ in range(stream.randrange(1, 6)):
        place = stream.randrange(len(changed))
        if kind == 3:
            changed[place] = stream.randrange(256)
        else:
            changed[place:place] = stream.choice([b'"', b"\r", b"\n", b"\x00", b"\xff", b",", b"{", b"\\ud83d", b"\t"])
    return bytes(changed)


def accounted_for(name: str, data: bytes, samples: int) -> bool:
    """Whether there is a sample for each line of a format in which a row is one."""
    if not name.endswith((".jsonl", ".tsv")) or b"\r" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    begun = [line for line in data.split(b"\n") if line.strip()]
    return samples == len(begun) - name.endswith(".tsv")


def tried(name: str, folder: Path, seed: int, count: int) -> Counter[str]:
    """How many damaged files were refused, read whole, read with dropped rows, or read with rows unaccounted for."""
    stream, found = random.Random(f"{name} {seed}"), Counter[str]()
    for _ in range(count):
        data = damaged(WHOLE[name], stream)
        path = put(folder, name, data)
        try:
            samples = list(read(source(path, on_bad_row="drop")))
        except JobError as error:
            assert str(path) in str(error)
            found["refused"] += 1
            continue
        for sample in samples:
            (sample.instruction + (sample.dropped or "")).encode()
        dropped = any(sample.dropped for sample in samples)
        whole = accounted_for(name, data, len(samples))
        found[("read with drops" if dropped else "read") if whole else "unaccounted"] += 1
    return found


def twisted(value: Any, stream: random.Random) -> Any:
    """Return a JSON value in which one value, wherever it is, has become another, is absent, or is there twice."""
    if isinstance(value, dict) and value and stream.random() < 0.85:
        key = stream.choice(sorted(value))
        if stream.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        if stream.random() < 0.1:
            return {**value, stream.choice(["", "kind", "\u202e", "x" * 300, key.upper()]): value[key]}
        return {**value, key: twisted(value[key], stream)}
    if isinstance(value, list) and value and stream.random() < 0.85:
        place = stream.randrange(len(value))
        if stream.random() < 0.15:
            return value[:place] + value[place + 1 :] if stream.random() < 0.5 else [*value, value[place]]
        return [*value[:place], twisted(value[place], stream), *value[place + 1 :]]
    odd = stream.choice(ODD)
    return [odd] * 3 if stream.random() < 0.1 else odd


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0",
    "\x00",
    "\ud83d",
    "\x1b[2J",
    "../../up",
    "/etc/passwd",
    "~nobody/x",
    "s3://",
    "foo://x",
    "http://[",
    "x" * 5000,
    "²",
    "中",
    [],
    {},
    [[]],
    {"": 0},
    [None],
    {"kind": "exact"},
    _nested(90),
    _nested(150),
]
