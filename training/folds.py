"""Cross-validation: the held-out loss of several trainings, of which each holds out another part of the rows.

The parts are made of whole families (`training.data.families`), so no row is tested by a model that was trained on a
relative of it. The trainings write no model; the model of the job is trained as without folds.
"""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
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


def run_folds(job: TrainSettings, run: Run, work: Work, fit: Fit) -> tuple[float, ...]:
    """Train once for each fold, and return the held-out losses. Folds that have ended are not trained again.

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
        done.append(Fold(end["holdout_loss"], packed.holdout, packed.samples, packed.families, end["end"]))
        run.store.write_json([asdict(fold) for fold in done], work.output, FOLDS)
        shutil.rmtree(run.store.folder(name))
        loss = f"held-out loss {done[-1].loss:.4f} of {packed.holdout} samples"
        run.screen.say(f"train: fold {number + 1} of {job.folds}: {loss}")
    losses = tuple(fold.loss for fold in done)
    run.screen.say(f"train: {said(losses)}")
    return losses


def said(losses: Sequence[float]) -> str:
    """Return the mean of the folds' losses and their standard deviation, in words."""
    mean, spread = statistics.fmean(losses), statistics.stdev(losses)
    return f"held-out loss of {len(losses)} folds {mean:.4f}, standard deviation {spread:.4f}"


def read(store: Store, output: str) -> list[Fold]:
    """Return the folds that have ended."""
    found: list[dict[str, Any]] = store.read_json(output, FOLDS) if store.exists(output, FOLDS) else []
    return [Fold(**one) for one in found]
