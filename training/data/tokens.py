"""The encoding of whole datasets: shard by shard, and block by block inside a shard, into files of token ids.

<output>/tokens-<role>.ids      int32, the token ids of all samples, one after the other
         tokens-<role>.trained  bool, whether each token is trained on

Only the rows of one block are Python objects at any time. What is kept in memory is 28 bytes for each sample: numbers,
no texts. Large datasets are encoded by tasks of Ray, one for each shard. They write the same bytes as one process,
because blocks begin anew with each shard.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import PREFERENCE, WEIGHT, Sample, from_table
from gristmill.cluster.store.store import Shard, Store
from gristmill.training.data import chat
from gristmill.training.data.answers import Talk
from gristmill.training.data.chat import EncodedChats, Encoder, Lost
from gristmill.training.settings import LENGTH, TrainSettings

TOKENS = "tokens-"
BLOCK = 4_096
"""Number of rows that are Python objects at once. 4,096 rows of 2 kB take about 40 MB."""
TASK_ROWS = 50_000
"""Number of rows from which shards are encoded by tasks of Ray. Fewer take less time than a task takes to start."""

T = TypeVar("T")


class ShardJob(NamedTuple):
    """What a process needs to encode one shard."""

    store: Store
    model: str
    settings: TrainSettings
    dataset: str
    shard: Shard
    number: int
    """Number of the shard among all that are encoded, from 0."""
    path: str
    """Path of the files with what is encoded, without suffix."""


@dataclass(slots=True)
class Tokens:
    """The samples of some shards: numbers of each sample, and counts."""

    lengths: NDArray[np.int64]
    """[samples] number of tokens."""
    rows: NDArray[np.int64]
    """[samples] row of each sample, ascending. A row may have several samples."""
    weights: NDArray[np.float32]
    """[samples] weight in the loss."""
    counted: NDArray[np.int32]
    """[samples] number of trained tokens; the first token of a sample never counts."""
    scores: NDArray[np.float64]
    """[samples] the score of the curriculum, NaN if the row has none; empty without a curriculum."""
    drops: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    stops: Counter[int] = field(default_factory=Counter)
    lost: Lost = field(default_factory=Lost)
    fit: int = 0
    """Number of rows that were encoded or could not be encoded."""
    names: set[str] = field(default_factory=set)
    """Names of the scores of all rows."""


def encode(store: Store, output: str, role: str, datasets: Sequence[str], model: str, job: TrainSettings) -> Tokens:
    """Encode all rows of some complete datasets into the token files of a job's output folder.

    Raises:
        JobError: as `chat.encode` raises it.
    """
    works = shard_jobs(store, output, role, datasets, model, job)
    found = _together(over_shards(_shard, _tokenizer, works), [work.shard.rows for work in works])
    path = str(store.folder(output) / f"{TOKENS}{role}")
    for suffix in (".ids", ".trained"):
        with Path(path + suffix).open("wb") as out:
            for work in works:
                part = Path(work.path + suffix)
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out)
                part.unlink()
    chat.require_usable(found.drops, found.lost, found.fit, len(found.lengths), job.max_lost)
    return found


def opened(store: Store, output: str, role: str, found: Tokens) -> EncodedChats:
    """Return the samples of the token files, which are mapped into memory."""
    ids: Any
    trained: Any
    ids, trained = (
        np.memmap(store.folder(output) / f"{TOKENS}{role}{suffix}", kind, mode="r") if len(found.lengths) else none
        for suffix, kind, none in (
            (".ids", np.int32, np.empty(0, np.int32)),
            (".trained", np.bool_, np.empty(0, np.bool_)),
        )
    )
    stops = tuple(stop for stop, _ in found.stops.most_common())
    return EncodedChats(ids, trained, found.lengths, found.rows, dict(found.drops), dict(found.notes), stops)


def sweep(store: Store, output: str) -> None:
    """Delete the token files of a job's folder."""
    for name in store.names(output):
        if name.startswith(TOKENS):
            store.delete(output, name)


def shard_jobs(
    store: Store, output: str, role: str, datasets: Sequence[str], model: str, settings: TrainSettings
) -> list[ShardJob]:
    """Return a job for each shard of some complete datasets; arguments as those of `encode`."""
    path = str(store.folder(output) / f"{TOKENS}{role}")
    shards = [(name, shard) for name in datasets for shard in store.manifest(name).shards]
    return [
        ShardJob(store, model, settings, name, shard, number, f"{path}-{number:05d}")
        for number, (name, shard) in enumerate(shards)
    ]


def over_shards(
    encode: Callable[[ShardJob, Any], T], load: Callable[[ShardJob], Any], works: Sequence[ShardJob]
) -> Iterable[T]:
    """Return what `encode` returns for each shard and the tokenizer that `load` returns.

    Large datasets are encoded by tasks of Ray, if there is a session; others here, with one tokenizer for all shards.
    """
    if len(works) > 1 and sum(work.shard.rows for work in works) >= TASK_ROWS:
        import ray

        if ray.is_initialized():
            task: Any = ray.remote(num_cpus=1, max_retries=3)(_task)
            found: list[T] = ray.get([task.remote(encode, load, work) for work in works])
            return found
    tok = load(works[0]) if works else None
    return (encode(work, tok) for work in works)


