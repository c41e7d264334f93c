"""A pool whose worker fills the memory, in a Ray session of its own.

Run it as python -m tests.cluster.runtime.fill FOLDER LIVES COUNT.

Ray's limit is set a little above what the machine uses now, so that nobody else is disturbed.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30
LIMIT = "RAY_memory_usage_threshold"
ROOM, HOLD_S = 3 * GIB, 20.0
"""What Ray lets the machine use beyond the present, and seconds that a worker keeps it full; it is ended before."""


def used(room: int = 0) -> float:
    """Return the share of the memory that is used, and `room` bytes more, as Ray counts: all that is not available."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    return 1 - (sizes["MemAvailable"] - room) / sizes["MemTotal"]


class Filler:
    """Squares numbers; at the number 0 it fills the memory in as many lives as it is given."""

    def __init__(self, folder: str, lives: int) -> None:
        self.folder, self.lives = Path(folder) / "lives", lives
        self.folder.mkdir(exist_ok=True)

    def square(self, number: int) -> int:
        if number == 0 and len(list(self.folder.iterdir())) < self.lives:
            (self.folder / str(os.getpid())).touch()
            held, end = [], time.monotonic() + HOLD_S
            while time.monotonic() < end:  # other programs may take or free some meanwhile
                if used() < float(os.environ[LIMIT]) + 0.01:
                    held.append(b"\1" * (GIB // 8))
                else:
                    time.sleep(0.1)
            raise AssertionError(f"not ended, at {used():.3f} with {len(held)} pieces held")
        return number * number


def main(folder: str, lives: int, count: int) -> None:
    os.environ |= {LIMIT: f"{used(ROOM):.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    import ray

    from gristmill.cluster.contract.errors import RunError
    from gristmill.cluster.runtime import log
    from gristmill.cluster.runtime.pool import Pool, feed_from
    from gristmill.cluster.runtime.progress import Screen
    from gristmill.cluster.runtime.session import session

    log.driver(Path(folder) / "logs")
    results: dict[int, int] = {}

    def done(number: int, square: int) -> None:
        assert number not in results, f"{number} is done twice"
        results[number] = square

    def blamed(number: int, error: Exception) -> None:
        raise AssertionError(f"{number} is blamed for full memory: {error}")

    actor: Any = ray.remote(Filler)
    with (
        session(None, 2, 0),
        Pool[int, int](
            lambda _: actor.options(num_cpus=0).remote(folder, lives),
            lambda a, n: a.square.remote(n),
            1,
            split=lambda number: [number, number],
            give_up=blamed,
            job="square",
            lower="square.actors (2)",
            say=Screen().say,
        ) as pool,
    ):
        try:
            pool.run(feed_from(range(count)), done, lambda: None)
        except RunError as error:
            sys.stderr.write(f"gristmill: {error}\n")
            sys.exit(1)
    sys.stdout.write(f"{sorted(results.items())}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
