"""An object store that speaks S3: exports of every form and a whole store go there and come back the same.

    python -m tests.proof.s3

starts the server of the package `moto[server]`, which is no dependency: it brings 60 packages. Where `moto_server` is
not on the path, the reason is printed and nothing is tried.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put

ROWS = [{"question": f"Question {n}?", "answer": "是的", "tags": {"n": str(n)}} for n in range(25)]
BUCKET = "s3://grain"


def started(port: int) -> "subprocess.Popen[bytes]":
    """The server, when it answers and has a bucket."""
    server = subprocess.Popen(["moto_server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            made = urllib.request.Request(f"http://127.0.0.1:{port}/grain", method="PUT")
            urllib.request.urlopen(made)
        except urllib.error.URLError:
            time.sleep(0.2)
        else:
            return server
    server.kill()
    raise RuntimeError("moto_server did not answer in 60 s")


def told(samples: list[Sample]) -> list[tuple[str, str, str, dict[str, str]]]:
    return [(s.id, s.instruction, s.answer, dict(s.tags)) for s in samples]


def tried(folder: Path) -> int:
    """Send everything there and back; return how many ways there were."""
    store = Store(str(folder / "store"))
    path = put(folder, "in.jsonl", lines(*ROWS))
    name, away = ingest(store, Source(path=(str(path),)), shard_rows=10), Store(f"{BUCKET}/数据 store")
    whole = told(list(read(Source(path=(str(path),)))))
    there = {
        f"{BUCKET}/a/out.jsonl": "",
        f"{BUCKET}/a/out.jsonl.gz": "",
        f"{BUCKET}/出 口/out.parquet": "",
        f"{BUCKET}/folder/": "data/*.jsonl",
    }
    for target, inside in there.items():
        export(store, name, target)
        assert told(list(read(Source(path=(target + inside,))))) == whole, target
    try:
        export(store, name, f"{BUCKET}/folder/")
    except JobError as error:
        assert "is not empty" in str(error)
    else:
        raise AssertionError("a folder that holds something was written into")
    assert ingest(away, Source(path=(f"{BUCKET}/a/*.jsonl",)), shard_rows=10)
    assert ingest(away, Source(path=(str(path),)), shard_rows=10) == name
    assert away.manifest(name).shards == store.manifest(name).shards
    export(away, name, folder / "back.jsonl")
    assert told(list(read(Source(path=(str(folder / "back.jsonl"),))))) == whole
    return len(there) + 3


def main() -> int:
    """Try it where the server is there."""
    if shutil.which("moto_server") is None:
        sys.stdout.write("s3: left out: moto_server is not on the path (`pip install moto[server]` elsewhere)\n")
        return 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = started(port)
    os.environ |= {  # the server itself must not have these
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(f"s3: {tried(Path(folder))} ways there and back, all the same\n")
    finally:
        server.kill()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
