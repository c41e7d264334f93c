"""Embedding: actors turn the samples of a dataset into a dataset of unit vectors, committed shard by shard.

Speed on a CPU with the default encoder: about 18 texts of 256 tokens per core and second. Short instructions are
several times faster.
"""

import heapq
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract import ids, schema
from gristmill.cluster.contract.errors import GristmillError, RunError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models import dtypes
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Encoder, choose_dtype
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.deaths import advice, deaths, ended, lowerable
from gristmill.cluster.runtime.pool import Pool, feed_from
from gristmill.cluster.runtime.resources import Need, await_room, call, need_of, require, spawn
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Shard, Store, place
from gristmill.cluster.text.scripts import script_of
from gristmill.selection.contracts import VectorsOf
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Part
from gristmill.selection.data.matrix import Float32
from gristmill.selection.duplicates.shared import Blocks, find, own_texts, starts

OpenEncoder = Callable[[Any], Encoder]
logger = logging.getLogger(__name__)

_COLUMNS = ("id", "messages", "dropped")
ENCODER = "encoder"
"""Name of the entry, in a folder of vectors, that holds the type in which the encoder computes."""
COLUMNS = 3
"""Revision of the stored tables; increased when vectors are stored with other columns."""


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Which samples of a dataset are embedded: all kept samples and some dropped samples, or only given ids."""

    num_dropped: int = 0
    """Number of dropped samples that are embedded too. These are the dropped samples with the lowest ids; ids are
    hashes, so this is a random choice."""
    only: tuple[str, ...] | None = None
    """Ids of the only samples that are embedded; None means all kept samples and `num_dropped` dropped samples."""

    def identity(self) -> dict[str, Any]:
        """Return the part of this choice on which the folder of the vectors depends."""
        only = {} if self.only is None else {"only": ids.digest(*self.only)}
        return {"dropped": self.num_dropped, **only}


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard of vectors to make, and the spans of samples from which it is made."""

    samples: str
    """Folder of the samples."""
    output: str
    """Folder of the vectors."""
    name: str
    spans: tuple[tuple[Shard, int, int], ...]
    """Spans of samples, each as (shard, first row, row after the last)."""
    named: tuple[str, ...]
    """Ids of the samples in the spans that are embedded, in addition to kept samples if `all_kept` is true."""
    all_kept: bool
    """Whether all kept samples in the spans are embedded."""
    blocks: Blocks
    """Beginnings that many samples share; they are left out before a text is embedded."""

    @property
    def rows(self) -> int:
        """Number of samples that are read to make the shard."""
        return sum(stop - first for _, first, stop in self.spans)

    def __str__(self) -> str:
        return f"{self.output}/{self.name}"


