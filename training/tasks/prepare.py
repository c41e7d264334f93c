"""The preparation of a dataset for a task with a head: samples are read, split and written as windows.

The files are those of `gristmill.training.data.prepare`, with windows instead of packed bins, and in addition

<output>/labels.json                         the labels of the task, in the order of the outputs of the head
         tokens-<role>-00000.arrow           WINDOWS: the windows of one shard, until they are split

Shards are read block by block, so that only the rows of one block are Python objects at any time. What is kept in
memory is 40 bytes for each row and window: numbers, no texts. Large datasets are read by tasks of Ray, one for each
shard. They write the same windows as one process.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from gristmill.training.data.packing import WINDOWS
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import batches, heads, reader
from gristmill.training.tasks.contracts import Asked, Labelled, MisfitError, Task, Window
from gristmill.training.tasks.heads import Head
from gristmill.training.tasks.sequence_classification import too_many
from gristmill.training.tasks.token_classification import TokenClassification

BLOCK = 1_024
"""Number of rows that are Python objects at once. Windows of 100 tokens take about 12 kB of lists each."""
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


@dataclass(slots=True)
class _Shard:
    """The windows of one shard: numbers of each, and counts."""

    owners: NDArray[np.int64]
    """[windows] row of each in the shard, ascending."""
    lengths: NDArray[np.int64]
    """[windows] number of tokens."""
    trained: NDArray[np.int64]
    """[windows] number of losses that the loss of the window is the sum of."""
    weights: NDArray[np.float32]
    """[windows] weight of the window's sample in the loss."""
    drops: Counter[str]
    notes: Counter[str]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows of some datasets, and the windows of those that can be used."""

    table: pa.Table
    """All rows, those of one dataset after those of another."""
    dataset: NDArray[np.int64]
    """[rows] dataset of each row, counted from 0."""
    windows: pa.Table
    """WINDOWS, which are mapped into memory."""
    owners: NDArray[np.int64]
    """[windows] row of each, ascending."""
    lengths: NDArray[np.int64]
    """[windows] number of tokens."""
    trained: NDArray[np.int64]
    """[windows] number of losses that the loss of the window is the sum of."""
    drops: dict[str, int]
    notes: dict[str, int]

    @property
    def rows(self) -> NDArray[np.int64]:
        """[used samples] row of each."""
        return np.unique(self.owners)

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
    data.require_facts(model, reader.tokenizer(model), job.max_length)
    trained_on = [*data.datasets(inputs).values()]
    names = names_of(job.task, pa.concat_tables([store.read(name) for name in trained_on]), model, inputs["samples"])
    mine = _encoded(store, output, data.SAMPLES, trained_on, model, names, job)
    other = next((inputs[role] for role in (data.VALIDATION, data.SEEDS) if role in inputs), None)
    others = mine if other is None else _encoded(store, output, data.VALIDATION, [other], model, names, job)
    tests = [store.read(name) for role, name in inputs.items() if role.startswith(data.TEST)]
    found = data.split(mine.usable, others.usable, tests, job, fold)
    trained = mine.usable.usable & ~found.gone
    if other is None:
        trained &= ~found.held
    left_out = {reason: rows for reason, rows in found.left_out.items() if rows.any()}
    drops = {**mine.drops, **{reason: int(rows.sum()) for reason, rows in left_out.items()}}
    holdout.require_rows(int(trained.sum()), int(found.held.sum()), drops, inputs["samples"])
    held = holdout.with_families(others.table.filter(pa.array(found.held)), found.families)
    store.commit_shard(output, data.HOLDOUT, held)
    gone = {why: mine.table["id"].filter(pa.array(who)).to_pylist() for why, who in left_out.items()}
    store.write_json(gone, output, data.LEFT_OUT)
    store.write_json({"labels": names}, output, LABELS)
    taken = {data.PACKED: (mine, trained), data.HELDOUT: (others, found.held)}
    shards = {prefix: _write(store, output, prefix, *which) for prefix, which in taken.items()}
    used = trained[mine.owners]
    parts = [used & (mine.dataset[mine.owners] == number) for number in range(len(trained_on))]
    groups = data.groups_of([[int(part.sum())] for part in parts], job)
    samples = [int((trained & (mine.dataset == number)).sum()) for number in range(len(trained_on))]
    lengths = [int(mine.lengths[part].sum()) for part in parts]
    made = data.PackedCounts(
        samples=int(trained.sum()),
        holdout=int(found.held.sum()),
        bins=sum(shard.rows for shard in shards[data.PACKED]),
        holdout_bins=sum(shard.rows for shard in shards[data.HELDOUT]),
        tokens=sum(lengths),
        trained_tokens=int(mine.trained[used].sum()),
        families=len(np.unique(found.families)),
        relatives=found.relatives,
        left_out=sum(int(rows.sum()) for rows in left_out.values()),
        drops=drops,
        holdout_drops={} if other is None else others.drops,
        notes={**mine.notes, **_unseen(job.task, names, mine, trained)},
        stops=[],
        shards={prefix: [asdict(shard) for shard in written] for prefix, written in shards.items()},
        groups=[list(group) for group in groups],
        sources=data.sources_of(samples, lengths, groups, job),
    )
    store.write_json(asdict(made), output, data.PREPARED)
    tokens.sweep(store, output)
    return made


def names_of(task: Task, table: pa.Table, model: str, where: str) -> list[str]:
    """Return the labels of a task, from its settings or the rows of a dataset.

    Raises:
        JobError: when there are too few labels, or so many that they cannot be labels.
    """
    rows = table.filter(pa.array(tokens.usable(table)[0]))
    names = heads.ordered(task.names(tokens.samples_of(rows)), model, task)
    given = getattr(task, "labels", None)
    least = 1 if isinstance(task, TokenClassification) or getattr(task, "multi_label", False) else 2
    if given is not None:
        problem = too_many(names, given, rows.num_rows, f"train: {where}", least)
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


def _encoded(
    store: Store, output: str, role: str, datasets: Sequence[str], model: str, names: list[str], job: TrainSettings
) -> _Encoded:
    """Read all rows of some datasets, one after the other."""
    works = tokens.shard_jobs(store, output, role, datasets, model, job)
    found = list(tokens.over_shards(partial(_shard, names), _tokenizer, works))
    firsts = np.cumsum([0, *(work.shard.rows for work in works)])
    drops = sum((one.drops for one in found), Counter[str]())
    notes = sum((one.notes for one in found), Counter[str]())
    weights = np.concatenate([one.weights[np.unique(one.owners, return_index=True)[1]] for one in found])
    tables = [store.read(name) for name in datasets]
    return _Encoded(
        pa.concat_tables(tables),
        np.repeat(np.arange(len(tables)), [one.num_rows for one in tables]),
        pa.concat_tables([pa.ipc.open_file(pa.memory_map(_file(work))).read_all() for work in works]),
        np.concatenate([one.owners + first for one, first in zip(found, firsts, strict=False)]),
        np.concatenate([one.lengths for one in found]),
        np.concatenate([one.trained for one in found]),
        dict(drops),
        {**notes, **tokens.weighing(weights)},
    )


def _tokenizer(work: tokens.ShardJob) -> Any:  # noqa: ANN401 - as `reader.tokenizer`
    return reader.tokenizer(work.model)


def _file(work: tokens.ShardJob) -> str:
    """Return the path of the windows of a shard."""
    return f"{work.path}.arrow"


def _shard(names: Sequence[str], work: tokens.ShardJob, tok: Any) -> _Shard:  # noqa: ANN401 - as `reader.tokenizer`
    """Read the rows of one shard with these labels, and write its windows."""
    table = work.store.read_shard(work.dataset, work.shard)
    drops, notes = Counter[str](), Counter[str]()
    owners, lengths, trained, weights = [np.empty(0, np.int64)], [0], [0], [np.empty(0, np.float32)]
    with pa.OSFile(_file(work), "wb") as sink, pa.ipc.new_file(sink, WINDOWS) as writer:
        for start in range(0, table.num_rows, BLOCK):
            block = table.slice(start, BLOCK)
            fit, reasons = tokens.usable(block)
            rows = block.filter(pa.array(fit))
            texts = encode(work.settings.task, tok, from_table(rows), names, work.settings)
            counts = [len(windows) for windows in texts.windows]
            each = np.repeat(tokens.weights(rows)[texts.places], counts)
            windows = list(chain(*texts.windows))
            writer.write_table(batches.table(windows, [0] * len(windows), each))
            owners.append(np.repeat(np.flatnonzero(fit)[texts.places] + start, counts))
            lengths += [len(one.window.ids) for one in windows]
            trained += [one.trained for one in windows]
            weights.append(each)
            drops += Counter(reasons) + Counter(texts.drops)
            notes += Counter(texts.notes)
    return _Shard(
        np.concatenate(owners), np.array(lengths[1:], np.int64), np.array(trained[1:], np.int64),
        np.concatenate(weights), drops, notes,
    )  # fmt: skip


def _unseen(task: Task, names: Sequence[str], mine: _Encoded, trained: NDArray[np.bool_]) -> dict[str, int]:
    """Return a note with the number of labels that no row has that is trained on."""
    rows = tokens.samples_of(mine.table.filter(pa.array(trained)))
    seen = set(task.model_copy(update={"labels": ()}).names(rows))
    missing = [name for name in names if name not in seen]
    return {f"labels without a row to train on: {', '.join(missing)}": len(missing)} if missing else {}


def _write(store: Store, output: str, prefix: str, encoded: _Encoded, taken: NDArray[np.bool_]) -> list[Shard]:
    """Write the windows of the rows in `taken` into files; held-out samples all get the weight 1.

    Samples are numbered in the order of the rows that can be used.
    """
    places = np.flatnonzero(taken[encoded.owners])
    numbers = np.searchsorted(encoded.rows, encoded.owners)
    shards = []
    for number in range(math.ceil(len(places) / data.BINS_PER_SHARD)):
        some = places[number * data.BINS_PER_SHARD : (number + 1) * data.BINS_PER_SHARD]
        first = int(some[0])
        near = encoded.windows.slice(first, int(some[-1]) + 1 - first)
        mask = np.zeros(near.num_rows, np.bool_)
        mask[some - first] = True
        table = _with(near.filter(pa.array(mask)), "samples", numbers[some])
        if prefix == data.HELDOUT:
            table = _with(table, "weights", np.ones(len(some), np.float32))
            table = table.set_column(
                WINDOWS.get_field_index("weight"), WINDOWS.field("weight"), table["trained"].cast(pa.float64())
            )
        table = table.combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        name = f"{prefix}{number:05d}.arrow"
        store.write_bytes(sink.getvalue(), output, name)
        folder = store.folder(output)
        shards.append(replace(file_shard(folder / name, folder), rows=table.num_rows, kept=table.num_rows))
    return shards


def _with(table: pa.Table, name: str, values: NDArray[Any]) -> pa.Table:
    """Return windows with other values in a column that has one value for each."""
    field = WINDOWS.field(name)
    lists = pa.array(values.reshape(-1, 1).tolist(), field.type)
    return table.set_column(WINDOWS.get_field_index(name), field, lists)
