"""Whole select jobs on a Parquet of many rows, a step at a time: seconds and the driver's peak memory as rows grow.

    python benchmarks/at_size.py --data FOLDER [--num 100000 1000000] [--steps exact minhash ...]

The rows are those of `planted.py` with a made-up answer, scores and tags. Each size is ingested once; each step is then
a job of its own, by the command line in a process of its own, so that its memory is seen alone. Vectors, where a step
wants them, are planted too: what the encoder would take is not measured here.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import in_process, memory, write
from planted import planted, sources

from gristmill.cluster.contract import schema
from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.selection.data.parts import parts_of
from gristmill.selection.data.samples import open_samples
from gristmill.selection.embedding.actors import RowChoice, folder
from gristmill.selection.figures import SelectFigures
from gristmill.selection.job import Select

STEPS: dict[str, str] = {
    "exact": "",
    "minhash": "",
    "substring": 'part = "instruction"\n',
    "quality": "budget = 0.5\n",
    "balance": 'by = "source"\nbudget = 0.5\n',
    "decontaminate": 'sets = ["exam.jsonl"]\n',
    "against": 'datasets = ["exam.jsonl"]\n',
    "dsir": 'method = "dsir"\ntargets = "exam.jsonl"\nbudget = 10000\n',
    "longest": "budget = 0.5\n",
    "random": "budget = 0.5\n",
    "semantic": "",
    "nearest": 'method = "nearest"\ntargets = "exam.jsonl"\nbudget = 10000\n',
    "k_center": 'method = "k_center"\nbudget = 10000\n',
    "facility_location": 'method = "facility_location"\nbudget = 10000\n',
}
KIND = {"dsir": "relevance", "nearest": "relevance", "k_center": "diversity", "facility_location": "diversity"}
STREAMING = ("exact", "quality", "balance", "decontaminate", "dsir", "longest", "random")
"""Steps that hold neither texts nor vectors."""
DIM, RANK = 384, 48
ROWS = 50_000


def rows(data: Path, num: int, home: Path) -> None:
    """Write the Parquet, and 1,000 rows of it changed a little as an evaluation set."""
    rng = random.Random(1)
    records = planted(sources(data), num, 0)
    with pq.ParquetWriter(home / "rows.parquet", SCHEMA) as out:
        for start in range(0, num, ROWS):
            some = records[start : start + ROWS]
            columns = {
                "instruction": [record.text for record in some],
                "output": [f"Answer {start + n}: {record.text[:80][::-1]}" for n, record in enumerate(some)],
                "scores": [[("judge", rng.uniform(1, 5))] for _ in some],
                "tags": [[("source", rng.choice("abcde"))] for _ in some],
            }
            out.write_table(pa.table(columns, schema=SCHEMA))
    exam = [{"instruction": record.text, "output": "unknown"} for record in records[:1000]]
    (home / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam), encoding="utf-8")


SCHEMA = pa.schema(
    [
        ("instruction", pa.string()),
        ("output", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("tags", pa.map_(pa.string(), pa.string())),
    ]
)


def recipe(home: Path, step: str) -> Path:
    """Write the recipe of one step."""
    path = home / f"{step}.toml"
    path.write_text(
        f'name = "{step}"\nstore = "{home}/store"\n[select]\ninput = "rows.parquet"\nembed_dropped = 0\n'
        f'[[select.steps]]\nkind = "{KIND.get(step, step)}"\n{STEPS[step]}'
    )
    return path


def vectors(store: Store, samples: str, job: Select) -> None:
    """Plant vectors for a dataset where its embedding would put them: topics of low rank, and noise."""
    name = folder(samples, job.wanted, RowChoice(), shard_rows=job.shard_rows)[0]
    if store.complete(name):
        return
    pool, _ = open_samples(parts_of(store, samples), samples)
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(RANK, DIM)).astype(np.float32)
    kept = schema.vectors(DIM, pa.float16())
    shards: list[Shard] = []
    for start in range(0, len(pool.ids), ROWS):
        names = pool.ids[start : start + ROWS]
        block = rng.normal(size=(len(names), RANK)).astype(np.float32) @ axes
        block += 2 * rng.normal(size=block.shape).astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        values = pa.FixedSizeListArray.from_arrays(
            pa.array(block.astype(np.float16).ravel()), type=kept.field("vector").type
        )
        known = (pa.array(["Latin"] * len(names)), pa.array(np.zeros(len(names), np.float32)))
        table = pa.Table.from_arrays([pa.array(names.tolist()).cast(pa.string()), *known, values], schema=kept)
        shards.append(store.commit_shard(name, f"shard-{len(shards):05d}", table, compress=False))
    metadata = {"encoder": job.encoder.fingerprint(), "dim": str(DIM), "dtype": "float16"}
    store.commit(Manifest(name, "vectors", "embed", "0" * 32, {}, {}, tuple(shards), metadata=metadata))


def one(home: Path, step: str) -> dict[str, Any]:
    """Run one step by the command line in this process and return its figures."""
    from gristmill.cluster.cli.main import main as cli

    path = recipe(home, step)
    code = cli(["select", str(path)])
    loaded, works = open_recipe(path)
    figures = SelectFigures.read(Store(loaded.store).figures(works["select"].output))
    return {
        "code": code,
        "seconds": figures.seconds,
        "step_seconds": figures.steps[0].seconds,
        "kept": figures.kept,
        "peak_mib": round(memory("VmHWM")),
    }


def main() -> None:
    """Run every step at every size and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="at_size", help="of the result file")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(one(given.home, given.only)))
        return
    found: dict[str, dict[str, Any]] = {step: {} for step in given.steps}
    ingested = {}
    for num in given.num:
        with tempfile.TemporaryDirectory() as folder_:
            home = Path(folder_)
            rows(given.data, num, home)
            loaded, works = open_recipe(recipe(home, "exact"))
            store = Store(loaded.store)
            source = loaded.jobs["select"].sources()["samples"]
            ingested[num] = timed(lambda store=store, source=source: ingest.ingest(store, source))
            for step in given.steps:
                loaded, works = open_recipe(recipe(home, step))
                job = loaded.jobs["select"]
                assert isinstance(job, Select)
                if job.embeds:
                    for role, source in job.sources().items():
                        ingest.ingest(store, source)
                        vectors(store, works["select"].inputs[role], job)
                found[step][str(num)] = in_process("at_size.py", [f"--home={home}", f"--only={step}"], {})
    first, last = str(given.num[0]), str(given.num[-1])
    write(
        given.name,
        {
            "what": "whole select jobs of one step each: seconds, the step's own seconds, peak memory of the driver",
            "bound": "streaming steps: memory that does not grow with the rows but for their ids and one verdict each",
            "ingest_s": ingested,
            "steps": found,
            "peak_growth": {
                step: round(f[last]["peak_mib"] / f[first]["peak_mib"], 2) for step, f in found.items() if last in f
            },
            "streaming": list(STREAMING),
        },
    )


def timed(make: Any) -> float:
    """Return the seconds that a call takes."""
    import time

    begin = time.monotonic()
    make()
    return round(time.monotonic() - begin, 1)


if __name__ == "__main__":
    main()