class EmbedActor:
    """An actor that embeds one piece after another.

    The encoder is opened when the first piece comes, so that its errors reach the driver.
    """

    def __init__(self, run: tuple[Store, str | None], wanted: VectorsOf, open_encoder: OpenEncoder, name: str) -> None:
        """Take the values that all pieces have in common; `run` is (store, folder of the logs)."""
        self._store, logs = run
        log.to_file(logs, name)
        self._wanted, self._open = wanted, open_encoder
        self._encoder: Encoder | None = None

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return the vectors of texts that are not samples."""
        self._encoder = self._encoder or self._open(self._wanted.encoder)
        return self._encoder.encode(texts)

    def embed(self, piece: Piece) -> Shard:
        """Embed the samples of one piece and commit their shard.

        A second call writes the same shard. Samples without text are left out.
        """
        begin = time.monotonic()
        self._encoder = self._encoder or self._open(self._wanted.encoder)
        opened = time.monotonic()
        names, texts = [pa.array([], pa.string())], [pa.array([], pa.large_string())]
        for shard, first, stop in piece.spans:
            rows = self._store.read_shard(piece.samples, shard, _COLUMNS).slice(first, stop - first)
            chosen = pc.is_in(rows["id"], pa.array(piece.named, pa.string()))
            rows = rows.filter(pc.or_(chosen, pc.is_null(rows["dropped"])) if piece.all_kept else chosen)
            said = columns.part(rows, self._wanted.part)
            names.append(rows["id"].combine_chunks().filter(pc.not_equal(said, "")))
            said = said.filter(pc.not_equal(said, ""))
            texts.append(own_texts(said, starts(said, piece.blocks)))
        said = pa.concat_arrays(texts)
        vectors = self._encoder.encode(said.to_pylist()).astype(self._wanted.encoder.dtype)
        kept = schema.vectors(self._encoder.dim, pa.from_numpy_dtype(vectors.dtype))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kept.field("vector").type)
        scripts = pa.array([script_of(text) for text in said.to_pylist()], pa.string())
        unknown = pa.array(self._encoder.unknown(said.to_pylist()), pa.float32())
        table = pa.Table.from_arrays([pa.concat_arrays(names), scripts, unknown, column], schema=kept)
        entry = self._store.commit_shard(piece.output, piece.name, table, compress=False)
        spent = time.monotonic() - opened
        logger.info("%s: %d texts in %.1f s, encoder opened in %.1f s", piece, len(said), spent, opened - begin)
        return entry


def folder(samples: str, wanted: VectorsOf, choice: RowChoice, *, shard_rows: int) -> tuple[str, str]:
    """Return (folder, fingerprint) of the vectors of a dataset; jobs with the same encoder share this folder."""
    encoder = wanted.encoder.identity()
    identity = {"columns": COLUMNS, "encoder": encoder, "part": wanted.part, **choice.identity()}
    identity["shard_rows"] = shard_rows
    return place("vectors", identity, {"samples": samples})


def embed(
    run: Run, sources: Mapping[str, RowChoice], wanted: VectorsOf, open_encoder: OpenEncoder, *, shard_rows: int
) -> tuple[dict[str, str], int]:
    """Make the vectors of several datasets with the same actors; committed shards are not made again.

    Args:
        run: the run, with its store and screen.
        sources: folders of samples, and which samples of each are embedded.
        wanted: the encoder, and the part of the conversation that it reads.
        open_encoder: opens the encoder inside an actor.
        shard_rows: samples of one shard.

    Returns:
        (folders of vectors by folder of samples, number of samples embedded in this call).
    """
    places = {s: folder(s, wanted, choice, shard_rows=shard_rows) for s, choice in sources.items()}
    with making(run.store, *(output for output, _ in places.values()), say=run.screen.say) as store:
        made = _embed(replace(run, store=store), sources, places, wanted, open_encoder, shard_rows=shard_rows)
    return {s: output for s, (output, _) in places.items()}, made


def _embed(
    run: Run,
    sources: Mapping[str, RowChoice],
    places: Mapping[str, tuple[str, str]],
    wanted: VectorsOf,
    open_encoder: OpenEncoder,
    *,
    shard_rows: int,
) -> int:
    """Make the vectors that are not complete, in their `places`, and return how many samples were embedded."""
    open_ = {samples: place_ for samples, place_ in places.items() if not run.store.complete(place_[0])}
    pieces: list[Piece] = []
    for samples, (output, _) in open_.items():
        blocks = _blocks(run.store, samples, wanted.part)
        cut = _pieces if sources[samples].only is None else _pieces_of
        pieces += cut(run.store, (samples, output), sources[samples], blocks, shard_rows)
    done = {
        (output, name): entry for output, _ in open_.values() for name, entry in run.store.committed(output).items()
    }
    waiting = [piece for piece in pieces if (piece.output, piece.name) not in done]
    before = sum(entry.rows for entry in done.values())
    if pieces:
        run.ledger.append("shards_planned", job="select", shards=len(pieces), committed=len(pieces) - len(waiting))
    if waiting:
        dtype = _choose_dtype(run, [output for output, _ in places.values()], wanted.encoder)
        _through_actors(run, _with_dtype(wanted, dtype), open_encoder, waiting, done)
    for samples, (output, fingerprint) in open_.items():
        shards = tuple(done[piece.output, piece.name] for piece in pieces if piece.output == output)
        dim = run.store.read_shard(output, shards[0]).schema.field("vector").type.list_size
        settings: Any = wanted.encoder
        compute_dtype = dtypes.read(run.store, output).get(ENCODER, "")
        metadata = {
            **({"compute_dtype": compute_dtype} if compute_dtype else {}),
            "encoder": settings.fingerprint(),
            "model": models.identity(settings.model),
            "part": wanted.part,
            "dim": str(dim),
            "dtype": settings.dtype,
        }
        inputs = {"samples": samples}
        manifest = Manifest(
            output, "vectors", "embed", fingerprint, inputs, settings.identity(), shards, metadata=metadata
        )
        run.store.commit(manifest)
        run.store.delete(output, dtypes.DTYPES)
    return sum(entry.rows for entry in done.values()) - before


def encoding(
    run: Run, wanted: VectorsOf, open_encoder: OpenEncoder, like: Sequence[str] = ()
) -> Callable[[Sequence[str]], Float32]:
    """Return a function that encodes texts which are not samples; each call starts an actor and ends it.

    The model computes in the type with which the vectors in the folders `like` were made, if there are any.
    """
    wanted = _with_dtype(wanted, _dtype_of(run.store, like))

    def encode(texts: Sequence[str]) -> Float32:
        import ray

        handle = spawn(
            EmbedActor, encoder_need(wanted.encoder), (run.store, run.logs), wanted, open_encoder, "embed-texts"
        )
        try:
            found: Float32 = np.asarray(ray.get(handle.encode.remote(list(texts))))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, GristmillError) else error from None
        except deaths() as error:
            raise RunError(f"select: {ended('the encoder', error)}; {advice(_lower(wanted.encoder))}") from error
        finally:
            ray.kill(handle)
        return found

    return encode


def _dtype_of(store: Store, outputs: Iterable[str]) -> Any:  # noqa: ANN401 - a manifest's metadata are strings
    """Return the type in which the encoder computed, from the first folder that says it, or else ""."""
    for output in outputs:
        complete = store.complete(output)
        found = store.manifest(output).metadata if complete else dtypes.read(store, output)
        if began := found.get("compute_dtype" if complete else ENCODER):
            return began
    return ""


def _with_dtype(wanted: VectorsOf, dtype: str) -> VectorsOf:
    if not dtype or not hasattr(wanted.encoder, "compute_dtype"):
        return wanted
    return wanted._replace(encoder=wanted.encoder.model_copy(update={"compute_dtype": dtype}))


def _choose_dtype(run: Run, outputs: Sequence[str], settings: Any) -> str:  # noqa: ANN401 - of any encoder
    """Return the type in which the encoder computes, and write it to the folders that are not complete."""
    if not hasattr(settings, "compute_dtype"):  # gradients are taken in float32 on a CPU, in bfloat16 on a GPU
        return ""
    began = _dtype_of(run.store, outputs)
    if began or settings.compute_dtype != "auto":
        why = "as the vectors began" if began else "as the recipe says"
        choice = dtypes.DTypeChoice(began or settings.compute_dtype, why)
    else:
        choice = call(choose_dtype, encoder_need(settings), settings)
    for output in outputs:
        if not run.store.complete(output):
            dtypes.write(run.store, output, {ENCODER: choice})
    run.screen.say(f"select.encoder: {choice.dtype}, {choice.reason}")
    return choice.dtype


def _blocks(store: Store, samples: str, which: Part) -> Blocks:
    """Return the beginnings that many samples of a dataset share; none for `chat`, of which no part is left out."""
    if which == "chat":
        return Blocks(np.empty(0, np.uint64), np.empty(0, np.uint64), 0)
    begin = accumulate((shard.rows for shard in store.manifest(samples).shards), initial=0)
    tables = zip(begin, store.scan(samples, ["messages"]), strict=False)
    texts = ((np.arange(first, first + len(table)), columns.part(table, which)) for first, table in tables)
    return find(texts, store.manifest(samples).rows)


def _through_actors(
    run: Run,
    wanted: VectorsOf,
    open_encoder: OpenEncoder,
    waiting: Sequence[Piece],
    done: dict[tuple[str, str], Shard],
) -> None:
    """Embed the waiting pieces with a pool of actors, and enter the shard of each piece into `done`."""
    settings: Any = wanted.encoder
    each = encoder_need(settings)
    num_actors = min(settings.actors, len(waiting))
    await_room("select.encoder", [each] * num_actors, run.wait_s)
    begin = last = time.monotonic()
    read = 0
    with (
        run.screen.bar("embed", total=sum(piece.rows for piece in waiting)) as bar,
        Pool[Piece, Shard](
            spawn=lambda n: spawn(EmbedActor, each, (run.store, run.logs), wanted, open_encoder, f"embed-{n}"),
            call=lambda a, piece: a.embed.remote(piece),
            num_actors=num_actors,
            job="embed",
            lower=_lower(settings),
            say=run.screen.say,
        ) as pool,
    ):

        def commit(piece: Piece, entry: Shard) -> None:
            nonlocal read, last
            done[piece.output, piece.name] = entry
            seconds, last = time.monotonic() - last, time.monotonic()
            run.ledger.append(
                "shard_done",
                job="select",
                shard=str(piece),
                rows=entry.rows,
                kept=entry.kept,
                seconds=round(seconds, 2),
            )
            read += piece.rows
            bar.update(read, f"{read / (last - begin):.0f} samples/s")

        pool.run(feed_from(waiting), commit, lambda: None)


def _lower(encoder: Any) -> str:  # noqa: ANN401 - of any encoder
    """Return, as text, the settings that can be lowered so that encoders take less memory."""
    return lowerable("select.encoder", encoder, "batch", "max_length", "actors")


def encoder_need(settings: Any) -> Need:  # noqa: ANN401 - of any encoder
    """Return the cores and GPUs that one actor needs on the running cluster.

    Raises:
        JobError: when the cluster can never have enough for all actors.
    """
    found = need_of("select.encoder.gpus", settings.cpus, settings.gpus, settings.actors)
    require("select.encoder", [found] * settings.actors)
    return found


def _lowest_dropped(store: Store, samples: str, limit: int) -> tuple[str, ...]:
    """Return the lowest `limit` ids of dropped samples; ids are hashes, so this is a random choice."""
    dropped: list[str] = []
    for table in store.scan(samples, ["id", "dropped"]) if limit else ():
        dropped = heapq.nsmallest(limit, dropped + table.filter(pc.is_valid(table["dropped"]))["id"].to_pylist())
    return tuple(dropped)


def _pieces(
    store: Store, folders: tuple[str, str], choice: RowChoice, blocks: Blocks, shard_rows: int
) -> Iterator[Piece]:
    """Yield the rows of all shards in pieces of `shard_rows`; an empty dataset gives one empty piece."""
    dropped = _lowest_dropped(store, folders[0], choice.num_dropped)
    rows = sum(shard.rows for shard in store.manifest(folders[0]).shards)
    for number, first in enumerate(range(0, max(rows, 1), shard_rows)):
        spans = _spans(store, folders[0], first, first + shard_rows)
        yield Piece(*folders, f"shard-{number:05d}", spans, dropped, all_kept=True, blocks=blocks)


def _pieces_of(
    store: Store, folders: tuple[str, str], choice: RowChoice, blocks: Blocks, shard_rows: int
) -> Iterator[Piece]:
    """Yield the samples `choice.only` in pieces of `shard_rows`; if there are none, one empty piece."""
    only, found = pa.array(choice.only, pa.string()), list[tuple[int, str]]()
    first = 0
    for table in store.scan(folders[0], ["id"]):
        here = pc.is_in(table["id"], only)
        rows = np.flatnonzero(here.to_numpy(zero_copy_only=False)) + first
        found += zip(rows.tolist(), table["id"].filter(here).to_pylist(), strict=True)
        first += len(table)
    for number, at in enumerate(range(0, max(len(found), 1), shard_rows)):
        some = found[at : at + shard_rows]
        spans = _spans(store, folders[0], some[0][0], some[-1][0] + 1) if some else ()
        yield Piece(
            *folders, f"shard-{number:05d}", spans, tuple(name for _, name in some), all_kept=False, blocks=blocks
        )


def _spans(store: Store, samples: str, first: int, stop: int) -> tuple[tuple[Shard, int, int], ...]:
    """Return the spans of the rows [first, stop), one for each shard; rows are counted through all shards."""
    shards = store.manifest(samples).shards
    starts = accumulate((shard.rows for shard in shards), initial=0)
    cuts = ((s, max(first - a, 0), min(stop - a, s.rows)) for s, a in zip(shards, starts, strict=False))
    return tuple(cut for cut in cuts if cut[1] < cut[2])
