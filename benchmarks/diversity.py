"""Diversity at 10^5 and 10^6 x 384: seconds and memory beside the plain greedy's bound, objectives beside its peers'.

    python benchmarks/diversity.py [--rows 100000 1000000] [--peers PYTHON]

The data are made: topics of Zipf sizes, each a cone of its own width and 24 directions, one sample in 200 near no topic
and one in fifty an exact copy; and, for k-center, directions at random, where nothing is like anything. Every run is a
process of its own on a memory map that the page cache holds.

`read_bound_s`: the plain greedy reads the whole matrix for every choice; budget x the time to read it once on all cores
(a sum over it in compiled code, the best of five). `flops_bound_s`: n x budget x d multiplications at the speed of the
library's matrix product. `ratio` is our time over the read bound, `ratio_cpu` the same in CPU seconds, which says more
where the machine has other work. `over_matrix` is the peak of anonymous memory over the matrix' bytes. Objectives are
exact and the same for all: `radius`, the largest 1 - cosine to the nearest chosen sample, and `coverage`, the mean
cosine to it, over 20,000 samples drawn; beside a random choice of the same size.

PYTHON is one that has apricot-select and submodlib-py; they get 5,000 rows and a budget of 500.
"""

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

DIM = 384
BUDGETS = (1_000, 10_000)
METHODS = ("k_center", "facility_location", "cluster_balanced", "mmr", "dpp")
CHECKED = 20_000
"""Rows that an objective is measured on."""
PLAIN = 30
"""Choices of the plain greedy that are timed; it takes as long for each."""
SMALL = (5_000, 500)
"""Rows and budget of the peers."""
MIDDLE = (12_000, 120)
"""Rows and budget at which dense facility location still fits, for what the blocks cost."""


