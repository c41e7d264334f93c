"""Embedding: actors turn the samples of a dataset into a dataset of unit vectors, committed shard by shard.

Cost on CPU with the default encoder: about 18 texts of 256 tokens per
core and second; short instructions go several times faster.
"""

import heapq
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster import log, models, schema
from cluster.encoder import Embedding, Encoder, OpenEncoder
from cluster.job import Run
from cluster.pool import Pool, listed
from cluster.sample import Sample, from_table
from cluster.session import require
from cluster.store import Manifest, Shard, Store, place
from selection.texts import Part, is_cjk, part

logger = logging.getLogger(__name__)

ENGLISH_ONLY = frozenset({models.MINILM})
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
"""What to use instead where the texts are Chinese; it must be downloaded or lie in a folder."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard of vectors to be made, from spans of the samples."""

    samples: str
    """Folder of the samples."""
    output: str
    """Folder of the vectors."""
    name: str
    spans: tuple[tuple[Shard, int, int], ...]
    """(shard, first row, row behind the last)."""
    dropped: frozenset[str]
    """Ids of dropped samples that are embedded as well."""

    @property
    def rows(self) -> int:
        """Samples that are read for it."""
        return sum(stop - first for _, first, stop in self.spans)

    def __str__(self) -> str:
        return f"{self.output}/{self.name}"


class EmbedActor:
    """Embed one piece after another; the encoder is opened with the first, so that its errors arrive as errors."""

    def __init__(
        self, run: tuple[Store, str | None], which: Part, settings: Embedding, open_encoder: OpenEncoder, name: str
    ) -> None:
        """Take what all pieces share; `run` is (store, folder of the logs)."""
        self._store, logs = run
        log.to_file(logs, name)
        self._part, self._settings, self._open = which, settings, open_encoder
        self._encoder: Encoder | None = None

    def embed(self, piece: Piece) -> Shard:
        """Embed and commit one shard; doing it again writes the same. Samples without any text are left out."""
        begin = time.monotonic()
        self._encoder = self._encoder or self._open(self._settings)
        opened = time.monotonic()
        rows: list[Sample] = []
        for shard, first, stop in piece.spans:
            rows += from_table(self._store.read_shard(piece.samples, shard).slice(first, stop - first))
        found = {s.id: part(s.messages, self._part) for s in rows if s.dropped is None or s.id in piece.dropped}
        texts = {name: text for name, text in found.items() if text}
        vectors = self._encoder.encode(list(texts.values())).astype(self._settings.dtype)
        kept = schema.vectors(self._encoder.dim, pa.from_numpy_dtype(vectors.dtype))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kept.field("vector").type)
        table = pa.Table.from_arrays([pa.array(list(texts), pa.string()), column], schema=kept)
        entry = self._store.commit_shard(piece.output, piece.name, table, compress=False)
        spent = time.monotonic() - opened
        logger.info("%s: %d texts in %.1f s, encoder opened in %.1f s", piece, len(texts), spent, opened - begin)
        return entry


def folder(samples: str, which: Part, settings: Embedding, *, num_dropped: int, shard_rows: int) -> tuple[str, str]:
    """Return (folder, fingerprint) of the vectors of a dataset; jobs with the same encoder share them."""
    identity = {"encoder": settings.identity(), "part": which, "dropped": num_dropped, "shard_rows": shard_rows}
    return place("vectors", identity, {"samples": samples})


