"""Rounds: what is drawn next and what is kept for good, both functions of committed shards alone.

A round draws its demonstrations from the seeds and from what earlier rounds have kept, so a draw depends on nothing
that runs beside it. When all raw shards of a round are committed it is settled: in the order of shards and rows, each
kept row is compared once more with everything accepted so far, and in the last round the surplus over the target is
dropped.
Settling is deterministic, so a job that was killed settles again to the same bytes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from cluster.sample import Sample, from_table, to_table
from cluster.store import Shard, Store
from generation.contracts import Filter, Memory, SetFilter
from generation.worker import RawShard, Snapshot

MARGIN = 1.1
"""Draws beyond those that the acceptance asks for, so that a round rarely misses by a few rows."""
MAX_GROWTH = 2
"""Longest round, as a multiple of the draws before it."""
MIN_ACCEPTANCE = 0.02
"""Least acceptance that a round is planned with."""


@dataclass
class Progress:
    """Everything settled so far."""

    seeds: tuple[Sample, ...]
    filters: Sequence[Filter | SetFilter]
    kept: list[Sample] = field(default_factory=list)
    rounds: int = 0
    draws: int = 0
    rows: int = 0
    shards: list[Shard] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    reply_tokens: int = 0
    _memories: list[tuple[SetFilter, Memory]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remember the seeds."""
        self._memories = [(step, step.memory()) for step in self.filters if isinstance(step, SetFilter)]
        for sample in self.seeds:
            self._accept(sample)

    def snapshot(self) -> Snapshot:
        """Return what the next round draws from."""
        return Snapshot(self.rounds, self.seeds, tuple(self.kept))

    def _accept(self, sample: Sample) -> None:
        for _, memory in self._memories:
            memory.add(sample)

    def settle(self, tables: Sequence[Sequence[Sample]], target: int) -> list[list[Sample]]:
        """Return the rows of a round as they stay, shard by shard, and take them in.

        Args:
            tables: the rows of each raw shard, in order.
            target: kept rows wanted of the whole job; rows beyond it are dropped, those with the largest ids.
        """
        settled = [[self._compared(row) for row in rows] for rows in tables]
        fresh = sorted(row.id for rows in settled for row in rows if row.dropped is None)
        surplus = set(fresh[max(0, target - len(self.kept)) :])
        trimmed = [[row.drop("target: surplus") if row.id in surplus else row for row in rows] for rows in settled]
        self._take_in(trimmed)
        return trimmed

    def _compared(self, row: Sample) -> Sample:
        for step, memory in self._memories:
            if row.dropped is None:
                verdict = step.compare(row, memory)
                row = replace(row, scores={**row.scores, **verdict.scores}, dropped=verdict.dropped)
        if row.dropped is None:
            self._accept(row)
        return row

    def resume(self, tables: Sequence[Sequence[Sample]]) -> None:
        """Take in a round that was settled and committed before."""
        for rows in tables:
            for row in rows:
                if row.dropped is None:
                    self._accept(row)
        self._take_in(tables)

    def _take_in(self, tables: Iterable[Sequence[Sample]]) -> None:
        for rows in tables:
            self.rows += len(rows)
            self.kept.extend(row for row in rows if row.dropped is None)
            self.reasons.update(reason(row.dropped) for row in rows if row.dropped is not None)
            self.prompt_tokens += sum(row.origin.prompt_tokens for row in rows if row.origin)
            self.reply_tokens += sum(row.origin.reply_tokens for row in rows if row.origin)
        self.rounds += 1


def reason(dropped: str) -> str:
    """Return a drop reason without what is particular to the row, for counting."""
    return dropped.partition(" near ")[0] + " near another" if " near " in dropped else dropped


def num_draws(target: int, kept: int, draws: int, rounds_left: int, prior: float) -> int:
    """Return the draws of the next round.

    The rounds aimed at share what is missing evenly; the acceptance is what was measured, starting from `prior` with
    the weight of ten draws. A round is at most twice as long as all before it: an acceptance measured on few draws may
    be far off (4 of 132 where it turned out to be 11 % made 1,500 draws for 92 samples).
    """
    missing = math.ceil((target - kept) / max(1, rounds_left))
    acceptance = max(MIN_ACCEPTANCE, (kept + 10 * prior) / (draws + 10))
    wanted = math.ceil(missing / acceptance * MARGIN)
    return min(wanted, MAX_GROWTH * draws) if draws else wanted


def next_shards(progress: Progress, draws: int, shard_size: int) -> list[RawShard]:
    """Return the raw shards of the next round."""
    return [
        RawShard(progress.rounds, len(progress.shards) + n, progress.draws + start, min(shard_size, draws - start))
        for n, start in enumerate(range(0, draws, shard_size))
    ]


def close(progress: Progress, store: Store, output: str, shards: Sequence[RawShard], target: int) -> None:
    """Settle a round whose raw shards are all committed and commit its final shards, keeping those that are there."""
    final = store.committed(output)
    done = [final.get(shard.final) for shard in shards]
    if all(done):
        progress.resume([from_table(store.read_shard(output, shard)) for shard in done if shard])
    else:
        raw = store.committed(output, prefix="raw-")
        tables = progress.settle([from_table(store.read_shard(output, raw[str(shard)])) for shard in shards], target)
        done = [
            before or store.commit_shard(output, shard.final, to_table(rows))
            for before, shard, rows in zip(done, shards, tables, strict=True)
        ]
    progress.shards.extend(shard for shard in done if shard)
    progress.draws += sum(shard.draws for shard in shards)
