"""The driver of the generate job: it gives out shards, and settles the results in order."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.contract.sample import from_table, to_table
from gristmill.cluster.jobs.job import Job, Run, Work
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.runtime.progress import Bar
from gristmill.cluster.store.store import Shard, Store
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.pipeline.dispatch import Dispatch
from gristmill.generation.pipeline.pace import TREND_S, Observation, Pace
from gristmill.generation.pipeline.plan import RawShard, ShardReport, ShardSequence, Tally
from gristmill.generation.pipeline.row_log import delete_logs
from gristmill.generation.pipeline.settle import MARGIN, Progress, top
from gristmill.generation.pipeline.snapshots import Snapshots

log = logging.getLogger(__name__)

RAW = "raw-"


class Driver:
    """One execution of the job. It gives out shards and settles rows until the target is met, and then commits."""

    def __init__(
        self, job: Job, progress: Progress, run: Run, work: Work, dispatch: Dispatch, schedule: ShardSequence
    ) -> None:
        """Read the shards that earlier executions have committed."""
        self._job, self.progress, self._run, self._work = job, progress, run, work
        self._dispatch, self._schedule = dispatch, schedule
        self._ahead: Iterator[RawShard] = iter(schedule)
        self._next: RawShard | None = next(self._ahead, None)
        self._settled: list[Shard] = []
        self._given: dict[int, RawShard] = {}  # given out or found committed, and not settled yet
        self._there: dict[int, Shard] = {}  # those of them that are committed
        self._made = Tally()
        self._rounds: dict[int, dict[str, float]] = {}
        self._notes: list[str] = []
        self._begin = time.monotonic()
        self._total = sum(schedule.limits) if schedule.limits else self.progress.target or 0
        self._found = Tally()  # rows that earlier executions have made
        self._pace = Pace()
        self._making_s = 0.0
        self._resume()

    def run(self, bar: Bar) -> None:
        """Make shards until the target is met.

        Raises:
            RunError: when `max_drafts` are drawn before the target is met.
        """
        if not self.progress.target_met:
            begin = time.monotonic()
            self._dispatch(self._feed, self._done, lambda stats: self._show(bar, stats))
            self._making_s = time.monotonic() - begin
        delete_logs(self._run.store, self._work.output)  # the shards are committed, or not needed
        self._refuse_short()
        kept, rows = self.progress.kept, self.progress.rows
        bar.update(rows if self._schedule.limits else kept, _kept(kept, rows), self._total, left="")

    def finish(self, engine: Engine) -> GenerateFigures:
        """Delete the raw shards, commit the manifest, and return the figures. `engine` is the generating engine."""
        store, output = self._run.store, self._work.output
        raw = [name for name in store.names(output) if name.startswith(RAW)]
        store.delete(output, *raw)  # shards that were in the making when the target was met
        figures = self._figures(engine)
        types = {f"dtype of {name}": dtype for name, dtype in dtypes.read(store, output).items()}
        store.commit(self._job.manifest(self._work, "samples", self._settled, types), figures.to_json())
        return figures

    # -- earlier executions --------------------------------------------------------------------------------------

    def _resume(self) -> None:
        store, output, progress = self._run.store, self._work.output, self.progress
        if progress.compares and self._work.inputs.get("samples"):
            progress.remember(Snapshots(store, output, self._work.inputs["samples"], None).seeds)
        final, raw = store.committed(output), store.committed(output, prefix=RAW)
        while self._next is not None and (entry := final.get(self._next.final)) is not None:
            progress.resume(from_table(store.read_shard(output, entry)), self._next.draws)
            self._settled.append(entry)
            self._next = next(self._ahead, None)
        self._raw = raw
        self._found.add(Tally(progress.rows, progress.kept))
        self._cost_before()
        planned = len(self._settled) + len(raw)
        self._run.ledger.append("shards_planned", job=self._job.name, shards=self._planned(), committed=planned)

    def _cost_before(self) -> None:
        """Add the time and tokens of earlier executions of this run, from the ledger."""
        for line in self._run.ledger.lines:
            event = json.loads(line)
            if event["event"] == "shard_done" and event.get("job") == self._job.name:
                self._made.cost += event.get("cost", 0.0)

    def _planned(self) -> int:
        """Return the expected number of all shards."""
        if self._schedule.limits:
            return sum(-(-limit // self._schedule.size) for limit in self._schedule.limits)
        missing = max(0, (self.progress.target or 0) - self.progress.kept)
        draws = missing / self.progress.acceptance * MARGIN
        return len(self._settled) + -(-int(draws) // self._schedule.size)

    # -- out ------------------------------------------------------------------------------------------------------

    def _feed(self) -> tuple[RawShard, Sequence[Shard]] | None:
        """Return the next shard to make; None if enough are in flight, or if it must wait for an earlier round."""
        while (shard := self._next) is not None and not self.progress.target_met:
            entry, needed = self._raw.get(str(shard)), self._schedule.settled_before(shard.round)
            if entry is None and (len(self._settled) < needed or self._enough() or self._spent()):
                return None
            self._next = next(self._ahead, None)
            self._given[shard.place] = shard
            if entry is None:
                return shard, self._settled[:needed]
            self._there[shard.place] = entry  # made by an earlier execution
            self._found.add(Tally(entry.rows, entry.kept))
            self._settle()
        return None

    def _enough(self) -> bool:
        """Return whether the shards in flight are expected to meet the target."""
        if self.progress.target is None or not self._given:
            return False
        under_way = sum(shard.draws for shard in self._given.values())
        expected = self.progress.kept + under_way * self.progress.acceptance
        return expected >= self.progress.target * MARGIN

    def _spent(self) -> bool:
        under_way = sum(shard.draws for shard in self._given.values())
        return self.progress.draws + under_way >= self.progress.most_drafts

    # -- in -------------------------------------------------------------------------------------------------------

    def _done(self, shard: RawShard, report: ShardReport) -> bool:
        """Count a committed shard, settle the shards that are next, and return whether the target is met."""
        self._made.add(report)
        if report.figures:
            self._rounds.setdefault(shard.round, {"round": shard.round}).update(report.figures)
        for note in report.notes:
            if note not in self._notes:
                self._notes.append(note)
                log.warning("generate: %s", note)
        facts = {"rows": report.rows, "kept": report.kept, "seconds": round(report.seconds, 1)}
        if report.cost:
            facts["cost"] = round(report.cost, 6)
        self._run.ledger.append("shard_done", job=self._job.name, shard=str(shard), **facts)
        self._there[shard.place] = self._run.store.shard(self._work.output, str(shard))
        return self._settle()

    def _settle(self) -> bool:
        """Settle the shards that are next in order; return whether the target is met."""
        store, output = self._run.store, self._work.output
        while not self.progress.target_met and (place := len(self._settled)) in self._there:
            shard, raw = self._given.pop(place), self._there.pop(place)
            rows = self.progress.settle(from_table(store.read_shard(output, raw)), shard.draws)
            self._settled.append(store.commit_shard(output, shard.final, to_table(rows)))
            store.delete(output, f"{shard}.json", f"{shard}.arrow")  # without the first, the second is no shard
        return self.progress.target_met

    def _refuse_short(self) -> None:
        progress = self.progress
        if progress.target is None or progress.target_met:
            return
        most = ", ".join(top(progress.reasons, 3))
        short = f"; short of their share are: {', '.join(progress.short)}" if progress.short else ""
        unequal = ", or set `balanced = false` for fewer of these" if short else ""
        raise RunError(
            f"generate: {progress.kept} of {progress.target} samples kept after {progress.draws} drafts (acceptance "
            f"{progress.kept / max(1, progress.draws):.1%}), the limit is {progress.most_drafts}; most were dropped "
            f"by: {most}{short}. Loosen these filters, use a larger model, or raise generate.max_drafts{unequal}: the "
            "drafts are kept and the job continues"
        )

    # -- shown ----------------------------------------------------------------------------------------------------

    def _show(self, bar: Bar, stats: Mapping[str, float]) -> None:
        """Update the progress bar from committed shards and from the stats of shards in the making."""
        there, making = self._there.values(), self._making(stats)
        kept = self.progress.kept + sum(shard.kept for shard in there) + making.kept
        rows = self.progress.rows + sum(shard.rows for shard in there) + making.rows
        done = rows if self._schedule.limits else kept
        if not stats:
            said = [_kept(kept, rows)] if rows else []
            bar.update(min(done, self._total), ", ".join([*said, "starting the engine"]), self._total, left="")
            return
        self._pace.add(
            Observation(
                now=time.monotonic(),
                missing=max(0, self._total - done),
                done=done - (self._found.rows if self._schedule.limits else self._found.kept),
                rows=rows - self._found.rows,
                row_tokens=self._made.reply_tokens + making.reply_tokens,
                tokens=stats.get("reply_tokens", 0),
                running=stats.get("running", 0),
            )
        )
        tokens = stats.get("reply_tokens", 0.0)
        bar.update(min(done, self._total), self._note(kept, rows, stats), self._total, self._pace.left(), work=tokens)

    def _note(self, kept: int, rows: int, stats: Mapping[str, float]) -> str:
        """Return the text next to the bar. Before any row is done, it shows drafts under way and tokens."""
        said, rows_s = [_kept(kept, rows)], self._pace.rate("rows", TREND_S)
        if not rows:
            under_way = sum(shard.draws for place, shard in self._given.items() if place not in self._there)
            said = [f"{under_way} drafts under way", f"{self._pace.tokens:,} tokens"]
        if rows_s >= 0.05:
            said.append(f"{rows_s:.1f} rows/s")
        said += [f"{self._pace.rate('tokens'):,.0f} tokens/s"]
        said += [f"{stats[name]:.0f} {name}" for name in ("running", "waiting") if name in stats]
        if stats.get("prompt_tokens"):
            said.append(f"{stats.get('cached_tokens', 0) / stats['prompt_tokens']:.0%} cached")
        return ", ".join(said)

    def _making(self, stats: Mapping[str, float]) -> Tally:
        """Return the counts of the shards in the making, without those that were committed after the stats."""
        making = {str(shard) for place, shard in self._given.items() if place not in self._there}
        tally = Tally()
        for name, value in stats.items():
            count, _, shard = name.rpartition(" ")
            if shard.partition(".")[0] in making:  # the whole shard, or a part of it
                setattr(tally, count, getattr(tally, count) + int(value))
        return tally

    def _figures(self, engine: Engine) -> GenerateFigures:
        progress, made = self.progress, self._made
        making_s = max(0.0, self._making_s - self._dispatch.engine_start_s)
        engine_s = making_s * engine.actors
        cost = made.cost + engine_s / 3600 * engine.price.hour
        kept = max(1, progress.kept)
        return GenerateFigures(
            rows=progress.rows,
            kept=progress.kept,
            drafts=progress.draws,
            acceptance=round((progress.kept + progress.surplus) / max(1, progress.rows), 4),
            prompt_tokens=progress.prompt_tokens,
            tokens=progress.reply_tokens,
            tokens_per_kept=round((progress.prompt_tokens + progress.reply_tokens) / kept, 1),
            seconds=round(time.monotonic() - self._begin, 1),
            engine_start_s=self._dispatch.engine_start_s,
            engine_seconds_per_kept=round(engine_s / kept, 3),
            tokens_per_s=round(made.reply_tokens / making_s, 1) if making_s else 0.0,
            prefix_cache_hit_rate=round(made.cached_tokens / max(1, made.prompt_tokens), 4),
            cost=round(cost, 4) if cost else None,
            cost_per_kept=round(cost / kept, 6) if cost else None,
            by_round=tuple(self._rounds[r] for r in sorted(self._rounds)),
            dropped=dict(progress.reasons.most_common()),
            labels=progress.labels,
            notes=tuple(self._notes),
        )


def sweep(store: Store, output: str) -> None:
    """Delete what a worker has written into a complete dataset until it was ended."""
    store.delete(output, *(entry.path for entry in store.leftovers(store.manifest(output))))
    delete_logs(store, output)


def _kept(kept: int, rows: int) -> str:
    return f"{kept} of {rows} drafts kept ({kept / max(1, rows):.0%})"
