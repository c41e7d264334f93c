"""Control of OpenMP's spinning: waiting threads spin for a while if cores are idle, and sleep if other work waits.

A product on several cores ends when its last thread ends, and threads that spin until then begin the next product at
once. On a quiet machine the engine reaches 0.82 of its token rate without any spinning, and 0.95 with 200 us of it
instead of the library's 200 ms. If other processes need the cores, a spinning thread takes time from the thread that it
waits for. See `benchmarks/busy.py`.
"""

import ctypes
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Times of a thread: nanoseconds on a core, nanoseconds ready without a core, number of time slices."""
LOOK_S = 0.2
"""Seconds between two measurements."""
BUSY = 0.1
"""The machine counts as busy if a thread is ready without a core for more than this share of the time. Measured: 0.01
on a quiet machine, with and without spinning; on two cores 0.33 with one other busy process and 0.38 with two."""


class Spinning:
    """The spinning time of the OpenMP threads that belong to the calling thread. Only that thread may call `adapt`."""

    def __init__(self, environment: Mapping[str, str] = os.environ, schedstat: Path = SCHEDSTAT) -> None:
        """Find Intel's or LLVM's library in this process. Without it, or if `KMP_BLOCKTIME` is set, nothing changes."""
        library = ctypes.CDLL(None)
        ours = "KMP_BLOCKTIME" not in environment and schedstat.exists()
        self._set = getattr(library, "kmp_set_blocktime", None) if ours else None
        self._quiet = int(library.kmp_get_blocktime()) if self._set else 0
        self._schedstat = schedstat
        self._busy = False
        self._looked, self._waited = time.monotonic(), 0
        if self._set:
            self._waited = self._wait()

    def adapt(self) -> None:
        """Measure how long this thread waited for a core since the last call, and set how long its threads spin."""
        now = time.monotonic()
        if self._set is None or now - self._looked < LOOK_S:
            return
        waited = self._wait()
        share = (waited - self._waited) / 1e9 / (now - self._looked)
        self._looked, self._waited = now, waited
        if (share > BUSY) != self._busy:
            self._busy = not self._busy
            self._set(0 if self._busy else self._quiet)
            log.info(
                "waited for a core %.0f %% of the time, threads %s", 100 * share, "sleep" if self._busy else "spin"
            )

    def _wait(self) -> int:
        return int(self._schedstat.read_text(encoding="ascii").split()[1])
