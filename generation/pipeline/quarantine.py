"""Quarantine: a shard that makes engines die is cut until the draw that causes it is alone. This draw is dropped."""

from collections.abc import Sequence

from gristmill.cluster.contract.sample import from_table, to_table
from gristmill.cluster.store.store import Shard
from gristmill.generation.pipeline.plan import Pipeline, RawShard, ShardReport, draws
from gristmill.generation.pipeline.row_log import delete_logs
from gristmill.generation.pipeline.rows import lost_row
from gristmill.generation.pipeline.snapshots import Snapshots
from gristmill.generation.pipeline.worker import Place


class Quarantine:
    """The shards of a job that were cut, and their finished parts."""

    def __init__(self, pipeline: Pipeline, place: Place) -> None:
        """Take the place where parts are committed, and the pipeline of the rows."""
        self._pipeline, self._place = pipeline, place
        self._snapshots = Snapshots(place.store, place.output, place.seeds, place.documents)
        self._wholes: dict[int, RawShard] = {}
        self._parts: dict[int, list[tuple[RawShard, ShardReport]]] = {}

    def cut(self, shard: RawShard) -> list[RawShard]:
        """Return the halves of a shard, or the shard itself when it is a single draw."""
        if not shard.part:
            self._wholes[shard.place] = shard
        return shard.halves()

    def drop(self, shard: RawShard, settled: Sequence[Shard], reason: str) -> ShardReport:
        """Commit the one draw of a shard as a dropped row."""
        (draw,) = draws(self._pipeline, shard, self._snapshots.at(shard.round, settled))
        row = lost_row(self._pipeline, draw, reason)
        self._place.store.commit_shard(self._place.output, str(shard), to_table([row]))
        return ShardReport(rows=1)

    def join(self, shard: RawShard, report: ShardReport) -> tuple[RawShard, ShardReport] | None:
        """Return a complete shard with its report: this shard, or the shard that this part completes; else None."""
        if not shard.part:
            return shard, report
        parts = self._parts.setdefault(shard.place, [])
        parts.append((shard, report))
        whole = self._wholes[shard.place]
        if sum(part.draws for part, _ in parts) < whole.draws:
            return None
        store, output = self._place.store, self._place.output
        found = store.committed(output, prefix=f"{whole}.")
        rows, total = [], ShardReport()
        for part, said in sorted(parts, key=lambda pair: pair[0].first):
            rows += from_table(store.read_shard(output, found[str(part)]))
            total.add(said)
            total.seconds += said.seconds
            total.figures = {**total.figures, **said.figures}
            total.notes = tuple(dict.fromkeys((*total.notes, *said.notes)))
        store.commit_shard(output, str(whole), to_table(rows))
        delete_logs(store, output, whole.place)
        return whole, total
