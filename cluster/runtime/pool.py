"""A pool of actors, each of which works on several pieces of work at once.

Dead actors are replaced. Pieces that may have ended an actor are tried together, and then halved.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gristmill.cluster.contract.errors import BusyError, RunError
from gristmill.cluster.runtime import deaths
from gristmill.cluster.runtime.calls import Calls, Cause, RayCalls

log = logging.getLogger(__name__)
W = TypeVar("W")
R = TypeVar("R")

MAX_DEATHS = 16
"""Most deaths one after another without a finished piece in between."""
TOGETHER_S = 60.0
"""First deaths of several actors within this many seconds count as one death. A machine may have many actors."""
MAX_OUT_OF_MEMORY = 3
"""Most times that Ray may end the actor at one place because memory is full, without a finished piece in between."""


def feed_from(pieces: Iterable[W]) -> Callable[[], W | None]:
    """Return a feed for `Pool.run` that gives the pieces in their order, and then None."""
    left = iter(pieces)
    return lambda: next(left, None)


@dataclass(eq=False, slots=True)
class _Piece(Generic[W]):
    """A piece of work, and the number of actors that died of themselves while they had it."""

    work: W
    deaths: int = 0


@dataclass(eq=False, slots=True)
class _Place(Generic[W]):
    """The place of one actor."""

    number: int
    actor: Any
    starting: Any
    """Reference that is ready when the actor has started; None when it has started."""
    spawned: float
    machine: str = ""
    lost: bool = False
    """Whether the actor before this one was lost with its machine."""
    alone: bool = False
    """Whether the actor works on suspected pieces, and gets nothing else until they are done."""
    held: list[_Piece[W]] = field(default_factory=list)


@dataclass
class Pool(Generic[W, R]):
    """A pool of `num_actors` actors.

    `spawn(place)` makes an actor. `call(actor, piece)` starts one piece of work and returns its object reference. An
    actor gets pieces when it has started. So an actor for which no machine has room gets none, until one has.

    If an actor dies of itself, its pieces are tried again like all others. If an actor dies that has such pieces, they
    are tried on an actor that has nothing else: each half of them, then each half of the half that ended an actor. A
    piece that ends an actor alone is the cause. Then `split` may cut it, and a piece that cannot be cut goes to
    `give_up`. So a death whose cause is none of the pieces costs only the work that was under way on the actor.

    An actor that died with its machine, or that Ray ended because the machine's memory was full, is also replaced, but
    its pieces do not count as the cause.
    """

    spawn: Callable[[int], Any]
    call: Callable[[Any, W], Any]
    num_actors: int
    in_flight: int = 2
    """Number of pieces that an actor has at a time. With two or more, it has its next piece when it finishes one."""
    split: Callable[[W], Sequence[W]] = lambda piece: (piece,)
    """Cuts a piece that ended actors into smaller ones. By default a piece is not cut."""
    give_up: Callable[[W, Exception], bool | None] | None = None
    """Called with a piece that ended two actors and cannot be cut, and the last error. It returns whether to end, like
    `done`. Without it, the run fails."""
    job: str = "run"
    """Name of the job of the actors. Lines for people begin with it."""
    lower: str = ""
    """Settings that decide how much memory the actors take, as `deaths.lowerable` returns them. The advice for full
    memory names them."""
    wait_s: float = 120.0
    """Seconds to wait for a machine when no actor has one."""
    say: Callable[[str], None] = log.warning
    """Prints a line for people each time that the memory was full, or that a machine is lost or replaced."""
    calls: Calls = field(default_factory=RayCalls)
    """The calls of the actors."""
    _places: list[_Place[W]] = field(default_factory=list)
    _flying: dict[Any, tuple[_Place[W], _Piece[W]]] = field(default_factory=dict)
    _groups: deque[list[_Piece[W]]] = field(default_factory=deque)
    """Suspected pieces. Each group waits for an actor that has nothing else."""
    _again: deque[_Piece[W]] = field(default_factory=deque)
    _deaths: int = 0
    _counted: float = 0.0
    """Time of the last death that was counted."""
    _fell: set[int] = field(default_factory=set)
    """Places where an actor has died since the last finished piece."""
    _out_of_memory: Counter[int] = field(default_factory=Counter)
    _lost: set[str] = field(default_factory=set)
    """Ids of the lost machines."""

    def __enter__(self) -> "Pool[W, R]":
        """Start all actors at once."""
        self._places = [self._occupy(number) for number in range(self.num_actors)]
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors, which frees their memory."""
        for place in self._places:
            self.calls.end(place.actor)
        self._places = []

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
            tick: called about every `tick_s` seconds.
            tick_s: seconds.

        Raises:
            RunError: if actors die again and again, or if a piece ends two actors and there is no `give_up`.
            BusyError: if no actor has had a machine for `wait_s` seconds.
            GristmillError: if a piece of work raised it.
        """
        ticked = self.calls.now()
        while self._launch(feed):
            starting = {place.starting: place for place in self._places if place.starting is not None}
            ready = self.calls.wait([*self._flying, *starting], tick_s)
            if (now := self.calls.now()) - ticked >= tick_s:
                ticked = now
                tick()
            for ref in ready:
                if ref in starting:
                    self._started(starting[ref])
                elif ref in self._flying and self._ended(ref, done):  # else it was lost with another piece
                    return
            self._refuse_idle()

    def _ended(self, ref: Any, done: Callable[[W, R], bool | None]) -> bool | None:  # noqa: ANN401 - of Ray
        """Take the result of a piece, and return whether the run ends."""
        place, piece = self._flying[ref]
        result, death = self.calls.result(ref, piece.work)
        if death is not None:
            return self._take_down(place, death)
        del self._flying[ref]
        place.held.remove(piece)
        place.alone = place.alone and bool(place.held)
        self._deaths = 0
        self._fell.clear()
        self._out_of_memory.clear()
        return done(piece.work, result)

    # -- out ------------------------------------------------------------------------------------------------------

    def _launch(self, feed: Callable[[], W | None]) -> bool:
        """Start pieces until every actor that has started has enough, and return whether any work is left.

        Suspected pieces come first. If no actor is idle for them, the one with the fewest pieces gets no further ones.
        """
        open_ = [place for place in self._places if place.starting is None and not place.alone]
        for place in [place for place in open_ if not place.held]:
            if self._groups:
                open_.remove(place)
                place.alone = True
                for piece in self._groups.popleft():
                    self._start(place, piece)
        if self._groups and open_:
            open_.remove(min(open_, key=lambda place: len(place.held)))
        while open_:
            place = min(open_, key=lambda place: len(place.held))
            if len(place.held) >= self.in_flight or (fresh := self._next(feed)) is None:
                break
            self._start(place, fresh)
        if not self._flying and not self._groups and not self._again:
            if (fresh := self._next(feed)) is None:
                return False
            self._again.append(fresh)  # no actor has started yet
        return True

    def _next(self, feed: Callable[[], W | None]) -> _Piece[W] | None:
        if self._again:
            return self._again.popleft()
        return None if (work := feed()) is None else _Piece(work)

    def _start(self, place: _Place[W], piece: _Piece[W]) -> None:
        place.held.append(piece)
        self._flying[self.call(place.actor, piece.work)] = place, piece

    # -- starts and deaths ----------------------------------------------------------------------------------------

    def _occupy(self, number: int, *, lost: bool = False) -> _Place[W]:
        actor = self.spawn(number)
        return _Place(number, actor, self.calls.start(actor), self.calls.now(), lost=lost)

    def _started(self, place: _Place[W]) -> None:
        _, death = self.calls.result(place.starting, f"the start of worker {place.number}")
        if death is not None:
            self._take_down(place, death)
            return
        place.starting, place.machine = None, self.calls.machine(place.actor)
        if place.lost:
            seconds = self.calls.now() - place.spawned
            self.say(f"{self.job}: worker {place.number} runs again on a machine, after {seconds:.0f} s")

    def _take_down(self, place: _Place[W], error: Exception) -> bool:
        """Replace the dead actor at a place, take its pieces back, and return whether the run ends."""
        cause = self._cause(place, error)
        lost, alone = place.held, place.alone
        names = ", ".join(str(piece.work) for piece in lost) or "nothing"
        log.info("worker %d died (cause: %s), lost with it: %s; %s", place.number, cause, names, error)
        self._flying = {ref: held for ref, held in self._flying.items() if held[0] is not place}
        self._count(place, cause, error, lost)
        if cause == "machine":
            self._say_lost(place)
        self.calls.end(place.actor)
        self._places[place.number] = self._occupy(place.number, lost=place.lost or cause == "machine")
        if cause == "itself":
            return self._blame(lost, error)
        if alone:
            self._groups.appendleft(lost)
        else:
            self._again.extendleft(reversed(lost))
        return False

    def _cause(self, place: _Place[W], error: Exception) -> Cause:
        """Return why an actor died. One that replaces a lost one may be sent to the lost machine before Ray knows."""
        cause = self.calls.cause(error, place.machine)
        return "machine" if cause == "itself" and place.lost and place.starting is not None else cause

    def _blame(self, lost: list[_Piece[W]], error: Exception) -> bool:
        """Suspect the pieces of an actor that died of itself, and return whether the run ends."""
        known = [piece for piece in lost if piece.deaths]
        for piece in lost:
            piece.deaths += 1
        if known and len(lost) == 1:
            return self._condemn(lost[0], error)
        self._again.extendleft(piece for piece in reversed(lost) if piece not in known)
        half = (len(known) + 1) // 2
        self._groups.extendleft(group for group in (known[half:], known[:half]) if group)
        return False

    def _condemn(self, piece: _Piece[W], error: Exception) -> bool:
        """Cut or give up the piece that ends actors, and return whether the run ends."""
        parts = self.split(piece.work)
        if len(parts) > 1:
            self._groups.extendleft([_Piece(part, piece.deaths)] for part in reversed(parts))
            return False
        if self.give_up is None:
            last = deaths.ended("worker", error)
            raise RunError(f"{piece.work}: took two actors down, the last: {last}") from error
        return bool(self.give_up(piece.work, error))

    def _count(self, place: _Place[W], cause: Cause, error: Exception, lost: Sequence[_Piece[W]]) -> None:
        """Count a death, and end the run if actors die again and again with nothing finished in between.

        The first death of a further actor soon after another one is not counted, because a machine or a file system
        fails for many actors at once. Nor is the second one if its machine was lost.
        """
        now, again = self.calls.now(), place.number in self._fell and cause != "machine"
        self._fell.add(place.number)
        if not self._deaths or again or now - self._counted > TOGETHER_S:
            self._deaths, self._counted = self._deaths + 1, now
        if cause == "memory":
            self._note_full(place.number, error)
        if self._deaths >= MAX_DEATHS:
            last = deaths.ended(f"worker {place.number}", error)
            what = next((str(piece.work) for piece in lost), self.job)
            raise RunError(f"{what}: actors died {self._deaths} times without one finishing, the last: {last}")

    def _note_full(self, number: int, error: Exception) -> None:
        """Say that Ray ended an actor because memory was full, or end the run if that happens again and again."""
        self._out_of_memory[number] += 1
        if self._out_of_memory[number] < MAX_OUT_OF_MEMORY and self._deaths < MAX_DEATHS:
            self.say(f"{self.job}: {deaths.ended(f'worker {number}', error, top=False)}; started again")
            return
        last = deaths.ended(f"worker {number}", error)
        what = f"{self._deaths} deaths with nothing finished in between, the last: {last}"
        raise RunError(f"{self.job}: {what}; {deaths.advice(self.lower)}") from error

    def _say_lost(self, place: _Place[W]) -> None:
        """Say once for each lost machine which workers it had."""
        if not place.machine or place.machine in self._lost:
            return
        self._lost.add(place.machine)
        gone = [other.number for other in self._places if other.machine == place.machine]
        going = sum(other.starting is None for other in self._places) - len(gone)
        self.say(
            f"{self.job}: a machine is lost, with worker {', '.join(map(str, gone))}; {going} of {self.num_actors} "
            "workers go on, the others wait for a machine"
        )

    def _refuse_idle(self) -> None:
        """End the run if all actors were lost with their machines, and none has had one since."""
        if all(place.lost and place.starting is not None for place in self._places):
            idle_s = self.calls.now() - max(place.spawned for place in self._places)
            if idle_s > self.wait_s:
                raise BusyError(
                    f"{self.job}: no machine has had room for any of {self.num_actors} workers for {idle_s:.0f} s, "
                    "since the last was lost; run again when there are machines, or set cluster.wait_s"
                )