def _task(encode: Callable[[ShardJob, Any], T], load: Callable[[ShardJob], Any], work: ShardJob) -> T:
    """Encode one shard in a process of Ray, with one thread."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return encode(work, load(work))


def samples_of(table: pa.Table) -> Iterator[Sample]:
    """Yield the rows of a SAMPLES table as samples, of which only a block is Python objects at once."""
    for start in range(0, table.num_rows, BLOCK):
        yield from from_table(table.slice(start, BLOCK))


def _tokenizer(work: ShardJob) -> Any:  # noqa: ANN401 - as `chat.tokenizer`
    return chat.tokenizer(work.model, work.settings.template, work.settings.template_args)


def _shard(work: ShardJob, tok: Any) -> Tokens:  # noqa: ANN401 - as `chat.tokenizer`
    """Encode one shard, and write its token files."""
    table = work.store.read_shard(work.dataset, work.shard)
    encoder = Encoder(tok, work.settings.encoding, 0 if work.number else chat.CHECKED)
    blocks = []
    with Path(work.path + ".ids").open("wb") as ids, Path(work.path + ".trained").open("wb") as trained:
        for start in range(0, table.num_rows, BLOCK):
            block, chats = _block(table.slice(start, BLOCK), encoder, work.settings)
            ids.write(chats.ids.tobytes())
            trained.write(chats.trained.tobytes())
            blocks.append(block)
    found = _together(blocks, [BLOCK] * len(blocks))
    found.notes, found.lost = Counter(encoder.notes), encoder.lost
    return found


def _block(table: pa.Table, encoder: Encoder, job: TrainSettings) -> tuple[Tokens, EncodedChats]:
    fit, drops = usable(table)
    rows = table.filter(pa.array(fit))
    chats = encoder.encode(conversations(rows))
    scores = [dict(each) for each in rows["scores"].to_pylist()]
    each = np.array([row.get(WEIGHT, 1) for row in scores], np.float32)
    first = np.cumsum(chats.lengths) - chats.lengths
    trained = chats.trained.copy()
    trained[first] = False
    counted = np.add.reduceat(trained, first, dtype=np.int32) if len(first) else np.zeros(0, np.int32)
    found = Tokens(
        chats.lengths,
        np.flatnonzero(fit)[chats.places],
        each[chats.places],
        counted,
        _scores(scores, chats, job.curriculum),
        Counter(drops) + Counter(chats.drops),
        stops=Counter(chats.stop_counts),
        fit=rows.num_rows,
        names={name for row in scores for name in row},
    )
    return found, chats


def _scores(rows: list[dict[str, float]], chats: EncodedChats, name: str | None) -> NDArray[np.float64]:
    if name is None:
        return np.empty(0)
    if name == LENGTH:
        return chats.lengths.astype(np.float64)
    return np.array([row.get(name, np.nan) for row in rows], np.float64)[chats.places]


def _together(parts: Iterable[Tokens], sizes: Sequence[int]) -> Tokens:
    """Join parts of `sizes` rows that follow each other."""
    none = np.empty(0)
    found = Tokens(none.astype(np.int64), none.astype(np.int64), none.astype(np.float32), none.astype(np.int32), none)
    arrays: list[tuple[NDArray[Any], ...]] = []
    for part, first in zip(parts, np.cumsum([0, *sizes]), strict=False):
        arrays.append((part.lengths, part.rows + first, part.weights, part.counted, part.scores))
        found.drops += part.drops
        found.notes.update(part.notes)
        found.stops.update(part.stops)
        found.lost.merge(part.lost)
        found.fit += part.fit
        found.names |= part.names
    if arrays:
        found.lengths, found.rows, found.weights, found.counted, found.scores = map(
            np.concatenate, zip(*arrays, strict=True)
        )
    return found


def usable(table: pa.Table) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows are kept and can be trained on, [rows]; and the number of other kept rows, by reason.

    A usable row has an assistant turn to train on, is not a rejected candidate, and has a weight above 0.
    """
    fit: NDArray[np.bool_] = table["dropped"].is_null().to_numpy().copy()
    reasons: list[str] = []
    kept = table.filter(pa.array(fit)).select(["messages", "scores"])
    for start in range(0, kept.num_rows, BLOCK):
        columns = (kept.slice(start, BLOCK)[name].to_pylist() for name in ("messages", "scores"))
        reasons += [_unusable(messages, dict(scores)) for messages, scores in zip(*columns, strict=True)]
    fit[fit] = [not reason for reason in reasons]
    return fit, dict(Counter(filter(None, reasons)))


def _unusable(messages: list[dict[str, Any]], scores: dict[str, float]) -> str:
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
