"""The figures of a worker as Ray's metrics, which Prometheus scrapes and `deploy/grafana.json` draws.

Ray exports each metric at the metrics port of every node. It adds the prefix `ray_`, the suffix `_total` for counters,
and labels of its own (`SessionName`, `WorkerId`, …).
"""

from collections.abc import Mapping
from typing import Any

PREFIX = "gristmill_generate_"
COUNTERS = {
    "rows": "Rows made, kept and dropped.",
    "kept": "Rows that passed every filter; before the round is settled.",
    "requests": "Calls of the model.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that were found in the prefix cache.",
    "reply_tokens": "Tokens of replies.",
    "retries": "Calls of an endpoint that were tried again.",
}
GAUGES = {
    "running": "Calls that the engine works on.",
    "waiting": "Calls that wait for the engine.",
    "window": "Calls that an endpoint bears at once, as far as it is known.",
    "prefix_cache_hit_rate": "Share of the prompts' tokens found in the prefix cache since the start.",
    "reply_tokens_per_s": "Reply tokens a second since the start, while the engine had work.",
}
DROPPED = "dropped"
DROPPED_BY = "dropped by "
"""Prefix of a stat that counts the rows of one drop reason."""
TAGS = ("output", "actor")
"""Labels of every metric: the folder that the job makes, and the actor. (Prometheus uses the label `job` itself.)"""
MAX_REASONS = 60
"""Largest number of drop reasons with their own series. All others count as `other`, because every label costs memory
in Prometheus."""


class Metrics:
    """Ray's metrics of one worker; `update` is called about once a second, in the worker's process."""

    def __init__(self, job: str, actor: str) -> None:
        """Declare the metrics of an actor that works for a job's output; each is exported once it has a value."""
        from ray.util.metrics import Counter, Gauge

        tags = {"output": job, "actor": actor}
        self._counters: dict[str, Any] = {name: Counter(PREFIX + name, text, TAGS) for name, text in COUNTERS.items()}
        self._gauges: dict[str, Any] = {name: Gauge(PREFIX + name, text, TAGS) for name, text in GAUGES.items()}
        self._dropped: Any = Counter(PREFIX + DROPPED, "Rows dropped, by reason.", (*TAGS, "reason"))
        for metric in (*self._counters.values(), *self._gauges.values(), self._dropped):
            metric.set_default_tags(tags)
        self._last: dict[str, float] = {}
        self._reasons: set[str] = set()

    def update(self, stats: Mapping[str, float]) -> None:
        """Report the changes since the last call.

        Args:
            stats: counts since the worker's start (`rows`, `kept`, `reply_tokens`, …, `dropped by <reason>`) and
                present states (`running`, `waiting`, …), as a worker's `stats` returns them. Other names are ignored.
                If a count has fallen, it has started again from 0.
        """
        for name, counter in self._counters.items():
            grown = self._grown(name, stats)
            if grown:
                counter.inc(grown)
        for name, gauge in self._gauges.items():
            if name in stats:
                gauge.set(stats[name])
        for name in stats:
            grown = self._grown(name, stats) if name.startswith(DROPPED_BY) else 0
            if grown:
                self._dropped.inc(grown, {"reason": self._reason(name.removeprefix(DROPPED_BY))})

    def _grown(self, name: str, stats: Mapping[str, float]) -> float:
        now, last = stats.get(name, 0.0), self._last.get(name, 0.0)
        if name in stats:
            self._last[name] = now
        return now - last if now >= last else now

    def _reason(self, reason: str) -> str:
        label = reason_label(reason)
        if label not in self._reasons and len(self._reasons) >= MAX_REASONS:
            return "other"
        self._reasons.add(label)
        return label


def reason_label(dropped: str) -> str:
    """Return a drop reason without the parts that differ by row: names of other rows, messages of libraries."""
    kind, colon, what = dropped.partition(": ")
    for word in ("error", "failed"):
        if what.startswith(word):
            return f"{kind}: {word}"
    return f"{kind}{colon}{what.partition(' near ')[0]}" if " near " in what else dropped
