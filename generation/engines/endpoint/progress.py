"""Progress of a server: the calls in flight, when each call last received anything, and which calls are given up.

An answer of several minutes is usual if a model thinks, and a server that is full lets calls wait in a queue. So no
call has a deadline of its own. A call is given up when its server stops: no part of any answer has come for `hang_s`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

log = logging.getLogger(__name__)

LONGEST = 12
"""A call without any sign of life is given up after this many times `hang_s`, even if the server answers other
calls."""
LOOK_S = 5.0
"""Largest number of seconds between two checks of the calls in flight."""
ANSWER_S = 30.0
"""Largest number of seconds that a living server takes to answer a request for its list of models."""


@dataclass
class TimeoutEstimate:
    """An estimate of how long a reply may take, from the seconds per token of about the last hundred replies."""

    seconds: float = 0.0
    tokens: float = 0.0
    guess: float = 0.1
    """Value before anything is measured; it suits a slow server."""

    def add(self, seconds: float, tokens: int) -> None:
        """Add the seconds and the tokens of one reply."""
        self.seconds = 0.99 * self.seconds + seconds
        self.tokens = 0.99 * self.tokens + max(1, tokens)

    def longest(self, max_tokens: int) -> float:
        """Return the seconds that a reply with this many tokens may take: four times the expected time."""
        return 4 * max_tokens * (self.seconds / self.tokens if self.tokens else self.guess)


@dataclass(eq=False, slots=True)
class Call:
    """One call in flight."""

    scope: asyncio.Timeout
    streamed: bool
    """Whether the answer is streamed. Then silence means that the server makes no progress."""
    due: float
    """Time up to which silence is expected."""
    heard: float
    """Time when the call began or its last part came."""
    parts: int = 0


class Progress:
    """The calls in flight at one server, and when any of them last received anything."""

    def __init__(self, hang_s: float, lives: Callable[[], Awaitable[bool]]) -> None:
        """Take the longest silence in seconds, and the function that asks the server whether it is alive."""
        self.hang_s, self._lives = hang_s, lives
        self.parts = 0
        """Number of parts of answers that have come."""
        self._calls: set[Call] = set()
        self._moved = self._lived = 0.0
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watched(self, longest_s: float, *, streamed: bool) -> AsyncIterator[Call]:
        """Watch the call that is made inside the block.

        Raises:
            TimeoutError: when the call is given up.
        """
        now = time.monotonic()
        async with asyncio.timeout(None) as scope:
            call = Call(scope, streamed, now + longest_s, now)
            self._calls.add(call)
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            try:
                yield call
            finally:
                self._calls.discard(call)

    def hear(self, call: Call) -> None:
        """Note that a part of an answer has come."""
        call.heard = self._moved = time.monotonic()
        call.parts += 1
        self.parts += 1

    @property
    def parts_under_way(self) -> int:
        """Number of parts that have come of streamed answers that have not ended."""
        return sum(call.parts for call in self._calls if call.streamed)

    async def close(self) -> None:
        """End the task that checks the calls."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        while self._calls:
            await asyncio.sleep(min(LOOK_S, self.hang_s / 8))
            silent = [call for call in self._calls if self._silent(call, time.monotonic())]
            whole = any(not call.streamed for call in silent)
            if whole and time.monotonic() - self._last > self.hang_s and await self._lives():
                self._lived = time.monotonic()
            for call in silent:
                if call in self._calls and self._hopeless(call, time.monotonic()):
                    call.scope.reschedule(asyncio.get_running_loop().time())

    @property
    def _last(self) -> float:
        return max(self._moved, self._lived)

    def _silent(self, call: Call, now: float) -> bool:
        return now > call.due and now - call.heard > self.hang_s

    def _hopeless(self, call: Call, now: float) -> bool:
        if now - call.heard > LONGEST * self.hang_s:
            return True
        # a server that lists its models may still have lost an answer that should be streaming
        return self._silent(call, now) and now - (self._moved if call.streamed else self._last) > self.hang_s
