"""Damaged files: whatever is wrong with one, it is refused, or read with every row accounted for; no traceback.

python -m tests.proof.damage 2000
"""

import gzip
import json
import random
import sys
import tempfile
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
    kind = stream.randrange(6)
    if kind == 0:
        return data[: stream.randrange(1, len(data))]
    if kind == 1 and data[:1] in b"{[t":
        return data.decode().encode(stream.choice(["gb18030", "utf-16", "utf-8-sig", "utf-7"]))
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


def main() -> int:
    """Print the outcomes for each format."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in WHOLE:
            outcomes = tried(name, Path(folder), seed=2, count=count)
            bad += outcomes["unaccounted"]
            sys.stdout.write(f"{name:12} {json.dumps(dict(sorted(outcomes.items())))}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
