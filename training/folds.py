"""Cross-validation: several trainings, of which each is measured on another held-out part of the rows.

The parts are made of whole families (`training.data.families`), so no row is tested by a model that was trained on a
relative of it. The trainings write no model; the model of the job is trained as without folds.
"""

import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
from gristmill.training.loop import stopping
from gristmill.training.settings import TrainSettings
from gristmill.training.trials import FOLDER, Fit, Trials

FOLDS = "folds.json"
"""File with the folds that have ended, in the folder of the training."""


@dataclass(frozen=True, slots=True)
class Fold:
    """The result of one fold."""

    loss: float
    """Held-out loss, in nats per token."""
    held: int
    """Number of held-out rows."""
    trained: int
    """Number of rows that were trained on."""
    families: int
    """Number of families of the held-out rows."""
    steps: int
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of the task on the held-out rows."""


def run_folds(job: TrainSettings, run: Run, work: Work, fit: Fit) -> list[Fold]:
    """Train once for each fold, and return the results. Folds that have ended are not trained again.

    Raises:
        JobError: when there are fewer families than folds.
        RunError: when a training fails.
    """
    done = read(run.store, work.output)
    for number in range(len(done), job.folds):
        name = f"{work.output}/{FOLDER}/fold-{number + 1}"
        lines, _ = Trials(run, work, fit).train(job, name, {}, (number, job.folds))
        packed = data.PackedCounts(**run.store.read_json(name, data.PREPARED))
        end = next(m for m in reversed(lines) if "end" in m)
        rows = (packed.holdout, packed.samples, packed.families)
        done.append(Fold(end["holdout_loss"], *rows, end["end"], end.get("measures", {})))
        run.store.write_json([asdict(fold) for fold in done], work.output, FOLDS)
        shutil.rmtree(run.store.folder(name))
        found = stopping.said(job.metric, stopping.of_line(end, end["end"], job.metric).error)
        run.screen.say(f"train: fold {number + 1} of {job.folds}: {found} of {packed.holdout} samples")
    for line in said(tuple(fold.loss for fold in done), measures_of(done)):
        run.screen.say(f"train: {line}")
    return done


def measures_of(folds: Sequence[Fold]) -> dict[str, tuple[float, ...]]:
    """Return the measures that all folds have, by name."""
    names = [name for name in folds[0].measures if all(name in fold.measures for fold in folds)]
    return {name: tuple(fold.measures[name] for fold in folds) for name in names}


def said(losses: Sequence[float], measures: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield the means over the folds of the loss and of each measure, with their standard deviations, in words."""
    for name, values in {"loss": losses, **measures}.items():
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        yield f"held-out {name} of {len(values)} folds {mean:.4f}, standard deviation {spread:.4f}"


def read(store: Store, output: str) -> list[Fold]:
    """Return the folds that have ended."""
    found: list[dict[str, Any]] = store.read_json(output, FOLDS) if store.exists(output, FOLDS) else []
    return [Fold(**one) for one in found]
