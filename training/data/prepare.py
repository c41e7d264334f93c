"""The preparation of a dataset: samples are split, tokenised and packed once, before the workers start.

<output>/holdout.arrow         SAMPLES: the held-out rows
         left_out.json         by reason, the ids of rows that are not trained on because of held-out or test rows
         packed-00000.arrow    BINS: the rows to train on
         heldout-00000.arrow   BINS: the held-out rows
         packing.json          counts, and the names of the files; written last, so that a killed job packs again

The last three are deleted when the model is committed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training.data import chat, facts, holdout, mixture, packing, tokens
from gristmill.training.data.tokens import Tokens
from gristmill.training.settings import LENGTH, TrainSettings

HOLDOUT, LEFT_OUT = "holdout", "left_out.json"
SAMPLES, MIXTURE, REPLAY = "samples", "mixture", "replay"
"""Roles of the inputs that are trained on. Several datasets in the mixture have the roles `mixture`, `mixture-2`, …"""
VALIDATION, SEEDS, TEST = "validation", "seeds", "test"
"""Roles of the job's further inputs. Several test datasets have the roles `test`, `test-2`, …"""
PACKED, HELDOUT = "packed-", "heldout-"
PREPARED = "packing.json"
BINS_PER_SHARD = 20_000
Fold = tuple[int, int] | None
"""Number of the fold to hold out, from 0, and number of all folds; None to hold out what the settings say."""


@dataclass(frozen=True, slots=True)
class PackedCounts:
    """Counts of packed samples and tokens."""

    samples: int
    """Number of rows trained on."""
    holdout: int
    """Number of held-out rows."""
    bins: int
    """Number of packed rows to train on."""
    holdout_bins: int
    tokens: int
    """Number of tokens in the rows trained on."""
    trained_tokens: int
    """Number of these tokens that count in the loss."""
    families: int
    """Number of families of the held-out rows."""
    relatives: int
    """Number of held-out rows that share a parent with a row trained on."""
    left_out: int
    """Number of rows that are not trained on because of held-out or test rows. `drops` includes them."""
    drops: dict[str, int]
    """Number of kept rows of the dataset that were not used, by reason."""
    holdout_drops: dict[str, int]
    """Number of rows of another validation dataset that cannot be scored, by reason."""
    notes: dict[str, int]
    """Number of changes that fit rows to the chat template or the length, by kind of change."""
    stops: list[int]
    """Ids of the tokens that end answers, the most frequent first."""
    shards: dict[str, list[dict[str, Any]]]
    """By prefix of the file names, the fields of `Shard` of each file with bins."""
    groups: list[list[int]] = field(default_factory=list)
    """The fields of each `mixture.Group` of the rows to train on."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """If several datasets are trained on, of each its name, samples, tokens, packed rows, its packed rows in an epoch,
    and its share of the epoch."""

    @property
    def epoch_rows(self) -> int:
        """Number of packed rows in an epoch."""
        return mixture.num_rows([mixture.Group(*group) for group in self.groups]) or self.bins


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows of some datasets, and their samples that could be encoded."""

    table: pa.Table
    tokens: Tokens
    chats: chat.EncodedChats
    sources: NDArray[np.int64]
    """[samples] dataset of each encoded sample."""
    drops: dict[str, int]
    notes: dict[str, int]

    @property
    def usable(self) -> holdout.Rows:
        """All rows, and which of them can be trained on or scored."""
        return holdout.Rows.of(self.table, self.tokens.rows)


