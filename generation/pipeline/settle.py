"""Settling decides what is kept for good. It depends only on committed shards, one after the other in their order.

A shard takes its demonstrations from the inputs and from what was kept up to the round before the last. So a draw
depends on nothing that runs at the same time, and a round may begin before the round before it has ended. As soon as a
shard and all before it are committed, it is settled: each kept row is compared once more with everything accepted so
far. The job ends with the first shard that meets the target; surplus rows of that shard are dropped, by id. Settling is
deterministic, so a job that was killed settles again to the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Filter, History, HistoryFilter
from gristmill.generation.pipeline.frames import Frames, unframed

MARGIN = 1.1
"""Factor on the draws that the acceptance asks for, so that they rarely miss the target by a few rows."""
MIN_ACCEPTANCE = 0.02
"""Least acceptance to plan with."""
PRIOR_WEIGHT = 10
"""Draws that the expected acceptance counts as, together with the measured one."""


@dataclass
class Progress:
    """Everything that is settled so far."""

    target: int | None
    """Number of kept rows of the whole job; None for as many as there are."""
    filters: Sequence[Filter | HistoryFilter]
    passing: frozenset[str] = frozenset()
    """Methods whose rows are not compared with others, see `Method.instructs`."""
    frames: Frames = ()
    """What templates put around instructions, see `Method.frames`."""
    kept: int = 0
    draws: int = 0
    rows: int = 0
    shards: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    reply_tokens: int = 0
    _memories: list[tuple[HistoryFilter, History]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the memories of the history filters."""
        self._memories = [(step, step.memory()) for step in self.filters if isinstance(step, HistoryFilter)]

    @property
    def target_met(self) -> bool:
        """Whether the target is met."""
        return self.target is not None and self.kept >= self.target

    @property
    def compares(self) -> bool:
        """Whether rows are compared with each other; the seeds must then be remembered first."""
        return bool(self._memories)

    def remember(self, samples: Iterable[Sample]) -> None:
        """Remember samples that new ones are compared with: the seeds, before the first shard."""
        for sample in samples:
            new = unframed(sample, self.frames)
            for _, memory in self._memories:
                memory.add(new)

    def settle(self, rows: Sequence[Sample], draws: int) -> list[Sample]:
        """Return the rows of the next shard, which had `draws` draws, kept or dropped for good, and remember them."""
        settled = [self._compared(row) for row in rows]
        if self.target is not None:
            fresh = sorted(row.id for row in settled if row.dropped is None)
            surplus = set(fresh[self.target - self.kept :])
            settled = [row.drop("target: surplus") if row.id in surplus else row for row in settled]
        self._take_in(settled, draws)
        return settled

    def resume(self, rows: Sequence[Sample], draws: int) -> None:
        """Remember the rows of the next shard, which an earlier execution settled and committed."""
        if self._memories:
            self.remember(row for row in rows if row.dropped is None)
        self._take_in(rows, draws)

    def acceptance(self, prior: float) -> float:
        """Return the share of draws that were kept; `prior` counts as ten draws."""
        return max(MIN_ACCEPTANCE, (self.kept + PRIOR_WEIGHT * prior) / (self.draws + PRIOR_WEIGHT))

    def _compared(self, row: Sample) -> Sample:
        for step, memory in self._memories:
            if row.dropped is None and row.method not in self.passing and step.judges(row.method):
                verdict = step.compare(unframed(row, self.frames), memory, len(memory))
                row = replace(row, scores={**row.scores, **verdict.scores}, dropped=verdict.dropped)
        if row.dropped is None:
            self.remember([row])
        return row

    def _take_in(self, rows: Sequence[Sample], draws: int) -> None:
        self.draws += draws
        self.rows += len(rows)
        self.kept += sum(row.dropped is None for row in rows)
        self.reasons.update(reason(row.dropped) for row in rows if row.dropped is not None)
        self.prompt_tokens += sum(row.origin.prompt_tokens for row in rows if row.origin)
        self.reply_tokens += sum(row.origin.reply_tokens for row in rows if row.origin)
        self.shards += 1


def reason(dropped: str) -> str:
    """Return a drop reason for counting, without the parts that differ from row to row."""
    return dropped.partition(" near ")[0] + " near another" if " near " in dropped else dropped


def top(reasons: "Counter[str]", most: int) -> Iterator[str]:
    """Yield the most frequent drop reasons with their counts."""
    yield from (f"{why} ({n})" for why, n in reasons.most_common(most))
