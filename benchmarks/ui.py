"""How fast `gristmill ui` searches and filters a dataset of 10^6 rows, English and Chinese.

python benchmarks/ui.py [rows] [folder]        # writes ui.json; 10^6 rows take some minutes and 3 GB of disk
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from common import memory, write

from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.cluster.ui.api import Api
from gristmill.cluster.ui.build import build
from gristmill.cluster.ui.index import Index, Query

NAME = "generate-bench"
SHARD = 65_536
REPEATS = 15
ENGLISH = [line for path in sorted(Path("docs").glob("*.md")) for line in path.read_text(encoding="utf-8").split(". ")]
CHINESE = [
    line for path in sorted(Path("docs/zh").glob("*.md")) for line in path.read_text(encoding="utf-8").split("。")
]
REASONS = (
    "length: 2 words, must be at least 3",
    "minhash: 0.91 like {}",
    "judge: 2.5, must be at least 4",
    "exact: copy of {}",
)


def rows(number: int) -> Iterator[Sample]:
    """Samples of about 400 bytes: sentences of the documentation in random order, every fifth one Chinese."""
    draw = Random(0)
    pools = [[" ".join(draw.choices(lines, k=2))[:320] for _ in range(20_000)] for lines in (CHINESE, ENGLISH)]
    for n in range(number):
        pool = pools[n % 5 > 0]
        turns = [pool[draw.randrange(len(pool))] for _ in range(2)]
        dropped = draw.choice(REASONS).format(f"{draw.randrange(number):032x}") if draw.random() < 0.3 else None
        yield Sample(
            id=f"{n:032x}",
            messages=(Message("user", f"{turns[0][:160]} ({n})"), Message("assistant", turns[1])),
            parents=(f"{n // 10:032x}",),
            method=draw.choice(("self_instruct", "evol_instruct", "persona", "backtranslation")),
            scores={"judge": draw.randrange(2, 11) / 2, "novelty": draw.random()},
            tags={"topic": f"topic {draw.randrange(60)}", "language": "zh" if n % 5 == 0 else "en"},
            dropped=dropped,
        )


def make(store: Store, number: int) -> None:
    """Write the dataset `NAME`."""
    shards, made = list[Shard](), rows(number)
    while table := list(islice(made, SHARD)):
        shards.append(store.commit_shard(NAME, f"shard-{len(shards):05d}", to_table(table)))
    store.commit(Manifest(NAME, "samples", "generate", "0" * 32, {}, {}, tuple(shards)))


QUERIES = {
    "a rare word": Query(words="opencc"),
    "a word that is nowhere": Query(words="zyzzyva"),
    "a frequent word": Query(words="the recipe"),
    "the most frequent word": Query(words="the"),
    "one letter": Query(words="e"),
    "a phrase": Query(words="must be at least one of them"),
    "two Chinese characters": Query(words="数据"),
    "a Chinese phrase": Query(words="会被拒绝"),
    "an id": Query(words=f"{777:032x}"),
    "dropped": Query(state="dropped"),
    "one reason": Query(reason="minhash"),
    "method and tag": Query(method="persona", tag=("topic", "topic 7")),
    "range of a score": Query(score="novelty", low=0.9, high=0.95),
    "sorted by a score": Query(state="kept", sort="novelty"),
    "word, tag, reason and score": Query(
        words="recipe", tag=("language", "en"), reason="judge", score="novelty", low=0.5
    ),
}


def timed(act: Callable[[], object]) -> dict[str, float]:
    """Return milliseconds of `REPEATS` calls, and the CPU time of all threads. Others may use the cores meanwhile."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        begin, before = time.perf_counter(), time.process_time()
        act()
        wall.append(1000 * (time.perf_counter() - begin))
        cpu.append(1000 * (time.process_time() - before))
    p95 = sorted(wall)[int(0.95 * REPEATS)]
    found = {"least_ms": min(wall), "p50_ms": statistics.median(wall), "p95_ms": p95, "cpu_ms": statistics.median(cpu)}
    return {name: round(value, 1) for name, value in found.items()}


def main(number: int, place: Path) -> None:
    """Build the index, ask every query, and write the figures."""
    store, folder = Store(str(place / "store")), place / "index"
    if not store.complete(NAME):
        make(store, number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    begin, before = time.perf_counter(), time.process_time()
    build(store, NAME, folder, lambda done: None)
    built = {"seconds": round(time.perf_counter() - begin, 1), "cpu_seconds": round(time.process_time() - before, 1)}
    opened, index = timed(lambda: Index(folder)), Index(folder)
    index.find(Query(words="compile"))  # the loop is compiled once
    index.find(Query(sort="novelty"))  # the order is computed once
    figures, load = {}, os.getloadavg()[0]
    for name, query in QUERIES.items():

        def ask(query: Query = query) -> None:
            index._found.clear()  # else the rows of the last time would be taken
            index.samples(index.find(query)[:50].tolist())

        figures[name] = {"rows": len(index.find(query)), **timed(ask)}
    api = Api(store, "bench", place / "cache")
    while "building" in api.get("/api/dataset", f"dataset={NAME}"):
        time.sleep(0.2)
    row = f"dataset={NAME}&row={number // 2}&relatives=1"
    figures["a row with its relatives"] = {"rows": 1, **timed(lambda: api.get("/api/row", row))}
    size = sum(path.stat().st_size for path in folder.iterdir())
    stored = sum(path.stat().st_size for path in Path(store.at(NAME)).iterdir())
    result = {
        "rows": number,
        "bytes": {"dataset": stored, "index": size, "text": int(index._ends[-1])},
        "build": built,
        "open": opened,
        "memory_mib": {"anonymous": round(memory("RssAnon")), "peak": round(memory("VmHWM"))},
        "load_of_the_machine": round(load, 1),
        "queries": figures,
    }
    write("ui", result)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000, Path(sys.argv[2] if sys.argv[2:] else made))
