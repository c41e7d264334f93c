"""The preparation of a dataset for a task with a head: samples are split, read and written as windows.

The files are those of `gristmill.training.data.prepare`, with windows instead of packed bins, and in addition

<output>/labels.json           the labels of the task, in the order of the outputs of the head
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training.data import holdout, tokens
from gristmill.training.data import prepare as data
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import batches, heads, reader
from gristmill.training.tasks.contracts import Asked, Labelled, MisfitError, Task, Window
from gristmill.training.tasks.heads import Head
from gristmill.training.tasks.sequence_classification import too_many
from gristmill.training.tasks.token_classification import TokenClassification

LABELS = "labels.json"
CUT = "texts cut off at max_length"
SEVERAL = "texts read in several windows, because they are longer than max_length"
BARE = "rows without the instruction of train.task.instruction"


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The windows of the samples that can be used."""

    windows: list[list[Labelled]]
    """[used samples] windows of each."""
    places: NDArray[np.int64]
    """[used samples] index of each among all samples."""
    drops: Mapping[str, int]
    notes: Mapping[str, int]


def encode(
    task: Task,
    tok: Any,  # noqa: ANN401
    samples: Sequence[Sample],
    names: Sequence[str],
    job: TrainSettings,
) -> EncodedTexts:
    """Return the labelled windows of samples. A sample that does not fit the task is counted in `drops`."""
    drops, notes = Counter[str](), Counter[str]()
    asked, rows, reasons = asked_of(task, samples)
    drops.update(reasons.values())
    read = reader.Reader(tok, job.max_length).read(task, asked, truncate=job.too_long == "truncate")
    found, places = [], []
    for row, one, windows in zip(rows, asked, read, strict=True):
        if isinstance(windows, str):
            drops[windows] += 1
            continue
        try:
            labelled = task.labelled(samples[row], one, windows, names)
        except MisfitError as error:
            drops[str(error)] += 1
            continue
        if not labelled:
            drops["no token to train on"] += 1
            continue
        notes.update(_notes(task, samples[row], one, windows))
        found.append(labelled)
        places.append(row)
    return EncodedTexts(found, np.array(places, np.int64), dict(drops), dict(notes))


def asked_of(task: Task, samples: Sequence[Sample]) -> tuple[list[Asked], list[int], dict[int, str]]:
    """Return what the model reads of the samples that have it, their indices, and by index why others have nothing."""
    asked, rows, reasons = [], [], {}
    for row, sample in enumerate(samples):
        try:
            asked.append(task.asked(sample))
            rows.append(row)
        except MisfitError as error:
            reasons[row] = str(error)
    return asked, rows, reasons


def is_cut(task: Task, asked: Asked, windows: Sequence[Window]) -> bool:
    """Return whether the end of a text is in none of its windows."""
    return not task.windows and windows[0].ranges[windows[0].body[1] - 1][1] < len(asked.text.rstrip())


