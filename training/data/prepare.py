"""The samples of a dataset are split, tokenised and packed once, before any process group exists, and read by place.

<output>/holdout.arrow         SAMPLES: the rows held out; they stay in the finished model's folder
         packed-00000.arrow    BINS: what is trained on; goes when the model is committed, as do the next two
         heldout-00000.arrow   BINS: the rows held out
         packing.json          how many of what, in which files; written last, so that a killed job packs anew
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import PREFERENCE, WEIGHT, from_table
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training.data import chat, packing
from gristmill.training.settings import TrainSettings

HOLDOUT = "holdout"
PACKED, HELDOUT = "packed-", "heldout-"
PREPARED = "packing.json"
BINS_PER_SHARD = 20_000


@dataclass(frozen=True, slots=True)
class PackedCounts:
    """Counts of what was packed."""

    samples: int
    """Rows trained on."""
    holdout: int
    """Rows held out."""
    bins: int
    """Packed rows to train on."""
    holdout_bins: int
    tokens: int
    """Tokens of the rows trained on."""
    trained_tokens: int
    """Those of these tokens that count in the loss."""
    drops: dict[str, int]
    """Kept rows of the dataset that were not used, by reason."""
    shards: dict[str, list[dict[str, Any]]]
    """By prefix, the fields of `Shard` of the files that hold the bins."""


def prepare(store: Store, output: str, dataset: str, model: str, job: TrainSettings) -> PackedCounts:
    """Write the packed bins of a dataset into a job's output folder, unless they are there, and count them.

    Args:
        store: the store of both.
        output: the job's folder.
        dataset: name of a complete SAMPLES dataset.
        model: local folder of the model, whose tokenizer and chat template are used.
        job: the settings.

    Raises:
        JobError: when fewer than two rows can be used.
    """
    if store.exists(output, PREPARED):
        return PackedCounts(**store.read_json(output, PREPARED))
    table, unusable = usable(store.read(dataset))
    encoded = chat.encode(chat.tokenizer(model), conversations(table), job.max_length, job.too_long)
    table = table.take(pa.array(encoded.places))
    if table.num_rows < 2:
        raise JobError(
            f"train: {dataset} holds {table.num_rows} kept rows that can be trained on, must hold at least 2; "
            "generate more, or select with a larger budget"
        )
    held = held_out(table["id"].to_pylist(), job.validation)
    store.commit_shard(output, HOLDOUT, table.filter(pa.array(held)))
    shards = {
        prefix: _write(store, output, prefix, encoded, np.flatnonzero(mask), job.max_length)
        for prefix, mask in ((PACKED, ~held), (HELDOUT, held))
    }
    first = np.cumsum(encoded.lengths) - encoded.lengths  # no label is at the first token of a sample
    trained = encoded.trained.copy()
    trained[first] = False
    made = PackedCounts(
        samples=int((~held).sum()),
        holdout=int(held.sum()),
        bins=sum(shard.rows for shard in shards[PACKED]),
        holdout_bins=sum(shard.rows for shard in shards[HELDOUT]),
        tokens=int(encoded.lengths[~held].sum()),
        trained_tokens=int(np.add.reduceat(trained, first, dtype=np.int64)[~held].sum()),
        drops={**unusable, **encoded.drops},
        shards={prefix: [asdict(shard) for shard in found] for prefix, found in shards.items()},
    )
    store.write_json(asdict(made), output, PREPARED)
    return made


def usable(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Return the kept rows that can be trained on, and how many kept rows cannot, by reason.

    A row needs an assistant turn to learn, must not be what people or a model have rejected, and has the weight 1.
    """
    kept = table.filter(pc.is_null(table["dropped"]))
    reasons = [_unusable(row, dict(scores)) for row, scores in zip(*_read(kept, "messages", "scores"), strict=True)]
    return kept.filter(pa.array([not reason for reason in reasons], pa.bool_())), dict(Counter(filter(None, reasons)))


def _unusable(messages: list[dict[str, Any]], scores: Mapping[str, float]) -> str:
    if not any(turn["role"] == "assistant" for turn in messages):
        return "no assistant turn"
    if not any(turn["role"] == "assistant" and turn["train"] for turn in messages):
        return "no assistant turn to train on"
    if scores.get(PREFERENCE) == 0:
        return "rejected candidate"
    weight = scores.get(WEIGHT, 1)
    return "" if weight == 1 else "weight 0" if weight == 0 else "weight other than 1"


def _read(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def held_out(sample_ids: list[str], share: float) -> NDArray[np.bool_]:
    """Return which rows are held out, [rows]: those whose id hashes below `share`, at least one.

    Only a row's own id decides, so the choice for a row stays the same when the dataset grows. The one exception is a
    row that is held out because no other row was.
    """
    lots = np.array([int(ids.digest("holdout", i)[:12], 16) / 16**12 for i in sample_ids])
    held: NDArray[np.bool_] = lots < share
    if not held.any() and len(lots):
        held[int(lots.argmin())] = True
    if held.all() and len(lots) > 1:
        held[int(lots.argmax())] = False
    return held


def conversations(table: pa.Table) -> list[chat.Talk]:
    """Return the messages and tools of each row."""
    return [chat.Talk(sample.messages, sample.tools) for sample in from_table(table)]


def _write(
    store: Store,
    output: str,
    prefix: str,
    encoded: chat.EncodedChats,
    places: NDArray[np.int64],
    capacity: int,
) -> list[Shard]:
    """Pack the encoded samples at these places into files of bins."""
    bins = [places[bin_].tolist() for bin_ in packing.fit(encoded.lengths[places], capacity)]
    shards = []
    for number in range(math.ceil(len(bins) / BINS_PER_SHARD)):
        some = bins[number * BINS_PER_SHARD : (number + 1) * BINS_PER_SHARD]
        table = packing.bins_table(encoded, some)
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
    """Packed bins by place, memory-mapped from the store; their digests are checked when they are opened."""

    def __init__(self, tables: list[pa.Table]) -> None:
        """Read bins from tables of the BINS schema, each of one chunk."""
        self._tables = tables
        self._ends = np.cumsum([t.num_rows for t in tables])
        self.trained: NDArray[np.int64] = np.concatenate([t["trained"].to_numpy() for t in tables])
        """(bins,) trained tokens of each."""

    @classmethod
    def open(cls, store: Store, output: str, prefix: str) -> "Bins":
        """Open the bins of a job's output folder."""
        shards = store.read_json(output, PREPARED)["shards"][prefix]
        return cls([store.read_shard(output, Shard(**shard)) for shard in shards])

    def __len__(self) -> int:
        return len(self.trained)

    def column(self, name: str, place: int) -> NDArray[np.int32]:
        """Return one list column of one bin."""
        at = int(np.searchsorted(self._ends, place, side="right"))
        table = self._tables[at]
        row = place - (int(self._ends[at]) - table.num_rows)
        values: NDArray[np.int32] = table[name].chunk(0)[row].values.to_numpy()
        return values

    def batch(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return some bins as one batch, with arrays of [bins, longest]."""
        names = ("input_ids", "labels", "position_ids")
        ids_, labels, positions = ([self.column(n, int(p)) for p in places] for n in names)
        return packing.batch(list(zip(ids_, labels, positions, strict=True)))

    def tokens(self, places: NDArray[np.int64]) -> int:
        """Return the number of tokens in some bins, without padding."""
        return sum(len(self.column("input_ids", int(p))) for p in places)
