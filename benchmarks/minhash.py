"""Near-duplicates of text: speed, memory, recall and precision on planted copies, beside the field's packages.

    python benchmarks/minhash.py --data FOLDER --peers-python PYTHON [--sizes 100000 1000000] [--repeat 3]

The folder is that of `planted.py`, which makes the records. Every system reads the same texts in the same order, keeps
one of each group, and runs in a process of its own, on one core; its CPU seconds count from the texts in memory (as
Python strings, or in Arrow for ours) to a decision on each, after a run on 2,000 of them (compilation, imports), and
the runs of the systems take turns. The least of the repeats counts. Peak memory is what the process takes beyond what
it has with the texts loaded.

Recall: of the rows that a perfect system would drop (all but one of each planted group), how many were; also by the
share of words edited. Precision: of the rows dropped, how many left another one of their group. A record that differs
from another in a number (`twin`) is a record of its own; since no peer has such a rule, `precision_twins_as_copies` is
what it would be if twins were copies.

Each peer is given what suits it best: sets of words, pairs of words or five characters, so many permutations and bands
of them, and the threshold at which it verifies, chosen at 10^5 as the fastest with a recall of 0.95.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import in_process, memory, write
from numpy.typing import NDArray

SIZES = (100_000, 1_000_000)
OURS = ("ours:c4:0.4:32:128", "ours:w2:0.4:32:128", "exact:-:1:0:0")
PEERS = (
    "rensa:w1:0.7:16:128",
    "rensa:w1:0.7:8:64",
    "rensa:w2:0.5:32:128",
    "rensa:c5:0.6:32:128",
    "gaoya:c5:0.6:32:128",
    "datasketch:w1:0.7:16:128",
    "datatrove:w1:0:16:128",
)
"""system:shingles:threshold:bands:permutations."""
SLOW = ("gaoya", "datasketch", "datatrove")
"""Systems that run once, and at the first size only: at the second a run takes minutes."""
NOT_RUN = {
    "text-dedup": "0.4.1 needs Python 3.12 and a configuration of its own that reads files",
    "semhash": "compares embeddings; its model is fetched from a hub, which the measuring machine cannot reach",
    "nemo-curator, data-juicer": "need RAPIDS, or a Ray cluster, for this step",
}
Flags = NDArray[np.bool_]


def shingles(text: str, form: str) -> list[str]:
    """Return shingles as Python makes them: `w1` words, `w2` pairs of words, `c5` five characters."""
    text = text.lower()
    if form[0] == "c":
        return [text[n : n + 5] for n in range(max(1, len(text) - 4))]
    words = text.split()
    if not text.isascii():  # Chinese by characters
        words = [unit for word in words for unit in (word if ord(word[0]) > 0x3000 else (word,))]
    return words if form == "w1" or len(words) < 2 else [f"{a} {b}" for a, b in pairwise(words)]


def ours(texts: pa.LargeStringArray, form: str, threshold: float, bands: int, permutations: int) -> Flags:
    from gristmill.cluster.contract.sample import Message, seed, to_table
    from gristmill.selection.contracts import View
    from gristmill.selection.data.parts import Parts
    from gristmill.selection.data.samples import Samples
    from gristmill.selection.selectors.minhash import MinHash, minhash

    rows, unit = np.arange(len(texts)), "character" if form[0] == "c" else "word"
    table = to_table([seed((Message("user", text),)) for text in texts.to_pylist()])  # in the order of the texts
    ends, names = np.array([0, len(texts)], np.int64), np.array([f"{n:032x}" for n in rows], "S32")
    view = View(Samples(Parts.of([table.select]), ends, names, rows.astype(np.int32), {}), rows)
    step = MinHash(unit=unit, shingle=int(form[1:]), threshold=threshold, bands=bands, permutations=permutations)
    lost, _ = minhash(view, rows, step, np.zeros(len(texts), np.uint64))
    return lost >= 0


def exact(texts: pa.LargeStringArray, form: str, threshold: float, bands: int, permutations: int) -> Flags:
    from gristmill.selection.duplicates import groups, normal

    return groups.first(np.arange(len(texts)), *normal.keys(texts)) >= 0


def rensa(texts: list[str], form: str, threshold: float, bands: int, permutations: int) -> Flags:
    from rensa import RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold, permutations, True, bands, 42)
    return ~np.array(index.add_pairs((str(n), shingles(text, form)) for n, text in enumerate(texts)))


def datasketch(texts: list[str], form: str, threshold: float, bands: int, permutations: int) -> Flags:
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=permutations, params=(bands, permutations // bands))
    kept: dict[int, MinHash] = {}
    found = np.zeros(len(texts), np.bool_)
    sets = ([s.encode() for s in shingles(text, form)] for text in texts)
    for n, made in enumerate(MinHash.generator(sets, num_perm=permutations, hashfunc=xxhash.xxh32_intdigest)):
        found[n] = any(kept[other].jaccard(made) >= threshold for other in index.query(made))
        if not found[n]:
            kept[n] = made
            index.insert(n, made)
    return found


def gaoya(texts: list[str], form: str, threshold: float, bands: int, permutations: int) -> Flags:
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=threshold,
        num_bands=bands,
        band_size=permutations // bands,
        num_hashes=permutations,
        analyzer="char" if form[0] == "c" else "word",
        lowercase=True,
        ngram_range=(int(form[1]), int(form[1])),
    )
    found = np.zeros(len(texts), np.bool_)
    for n, text in enumerate(texts):
        found[n] = bool(index.query(text))
        if not found[n]:
            index.insert_document(n, text)
    return found


def datatrove(texts: list[str], form: str, threshold: float, bands: int, permutations: int) -> Flags:
    """Run its three stages one after another; it keeps whatever shares no band, and verifies nothing."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash as trove
    from loguru import logger

    logger.remove()
    settings = trove.MinhashConfig(n_grams=int(form[1]), num_buckets=bands, hashes_per_bucket=permutations // bands)
    with tempfile.TemporaryDirectory() as folder:
        documents = (Document(text=text, id=str(n)) for n, text in enumerate(texts))
        trove.MinhashDedupSignature(f"{folder}/signatures", config=settings).run(documents, 0, 1)
        stage = trove.MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=settings)
        for bucket in range(bands):
            stage.run(None, bucket, bands)
        trove.MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=settings).run(None, 0, 1)
        removed = np.fromfile(f"{folder}/removed/000000.remove", np.uint32)
    found = np.zeros(len(texts), np.bool_)
    found[removed] = True
    return found


