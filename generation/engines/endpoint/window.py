"""The window of an endpoint: the number of calls that may be in flight. It adapts to the capacity of the server."""

import asyncio
import logging
import time
from collections import deque

log = logging.getLogger(__name__)


class Window:
    """The number of calls that may be in flight.

    A full window of successes doubles it at first, and adds one place later. It halves when the server is full.
    """

    def __init__(self, limit: int, start: int = 16) -> None:
        """Begin small, so that a small server is not flooded before it can refuse."""
        self.limit = limit
        self.size = float(min(start, limit))
        self.running = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._cuts = 0
        self._paused_until = 0.0

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a place."""
        return len(self._waiters)

    async def enter(self) -> int:
        """Wait for a place, first come first served; return the number of cuts so far, which `cut` needs."""
        if self.running >= int(self.size) or self._waiters:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self.leave()
                elif waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
        else:
            self.running += 1
        return self._cuts

    async def resumed(self) -> None:
        """Wait until the pause is over."""
        await asyncio.sleep(max(0.0, self._paused_until - time.monotonic()))

    def leave(self) -> None:
        """Free the place."""
        self.running -= 1
        self._admit()

    def grow(self) -> None:
        """Count one success.

        Before the first cut, a full window of successes doubles the window. After the cut, it adds one place.
        """
        if self.running >= int(self.size):  # a window that is not full does not show what the server can take
            self.size = min(float(self.limit), self.size + (1.0 if not self._cuts else 1.0 / self.size))
            self._admit()

    def cut(self, cuts: int) -> None:
        """Halve the window, unless it was cut after this call began. So many refusals at once halve it only once."""
        if cuts == self._cuts:
            self._cuts += 1
            self.size = max(1.0, self.size / 2)
            log.info("the endpoint is full: %d calls in flight from now on", int(self.size))

    def pause(self, seconds: float) -> None:
        """Begin no call for this number of seconds."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _admit(self) -> None:
        while self._waiters and self.running < int(self.size):
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.running += 1
                waiter.set_result(None)
