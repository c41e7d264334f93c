"""The preparation of a dataset: samples are split, tokenised and packed once, before the workers start.

<output>/holdout.arrow         SAMPLES: the held-out rows
         left_out.json         by reason, the ids of rows that are not trained on because of held-out or test rows
         packed-00000.arrow    BINS: the rows to train on
         heldout-00000.arrow   BINS: the held-out rows
         packing.json          counts, and the names of the files; written last, so that a killed job packs again

The last three are deleted when the model is committed.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import PREFERENCE, WEIGHT, from_table
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training.data import chat, facts, holdout, packing
from gristmill.training.data.answers import Talk
from gristmill.training.settings import TrainSettings

HOLDOUT, LEFT_OUT = "holdout", "left_out.json"
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows of a dataset, and their samples that could be encoded."""

    table: pa.Table
    chats: chat.EncodedChats
    rows: NDArray[np.int64]
    """[samples] row of each encoded sample."""
    weights: NDArray[np.float32]
    """[samples] weight of each encoded sample in the loss."""
    drops: dict[str, int]
    notes: dict[str, int]

    @property
    def usable(self) -> holdout.Rows:
        """All rows, and which of them can be trained on or scored."""
        found = np.zeros(self.table.num_rows, np.bool_)
        found[self.rows] = True
        return holdout.Rows(self.table, found)


def prepare(
    store: Store, output: str, inputs: Mapping[str, str], model: str, job: TrainSettings, fold: Fold = None
) -> PackedCounts:
    """Write the packed bins of a dataset into a job's output folder, if this is not done yet, and return counts.

    Args:
        store: the store of the datasets and of the output.
        output: the job's folder.
        inputs: names of complete SAMPLES datasets by role: `samples`; and `validation`, `seeds` or `test…` if the
            settings need them.
        model: local folder of the model, with its tokenizer and chat template.
        job: the settings.
        fold: the fold to hold out, if any.

    Raises:
        JobError: when no row can be trained on, or none can be held out; and as `chat.encode` raises it.
    """
    if store.exists(output, PREPARED):
        return PackedCounts(**store.read_json(output, PREPARED))
    tokenizer = chat.tokenizer(model, job.template, job.template_args)
    require_facts(model, tokenizer, job.max_length)
    mine = _encoded(store.read(inputs["samples"]), tokenizer, job)
    other = next((inputs[role] for role in (VALIDATION, SEEDS) if role in inputs), None)
    others = mine if other is None else _encoded(store.read(other), tokenizer, job)
    tests = [store.read(name) for role, name in inputs.items() if role.startswith(TEST)]
    found = split(mine.usable, others.usable, tests, job, fold)
    trained = mine.usable.usable & ~found.gone
    if other is None:
        trained &= ~found.held
    left_out = {reason: rows for reason, rows in found.left_out.items() if rows.any()}
    drops = {**mine.drops, **{reason: int(rows.sum()) for reason, rows in left_out.items()}}
    holdout.require_rows(int(trained.sum()), int(found.held.sum()), drops, inputs["samples"])
    rows = holdout.with_families(others.table.filter(pa.array(found.held)), found.families)
    store.commit_shard(output, HOLDOUT, rows)
    names = {why: mine.table["id"].filter(pa.array(who)).to_pylist() for why, who in left_out.items()}
    store.write_json(names, output, LEFT_OUT)
    shards = {
        PACKED: _write(store, output, PACKED, mine, trained, job.max_length),
        HELDOUT: _write(store, output, HELDOUT, others, found.held, job.max_length),
    }
    tokens, trained_tokens = _tokens(mine.chats, trained[mine.rows])
    made = PackedCounts(
        samples=int(trained.sum()),
        holdout=int(found.held.sum()),
        bins=sum(shard.rows for shard in shards[PACKED]),
        holdout_bins=sum(shard.rows for shard in shards[HELDOUT]),
        tokens=tokens,
        trained_tokens=trained_tokens,
        families=len(np.unique(found.families)),
        relatives=found.relatives,
        left_out=sum(int(rows.sum()) for rows in left_out.values()),
        drops=drops,
        holdout_drops={} if other is None else others.drops,
        notes=mine.notes,
        stops=list(mine.chats.stops),
        shards={prefix: [asdict(shard) for shard in written] for prefix, written in shards.items()},
    )
    store.write_json(asdict(made), output, PREPARED)
    return made


def _encoded(table: pa.Table, tokenizer: Any, job: TrainSettings) -> _Encoded:  # noqa: ANN401 - as `chat.tokenizer`
    fit, drops = usable(table)
    rows = table.filter(pa.array(fit))
    chats = chat.encode(tokenizer, conversations(rows), job.encoding)
    each = weights(rows)
    notes = {**chats.notes, **weighing(each)}
    return _Encoded(
        table, chats, np.flatnonzero(fit)[chats.places], each[chats.places], {**drops, **chats.drops}, notes
    )


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


