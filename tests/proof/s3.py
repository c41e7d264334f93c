"""An object store that speaks S3: exports of every form and a whole store go there and come back the same.

A whole run of a scripted engine, with secrets in its URIs, its environment and its recipe, writes and prints none.

    python -m tests.proof.s3

starts the server of the package `moto[server]`, which is no dependency: it brings 60 packages. Where `moto_server` is
not on the path, the reason is printed and nothing is tried.
"""

import json
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
from typing import Any
from urllib.parse import quote

from pyarrow import fs

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from gristmill.cluster.store.uri import file_system
from tests.cluster.io.sources import lines, put

ROWS = [{"question": f"Question {n}?", "answer": "是的", "tags": {"n": str(n)}} for n in range(25)]
BUCKET = "s3://grain"
PROGRAM = ("-c", "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())")


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


def planted(folder: Path, port: int) -> int:
    """Run a recipe full of secrets, look for them in every object, file and page, and return how many were searched."""
    secret = {name: f"planted{name}0123456789/+x" for name in ("USER", "PASSWORD", "OPENAI", "HUB", "RECIPE", "CLOUD")}
    user, password = (quote(secret[name], safe="") for name in ("USER", "PASSWORD"))
    there = f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}"
    uri = f"s3://{user}:{password}@grain/planted/"
    topics = ("age", "air", "bar", "end", "sea", "sun")
    seeds = [{"instruction": f"Write of the {topic}", "output": "Well."} for topic in topics]
    Store(f"{BUCKET}/planted").write_bytes("\n".join(map(json.dumps, seeds)).encode(), "seeds.jsonl")
    recipe = f"""name = "planted"\nstore = "{uri}store{there}"
[cluster]\nnum_cpus = 1\nnum_gpus = 0
[generate]\ninput = "{uri}seeds.jsonl{there}"\ntarget = 20\nshard_size = 8\nfilters = []
[generate.engine]\ncpus = 1\nargs = {{hf_token = "{secret["RECIPE"]}"}}\n"""
    path = str(put(folder, "planted.toml", recipe))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"OPENAI_API_KEY": secret["OPENAI"], "HF_TOKEN": secret["HUB"]}
    environment |= {"AWS_SECRET_ACCESS_KEY": secret["CLOUD"]}
    store = ["--store", f"{uri}store{there}"]
    commands: list[tuple[Any, ...]] = [
        (0, "-m", "tests.generation.drive", path, "0"),
        (0, *PROGRAM, "plan", path),
        (0, *PROGRAM, "show", *store),
        *((0, *PROGRAM, verb, "planted", *store) for verb in ("show", "head", "report")),
        (0, *PROGRAM, "export", "planted", f"{uri}out.jsonl{there}", *store),
        (2, *PROGRAM, "show", "nothing-of-this-name", *store),
        (1, *PROGRAM, "show", "--store", f"{uri}store{there}&surprise=1"),
    ]
    pages = []
    for code, *words in commands:
        done = subprocess.run([sys.executable, *words], capture_output=True, check=False, env=environment)
        pages.append(done.stdout + done.stderr)
        assert done.returncode == code, (words, pages[-1].decode())
    assert all(pages[1:])
    objects = away_objects("planted")
    for written in ("report.html", "recipe.json", "ledger-00000.jsonl", "manifest.json", "out.jsonl"):
        assert any(name.endswith(written) for name in objects), written
    pages += objects.values()
    for value in secret.values():
        forms = (value, quote(value, safe=""), value.partition("/")[0])
        assert not [page[:200] for page in pages for form in forms if form.encode() in page]
    return len(pages)


def away_objects(folder: str) -> dict[str, bytes]:
    """Return every object in a folder of the bucket."""
    system, root = file_system(f"{BUCKET}/{folder}")
    files = [info.path for info in system.get_file_info(fs.FileSelector(root, recursive=True)) if info.is_file]
    return {path: bytes(system.open_input_file(path).read()) for path in files}


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
            count = planted(Path(folder), port)
            sys.stdout.write(f"s3: {count} objects and pages of a run with six planted secrets, which are in none\n")
    finally:
        server.kill()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
