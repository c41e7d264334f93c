"""The number of steps that a dataset will take, estimated for the plan before rows are packed."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models import names
from gristmill.cluster.store.store import Store
from gristmill.training.data import chat, mixture, packing
from gristmill.training.data.tokens import conversations, usable, weighing, weights
from gristmill.training.optim.schedule import num_steps
from gristmill.training.settings import LENGTH, TrainSettings
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


def forecast(store: Store, datasets: Mapping[str, str], expected: int, job: TrainSettings) -> Forecast:
    """Return the expected number of steps of the datasets that are trained on.

    The steps are counted if the rows and the tokenizer exist. Otherwise the largest possible number is returned.

    Args:
        store: the store of the datasets.
        datasets: names of the datasets by role, which may be incomplete.
        expected: expected number of kept rows in all of them.
        job: the settings.

    Raises:
        JobError: when no row can be trained on, or none has the score of the curriculum.
    """
    share = job.validation if isinstance(job.validation, float) and job.validation_split == "samples" else 0.0
    batch = job.global_batch_size
    folder = names.folder(job.model)
    known = datasets and all(store.complete(name) and store.manifest(name).kept for name in datasets.values())
    if folder is None or not known:
        rows = max(1, round(expected * (1 - share)))
        most = job.steps or num_steps(job.epochs, rows, batch)
        how = f"{most} steps" if job.steps else f"at most {most} steps (as many as without packing)"
        return Forecast(most, int(rows * TOKENS_PER_SAMPLE * job.epochs), how)
    tables = [store.read(name) for name in datasets.values()]
    tables = [table.filter(pa.array(usable(table)[0])) for table in tables]
    every = pa.concat_tables(tables)  # a head has the labels of all datasets
    found = [
        _counted(fit, every, folder, name, share, job) for name, fit in zip(datasets.values(), tables, strict=True)
    ]
    if job.curriculum not in (None, LENGTH) and not any(job.curriculum in one.scores for one in found):
        scores = ", ".join(sorted({LENGTH}.union(*(one.scores for one in found))))
        raise JobError(f"train.curriculum: {job.curriculum}, but no sample has this score; must be one of {scores}")
    taken = mixture.taken(
        [one.bins for one in found], job.mixture_weights, job.mixture_temperature, job.replay, job.mixture_least
    )
    bins = sum(taken)
    steps = job.steps or num_steps(job.epochs, bins, batch)
    how = f"{steps} steps" if job.steps else f"about {steps} steps"
    tokens = sum(one.tokens / one.bins * count for one, count in zip(found, taken, strict=True))
    notes = [note for one in found for note in one.notes]
    if len(found) > 1:
        sources = zip(job.mixture_names, found, taken, strict=True)
        notes += [f"{name}: {one.rows} samples, about {count / bins:.1%} of an epoch" for name, one, count in sources]
    return Forecast(steps, round(tokens / bins * steps * batch), how, tuple(notes))


class _Counted(NamedTuple):
    """The expected numbers of one dataset, without held-out rows."""

    rows: int
    bins: int
    tokens: int
    notes: tuple[str, ...]
    scores: set[str]


def _counted(fit: pa.Table, every: pa.Table, folder: str, name: str, share: float, job: TrainSettings) -> _Counted:
    some = fit.slice(0, COUNTED_ROWS)
    more = fit.num_rows / max(1, some.num_rows)
    lost: tuple[str, ...] = ()
    if job.task.causal:
        tok = chat.tokenizer(folder, job.template, job.template_args)
        lengths = chat.encode(tok, conversations(some), job.encoding).lengths
        taken = lengths[: max(1, round(len(lengths) * (1 - share)))]
        bins = max(1, round(len(packing.fit(taken, job.max_length)) * more))
    else:
        lengths, lost = tasks.measured(every, some, folder, name, job)
        taken = lengths[: max(1, round(len(lengths) * (1 - share)))]
        bins = max(1, round(len(taken) * more))
    scores = {name for row in some["scores"].to_pylist() for name, _ in row}
    notes = (*(f"{count} {what}" for what, count in weighing(weights(fit)).items()), *lost)
    return _Counted(fit.num_rows, bins, round(int(taken.sum()) * more), notes, scores)