SYSTEMS: dict[str, Callable[..., Flags]] = {
    "ours": ours,
    "exact": exact,
    "rensa": rensa,
    "datasketch": datasketch,
    "gaoya": gaoya,
    "datatrove": datatrove,
}


def quality(table: pa.Table, dropped: Flags) -> dict[str, Any]:
    """Return recall and precision from the flags alone, which every system gives."""
    group, family, rate = (table[name].to_numpy() for name in ("group", "family", "rate"))
    edits = np.flatnonzero(np.array(table["kind"].to_pylist()) == "edit")
    found = np.bincount(group[dropped], minlength=group.max() + 1)[group[edits]] > 0
    right, planted = _right(group, dropped)
    return {
        "recall": round(right / planted, 4),
        "recall_by_rate": {f"{r:.2f}": round(float(found[rate[edits] == r].mean()), 4) for r in np.unique(rate[edits])},
        "precision": round(right / max(1, int(dropped.sum())), 4),
        "precision_twins_as_copies": round(_right(family, dropped)[0] / max(1, int(dropped.sum())), 4),
        "dropped": int(dropped.sum()),
    }


def _right(group: NDArray[np.int64], dropped: Flags) -> tuple[int, int]:
    """Return how many rows are rightly dropped, and how many should be: all of a group but one."""
    size = np.bincount(group)
    most = np.maximum(size - 1, 0)
    return int(np.minimum(np.bincount(group[dropped], minlength=len(size)), most).sum()), int(most.sum())


def one(system: str, path: Path) -> dict[str, Any]:
    """Run a system once on the records of a file."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    name, form, *numbers = system.split(":")
    threshold, bands, permutations = float(numbers[0]), int(numbers[1]), int(numbers[2])
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        column = pa.concat_arrays(table["text"].chunks)
        texts = column if name in {"ours", "exact"} else column.to_pylist()
        texts[:2000] and SYSTEMS[name](texts[:2000], form, threshold, bands, permutations)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began, wall = time.process_time(), time.perf_counter()
        dropped = SYSTEMS[name](texts, form, threshold, bands, permutations)
        seconds, wall = time.process_time() - began, time.perf_counter() - wall
        peak = memory("VmHWM") - before
        return {
            "records_per_cpu_s": round(len(texts) / seconds),
            "cpu_s": round(seconds, 2),
            "wall_s": round(wall, 2),
            "peak_mib": round(peak),
            **quality(table, dropped),
        }


def measured(path: Path, systems: list[tuple[str, str]], repeat: int) -> dict[str, Any]:
    """Run the systems in turns, each with its Python, and keep the run with the least CPU time of each."""
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system, _ in systems}
    for turn in range(repeat):
        for system, python in systems:
            if turn and system.split(":")[0] in SLOW:
                continue
            arguments = ["--one", system, "--file", str(path)]
            runs[system].append(in_process("minhash.py", arguments, {"OMP_NUM_THREADS": "1"}, python))
    return {
        system: min(found, key=lambda run: run["cpu_s"]) | {"cpu_s_of_all": [run["cpu_s"] for run in found]}
        for system, found in runs.items()
    }


def ratio(figures: dict[str, Any]) -> dict[str, Any]:
    """Compare with the fastest peer that reaches a recall of 0.95."""
    peers = {name: f for name, f in figures.items() if name.split(":")[0] not in {"ours", "exact"}}
    able = {name: f["records_per_cpu_s"] for name, f in peers.items() if f["recall"] >= 0.95}
    fastest = max(able, key=able.__getitem__)
    rates = {name: f["records_per_cpu_s"] for name, f in figures.items() if name.startswith("ours")}
    return {"fastest_peer": fastest, "times": {name: round(rate / able[fastest], 2) for name, rate in rates.items()}}


def main() -> None:
    """Measure and write `minhash.json` beside this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers-python", default="")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.file)))
        return
    import sys

    from planted import KINDS, planted, sources, table

    result: dict[str, Any] = {"records": KINDS, "not_run": NOT_RUN}
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            path = Path(folder, f"{size}.arrow")
            rows = table(planted(sources(args.data), size, 0))
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows.combine_chunks())
            del rows
            peers = [p for p in PEERS if args.peers_python and (size == args.sizes[0] or p.split(":")[0] not in SLOW)]
            systems = [(system, sys.executable) for system in OURS] + [(peer, args.peers_python) for peer in peers]
            figures = measured(path, systems, args.repeat)
            result[str(size)] = {"systems": figures, **(ratio(figures) if peers else {})}
    if len(args.sizes) > 1:
        small, large = (result[str(size)]["systems"] for size in (args.sizes[0], args.sizes[-1]))
        result["memory_growth"] = {name: round(large[name]["peak_mib"] / small[name]["peak_mib"], 2) for name in OURS}
    write("minhash", result)


if __name__ == "__main__":
    main()