def prepare(
    store: Store, output: str, inputs: Mapping[str, str], model: str, job: TrainSettings, fold: Fold = None
) -> PackedCounts:
    """Write the packed bins of a dataset into a job's output folder, if this is not done yet, and return counts.

    Args:
        store: the store of the datasets and of the output.
        output: the job's folder.
        inputs: names of complete SAMPLES datasets by role: `samples`; and `mixture…`, `replay`, `validation`, `seeds`
            or `test…` if the settings need them.
        model: local folder of the model, with its tokenizer and chat template.
        job: the settings.
        fold: the fold to hold out, if any.

    Raises:
        JobError: when no row can be trained on, or none can be held out; and as `chat.encode` raises it.
    """
    if store.exists(output, PREPARED):
        return PackedCounts(**store.read_json(output, PREPARED))
    require_facts(model, chat.tokenizer(model, job.template, job.template_args), job.max_length)
    names = datasets(inputs)
    mine = _encoded(store, output, SAMPLES, [*names.values()], model, job)
    other = next((inputs[role] for role in (VALIDATION, SEEDS) if role in inputs), None)
    others = mine if other is None else _encoded(store, output, VALIDATION, [other], model, job)
    found = split(mine.usable, others.usable, _tests(store, inputs), job, fold)
    trained = mine.usable.usable & ~found.gone
    if other is None:
        trained &= ~found.held
    left_out = {reason: rows for reason, rows in found.left_out.items() if rows.any()}
    drops = mine.drops | {reason: int(rows.sum()) for reason, rows in left_out.items()}
    holdout.require_rows(int(trained.sum()), int(found.held.sum()), drops, inputs["samples"])
    _write_rows(store, output, others.table, found)
    gone = {why: mine.table["id"].filter(pa.array(who)).to_pylist() for why, who in left_out.items()}
    store.write_json(gone, output, LEFT_OUT)
    places = np.flatnonzero(trained[mine.tokens.rows])
    bins, groups, missing = _pack(mine, places, len(names), job)
    held_bins = _bins(others, np.flatnonzero(found.held[others.tokens.rows]), job)
    shards = {PACKED: _write(store, output, PACKED, mine.chats, bins, mine.tokens.weights)}
    shards[HELDOUT] = _write(store, output, HELDOUT, others.chats, held_bins, None)
    made = PackedCounts(
        samples=int(trained.sum()),
        holdout=int(found.held.sum()),
        bins=len(bins),
        holdout_bins=len(held_bins),
        tokens=int(mine.chats.lengths[places].sum()),
        trained_tokens=int(mine.tokens.counted[places].sum()),
        families=len(np.unique(found.families)),
        relatives=found.relatives,
        left_out=sum(int(rows.sum()) for rows in left_out.values()),
        drops=drops,
        holdout_drops={} if other is None else others.drops,
        notes={**mine.notes, **missing},
        stops=list(mine.chats.stops),
        shards={prefix: [asdict(shard) for shard in written] for prefix, written in shards.items()},
        groups=[list(group) for group in groups],
        sources=_sources(mine, places, groups, len(names), job),
    )
    store.write_json(asdict(made), output, PREPARED)
    tokens.sweep(store, output)
    return made


