"""A select job of several steps on made rows, in one process and by tasks of Ray: seconds, CPU, memory, equal bytes.

    python benchmarks/distributed.py [--num 1000000 10000000] [--ways one tasks] [--folder FOLDER]

Rows are short and made: 24 words from a vocabulary of 20,000, and an answer of 12 words. A tenth are equal copies, a
tenth are copies with one other word. Each way is a command in a process of its own. Its CPU time is that of the process
and of all its descendants, looked up twice a second. `driver_peak_mib` is VmHWM of the driver, which counts pages of
Ray's object store that it has read; `driver_own_peak_mib` does not count pages that it shares with other processes.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from common import memory, write

from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.selection.figures import SelectFigures

WORDS, ASKED, SAID, ROWS = 20_000, 24, 12, 65_536
STEPS = """
[[select.steps]]
kind = "exact"
[[select.steps]]
kind = "minhash"
[[select.steps]]
kind = "balance"
by = "source"
budget = 0.5
"""
EQUAL, NEAR = 0.1, 0.1


def vocabulary() -> pa.Array:
    """Return made words of 3 to 10 letters, all different."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    found = {"".join(rng.choice(letters, rng.integers(3, 11))) for _ in range(2 * WORDS)}
    return pa.array(sorted(found)[:WORDS])


def table(words: pa.Array, start: int, num: int) -> pa.Table:
    """Return `num` samples from the row `start` on, the same at every call."""
    rng = np.random.default_rng(start)
    asked, said = rng.integers(0, WORDS, (num, ASKED)), rng.integers(0, WORDS, (num, SAID))
    copied = np.flatnonzero(rng.random(num) < EQUAL + NEAR)
    asked[copied] = asked[rng.integers(0, num, len(copied))]
    said[copied] = said[rng.integers(0, num, len(copied))]
    near = copied[rng.random(len(copied)) < NEAR / (EQUAL + NEAR)]
    asked[near, 20] = rng.integers(0, WORDS, len(near))
    one, two = (joined(words, rows) for rows in (asked, said))
    texts = pa.concat_arrays([one, two]).take(pa.array(np.arange(2 * num).reshape(2, num).T.ravel()))
    turn = SAMPLES.field("messages").type.value_type
    roles = pa.array(["user", "assistant"]).take(pa.array(np.tile([0, 1], num)))
    given = {"role": roles, "content": texts, "train": pa.array(np.ones(2 * num, np.bool_))}
    fields = [given[f.name].cast(f.type) if f.name in given else pa.nulls(2 * num, f.type) for f in turn]
    turns = pa.StructArray.from_arrays(fields, fields=list(turn))
    ends = pa.array(np.arange(0, 2 * num + 1, 2), pa.int32())
    messages = pa.ListArray.from_arrays(ends, turns, type=SAMPLES.field("messages").type)
    names = [hashlib.blake2b(f"{start + n}".encode(), digest_size=16).hexdigest() for n in range(num)]
    ones = np.arange(num + 1, dtype=np.int32)
    sources = pa.array(list("abcde")).take(pa.array(rng.choice(5, num, p=[0.4, 0.3, 0.15, 0.1, 0.05])))
    columns: dict[str, pa.Array] = {
        "id": pa.array(names),
        "messages": messages,
        "method": pa.repeat("made", num),
        "round": pa.array(np.ones(num, np.int32)),
        "scores": pa.MapArray.from_arrays(
            ones,
            pa.repeat("judge", num),
            pa.array(rng.integers(1, 6, num).astype(np.float32)),
            SAMPLES.field("scores").type,
        ),
        "tags": pa.MapArray.from_arrays(ones, pa.repeat("source", num), sources, SAMPLES.field("tags").type),
    }
    empty = pa.array([[]], SAMPLES.field("parents").type).take(pa.array(np.zeros(num, np.int64)))
    columns["parents"] = empty
    made = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(num, f.type) for f in SAMPLES]
    return pa.Table.from_arrays(made, schema=SAMPLES)