def _tokens(chats: chat.EncodedChats, taken: NDArray[np.bool_]) -> tuple[int, int]:
    """Return (tokens, tokens that count in the loss) of some samples; the first token of a sample never counts."""
    first = np.cumsum(chats.lengths) - chats.lengths
    trained = chats.trained.copy()
    trained[first] = False
    counted = np.add.reduceat(trained, first, dtype=np.int64) if len(first) else np.zeros(0, np.int64)
    return int(chats.lengths[taken].sum()), int(counted[taken].sum())


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
    table = store.read(store.manifest(output).inputs["samples"])
    gone = {*held_out(store, output)["id"].to_pylist(), *chain(*store.read_json(output, LEFT_OUT).values())}
    kept = usable(table)[0] & np.array([name not in gone for name in table["id"].to_pylist()])
    return table.filter(pa.array(kept))


def usable(table: pa.Table) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows are kept and can be trained on, [rows]; and the number of other kept rows, by reason.

    A usable row has an assistant turn to train on, is not a rejected candidate, and has a weight above 0.
    """
    fit: NDArray[np.bool_] = table["dropped"].is_null().to_numpy().copy()
    columns = (table.filter(pa.array(fit))[name].to_pylist() for name in ("messages", "scores"))
    reasons = [_unusable(messages, dict(scores)) for messages, scores in zip(*columns, strict=True)]
    fit[fit] = [not reason for reason in reasons]
    return fit, dict(Counter(filter(None, reasons)))


def _unusable(messages: list[dict[str, Any]], scores: Mapping[str, float]) -> str:
    if not any(turn["role"] == "assistant" for turn in messages):
        return "no assistant turn"
    if not any(turn["role"] == "assistant" and turn["train"] for turn in messages):
        return "no assistant turn to train on"
    if scores.get(PREFERENCE) == 0:
        return "rejected candidate"
    weight = scores.get(WEIGHT, 1)
    return "" if weight > 0 else "weight 0" if weight == 0 else "weight below 0"


def weights(table: pa.Table) -> NDArray[np.float32]:
    """Return the weight of each row in the loss, [rows]; 1 by default."""
    return np.array([dict(scores).get(WEIGHT, 1) for scores in table["scores"].to_pylist()], np.float32)


def weighing(each: NDArray[np.float32]) -> dict[str, int]:
    """Return a note about the rows with a weight other than 1, with their number; empty if there are none."""
    other = int((each != 1).sum())
    return {f"samples count by their weight, from {each.min():g} to {each.max():g}": other} if other else {}


def conversations(table: pa.Table) -> list[Talk]:
    """Return the messages and tools of each row."""
    return [Talk(sample.messages, sample.tools) for sample in from_table(table)]


def _write(
    store: Store,
    output: str,
    prefix: str,
    encoded: _Encoded,
    taken: NDArray[np.bool_],
    capacity: int,
) -> list[Shard]:
    """Pack the encoded samples of the rows in `taken` into files of bins; held-out samples all get the weight 1."""
    places = np.flatnonzero(taken[encoded.rows])
    each = encoded.weights if prefix == PACKED else None
    bins = [places[bin_].tolist() for bin_ in packing.fit(encoded.chats.lengths[places], capacity)]
    shards = []
    for number in range(math.ceil(len(bins) / BINS_PER_SHARD)):
        some = bins[number * BINS_PER_SHARD : (number + 1) * BINS_PER_SHARD]
        table = packing.bins_table(encoded.chats, some, each)
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
    for name in store.names(output):
        if name.startswith((PACKED, HELDOUT)) or name == PREPARED:
            store.delete(output, name)


class Bins:
    """Packed bins by index, memory-mapped from the store. Opening them checks their digests."""

    def __init__(self, tables: list[pa.Table]) -> None:
        """Take tables of the BINS schema, each with one chunk."""
        self._tables = tables
        self._ends = np.cumsum([t.num_rows for t in tables])
        self.trained: NDArray[np.int64] = np.concatenate([t["trained"].to_numpy() for t in tables])
        """[bins] number of trained tokens in each bin."""
        self.weight: NDArray[np.float64] = np.concatenate([t["weight"].to_numpy() for t in tables])
        """[bins] sum of the weights of the trained tokens in each bin."""
        self.alike = all(pc.all(pc.equal(pc.list_flatten(t["weights"]), 1)).as_py() for t in tables)
        """Whether all samples have the weight 1."""

    @classmethod
    def open(cls, store: Store, output: str, prefix: str) -> "Bins":
        """Open the bins of a job's output folder."""
        shards = store.read_json(output, PREPARED)["shards"][prefix]
        return cls([store.read_shard(output, Shard(**shard)) for shard in shards])

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
