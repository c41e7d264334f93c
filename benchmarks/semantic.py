"""Near pairs of vectors: CPU, memory and recall beside FAISS (IVF, HNSW) and semhash, each in its own process.

    python benchmarks/semantic.py [--rows 100000 1000000] [--peers-python PYTHON] [--data FOLDER]

The peers' interpreter has faiss-cpu and semhash. The vectors are made, [rows, 384]: topics of low rank with noise of
low rank and of none, as sentence encoders give. A tenth are copies of others at cosines from 0.93 to 0.999; one in a
hundred belongs to one hot group of near copies, one in a hundred to a group of equal vectors. Truth is brute force for
5,000 of the rows against all. `pairs` is the share of their pairs at cosine 0.95 that a system found; `rows` the share
of those with such a pair before them whose being a duplicate it found, through whichever pair; `pairs_small` leaves out
rows with more than 100 pairs, which bounded lists cut. Steps that drop rows (`semantic`, `rethreshold`, semhash) find
less of all: who is near to nobody that stays stays too.

CPU seconds are user and system time of the whole search after the vectors are in memory: training, building, adding,
searching; one thread each, so that they are of work and not of waiting. Peers have one setting a line, and the cheapest
that reaches our recall is the one to compare with; IVF answers ranges, HNSW its 16 nearest, and semhash drops rows.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import in_process, write

DIM, MIN_COSINE, QUERIES, SMALL, PIECE = 384, 0.95, 5000, 100, 50_000
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
OURS = ("pairs", "pairs-0.90", "semantic", "rethreshold")
PEERS = ("ivf-1", "ivf-2", "ivf-4", "ivf-8", "hnsw", "semhash")
LARGE = ("ivf-2", "ivf-4")
"""Peers that are run with more than 200,000 rows; the others take hours there, or did not come near our recall."""
Found = tuple[np.ndarray, np.ndarray]


def vectors(rows: int) -> np.ndarray:
    """Return [rows, 384] unit rows."""
    rng = np.random.default_rng(7)
    topics = _unit(rng.normal(size=(max(50, rows // 500), 48)) @ rng.normal(size=(48, DIM)))
    common = _unit(rng.normal(size=(64, DIM)))
    found = np.empty((rows, DIM), np.float32)
    for start in range(0, rows, PIECE):
        size = min(PIECE, rows - start)
        topic = topics[(len(topics) * rng.random(size) ** 2).astype(int)]  # large ones and small ones
        found[start : start + size] = _unit(topic + rng.uniform(0.4, 1.2, (size, 1)) * _noise(size, common, rng))
    order = rng.permutation(rows)
    near, hot, equal, rest = np.split(order, [rows // 10, rows * 11 // 100, rows * 12 // 100])
    _copies(found, near, rng.choice(rest, len(near)), (0.93, 0.999), common, rng)
    _copies(found, hot, rest[:1].repeat(len(hot)), (0.98, 0.999), common, rng)
    found[equal] = found[rest[rng.integers(1, 20, len(equal))]]
    return found


def _noise(size: int, common: np.ndarray, rng: Any) -> np.ndarray:
    """Return rows of a length of about 1, half in the directions that all topics vary in, half in any."""
    inside, outside = _unit(rng.normal(size=(size, len(common))) @ common), _unit(rng.normal(size=(size, DIM)))
    return np.asarray((inside + outside) / 2**0.5)


def _copies(
    found: np.ndarray, places: np.ndarray, bases: np.ndarray, cosines: tuple[float, float], common: np.ndarray, rng: Any
) -> None:
    for start in range(0, len(places), PIECE):
        base = found[bases[start : start + PIECE]]
        cosine = rng.uniform(*cosines, (len(base), 1))
        aside = _noise(len(base), common, rng)
        aside = _unit(aside - (aside * base).sum(axis=1, keepdims=True) * base)
        found[places[start : start + PIECE]] = _unit(cosine * base + (1 - cosine**2) ** 0.5 * aside)


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def truth(matrix: np.ndarray) -> Found:
    """Return (query, row) of all pairs of 5,000 rows, found by multiplying them with all."""
    queries = np.linspace(0, len(matrix) - 1, QUERIES).astype(int)
    left, right = [], []
    for start in range(0, len(matrix), 8192):
        query, row = np.nonzero(matrix[queries] @ matrix[start : start + 8192].T >= MIN_COSINE)
        left.append(queries[query])
        right.append(row + start)
    pairs = np.concatenate(left), np.concatenate(right)
    others = pairs[0] != pairs[1]
    return pairs[0][others], pairs[1][others]


def recall(found: Found, true: Found, rows: int) -> dict[str, float]:
    """Return the shares of true pairs, of those of rows with few, and of rows with an earlier near one, as found."""
    left, right = found[0].astype(np.int64), found[1].astype(np.int64)
    both = np.concatenate([left * rows + right, right * rows + left])
    hit = np.isin(true[0] * rows + true[1], both)
    few = (np.bincount(true[0], minlength=rows) <= SMALL)[true[0]]
    earlier = true[1] < true[0]
    lost = np.unique(true[0][earlier])
    seen = np.unique(np.maximum(*found))
    return {
        "pairs": round(float(hit.mean()), 5),
        "pairs_small": round(float(hit[few].mean()), 5),
        "rows": round(float(np.isin(lost, seen).mean()), 5),
    }


def ours(name: str, matrix: np.ndarray) -> Callable[[], Found]:
    """Return a search of ours, compiled already."""
    from random import Random

    from gristmill.cluster.contract.sample import Message, seed, to_table
    from gristmill.selection.contracts import View
    from gristmill.selection.data.matrix import Matrix
    from gristmill.selection.data.parts import Parts
    from gristmill.selection.data.samples import open_samples
    from gristmill.selection.duplicates import neighbours
    from gristmill.selection.selectors.semantic import PROBES, Semantic

    most = max(1, Semantic.max_pairs // len(matrix))
    if name.startswith("pairs"):
        floor = 0.9 if name == "pairs-0.90" else MIN_COSINE
        neighbours.pairs(Matrix(matrix[:2000]), 0.9, seed=0, probes=PROBES, most=most)

        def search() -> Found:
            found = neighbours.pairs(Matrix(matrix), floor, seed=0, probes=PROBES, most=most)
            close = found.cosine >= MIN_COSINE
            return found.left[close].astype(np.int64), found.right[close].astype(np.int64)

        return search
    samples = [
        seed((Message("user", f"{n:07d}"),)) for n in range(len(matrix))
    ]  # equally long, so best first is by row
    starts = range(0, len(samples), 65536)
    pool, _ = open_samples(Parts.of([to_table(samples[n : n + 65536]).select for n in starts]), "made")
    view = View(pool, np.arange(len(pool.ids)), Matrix(matrix))
    assert len(np.unique(pool.lengths)) == 1  # made once, like the vectors
    Semantic(min_overlap=0).pick(view.take(np.arange(len(view)) < 2000), Random(0))
    if name == "rethreshold":
        Semantic(min_overlap=0, min_cosine=0.93).pick(view, Random(0))

    def select() -> Found:
        choice = Semantic(min_overlap=0, min_cosine=MIN_COSINE).pick(view, Random(0))
        gone = np.flatnonzero(~choice.kept)
        assert choice.lost_to is not None
        return np.searchsorted(view.ids, choice.lost_to[gone]), gone

    return select


def peer(name: str, matrix: np.ndarray) -> Callable[[], Found]:
    """Return a search of a peer."""
    if name == "semhash":
        return lambda: _semhash(matrix)
    import faiss

    faiss.omp_set_num_threads(1)
    return (lambda: _hnsw(faiss, matrix)) if name == "hnsw" else (lambda: _ivf(faiss, matrix, int(name[4:])))


def _ivf(faiss: Any, matrix: np.ndarray, probes: int) -> Found:
    lists = round(4 * len(matrix) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = 12, 64  # as ours; by default 25 and 256, four times the cost
    index.train(matrix)
    index.add(matrix)
    index.nprobe = probes
    left, right = [], []
    for start in range(0, len(matrix), 20_000):
        ends, _, rows = index.range_search(matrix[start : start + 20_000], MIN_COSINE)
        query = np.repeat(np.arange(start, start + len(ends) - 1), np.diff(ends.astype(np.int64)))
        later = rows > query
        left.append(query[later])
        right.append(rows[later])
    return np.concatenate(left), np.concatenate(right)


def _hnsw(faiss: Any, matrix: np.ndarray) -> Found:
    index = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    index.add(matrix)
    cosines, rows = index.search(matrix, 16)
    query, place = np.nonzero((cosines >= MIN_COSINE) & (rows >= 0))
    near = rows[query, place]
    others = near != query
    return np.minimum(query, near)[others], np.maximum(query, near)[others]


class Numbered:
    """An encoder of texts that are row numbers."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix

    def encode(self, texts: Any, **_: Any) -> np.ndarray:
        return self._matrix[[int(text) for text in texts]]


