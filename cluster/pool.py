"""A pool of actors that work through shards: several in flight each, the dead replaced, their shards tried again."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cluster.errors import EngineError, GristmillError, RunError

log = logging.getLogger(__name__)
W = TypeVar("W")
R = TypeVar("R")

MAX_ATTEMPTS = 3
"""Times that one piece of work may take an actor down before the run fails."""


@dataclass
class Pool(Generic[W, R]):
    """Actors made by `spawn(place)`; `call(actor, work)` starts one piece of work and returns its object reference."""

    spawn: Callable[[int], Any]
    call: Callable[[Any, W], Any]
    num_actors: int
    in_flight: int = 2
    """Pieces that an actor holds at once, so that it has the next before it is done with the last."""
    _actors: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Pool[W, R]":
        """Start all actors at once."""
        self._actors = [self.spawn(place) for place in range(self.num_actors)]
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors and with them the memory that they hold."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    @property
    def actors(self) -> Sequence[Any]:
        """The living actors, for calls that ask how far they are."""
        return tuple(self._actors)

    def run(
        self, work: Sequence[W], done: Callable[[W, R], None], tick: Callable[[], None], tick_s: float = 1.0
    ) -> None:
        """Do every piece of work once, in any order.

        Args:
            work: the pieces.
            done: called with a piece and its result as it ends.
            tick: called about every `tick_s` seconds.
            tick_s: seconds.

        Raises:
            RunError: when a piece has taken `MAX_ATTEMPTS` actors down, with the last cause.
            GristmillError: what a piece of work itself raised.
        """
        import ray

        waiting = deque((piece, 1) for piece in work)
        flying: dict[Any, tuple[int, W, int]] = {}
        while waiting or flying:
            load = [sum(1 for place, _, _ in flying.values() if place == p) for p in range(self.num_actors)]
            while waiting and min(load) < self.in_flight:
                place = load.index(min(load))
                piece, attempt = waiting.popleft()
                flying[self.call(self._actors[place], piece)] = (place, piece, attempt)
                load[place] += 1
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=tick_s)
            tick()
            for ref in ready:
                if ref not in flying:
                    continue  # went down with a neighbour in this round
                place, piece, attempt = flying.pop(ref)
                try:
                    result = ray.get(ref)
                except (ray.exceptions.RayActorError, EngineError) as error:
                    lost = [(piece, attempt), *self._take_down(place, flying)]
                    waiting.extendleft(reversed([self._again(p, a, error) for p, a in lost]))
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause
                    raise (cause if isinstance(cause, GristmillError) else RunError(f"{piece}: {error}")) from error
                else:
                    done(piece, result)

    def _take_down(self, place: int, flying: dict[Any, tuple[int, W, int]]) -> list[tuple[W, int]]:
        """Replace the actor at a place; return what else it held, which counts as the same attempt."""
        import ray

        held = [ref for ref, (p, _, _) in flying.items() if p == place]
        lost = [(piece, attempt) for _, piece, attempt in map(flying.pop, held)]
        ray.kill(self._actors[place])
        self._actors[place] = self.spawn(place)
        return lost

    def _again(self, piece: W, attempt: int, error: Exception) -> tuple[W, int]:
        if attempt >= MAX_ATTEMPTS:
            raise RunError(f"{piece}: took {attempt} actors down, the last by: {error}") from error
        log.warning("%s lost with its actor at attempt %d, trying again: %s", piece, attempt, error)
        return piece, attempt + 1