def datasets(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the datasets that are trained on, by role: the samples, those mixed with them, and those replayed."""
    roles = [SAMPLES, *(role for role in inputs if role == MIXTURE or role.startswith(f"{MIXTURE}-")), REPLAY]
    return {role: inputs[role] for role in roles if role in inputs}


def _write_rows(store: Store, output: str, table: pa.Table, found: holdout.HoldOut) -> None:
    """Write the held-out rows of a table."""
    rows = holdout.with_families(table.filter(pa.array(found.held)), found.families)
    store.commit_shard(output, HOLDOUT, rows)


def _tests(store: Store, inputs: Mapping[str, str]) -> list[pa.Table]:
    return [store.read(name) for role, name in inputs.items() if role.startswith(TEST)]


def _bins(encoded: _Encoded, places: NDArray[np.int64], job: TrainSettings) -> list[list[int]]:
    """Return bins of some samples."""
    return [places[bin_].tolist() for bin_ in packing.fit(encoded.chats.lengths[places], job.max_length)]


def _pack(
    mine: _Encoded, places: NDArray[np.int64], count: int, job: TrainSettings
) -> tuple[list[list[int]], tuple[mixture.Group, ...], dict[str, int]]:
    """Return the bins of some samples, the groups that they are in, and a note on samples without a score."""
    parts, missing = _parts(mine, places, count, job)
    packed = [[_bins(mine, part, job) for part in stages] for stages in parts]
    groups = groups_of([[len(bins) for bins in stages] for stages in packed], job)
    return [bin_ for stages in packed for bins in stages for bin_ in bins], groups, missing


def groups_of(sizes: Sequence[Sequence[int]], job: TrainSettings) -> tuple[mixture.Group, ...]:
    """Return the groups of the rows to train on. `sizes` are their numbers, [datasets][stages]."""
    rows = [sum(stages) for stages in sizes]
    return mixture.groups(
        sizes, mixture.taken(rows, job.mixture_weights, job.mixture_temperature, job.replay, job.mixture_least)
    )


def _parts(
    mine: _Encoded, places: NDArray[np.int64], count: int, job: TrainSettings
) -> tuple[list[list[NDArray[np.int64]]], dict[str, int]]:
    """Return the samples of each dataset and stage, [datasets][stages], and a note on those without a score.

    Raises:
        JobError: when no sample has the score of the curriculum.
    """
    if job.curriculum is None:
        return [[places[mine.sources[places] == source]] for source in range(count)], {}
    scores = mine.tokens.scores[places]
    missing = int(np.isnan(scores).sum())
    if missing == len(scores):
        names = ", ".join(sorted({LENGTH, *mine.tokens.names}))
        raise JobError(f"train.curriculum: {job.curriculum}, but no sample has this score; must be one of {names}")
    parts = []
    for source in range(count):
        own = mine.sources[places] == source
        stage = mixture.stages(scores[own], job.curriculum_stages, descending=job.curriculum_descending)
        parts.append([places[own][stage == n] for n in range(job.curriculum_stages)])
    note = f"samples without the score {job.curriculum}, which come in the last stage"
    return parts, {note: missing} if missing else {}


def sources_of(
    samples: Sequence[int], lengths: Sequence[int], groups: tuple[mixture.Group, ...], job: TrainSettings
) -> list[dict[str, Any]]:
    """Return the numbers of each dataset if there are several.

    Args:
        samples: [datasets] number of samples of each that are trained on.
        lengths: [datasets] number of their tokens.
        groups: the groups of the rows to train on.
        job: the settings.
    """
    if len(samples) == 1:
        return []
    found: list[dict[str, Any]] = []
    for source, name in enumerate(job.mixture_names):
        some = [group for group in groups if group.source == source]
        found.append({
            "name": name,
            "samples": samples[source],
            "tokens": lengths[source],
            "packed_rows": sum(group.rows for group in some),
            "epoch_rows": mixture.num_rows(some),
            "share": round(mixture.num_rows(some) / mixture.num_rows(groups), 4),
        })  # fmt: skip
    return found


def _sources(
    mine: _Encoded, places: NDArray[np.int64], groups: tuple[mixture.Group, ...], count: int, job: TrainSettings
) -> list[dict[str, Any]]:
    """Return the numbers of each dataset if there are several. `count` is the number of datasets."""
    own = [places[mine.sources[places] == source] for source in range(count)]
    samples = [len(np.unique(mine.tokens.rows[some])) for some in own]
    return sources_of(samples, [int(mine.chats.lengths[some].sum()) for some in own], groups, job)


def _encoded(store: Store, output: str, role: str, names: list[str], model: str, job: TrainSettings) -> _Encoded:
    """Encode all rows of some datasets, one after the other."""
    found = tokens.encode(store, output, role, names, model, job)
    tables = [store.read(name) for name in names]
    ends = np.cumsum([table.num_rows for table in tables])
    first = np.diff(found.rows, prepend=-1) > 0  # the first sample of each row
    notes = {**found.notes, **tokens.weighing(found.weights[first])}
    return _Encoded(
        pa.concat_tables(tables), found, tokens.opened(store, output, role, found),
        np.searchsorted(ends, found.rows, side="right"), dict(found.drops), notes,
    )  # fmt: skip


def split(
    mine: holdout.Rows,
    others: holdout.Rows,
    tests: list[pa.Table],
    job: TrainSettings,
    fold: Fold = None,
) -> holdout.HoldOut:
    """Return the held-out rows, and those left out because of them: of a fold, or as the settings say."""
    if fold:
        return holdout.of_fold(mine, fold, tests)
    if not isinstance(job.validation, float):
        return holdout.of_others(mine, others, tests)
    if job.validation_split == "seeds":
        return holdout.of_seeds(mine, others, job.validation, tests)
    return holdout.of_samples(mine, job.validation, tests)


def require_facts(model: str, tok: Any, max_length: int) -> None:  # noqa: ANN401
    """Refuse a model from a hub if its files do not fit together; `plan` has not read these files."""
    from transformers import AutoConfig

    if Path(model).is_dir():
        return
    config = AutoConfig.from_pretrained(model).to_dict()
    wrong = facts.problems_of(model, config, max(tok.vocab.values()) + 1, max_length)
    if wrong:
        raise JobError("; ".join(f"train.{line}" for line in wrong))


def held_out(store: Store, output: str) -> pa.Table:
    """Return the rows that a finished training held out."""
    shards = {shard.name: shard for shard in store.manifest(output).shards}
    return store.read_shard(output, shards[f"{HOLDOUT}.arrow"])


def trained_on(store: Store, output: str) -> pa.Table:
    """Return the rows that a finished training trained on."""
    table = pa.concat_tables(store.read(name) for name in datasets(store.manifest(output).inputs).values())
    gone = {*held_out(store, output)["id"].to_pylist(), *chain(*store.read_json(output, LEFT_OUT).values())}
    kept = tokens.usable(table)[0] & np.array([name not in gone for name in table["id"].to_pylist()])
    return table.filter(pa.array(kept))


def _write(
    store: Store,
    output: str,
    prefix: str,
    chats: chat.EncodedChats,
    bins: list[list[int]],
    each: NDArray[np.float32] | None,
) -> list[Shard]:
    """Write bins of encoded samples, with their weights, into files; without weights all samples get the weight 1."""
    shards = []
    for number in range(math.ceil(len(bins) / BINS_PER_SHARD)):
        some = bins[number * BINS_PER_SHARD : (number + 1) * BINS_PER_SHARD]
        table = packing.bins_table(chats, some, each)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        name = f"{prefix}{number:05d}.arrow"
        store.write_bytes(sink.getvalue(), output, name)
        folder = store.folder(output)
        shards.append(replace(file_shard(folder / name, folder), rows=table.num_rows, kept=table.num_rows))
    return shards


def sweep(store: Store, output: str) -> None:
    """Delete the packed bins of a job's folder."""
    tokens.sweep(store, output)
    for name in store.names(output):
        if name.startswith((PACKED, HELDOUT)) or name == PREPARED:
            store.delete(output, name)


class Bins:
    """Packed bins by index, memory-mapped from the store. Opening them checks their digests."""

    def __init__(self, tables: list[pa.Table], groups: tuple[mixture.Group, ...] = ()) -> None:
        """Take tables of the BINS schema, each with one chunk, and the groups of the bins; one group by default."""
        self._tables = tables
        self._ends = np.cumsum([t.num_rows for t in tables])
        count = int(self._ends[-1])
        self.groups = groups or (mixture.Group(0, 0, count, count),)
        """The groups of the bins, which say what an epoch takes."""
        self.trained: NDArray[np.int64] = np.concatenate([t["trained"].to_numpy() for t in tables])
        """[bins] number of trained tokens in each bin."""
        self.weight: NDArray[np.float64] = np.concatenate([t["weight"].to_numpy() for t in tables])
        """[bins] sum of the weights of the trained tokens in each bin."""
        self.alike = all(pc.all(pc.equal(pc.list_flatten(t["weights"]), 1)).as_py() for t in tables)
        """Whether all samples have the weight 1."""

    @classmethod
    def open(cls, store: Store, output: str, prefix: str) -> "Bins":
        """Open the bins of a job's output folder."""
        made = PackedCounts(**store.read_json(output, PREPARED))
        groups = tuple(mixture.Group(*group) for group in made.groups) if prefix == PACKED else ()
        shards = [Shard(**shard) for shard in made.shards[prefix]]
        return cls([store.read_shard(output, one, schema_of=packing.schema_of) for one in shards], groups)

    def __len__(self) -> int:
        return len(self.trained)

    def weights(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the weight of each sample of some bins, [samples], in the order of `separation.batches`."""
        found: NDArray[np.float32] = np.concatenate([self.column("weights", int(p)) for p in places]).astype(np.float32)
        return found

    def column(self, name: str, place: int) -> NDArray[Any]:
        """Return one list column of one bin."""
        at = int(np.searchsorted(self._ends, place, side="right"))
        table = self._tables[at]
        row = place - (int(self._ends[at]) - table.num_rows)
        values: NDArray[Any] = table[name].chunk(0)[row].values.to_numpy()
        return values

    def rows(self, places: NDArray[np.int64]) -> list[packing.Row]:
        """Return the token ids, labels and positions of some bins."""
        names = ("input_ids", "labels", "position_ids")
        ids_, labels, positions = ([self.column(n, int(p)) for p in places] for n in names)
        return list(zip(ids_, labels, positions, strict=True))

    def tokens(self, places: NDArray[np.int64]) -> int:
        """Return the number of tokens in some bins, without padding."""
        return sum(len(self.column("input_ids", int(p))) for p in places)