def make(path: Path, rows: int, kind: str) -> None:
    """Write [rows, DIM] unit rows in float32."""
    rng = np.random.default_rng(11)
    topics = max(20, rows // 400)
    middles = rng.normal(size=(topics, DIM)).astype(np.float32)
    middles[1::2] += middles[::2][: len(middles[1::2])]  # topics come in pairs
    widths = rng.uniform(0.4, 1.6, topics).astype(np.float32)
    axes = rng.normal(size=(64, 24, DIM)).astype(np.float32)
    share = 1 / np.arange(1, topics + 1) ** 0.7
    found = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIM))
    for start in range(0, rows, 50_000):
        num = min(50_000, rows - start)
        block = rng.normal(size=(num, DIM)).astype(np.float32)
        if kind == "topics":
            topic = rng.choice(topics, num, p=share / share.sum())
            near = rng.normal(size=(num, 24)).astype(np.float32) / 24**0.5
            for group in range(64):
                mine = np.flatnonzero(topic % 64 == group)
                block[mine] = 0.35 * block[mine] + near[mine] @ axes[group]
            block = middles[topic] + widths[topic, None] * block
            block[::200] = rng.normal(size=block[::200].shape)  # near no topic
            block[1::50] = block[2::50][: len(block[1::50])]
        found[start : start + num] = block / np.linalg.norm(block, axis=1, keepdims=True)
    found.flush()


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Measure seconds, CPU seconds and the peak of anonymous memory (MiB) over that at the beginning."""
    result: dict[str, float] = {}
    before, peak, ended = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    used, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield result
    result["seconds"] = round(time.perf_counter() - start, 3)
    done = resource.getrusage(resource.RUSAGE_SELF)
    result["cpu_s"] = round(done.ru_utime + done.ru_stime - used.ru_utime - used.ru_stime, 3)
    ended.set()
    watcher.join()
    result["peak_mib"] = round(max(peak[0], _anonymous()) - before, 1)


def _anonymous() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def chooser(method: str, rows: int) -> Callable[[Any, int], Any]:
    """Return the method as (matrix, budget) -> Spread."""
    from gristmill.selection.diversity.cluster_balanced import cluster_balanced
    from gristmill.selection.diversity.dpp import dpp
    from gristmill.selection.diversity.facility_location import facility_location
    from gristmill.selection.diversity.k_center import k_center
    from gristmill.selection.diversity.mmr import mmr

    return {
        "k_center": k_center,
        "facility_location": lambda m, b: facility_location(m, b, seed=1),
        "cluster_balanced": lambda m, b: cluster_balanced(m, b, num=round((rows / 2) ** 0.5), seed=1),
        "mmr": lambda m, b: mmr(m, b, np.random.default_rng(3).random(rows), 0.3),
        "dpp": lambda m, b: dpp(m, b, seed=1),
    }[method]


def objectives(vectors: Any, chosen: Any) -> dict[str, float]:
    """Return radius and coverage, exact over the rows drawn."""
    drawn = np.random.default_rng(0).permutation(len(vectors))[:CHECKED]
    centres = np.array(vectors[np.sort(chosen)])
    nearest = np.concatenate(
        [(np.array(vectors[drawn[s : s + 1000]]) @ centres.T).max(axis=1) for s in range(0, len(drawn), 1000)]
    )
    return {"radius": round(float(1 - nearest.min()), 4), "coverage": round(float(nearest.clip(0, 1).mean()), 4)}


def one(path: str, method: str, budget: int) -> dict[str, Any]:
    """Run one method on one file."""
    from gristmill.selection.data.matrix import Matrix

    vectors = np.load(path, mmap_mode="r")
    choose = chooser(method, len(vectors))
    chooser(method, 5000)(Matrix(vectors[:5000].copy()), 10)  # compiled before the clock starts
    vectors.sum()
    with watched() as result:
        found = choose(Matrix(vectors), budget)
    result["over_matrix"] = round(result["peak_mib"] * 2**20 / vectors.nbytes, 3)
    assert len(set(found.chosen.tolist())) == budget
    return {**result, "figures": found.figures, **objectives(vectors, found.chosen)}


def chance(rows: int, budget: int) -> Any:
    """Return a random choice."""
    return np.random.default_rng(2).permutation(rows)[:budget]


def bounds(path: str) -> dict[str, Any]:
    """Return the time to read the matrix once on all cores, of a product with one vector, and the products' speed."""
    from numba import njit, prange

    def total(rows: Any) -> float:
        found = np.zeros(len(rows), np.float32)
        for row in prange(len(rows)):
            found[row] = rows[row].sum()
        return float(found.sum())

    total = njit(parallel=True, fastmath=True)(total)

    vectors = np.load(path, mmap_mode="r")
    total(vectors)
    read, read_cpu = (min(column) for column in zip(*(_timed(lambda: total(vectors)) for _ in range(5)), strict=True))
    block = np.array(vectors[:4096])
    product = min(_timed(lambda: block @ block.T)[0] for _ in range(5))
    nearest = np.full(len(vectors), -1, np.float32)

    def plain() -> None:
        for row in range(PLAIN):
            np.maximum(nearest, vectors @ vectors[row], out=nearest)
            nearest.argmin()

    return {
        "read_s": round(read, 4),
        "read_cpu_s": round(read_cpu, 4),
        "read_gb_s": round(vectors.nbytes / read / 1e9, 1),
        "gflops": round(2 * 4096 * 4096 * DIM / product / 1e9, 1),
        "plain_numpy_choice_s": round(_timed(plain)[0] / PLAIN, 4),
        "random_" + str(BUDGETS[0]): objectives(
            vectors, np.random.default_rng(2).permutation(len(vectors))[: BUDGETS[0]]
        ),
        "random_" + str(BUDGETS[1]): objectives(
            vectors, np.random.default_rng(2).permutation(len(vectors))[: BUDGETS[1]]
        ),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return (seconds, CPU seconds)."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def exact(path: str) -> dict[str, Any]:
    """Compare with the plain greedy in float64, choice by choice; and blocks with dense facility location."""
    from gristmill.selection.data.matrix import Matrix
    from gristmill.selection.diversity.facility_location import facility_location
    from gristmill.selection.diversity.k_center import k_center

    vectors = np.load(path, mmap_mode="r")
    ours = k_center(Matrix(vectors[:CHECKED]), BUDGETS[0]).chosen
    wide, nearest, plain = vectors[:CHECKED].astype(np.float64), np.full(CHECKED, -1.0), [int(ours[0])]
    while len(plain) < BUDGETS[0]:
        np.maximum(nearest, wide @ wide[plain[-1]], out=nearest)
        nearest[plain[-1]] = 2
        plain.append(int(nearest.argmin()))
    rows, budget = MIDDLE
    some = Matrix(np.array(vectors[:rows]))
    gaps = {}
    for name, block_rows in (("dense", rows), ("blocks of 4096", 4096), ("blocks of 1024", 1024)):
        with watched() as result:
            found = facility_location(some, budget, seed=1, block_rows=block_rows)
        gaps[name] = {**result, **objectives(some.base, found.chosen)}
    with watched() as result:
        chosen = graph_greedy(some, budget, 32)
    gaps["graph of 32 neighbours"] = {**result, **objectives(some.base, chosen)}
    gaps["random"] = objectives(some.base, chance(rows, budget))
    return {
        "k_center_equal_choices": int((ours == np.array(plain)).sum()),
        "k_center_choices": BUDGETS[0],
        "facility_location": {"rows": rows, "budget": budget, **gaps},
    }


def graph_greedy(matrix: Any, budget: int, neighbours: int) -> Any:
    """The usual way: a chosen row stands for its nearest neighbours, and those it is a nearest neighbour of, alone."""
    import heapq

    from gristmill.selection.duplicates.neighbours import knn

    near, cosine = knn(matrix, neighbours, seed=1)
    edges: list[dict[int, float]] = [{row: 1.0} for row in range(len(matrix))]
    for row in range(len(matrix)):
        for other, value in zip(near[row].tolist(), cosine[row].tolist(), strict=True):
            if other >= 0:
                edges[row][other] = edges[other][row] = max(0.0, value)
    nearest = [0.0] * len(matrix)
    heap = [(-sum(edge.values()), row, 0) for row, edge in enumerate(edges)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < budget:
        gain, row, turn = heapq.heappop(heap)
        if turn == len(chosen):
            chosen.append(row)
            for other, value in edges[row].items():
                nearest[other] = max(nearest[other], value)
        else:
            gain = sum(max(0.0, value - nearest[other]) for other, value in edges[row].items())
            heapq.heappush(heap, (-gain, row, len(chosen)))
    return np.array(chosen)


def peer(path: str, name: str) -> dict[str, Any]:
    """Run facility location of a package, or ours, on the first rows."""
    rows, budget = SMALL
    vectors = np.array(np.load(path, mmap_mode="r")[:rows])
    with watched() as result:
        if name == "apricot":
            from apricot import FacilityLocationSelection

            similar = np.clip(vectors @ vectors.T, 0, 1).astype(np.float64)
            chosen = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(similar).ranking
        elif name == "submodlib":
            from submodlib.functions.facilityLocation import FacilityLocationFunction

            function = FacilityLocationFunction(n=rows, mode="dense", data=vectors, metric="cosine")
            found = function.maximize(budget, optimizer="LazyGreedy", show_progress=False)
            chosen = np.array([row for row, _ in found])
        else:
            from gristmill.selection.data.matrix import Matrix
            from gristmill.selection.diversity.facility_location import facility_location

            facility_location(Matrix(vectors[:100]), 5, seed=1)
            chosen = facility_location(Matrix(vectors), budget, seed=1, block_rows=rows).chosen
    return {**result, **objectives(vectors, np.asarray(chosen))}


def runs(path: Path, rows: int, methods: tuple[str, ...]) -> dict[str, Any]:
    """Run methods with every budget, each beside its bounds."""
    from common import in_process

    limits = in_process("diversity.py", ["bounds", str(path)], {})
    found: dict[str, Any] = {"bounds": limits}
    for method in methods:
        for budget in BUDGETS:
            run = in_process("diversity.py", ["one", str(path), method, str(budget)], {})
            read, flops = budget * limits["read_s"], 2e-9 * rows * budget * DIM / limits["gflops"]
            run |= {"read_bound_s": round(read, 2), "flops_bound_s": round(flops, 2)}
            run["ratio_cpu"] = round(run["cpu_s"] / budget / limits["read_cpu_s"], 4)
            found[f"{method} {budget}"] = run | {"ratio": round(run["seconds"] / read, 4)}
    return found


def beside(path: Path, peers: str) -> dict[str, Any]:
    """Compare with the definition, with dense facility location, and with the packages."""
    from common import in_process

    python = {"ours": sys.executable} | ({"apricot": peers, "submodlib": peers} if peers else {})
    found = {name: in_process("diversity.py", ["peer", str(path), name], {}, at) for name, at in python.items()}
    sizes = dict(zip(("rows", "budget"), SMALL, strict=True))
    return {"exact": in_process("diversity.py", ["exact", str(path)], {}), "peers": sizes | found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--peers", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("task", nargs="*")
    args = parser.parse_args()
    if args.task:
        name, path, *rest = args.task
        tasks = {"one": lambda: one(path, rest[0], int(rest[1])), "bounds": lambda: bounds(path)}
        tasks |= {"exact": lambda: exact(path), "peer": lambda: peer(path, rest[0])}
        print(json.dumps(tasks[name]()))
        return
    from common import write

    settings = {"dim": DIM, "budgets": BUDGETS, "dtype": "float32", "checked": CHECKED, "load": os.getloadavg()}
    result: dict[str, Any] = {"settings": settings}
    with TemporaryDirectory(dir=args.folder) as folder:
        for kind, rows in (*(("topics", rows) for rows in args.rows), ("directions", args.rows[0])):
            path = Path(folder) / f"{kind}-{rows}.npy"
            make(path, rows, kind)
            result[f"{kind} {rows}"] = runs(path, rows, METHODS if kind == "topics" else METHODS[:1])
            if kind == "topics" and rows == args.rows[0]:
                result |= beside(path, args.peers)
            path.unlink()
    write("diversity", result)


if __name__ == "__main__":
    main()