def _notes(task: Task, sample: Sample, asked: Asked, windows: Sequence[Window]) -> list[str]:
    """Return notes on what was done to fit a sample to the model."""
    found = [SEVERAL] if len(windows) > 1 else []
    if is_cut(task, asked, windows):
        found.append(CUT)
    instruction = getattr(task, "instruction", "")
    if instruction and not sample.instruction.startswith(instruction):
        found.append(BARE)
    return found


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows of some datasets, and the windows of those that can be used."""

    table: pa.Table
    """All rows, those of one dataset after those of another."""
    dataset: NDArray[np.int64]
    """[rows] dataset of each row, counted from 0."""
    texts: EncodedTexts
    rows: NDArray[np.int64]
    """[used samples] row of each."""
    weights: NDArray[np.float32]
    """[used samples] weight of each in the loss."""
    drops: dict[str, int]
    notes: dict[str, int]

    @property
    def usable(self) -> holdout.Rows:
        """All rows, and which of them can be trained on or scored."""
        return holdout.Rows.of(self.table, self.rows)


def prepare(
    store: Store, output: str, inputs: Mapping[str, str], model: str, job: TrainSettings, fold: data.Fold = None
) -> data.PackedCounts:
    """Write the windows of a dataset into a job's output folder, if this is not done yet, and return counts.

    Arguments as those of `gristmill.training.data.prepare.prepare`.

    Raises:
        JobError: when no row can be trained on or none can be held out, or when there are fewer than two labels.
    """
    if store.exists(output, data.PREPARED):
        return data.PackedCounts(**store.read_json(output, data.PREPARED))
    tok = reader.tokenizer(model)
    data.require_facts(model, tok, job.max_length)
    tables = [store.read(name) for name in data.datasets(inputs).values()]
    names = names_of(job.task, pa.concat_tables(tables), model, inputs["samples"])
    mine = _encoded(tables, tok, names, job)
    other = next((inputs[role] for role in (data.VALIDATION, data.SEEDS) if role in inputs), None)
    others = mine if other is None else _encoded([store.read(other)], tok, names, job)
    tests = [store.read(name) for role, name in inputs.items() if role.startswith(data.TEST)]
    found = data.split(mine.usable, others.usable, tests, job, fold)
    trained = mine.usable.usable & ~found.gone
    if other is None:
        trained &= ~found.held
    left_out = {reason: rows for reason, rows in found.left_out.items() if rows.any()}
    drops = {**mine.drops, **{reason: int(rows.sum()) for reason, rows in left_out.items()}}
    holdout.require_rows(int(trained.sum()), int(found.held.sum()), drops, inputs["samples"])
    store.commit_shard(
        output, data.HOLDOUT, holdout.with_families(others.table.filter(pa.array(found.held)), found.families)
    )
    store.write_json(
        {why: mine.table["id"].filter(pa.array(who)).to_pylist() for why, who in left_out.items()},
        output,
        data.LEFT_OUT,
    )
    store.write_json({"labels": names}, output, LABELS)
    taken = {data.PACKED: (mine, trained), data.HELDOUT: (others, found.held)}
    shards = {prefix: _write(store, output, prefix, *which) for prefix, which in taken.items()}
    parts = [_used(mine, trained & (mine.dataset == number)) for number in range(len(tables))]
    groups = data.groups_of([[sum(map(len, part))] for part in parts], job)
    made = data.PackedCounts(
        samples=int(trained.sum()),
        holdout=int(found.held.sum()),
        bins=sum(shard.rows for shard in shards[data.PACKED]),
        holdout_bins=sum(shard.rows for shard in shards[data.HELDOUT]),
        tokens=sum(map(_num_tokens, parts)),
        trained_tokens=sum(one.trained for part in parts for one in chain(*part)),
        families=len(np.unique(found.families)),
        relatives=found.relatives,
        left_out=sum(int(rows.sum()) for rows in left_out.values()),
        drops=drops,
        holdout_drops={} if other is None else others.drops,
        notes={**mine.notes, **_unseen(job.task, names, mine, trained)},
        stops=[],
        shards={prefix: [asdict(shard) for shard in written] for prefix, written in shards.items()},
        groups=[list(group) for group in groups],
        sources=data.sources_of([*map(len, parts)], [*map(_num_tokens, parts)], groups, job),
    )
    store.write_json(asdict(made), output, data.PREPARED)
    return made


def names_of(task: Task, table: pa.Table, model: str, where: str) -> list[str]:
    """Return the labels of a task, from its settings or the rows of a dataset.

    Raises:
        JobError: when there are too few labels, or so many that they cannot be labels.
    """
    rows = from_table(table.filter(pa.array(tokens.usable(table)[0])))
    names = heads.ordered(task.names(rows), model, task)
    given = getattr(task, "labels", None)
    least = 1 if isinstance(task, TokenClassification) or getattr(task, "multi_label", False) else 2
    if given is not None:
        problem = too_many(names, given, len(rows), f"train: {where}", least)
        if problem:
            raise JobError(problem)
    return list(names)


def measured(
    fit: pa.Table, some: pa.Table, model: str, where: str, job: TrainSettings
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the number of tokens of each window of some rows, [windows], and notes on the rows that do not fit.

    Args:
        fit: all rows with an answer, of all datasets, which have the labels.
        some: the rows to read.
        model: local folder of the model.
        where: name of the dataset, for messages.
        job: the settings.

    Raises:
        JobError: when the rows have no labels to learn, or none of those that are read fits the task.
    """
    names = names_of(job.task, fit, model, where)
    found = encode(job.task, reader.tokenizer(model), from_table(some), names, job)
    lost = tuple(f"{count} of {some.num_rows} rows do not fit: {reason}" for reason, count in found.drops.items())
    if not found.windows:
        raise JobError(f"train: no row of {where} fits train.task.kind {job.task.kind} ({dict(found.drops)}), one must")
    notes = tuple(f"{count} of {some.num_rows} rows: {what}" for what, count in found.notes.items())
    return np.array([len(one.window.ids) for one in chain(*found.windows)], np.int64), (*lost, *notes)


