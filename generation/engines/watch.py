"""Watch over engine actors: collect their figures every second, and end an actor that hangs."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.cluster.contract.errors import GristmillError, JobError, RunError
from gristmill.cluster.runtime.deaths import deaths
from gristmill.cluster.runtime.log import tail

log = logging.getLogger(__name__)

MOVES = ("steps", "requests", "reply_tokens", "rows", "clock_s")
"""Counters. While an engine works, at least one of them grows. An endpoint gives up calls by itself, so it has a clock
among them: its worker hangs only if it does not report at all."""
SILENCE_S = 300.0
"""The worker of an endpoint is ended only after this many seconds without any report, even if `hang_s` is less.
`hang_s` is for the server; a worker may be busy with its own steps."""


@dataclass
class _Watched:
    actor: Any
    name: str
    ready: Any
    restarts: bool
    hang_s: float
    asked: Any = None
    stats: Mapping[str, float] = field(default_factory=dict)
    moved: float = 0.0
    """Time when the actor last made progress or had nothing to do."""


class Watch:
    """The watched actors of a job, by key."""

    def __init__(self, logs: str | None, say: Callable[[str], None] = log.warning) -> None:
        """Take the folder of the actors' logs, for error messages, and the function that prints lines for people."""
        self._logs, self._say = logs, say
        self._watched: dict[Any, _Watched] = {}
        self.engine_start_s = 0.0
        self.facts: dict[str, Any] = {}
        """Facts from the first engine that has started."""

    def begin(self, key: object, actor: Any, name: str, hang_s: float, *, restarts: bool = False) -> None:  # noqa: ANN401
        """Watch an actor that starts, instead of an earlier actor with this key. With `restarts`, Ray restarts it."""
        self._watched[key] = _Watched(actor, name, actor.ready.remote(), restarts, hang_s)

    def look(self) -> dict[str, float]:
        """Collect the reports that have come, ask for new ones, and return the sums; never wait for an actor.

        Raises:
            JobError: when an endpoint does not know the key or the model.
            RunError: when an engine cannot start.
        """
        total: dict[str, float] = {}
        for key, watched in list(self._watched.items()):
            if watched.ready is not None:
                self._started(watched)
                continue
            self._heard(watched)
            if time.monotonic() - watched.moved > watched.hang_s:
                self._end(key, watched)
            elif isinstance(key, int):  # only workers count: other engines work for them, and are part of their figures
                for name, value in watched.stats.items():
                    total[name] = total.get(name, 0.0) + value
        return total

    def _started(self, watched: _Watched) -> None:
        import ray

        if not ray.wait([watched.ready], timeout=0)[0]:
            return
        try:
            facts = ray.get(watched.ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, JobError):  # for example, an endpoint knows neither the key nor the model
                raise error.cause from error
            cause = error.cause if isinstance(error.cause, GristmillError) else error
            last = tail(self._logs, watched.name, 1)
            raise RunError(f"generate: {cause}; see {watched.name}.log in {self._logs} ({last})") from error
        except deaths():  # it died while it started: the pool starts another
            facts = {}
        watched.ready, watched.moved = None, time.monotonic()
        self.facts = self.facts or dict(facts)
        self.engine_start_s = max(self.engine_start_s, float(facts.get("engine_start_s", 0.0)))

    def _heard(self, watched: _Watched) -> None:
        import ray

        if watched.asked is not None and ray.wait([watched.asked], timeout=0)[0]:
            try:
                stats = ray.get(watched.asked)
            except deaths():  # the pool gets the error with the shard
                stats = {}
            self._say_restart(watched, stats)
            moved = any(stats.get(name, 0) != watched.stats.get(name, 0) for name in MOVES)
            if moved or not stats.get("running", 0) + stats.get("waiting", 0):
                watched.moved = time.monotonic()
            watched.stats, watched.asked = stats, None
        if watched.asked is None:
            watched.asked = watched.actor.stats.remote()

    def _say_restart(self, watched: _Watched, stats: Mapping[str, float]) -> None:
        """Print that Ray has restarted an engine. Ray repeats its calls, so no caller sees an error."""
        if stats.get("pid", 0.0) and stats["pid"] != watched.stats.get("pid", stats["pid"]):
            self._say(f"generate: {watched.name} died, of full memory or by itself; Ray has started it again")

    def _end(self, key: object, watched: _Watched) -> None:
        """End an actor that hangs; its work goes back to the pool, as after any death."""
        import ray

        log.warning("%s has not moved for %.0f s with requests waiting, ending it", watched.name, watched.hang_s)
        watched.moved = time.monotonic()
        watched.asked = None
        if not watched.restarts:
            del self._watched[key]
        ray.kill(watched.actor, no_restart=not watched.restarts)