def embed(
    run: Run,
    sources: Mapping[str, int],
    which: Part,
    settings: Embedding,
    open_encoder: OpenEncoder,
    *,
    shard_rows: int,
) -> tuple[dict[str, str], int]:
    """Make the vectors of datasets through one set of actors, going on behind what is committed of them.

    Args:
        run: where, and who is told.
        sources: folders of samples, and how many dropped samples of each are embedded as well (those of lowest id).
        which: the part of the conversation that is embedded.
        settings: which encoder, where.
        open_encoder: opens it inside an actor.
        shard_rows: samples of one shard.

    Returns:
        (folders of vectors by folder of samples, samples embedded in this call).
    """
    places = {s: folder(s, which, settings, num_dropped=n, shard_rows=shard_rows) for s, n in sources.items()}
    open_ = {samples: place_ for samples, place_ in places.items() if not run.store.complete(place_[0])}
    pieces: list[Piece] = []
    for samples, (output, _) in open_.items():
        dropped = _lowest_dropped(run.store, samples, sources[samples])
        pieces += _pieces(samples, output, run.store.manifest(samples).shards, dropped, shard_rows)
    done = {
        (output, name): entry for output, _ in open_.values() for name, entry in run.store.committed(output).items()
    }
    waiting = [piece for piece in pieces if (piece.output, piece.name) not in done]
    before = sum(entry.rows for entry in done.values())
    if pieces:
        run.ledger.append("shards_planned", job="select", shards=len(pieces), committed=len(pieces) - len(waiting))
    if waiting:
        _through_actors(run, which, settings, open_encoder, waiting, done)
    for samples, (output, fingerprint) in open_.items():
        shards = tuple(done[piece.output, piece.name] for piece in pieces if piece.output == output)
        dim = run.store.read_shard(output, shards[0]).schema.field("vector").type.list_size
        metadata = {"encoder": models.identity(settings.model), "part": which, "dim": str(dim), "dtype": settings.dtype}
        inputs = {"samples": samples}
        manifest = Manifest(
            output, "vectors", "embed", fingerprint, inputs, settings.identity(), shards, metadata=metadata
        )
        run.store.commit(manifest)
    return {s: output for s, (output, _) in places.items()}, sum(entry.rows for entry in done.values()) - before


def _through_actors(
    run: Run,
    which: Part,
    settings: Embedding,
    open_encoder: OpenEncoder,
    waiting: Sequence[Piece],
    done: dict[tuple[str, str], Shard],
) -> None:
    """Embed the waiting pieces, entering each into `done`."""
    import ray

    cpus, gpus = placement(settings)
    actor = ray.remote(EmbedActor).options(num_cpus=cpus, num_gpus=gpus)

    def spawn(number: int) -> Any:  # noqa: ANN401 - Ray's handles have no public type
        return actor.remote((run.store, run.logs), which, settings, open_encoder, f"embed-{number}")

    num_actors = min(settings.actors, len(waiting))
    begin = last = time.monotonic()
    read = 0
    with (
        run.screen.bar("embed", total=sum(piece.rows for piece in waiting)) as bar,
        Pool[Piece, Shard](spawn=spawn, call=lambda a, piece: a.embed.remote(piece), num_actors=num_actors) as pool,
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

        pool.run(listed(waiting), commit, lambda: None)


def placement(settings: Embedding) -> tuple[float, float]:
    """Return (cores, GPUs) of one actor on the cluster that is up.

    Raises:
        JobError: when the cluster can never give them.
    """
    import ray

    have = ray.cluster_resources()
    gpus = settings.gpus if settings.gpus is not None else min(1.0, have.get("GPU", 0.0))
    share = max(1.0, have.get("CPU", 1.0) // settings.actors)
    cpus = settings.cpus or (1.0 if gpus else share)
    require("select.encoder", cpus * settings.actors, gpus * settings.actors)
    return cpus, gpus


def _lowest_dropped(store: Store, samples: str, limit: int) -> frozenset[str]:
    """Return the ids of up to `limit` dropped samples; ids are hashes, so the lowest ones are a fair draw."""
    dropped: list[str] = []
    for table in store.scan(samples, ["id", "dropped"]) if limit else ():
        dropped = heapq.nsmallest(limit, dropped + table.filter(pc.is_valid(table["dropped"]))["id"].to_pylist())
    return frozenset(dropped)


def _pieces(
    samples: str, output: str, shards: Sequence[Shard], dropped: frozenset[str], shard_rows: int
) -> Iterator[Piece]:
    """Cut the rows of all shards, end to end, into pieces of `shard_rows`; at least one, if empty."""
    starts = [0, *accumulate(shard.rows for shard in shards)]
    for number, first in enumerate(range(0, max(starts[-1], 1), shard_rows)):
        stop = first + shard_rows
        cuts = ((s, max(first - a, 0), min(stop - a, s.rows)) for s, a in zip(shards, starts, strict=False))
        spans = tuple(cut for cut in cuts if cut[1] < cut[2])
        yield Piece(samples, output, f"shard-{number:05d}", spans, dropped)


def warning(settings: Embedding, texts: Sequence[str]) -> str:
    """Return what to say when an English encoder meets Chinese texts, or the empty string."""
    share = sum(map(is_cjk, texts)) / max(1, len(texts))
    if settings.model not in ENGLISH_ONLY or share < 0.05:
        return ""
    return (
        f"select.encoder.model: {settings.model} knows English only and {share:.0%} of the texts are Chinese or "
        f"Japanese, whose distances mean little; set a multilingual one such as {MULTILINGUAL!r}"
    )