def head(store: Store, output: str, job: TrainSettings) -> Head | None:
    """Return the head of a prepared training; None for a causal language model."""
    if job.task.causal:
        return None
    return Head(job.task, tuple(store.read_json(output, LABELS)["labels"]), job.max_length, job.seed)


def _encoded(tables: Sequence[pa.Table], tok: Any, names: Sequence[str], job: TrainSettings) -> _Encoded:  # noqa: ANN401
    table = pa.concat_tables(tables)
    fit, drops = tokens.usable(table)
    rows = table.filter(pa.array(fit))
    texts = encode(job.task, tok, from_table(rows), names, job)
    each = tokens.weights(rows)
    return _Encoded(
        table, np.repeat(np.arange(len(tables)), [one.num_rows for one in tables]), texts,
        np.flatnonzero(fit)[texts.places], each[texts.places], {**drops, **texts.drops},
        {**texts.notes, **tokens.weighing(each)},
    )  # fmt: skip


def _used(mine: _Encoded, taken: NDArray[np.bool_]) -> list[list[Labelled]]:
    """Return the windows of the samples whose row is in `taken`, [samples]."""
    return [windows for row, windows in zip(mine.rows, mine.texts.windows, strict=True) if taken[row]]


def _num_tokens(samples: Sequence[Sequence[Labelled]]) -> int:
    return sum(len(one.window.ids) for one in chain(*samples))


def _unseen(task: Task, names: Sequence[str], mine: _Encoded, trained: NDArray[np.bool_]) -> dict[str, int]:
    """Return a note with the number of labels that no row has that is trained on."""
    seen = set(task.model_copy(update={"labels": ()}).names(from_table(mine.table.filter(pa.array(trained)))))
    missing = [name for name in names if name not in seen]
    return {f"labels without a row to train on: {', '.join(missing)}": len(missing)} if missing else {}


def _write(store: Store, output: str, prefix: str, encoded: _Encoded, taken: NDArray[np.bool_]) -> list[Shard]:
    """Write the windows of the rows in `taken` into files; held-out samples all get the weight 1."""
    windows, samples, weights = [], [], []
    for number, row in enumerate(encoded.rows.tolist()):
        if taken[row]:
            windows += encoded.texts.windows[number]
            samples += [number] * len(encoded.texts.windows[number])
            weights += [encoded.weights[number]] * len(encoded.texts.windows[number])
    shards = []
    for number in range(math.ceil(len(windows) / data.BINS_PER_SHARD)):
        part = slice(number * data.BINS_PER_SHARD, (number + 1) * data.BINS_PER_SHARD)
        each = np.array(weights[part], np.float32) if prefix == data.PACKED else None
        table = batches.table(windows[part], samples[part], each)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        name = f"{prefix}{number:05d}.arrow"
        store.write_bytes(sink.getvalue(), output, name)
        folder = store.folder(output)
        shards.append(replace(file_shard(folder / name, folder), rows=table.num_rows, kept=table.num_rows))
    return shards
