"""A pool of actors, each of which works on several pieces of work at once.

Dead actors are replaced. A piece that may have ended an actor is tried alone.
"""

import logging
import textwrap
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gristmill.cluster.contract.errors import EngineError, GristmillError, RunError
from gristmill.cluster.runtime import deaths

log = logging.getLogger(__name__)
W = TypeVar("W")
R = TypeVar("R")

MAX_DEATHS = 16
"""Most actors that may die one after another without a finished piece in between."""
MAX_OUT_OF_MEMORY = 3
"""Most times that Ray may end the actor at one place because memory is full, without a finished piece in between."""


def feed_from(pieces: Iterable[W]) -> Callable[[], W | None]:
    """Return a feed for `Pool.run` that gives the pieces in their order, and then None."""
    left = iter(pieces)
    return lambda: next(left, None)


@dataclass
class Pool(Generic[W, R]):
    """A pool of `num_actors` actors.

    `spawn(place)` makes an actor. `call(actor, piece)` starts one piece of work and returns its object reference.

    If an actor dies, each of its pieces is tried again alone on an actor. If that actor dies too, the piece is the
    cause. Then `split` may cut it, and a piece that cannot be cut goes to `give_up`. An actor that Ray ended because
    the machine's memory was full is also replaced, but its pieces do not count as the cause: any process of the machine
    may have filled the memory.
    """

    spawn: Callable[[int], Any]
    call: Callable[[Any, W], Any]
    num_actors: int
    in_flight: int = 2
    """Number of pieces that an actor has at a time. With two or more, it has its next piece when it finishes one."""
    split: Callable[[W], Sequence[W]] = lambda piece: (piece,)
    """Cuts a piece that ended two actors into smaller ones. By default a piece is not cut."""
    give_up: Callable[[W, Exception], bool | None] | None = None
    """Called with a piece that ended two actors and cannot be cut, and the last error. It returns whether to end, like
    `done`. Without it, the run fails."""
    job: str = "run"
    """Name of the job of the actors. Messages about full memory begin with it."""
    lower: str = ""
    """Settings that decide how much memory the actors take, as `deaths.lowerable` returns them. The advice for full
    memory names them."""
    say: Callable[[str], None] = log.warning
    """Prints a line for people each time that the memory was full."""
    _actors: list[Any] = field(default_factory=list)
    _suspects: deque[W] = field(default_factory=deque)
    _again: deque[W] = field(default_factory=deque)
    _deaths: int = 0
    _out_of_memory: Counter[int] = field(default_factory=Counter)

    def __enter__(self) -> "Pool[W, R]":
        """Start all actors at once."""
        self._actors = [self.spawn(place) for place in range(self.num_actors)]
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors, which frees their memory."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    @property
    def actors(self) -> Sequence[Any]:
        """The living actors. It is used for calls that ask about their progress."""
        return tuple(self._actors)

    def run(
        self,
        feed: Callable[[], W | None],
        done: Callable[[W, R], bool | None],
        tick: Callable[[], None],
        tick_s: float = 1.0,
    ) -> None:
        """Work on every piece that the feed gives, in any order.

        Args:
            feed: returns the next piece, or None if there is none at present. It is asked again after each `done`. The
                run ends when it returns None and no piece is in flight.
            done: called with a finished piece and its result. If it returns True, the run ends at once, even if other
                pieces are in flight.
            tick: called at least about every `tick_s` seconds.
            tick_s: seconds.

        Raises:
            RunError: if actors die again and again, or if a piece ends two actors and there is no `give_up`.
            GristmillError: if a piece of work raised it.
        """
        import ray

        flying: dict[Any, tuple[int, W, bool]] = {}
        while True:
            self._launch(feed, flying)
            if not flying:
                return
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=tick_s)
            tick()
            for ref in ready:
                if ref not in flying:
                    continue  # lost with another piece in this round
                place, piece, alone = flying.pop(ref)
                result, death = _outcome(ref, piece)
                if death is not None:
                    if self._take_down(place, piece, flying, death, alone=alone):
                        return
                    continue
                self._deaths = 0
                self._out_of_memory.clear()
                if done(piece, result):
                    return

    def _launch(self, feed: Callable[[], W | None], flying: dict[Any, tuple[int, W, bool]]) -> None:
        """Start pieces until every actor has enough. Suspected pieces come first, each alone on an idle actor."""
        held: dict[int, list[bool]] = {place: [] for place in range(self.num_actors)}
        for place, _, alone in flying.values():
            held[place].append(alone)
        while self._suspects and (idle := [place for place, pieces in held.items() if not pieces]):
            self._start(idle[0], self._suspects.popleft(), flying, alone=True)
            held[idle[0]].append(True)
        free = {place: len(pieces) for place, pieces in held.items() if not any(pieces)}
        if self._suspects:  # keep an actor free for suspected pieces, unless all are kept free already
            free.pop(min(free, key=lambda place: free[place]), None) if free else None
        while free and min(free.values()) < self.in_flight:
            piece = self._again.popleft() if self._again else feed()
            if piece is None:
                return
            place = min(free, key=lambda p: free[p])
            self._start(place, piece, flying, alone=False)
            free[place] += 1

    def _start(self, place: int, piece: W, flying: dict[Any, tuple[int, W, bool]], *, alone: bool) -> None:
        flying[self.call(self._actors[place], piece)] = (place, piece, alone)

    def _take_down(
        self, place: int, piece: W, flying: dict[Any, tuple[int, W, bool]], error: Exception, *, alone: bool
    ) -> bool:
        """Replace the dead actor at a place, take its pieces back, and return whether the run ends."""
        import ray

        self._deaths += 1
        held = [ref for ref, (p, _, _) in flying.items() if p == place]
        lost = [piece, *(flying.pop(ref)[1] for ref in held)]
        log.info("%s lost with their actor, trying again: %s", ", ".join(map(str, lost)), error)
        if deaths.out_of_memory(error):
            self._note_full(place, error)
        if self._deaths >= MAX_DEATHS:
            last = deaths.ended(f"worker {place}", error)
            raise RunError(f"{piece}: {self._deaths} actors died without one finishing, the last: {last}")
        ray.kill(self._actors[place])
        self._actors[place] = self.spawn(place)
        if deaths.out_of_memory(error):
            (self._suspects if alone else self._again).extendleft(reversed(lost))
            return False
        if not alone:
            self._suspects.extend(lost)
            return False
        parts = self.split(piece)
        if len(parts) > 1:
            self._suspects.extendleft(reversed(parts))
            return False
        if self.give_up is None:
            raise RunError(f"{piece}: took two actors down, the last: {deaths.ended('worker', error)}") from error
        return bool(self.give_up(piece, error))

    def _note_full(self, place: int, error: Exception) -> None:
        """Say that Ray ended an actor because memory was full, or end the run if that happens again and again."""
        self._out_of_memory[place] += 1
        if self._out_of_memory[place] < MAX_OUT_OF_MEMORY and self._deaths < MAX_DEATHS:
            self.say(f"{self.job}: {deaths.ended(f'worker {place}', error, top=False)}; started again")
            return
        last = deaths.ended(f"worker {place}", error)
        what = f"{self._deaths} deaths with nothing finished in between, the last: {last}"
        raise RunError(f"{self.job}: {what}; {deaths.advice(self.lower)}") from error


def _outcome(ref: Any, piece: object) -> tuple[Any, Exception | None]:  # noqa: ANN401 - of an actor's method
    """Return (result, None), or (None, error) if the actor or its engine has died.

    Raises:
        GristmillError: if the piece of work raised an error. An error of another class becomes a `RunError` of one
            line.
    """
    import ray

    try:
        return ray.get(ref), None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EngineError):
            return None, error
        if isinstance(error.cause, GristmillError):
            raise error.cause from error
        log.info("%s: %s", piece, error)
        what = textwrap.shorten(f"{type(error.cause).__name__}: {error.cause}", deaths.LONGEST)
        raise RunError(f"{piece}: {what}") from error
    except deaths.deaths() as error:
        return None, error
