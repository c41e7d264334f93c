"""A virtual cluster: machines, actors and calls in virtual time, for the real `Pool` and all that is built on it.

Nothing here waits. `VirtualCalls.wait` moves the clock to the next event. Two runs of the same events are equal.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from gristmill.cluster.runtime.calls import Cause


class DiedError(Exception):
    """An actor has died; the text says why."""


@dataclass(eq=False)
class Ref:
    """The result of a call, when it is there."""

    value: Any = None
    error: Exception | None = None
    ready: bool = False


@dataclass(eq=False)
class VirtualActor:
    """An actor in its place: `machine` is None as long as none has room for it."""

    place: int
    machine: str | None = None
    up: bool = False
    dead: bool = False
    why: str = ""
    """Why it died. Ray says it of each later call too."""
    start: Ref = field(default_factory=Ref)
    calls: list[Ref] = field(default_factory=list)
    state: Any = None
    """What the test keeps of it."""


class VirtualCalls:
    """The calls of virtual actors on machines that have room for so many actors each."""

    def __init__(self, machines: dict[str, int], start_s: float = 1.0) -> None:
        """Take the machines with their numbers of actors, and the seconds that an actor takes to start."""
        self.room, self.start_s = dict(machines), start_s
        self.clock = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._ready: list[Ref] = []
        self.actors: list[VirtualActor] = []

    # -- the test's side ------------------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        heapq.heappush(self._events, (self.clock + seconds, next(self._order), action))

    def spawn(self, place: int) -> VirtualActor:
        """Make an actor, which starts as soon as a machine has room for it."""
        actor = VirtualActor(place)
        self.actors.append(actor)
        self.place_all()
        return actor

    def place_all(self) -> None:
        """Give machines to the actors that wait for one."""
        for actor in self.actors:
            if actor.machine is None and not actor.dead:
                taken = [other.machine for other in self.actors if not other.dead]
                actor.machine = next((name for name, room in self.room.items() if taken.count(name) < room), None)
                if actor.machine is not None:
                    self.after(self.start_s, lambda actor=actor: self._up(actor))  # type: ignore[misc]

    def _up(self, actor: VirtualActor) -> None:
        if not actor.dead:
            actor.up = True
            self.finish(actor.start)

    def call(self, actor: VirtualActor) -> Ref:
        """Return the reference of a call that the test finishes later; it fails when the actor is dead."""
        ref = Ref()
        if actor.dead:
            self.finish(ref, error=DiedError(actor.why))
        else:
            actor.calls.append(ref)
        return ref

    def finish(self, ref: Ref, value: object = None, error: Exception | None = None) -> None:
        """Make a reference ready, unless it is."""
        if not ref.ready:
            ref.value, ref.error, ref.ready = value, error, True
            self._ready.append(ref)

    def kill(self, actor: VirtualActor, why: str = "itself") -> None:
        """Let an actor die."""
        if not actor.dead:
            actor.dead, actor.up, actor.why = True, False, why
            for ref in (actor.start, *actor.calls):
                self.finish(ref, error=DiedError(why))
            self.actors.remove(actor)
            self.place_all()

    def lose(self, machine: str) -> None:
        """Lose a machine with its actors."""
        self.room.pop(machine, None)
        for actor in [actor for actor in self.actors if actor.machine == machine]:
            self.kill(actor, "machine")

    def add(self, machine: str, room: int) -> None:
        """Add a machine."""
        self.room[machine] = room
        self.place_all()

    # -- the pool's side ------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock

    def start(self, actor: VirtualActor) -> Ref:
        return actor.start

    def machine(self, actor: VirtualActor) -> str:
        return actor.machine or ""

    def wait(self, refs: Sequence[Ref], timeout_s: float) -> Sequence[Ref]:
        del refs  # what nobody waits for any more is not asked for either
        end = self.clock + timeout_s
        while not self._ready and self._events and self._events[0][0] <= end:
            self.clock, _, action = heapq.heappop(self._events)
            action()
        if not self._ready:
            self.clock = end
        ready, self._ready = self._ready, []
        return ready

    def result(self, ref: Ref, piece: object) -> tuple[Any, Exception | None]:
        del piece
        if ref.error is not None and not isinstance(ref.error, DiedError):
            raise ref.error
        return ref.value, ref.error

    def cause(self, error: Exception, machine: str) -> Cause:
        del machine
        return "machine" if str(error) == "machine" else "memory" if str(error) == "memory" else "itself"

    def end(self, actor: VirtualActor) -> None:
        self.kill(actor)