def joined(words: pa.Array, rows: np.ndarray) -> pa.Array:
    """Return the text of each row of words."""
    ends = pa.array(np.arange(0, rows.size + 1, rows.shape[1]), pa.int32())
    return pa.compute.binary_join(pa.ListArray.from_arrays(ends, words.take(pa.array(rows.ravel()))), " ")


def put(store: Store, name: str, num: int) -> None:
    """Write `num` samples as the dataset `name`, unless it is complete."""
    if store.complete(name):
        return
    words, shards = vocabulary(), list[Shard]()
    for start in range(0, num, ROWS):
        made = table(words, start, min(ROWS, num - start))
        shards.append(store.commit_shard(name, f"shard-{len(shards):05d}", made))
    store.commit(Manifest(name, "samples", "ingest", "0" * 32, {}, {}, tuple(shards)))


def one(home: Path) -> None:
    """Run the recipe in this process, and print the peak of its memory."""
    from gristmill.cluster.cli.main import main as cli

    code = cli(["select", str(home / "recipe.toml"), "--quiet"])
    print(json.dumps({"code": code, "peak_mib": round(memory("VmHWM"))}))


def measured(script: list[str]) -> tuple[dict[str, Any], float, float, int]:
    """Run a command; return (its last line, seconds, CPU seconds, MiB that were the most of its process alone)."""
    begin, seen, own = time.monotonic(), dict[int, float](), 0
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                usage = root.memory_info()
                own = max(own, usage.rss - usage.shared)
                for each in (root, *root.children(recursive=True)):
                    times = each.cpu_times()
                    seen[each.pid] = times.user + times.system
            except psutil.Error:
                pass
            time.sleep(0.5)
        assert process.stdout is not None
        last = process.stdout.read().strip().splitlines()[-1]
    return json.loads(last), round(time.monotonic() - begin, 1), round(sum(seen.values()), 1), round(own / 2**20)


def main() -> None:
    """Run every way at every size and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--num", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--ways", nargs="+", default=["one", "tasks"], choices=["one", "tasks"])
    parser.add_argument("--folder", type=Path, help="where to keep the rows for another time")
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        one(given.only)
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for num in given.num:
            rows = found.setdefault(str(num), {})
            for way in given.ways:
                rows[way] = run((given.folder or Path(temporary)) / str(num), num, way)
            digests = {figures["digest"] for figures in rows.values()}
            rows["equal"] = len(digests) == 1 if len(rows) > 1 else None
    write(
        "distributed",
        {
            "what": "one select job, exact -> minhash -> balance, in one process and by tasks of Ray on this machine",
            "load_average": [round(load, 1) for load in psutil.getloadavg()],
            "rows": found,
        },
    )


def run(home: Path, num: int, way: str) -> dict[str, Any]:
    """Measure one way at one size."""
    home.mkdir(parents=True, exist_ok=True)
    setting = "true" if way == "tasks" else "false"
    (home / "recipe.toml").write_text(
        f'name = "size"\nstore = "{home}/store"\n[select]\ninput = "rows.jsonl"\ndistributed = {setting}\n'
        f"shard_rows = {ROWS}\n{STEPS}"
    )
    (home / "rows.jsonl").write_text('{"instruction": "stands for the rows, which are made in the store"}\n')
    loaded, works = open_recipe(home / "recipe.toml")
    store, work = Store(loaded.store), works["select"]
    put(store, work.inputs["samples"], num)
    done, seconds, cpu, own = measured([sys.executable, __file__, f"--only={home}"])
    if done["code"]:
        raise SystemExit(f"{home}: exit code {done['code']}")
    figures = SelectFigures.read(store.figures(work.output))
    shards = store.manifest(work.output).shards
    for name in (work.output, "runs"):  # the next way makes the same folder
        shutil.rmtree(store.folder(name))
    return {
        "seconds": seconds,
        "cpu_s": cpu,
        "job_seconds": figures.seconds,
        "steps": {step.kind: {"seconds": step.seconds, "kept": step.kept} for step in figures.steps},
        "kept": figures.kept,
        "driver_peak_mib": done["peak_mib"],
        "driver_own_peak_mib": own,
        "parts": figures.parts,
        "digest": hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()[:16],
    }


if __name__ == "__main__":
    main()
