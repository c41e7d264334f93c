"""Small made-up samples and runs for the tests of selection."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Origin, Sample, to_table
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store, place
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.data.parts import Parts
from gristmill.selection.data.samples import open_samples

if TYPE_CHECKING:
    from gristmill.selection.job import Select


def made(instruction: str, answer: str = "fine", *, judge: float | None = None, dropped: str | None = None) -> Sample:
    messages = (Message("user", instruction), Message("assistant", answer))
    origin = Origin("test-run", "0" * 32, "scripted", 7, 10, 5, "stop")
    name = ids.made_id("0" * 32, [], int(ids.digest(instruction, answer)[:12], 16))
    scores = {} if judge is None else {"judge": judge}
    return Sample(name, messages, method="self_instruct", round=1, scores=scores, dropped=dropped, origin=origin)


def view_of(samples: Sequence[Sample], vectors: Float32 | None = None, **beside: View) -> View:
    """A view in memory; `vectors` stand in the order of the samples, the view's rows in that of their ids."""
    halves = [to_table(samples[: len(samples) // 2]), to_table(samples[len(samples) // 2 :])]
    pool, _ = open_samples(Parts.of([half.select for half in halves]), "made")
    matrix = None
    if vectors is not None:
        place = {s.id.encode(): n for n, s in enumerate(samples)}
        matrix = Matrix(np.ascontiguousarray(vectors[[place[bytes(name)] for name in pool.ids]]))
    return View(pool, np.arange(len(pool.ids)), matrix, beside)


def kept_of(view: View, choice: Choice) -> set[str]:
    """The ids that stay; a check besides that everything in the choice fits together."""
    assert len(choice.reason) == len(view)
    assert choice.reason.max(initial=-1) < len(choice.reasons)
    if choice.lost_to is not None:
        assert not choice.lost_to[choice.kept].any()
    for values in (*choice.scores.values(), *choice.tags.values()):
        assert len(values) == len(view)
    return {name.decode() for name in view.ids[choice.kept]}


def winner_of(view: View, choice: Choice) -> dict[bytes, bytes]:
    """The sample that each one lost to, by their ids; nothing for one that stays."""
    assert choice.lost_to is not None
    return dict(zip(view.ids.tolist(), choice.lost_to.tolist(), strict=True))


def unit(vectors: np.ndarray) -> Float32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def put(store: Store, name: str, samples: Sequence[Sample], shard_rows: int = 10) -> str:
    """Commit samples as a dataset of the store and return its name."""
    starts = range(0, max(1, len(samples)), shard_rows)
    shards = tuple(
        store.commit_shard(name, f"shard-{n:05d}", to_table(samples[start : start + shard_rows]))
        for n, start in enumerate(starts)
    )
    store.commit(Manifest(name, "samples", "generate", "0" * 32, {}, {}, shards), {"seconds": 1.0})
    return name


def run_of(store: Store, tmp_path: Path) -> Run:
    return Run("test-run", store, Ledger(store, "runs/test-run"), Screen(quiet=True), str(tmp_path / "logs"))


def work_for(settings: "Select", samples: str, seeds: str | None = None) -> Work:
    inputs = {"samples": samples, **({"seeds": seeds} if seeds else {})}
    name, fingerprint = place("select", settings.identity(), inputs)
    return Work(name, fingerprint, inputs)
