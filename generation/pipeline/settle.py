"""Settling: the final decision which rows are kept. It depends only on the committed shards and their order.

A shard takes its demonstrations from the inputs and from the rows kept up to the round before the last. So a draw
depends on nothing that runs at the same time, and a round may begin before the round before it has ended. A shard is
settled as soon as it and all shards before it are committed: each kept row is compared again, with everything accepted
so far. The job ends with the first shard that meets the target. Surplus rows of that shard are dropped: the rows with
the largest ids. Settling is deterministic, so a killed job settles again to the same bytes. If a method has shares of
labels, a row is dropped when its label already has its share, and the job continues until all labels have their shares.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Filter, History, HistoryFilter, Method
from gristmill.generation.pipeline.frames import Frames, unframed

Quotas = Mapping[str, Mapping[str, int]]
"""Largest number of kept rows, by step and label. The step is the one in a row's origin."""
SURPLUS = "target: "
"""Prefix of the drop reason of a row that passed every filter but is more than the target needs."""
MARGIN = 1.1
"""Factor on the number of draws that follows from the acceptance, so that the draws rarely give too few rows."""
MIN_ACCEPTANCE = 0.02
"""Smallest acceptance that is used for planning."""
PRIOR_WEIGHT = 10
"""Weight, in draws, of the expected acceptance against the measured acceptance."""


@dataclass
class Progress:
    """The target, and the results of settling so far."""

    target: int | None
    """Number of rows that the job must keep; None to use every input once."""
    filters: Sequence[Filter | HistoryFilter]
    passing: frozenset[str] = frozenset()
    """Kinds of methods. Their rows are not compared with other rows, see `Method.instructs`."""
    frames: Frames = ()
    """The texts that templates put around instructions, see `Method.frames`."""
    quotas: Quotas = field(default_factory=dict)
    """Largest number of kept rows, by step and label, see `Method.shares`."""
    prior: float = 1.0
    """Expected share of the draws that are kept; used with `PRIOR_WEIGHT`."""
    most_drafts: float = math.inf
    """Number of drafts after which no further shard begins."""
    kept: int = 0
    draws: int = 0
    rows: int = 0
    shards: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    reply_tokens: int = 0
    _labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    _memories: list[tuple[HistoryFilter, History]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the histories of the history filters."""
        self._memories = [(step, step.memory()) for step in self.filters if isinstance(step, HistoryFilter)]

    @property
    def target_met(self) -> bool:
        """Whether the target is met."""
        return self.target is not None and self.kept >= self.target

    @property
    def surplus(self) -> int:
        """Number of rows that passed every filter but are more than the target needs."""
        return sum(count for why, count in self.reasons.items() if why.startswith(SURPLUS))

    @property
    def compares(self) -> bool:
        """Whether rows are compared with each other. If so, the seeds must be remembered first."""
        return bool(self._memories)

    def remember(self, samples: Iterable[Sample]) -> None:
        """Remember samples with which later rows are compared. The seeds are remembered before the first shard."""
        for sample in samples:
            new = unframed(sample, self.frames)
            for _, memory in self._memories:
                memory.add(new)

    def settle(self, rows: Sequence[Sample], draws: int) -> list[Sample]:
        """Return the rows of the next shard after the final decision, and remember them. `draws` made the shard."""
        settled = [self._accepted(row) for row in rows]
        if self.target is not None:
            fresh = sorted(row.id for row in settled if row.dropped is None)
            surplus = set(fresh[self.target - self.kept :])
            settled = [row.drop(f"{SURPLUS}surplus") if row.id in surplus else row for row in settled]
        self._take_in(settled, draws)
        return settled

    def resume(self, rows: Sequence[Sample], draws: int) -> None:
        """Remember the rows of the next shard, which an earlier execution settled and committed."""
        for row in rows:
            if row.dropped is None:
                self._count(row)
        if self._memories:
            self.remember(row for row in rows if row.dropped is None)
        self._take_in(rows, draws)

    @property
    def acceptance(self) -> float:
        """The share of the draws that were kept. The `prior` counts as ten draws."""
        return max(MIN_ACCEPTANCE, (self.kept + PRIOR_WEIGHT * self.prior) / (self.draws + PRIOR_WEIGHT))

    @property
    def labels(self) -> dict[str, int]:
        """Number of kept rows of each label that has a quota."""
        known = [name for quotas in self.quotas.values() for name in quotas]
        return {name: sum(self._labels[step, name] for step in self.quotas) for name in sorted({*known})}

    @property
    def short(self) -> list[str]:
        """The labels that are short of their quota, with the numbers of kept and wanted rows."""
        wanted = [(step, name, most) for step, quotas in self.quotas.items() for name, most in quotas.items()]
        counts = [(name, self._labels[step, name], most) for step, name, most in wanted]
        return [f"{name} {kept} of {most}" for name, kept, most in counts if kept < most]

    def _accepted(self, row: Sample) -> Sample:
        """Return the row; drop it if there are enough rows of its label or if it is too near another row."""
        step, label = _labelled(row)
        if row.dropped is None and self._labels[step, label] >= self.quotas.get(step, {}).get(label, math.inf):
            return row.drop(f"{SURPLUS}enough of {label}")
        row = self._compared(row)
        if row.dropped is None:
            self._count(row)
        return row

    def _count(self, row: Sample) -> None:
        step, label = _labelled(row)
        if label in self.quotas.get(step, {}):
            self._labels[step, label] += 1

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


def quotas_of(methods: Sequence[tuple[str, Method]], target: int | None) -> Quotas:
    """Return how many rows of each label are kept at most, for the methods that have shares of labels.

    A method's part of the target follows from its weight, rounded up. The quotas of its labels add up to that part:
    each quota is rounded down, and the labels with the largest remainders get one more.
    """
    if target is None:
        return {}
    whole, quotas = sum(method.weight for _, method in methods), dict[str, dict[str, int]]()
    for step, method in methods:
        shares = method.shares()
        total, part = sum(shares.values()), math.ceil(target * method.weight / whole)
        if not shares:
            continue
        quotas[step] = {name: part * share // total for name, share in sorted(shares.items())}
        remainders = sorted(quotas[step], key=lambda name: -(part * shares[name] % total))
        for name in remainders[: part - sum(quotas[step].values())]:
            quotas[step][name] += 1
    return quotas


def _labelled(row: Sample) -> tuple[str, str]:
    """Return the step and the label of a row."""
    return (row.origin.step if row.origin else ""), row.tags.get("label", "")


def reason(dropped: str) -> str:
    """Return a drop reason for counting, without the parts that differ from row to row."""
    return dropped.partition(" near ")[0] + " near another" if " near " in dropped else dropped


def top(reasons: "Counter[str]", most: int) -> Iterator[str]:
    """Yield the most frequent drop reasons with their counts."""
    yield from (f"{why} ({n})" for why, n in reasons.most_common(most))
