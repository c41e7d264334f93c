"""Memory of the driver for the items of a suite: frozen, asked of two scripted models, gathered and compared.

    python benchmarks/items.py            20,000 and 100,000 items, a process each; writes items.json
    python benchmarks/items.py 20000      one number of items

The suite is of the kind `labels` with two labels; a text has about 120 characters. Counted is the memory that the
process itself holds (RssAnon), without mapped files, which the system can take back.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from common import in_process, write

from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Choose, Reply, Request
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.training.evaluate.scorers.labels import Labels
from gristmill.training.evaluate.serving import AskAll
from gristmill.training.evaluate.suites.bench import Bench
from gristmill.training.evaluate.suites.compare import Draws, compare
from gristmill.training.evaluate.suites.freeze import freeze
from gristmill.training.evaluate.suites.values import gathered

SIZES = (20_000, 100_000)
WORDS = ("soup", "bread", "rice", "tea", "fish", "driver", "salad", "cake", "table", "window", "waiter", "street")
LABELS = ("bad", "good")


class Watch:
    """The largest memory that the process holds, above that at the beginning, in MiB."""

    def __init__(self) -> None:
        """Begin to look every 20 ms."""
        self._first, self.most = held(), 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, held() - self._first)
            time.sleep(0.02)

    def take(self) -> float:
        """Return the largest memory since the last call."""
        found, self.most = round(max(self.most, held() - self._first), 1), 0.0
        return found


def held() -> float:
    """Return the memory of this process without mapped files, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def rows(count: int) -> Iterator[Sample]:
    """Yield labelled texts, every one another."""
    for n in range(count):
        words = [WORDS[(n * step + n // 7) % len(WORDS)] for step in range(1, 15)]
        text = f"Number {n}: {' '.join(words)} {n * 7919 % 104_729}"
        yield seed([Message("user", text), Message("assistant", LABELS[n % 2])])


@contextmanager
def engine(folder: str, name: str) -> Iterator[AskAll]:
    """Open a scripted model, which answers by a number in the text."""
    del name

    def ask(requests: Sequence[Request]) -> list[Reply]:
        return [reply(request, folder) for request in requests]

    yield ask


def reply(request: Request, folder: str) -> Reply:
    """Return one of two labels."""
    said = LABELS[len(request.messages[-1].text) * (3 if folder == "b" else 5) % 2]
    if isinstance(request, Choose):
        return Reply(said, "stop", 10, 1, {label: 0.75 if label == said else 0.25 for label in request.choices})
    return Reply(said, "stop", 10, 1)


def one(count: int) -> dict[str, Any]:
    """Evaluate so many items, and return the largest memory of each part and all CPU seconds."""
    store = Store(tempfile.mkdtemp(prefix="items-"))
    made, shards = rows(count), list[Shard]()
    while some := list(islice(made, 16_384)):
        shards.append(store.commit_shard("ingest-000000000001", f"shard-{len(shards):05d}", to_table(some)))
    store.commit(Manifest("ingest-000000000001", "samples", "ingest", "0" * 32, {}, {}, tuple(shards)))
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), None)
    scorer = Labels.model_validate({"input": "x.jsonl", "prompt": "Good or bad?\n\n{prompt}"})
    began, watch, found = time.process_time(), Watch(), dict[str, float]()
    suite = freeze(store, "films", scorer, "ingest-000000000001")
    found["freeze_mib"] = watch.take()
    bench = Bench(run, "evaluate-1", {"base": "b", "tuned": "t"}, [suite])
    bench.run_models(engine, None)
    found["ask_mib"] = watch.take()
    values = gathered(store, "evaluate-1", store.committed("evaluate-1").values(), [suite])
    [figures] = compare([suite], ["base", "tuned"], values, {}, Draws(2000, 0))
    found["compare_mib"] = watch.take()
    assert figures.items == count
    at_rest = sum(array.nbytes for each in values.values() for array in each.numbers.values())
    each = {name: round(most * 2**20 / count) for name, most in (("freeze_bytes", found["freeze_mib"]),
            ("ask_bytes", found["ask_mib"]), ("compare_bytes", found["compare_mib"]))}  # fmt: skip
    return {"items": count, **found, "bytes_an_item": each, "values_bytes_an_item": round(at_rest / count),
            "cpu_s": round(time.process_time() - began, 1)}  # fmt: skip


def main() -> None:
    """Measure one size, or all sizes and write the result."""
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]))))
    else:
        write("items", {"sizes": [in_process("items.py", [str(size)], {}) for size in SIZES]})


if __name__ == "__main__":
    main()
