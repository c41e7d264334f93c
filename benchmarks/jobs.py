"""A generate job as the benchmarks run it: prompts as inputs of a store of its own, on an engine that is timed."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.models.encoder import open_embedding
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.actors import OpenEngine
from gristmill.generation.engines.vllm import VllmEngine
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.job import Generate

OUT = "out"
"""Folder of the store that the job makes."""


class TimedEngine(VllmEngine):
    """Leaves the time of its first request in a file."""

    first: Path

    async def ask(self, request: Request) -> Reply:
        if not self.first.exists():
            self.first.write_text(repr(time.time()))
        return await super().ask(request)


class Opens:
    """Opens a `TimedEngine` in the worker."""

    def __init__(self, folder: str) -> None:
        self.first = f"{folder}/first"

    def __call__(self, settings: Engine) -> TimedEngine:
        engine = TimedEngine(settings)
        engine.first = Path(self.first)
        return engine

    def seconds(self) -> float:
        """Return the seconds since the first request."""
        return time.time() - float(Path(self.first).read_text())


def inputs(folder: str, texts: Sequence[str]) -> tuple[Store, str]:
    """Return a store in the folder, and the name of the dataset in it that prompts became."""
    path = Path(folder) / "prompts.jsonl"
    rows = ({"messages": [{"role": "user", "content": text}]} for text in texts)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    store = Store(f"{folder}/store")
    return store, ingest.ingest(store, ingest.Source(path=(str(path),)))


def make(generate: Generate, store: Store, seeds: str, opens: OpenEngine) -> GenerateFigures:
    """Make a job on a Ray session that stands, and return its figures."""
    run = Run("run", store, Ledger(store, "run"), Screen(quiet=True), str(store.folder("logs")))
    return generate.make_on(run, Work(OUT, "f" * 32, {"samples": seeds}), opens, open_embedding)
