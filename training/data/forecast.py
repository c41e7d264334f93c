"""The number of steps that a dataset will take, estimated for the plan before rows are packed."""

from typing import NamedTuple

import pyarrow as pa

from gristmill.cluster.models import names
from gristmill.cluster.store.store import Store
from gristmill.training.data import chat, packing
from gristmill.training.data.prepare import conversations, usable, weighing, weights
from gristmill.training.optim.schedule import num_steps
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import prepare as tasks

COUNTED_ROWS = 2_000
"""Largest number of rows whose tokens are counted, which takes some seconds. Further rows are assumed to be alike."""
TOKENS_PER_SAMPLE = 200
"""Assumed number of tokens in a sample that is not made yet. English instruction data has about as many."""


class Forecast(NamedTuple):
    """The expected numbers of optimizer steps, and of tokens in all steps."""

    steps: int
    tokens: int
    how: str
    """The number of steps in words: `about 11 steps`, `at most 60 steps (…)`."""
    notes: tuple[str, ...] = ()
    """Further notes on the rows."""


def forecast(store: Store, dataset: str, expected: int, job: TrainSettings) -> Forecast:
    """Return the expected number of steps of a dataset.

    The steps are counted if the rows and the tokenizer exist. Otherwise the largest possible number is returned.

    Args:
        store: the store of the dataset.
        dataset: name of the dataset, which may be incomplete.
        expected: expected number of kept rows, for a dataset that is incomplete.
        job: the settings.

    Raises:
        JobError: when no row can be trained on.
    """
    share = job.validation if isinstance(job.validation, float) and job.validation_split == "samples" else 0.0
    batch = job.global_batch_size
    folder = names.folder(job.model)
    if folder is None or not dataset or not store.complete(dataset) or not store.manifest(dataset).kept:
        rows = max(1, round(expected * (1 - share)))
        most = job.steps or num_steps(job.epochs, rows, batch)
        how = f"{most} steps" if job.steps else f"at most {most} steps (as many as without packing)"
        return Forecast(most, int(rows * TOKENS_PER_SAMPLE * job.epochs), how)
    table = store.read(dataset)
    fit = table.filter(pa.array(usable(table)[0]))
    some = fit.slice(0, COUNTED_ROWS)
    more = fit.num_rows / max(1, some.num_rows)
    lost: tuple[str, ...] = ()
    if job.task.causal:
        lengths = chat.encode(
            chat.tokenizer(folder, job.template, job.template_args), conversations(some), job.encoding
        ).lengths
        taken = lengths[: max(1, round(len(lengths) * (1 - share)))]
        bins = max(1, round(len(packing.fit(taken, job.max_length)) * more))
    else:
        lengths, lost = tasks.measured(fit, some, folder, dataset, job)
        taken = lengths[: max(1, round(len(lengths) * (1 - share)))]
        bins = max(1, round(len(taken) * more))
    steps = job.steps or num_steps(job.epochs, bins, batch)
    how = f"{steps} steps" if job.steps else f"about {steps} steps"
    notes = (*(f"{count} {what}" for what, count in weighing(weights(fit)).items()), *lost)
    return Forecast(steps, round(int(taken.sum()) * more / bins * steps * batch), how, notes)