def _semhash(matrix: np.ndarray) -> Found:
    from semhash import SemHash

    hashed = SemHash.from_records([str(n) for n in range(len(matrix))], model=Numbered(matrix))
    gone = hashed.self_deduplicate(threshold=MIN_COSINE).filtered
    found = np.array([(int(one.duplicate_of), int(one.record)) for one in gone])
    return found.min(axis=1), found.max(axis=1)


def one(name: str, path: Path) -> None:
    """Run one system and print what it took."""
    matrix = np.load(path)
    search = ours(name, matrix) if name in OURS else peer(name, matrix)
    _peak()
    base, begin, used = _peak(), time.perf_counter(), _cpu()
    found = search()
    result = {"cpu_s": _cpu() - used, "wall_s": time.perf_counter() - begin, "peak_mib": _peak() - base}
    np.savez(path.with_suffix(f".{name}.npz"), *found)
    print(json.dumps({key: round(value, 2) for key, value in result.items()} | {"pairs_found": len(found[0])}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    """Return the largest memory since the last call in MiB; `ru_maxrss` begins with that of the parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(status["VmHWM"].split()[0]) / 1024


def measured(rows: int, folder: Path, peers_python: str) -> dict[str, Any]:
    """Return what each system took for so many rows, and its recall."""
    path = folder / f"vectors-{rows}.npy"
    if not path.exists():
        np.save(path, vectors(rows))
    true = truth(np.load(path))
    result: dict[str, Any] = {"true_pairs": len(true[0])}
    peers = (PEERS if rows <= 200_000 else LARGE) if peers_python else ()
    for name in (*OURS, *peers):
        arguments = ["--one", name, "--file", str(path)]
        took = in_process("semantic.py", arguments, THREADS, *([peers_python] if name in PEERS else []))
        with np.load(path.with_suffix(f".{name}.npz")) as found:
            result[name] = took | {"recall": recall((found["arr_0"], found["arr_1"]), true, rows)}
        path.with_suffix(f".{name}.npz").unlink()
        print(name, result[name], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--peers-python", default="")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "gristmill-semantic")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one:
        one(settings.one, settings.file)
        return
    settings.data.mkdir(parents=True, exist_ok=True)
    write("semantic", {str(rows): measured(rows, settings.data, settings.peers_python) for rows in settings.rows})


if __name__ == "__main__":
    main()
