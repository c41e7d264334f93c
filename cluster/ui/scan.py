"""Search for a text in many rows of one buffer: a compiled loop that looks at 64 bytes at a time.

A row can contain the text only where three of its bytes are at their places. The three that are rarest in the buffer
are compared first, 64 positions at once, so most bytes are passed over at the speed of the memory.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 64
"""Positions that are compared at once."""
MAX_THREADS = 8
MAX_NEEDLE = 4_096
"""Most bytes of a text to search for."""
PADDING = WIDTH + MAX_NEEDLE
"""Bytes that must follow the last row in the buffer, because the loop reads beyond the end of a row."""


def containing(
    text: NDArray[np.uint8], ends: NDArray[np.int64], rows: NDArray[np.bool_], needle: bytes
) -> NDArray[np.bool_]:
    """Return which of the chosen rows contain a text.

    Args:
        text: the rows one after the other, then `PADDING` bytes.
        ends: `ends[n]` is where row `n` begins and `ends[n + 1]` where it ends.
        rows: the rows to look at.
        needle: 1 to `MAX_NEEDLE` bytes of UTF-8, in lower case as the rows are.
    """
    pattern = np.frombuffer(needle, np.uint8)
    places = _rarest(text, pattern)
    found = np.zeros(len(rows), np.bool_)
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    # parts of equal size in bytes, not in rows
    cuts = np.searchsorted(ends, np.linspace(0, int(ends[-1]), threads + 1))
    cuts[0], cuts[-1] = 0, len(rows)
    loop = _compiled()
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(loop, text, ends, rows, pattern, places, found, (int(cuts[n]), int(cuts[n + 1])))
            for n in range(threads)
        ]
        for part in parts:
            part.result()
    return found


def _rarest(text: NDArray[np.uint8], pattern: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places in the pattern of its three rarest bytes. A shorter pattern has places twice."""
    counts = np.bincount(text[: 1 << 20], minlength=256)
    order = np.argsort(counts[pattern], kind="stable")
    return np.resize(order[:3], 3).astype(np.int64)


def prepare() -> None:
    """Compile the loop, which takes about 3 seconds. The compiled loop is stored for other processes."""
    text, ends = np.frombuffer(bytes(PADDING + 2), np.uint8), np.frombuffer(np.array([0, 2]).tobytes(), np.int64)
    containing(text, ends, np.ones(1, np.bool_), b"a")


@cache
def _compiled() -> Callable[..., None]:
    import numba

    compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(_loop)
    return compiled


def _loop(text: Any, ends: Any, rows: Any, pattern: Any, places: Any, found: Any, part: Any) -> None:  # noqa: ANN401 - compiled by numba
    """Set `found` of each chosen row of a part, (first, last), that contains the pattern."""
    size = len(pattern)
    p0, p1, p2 = places[0], places[1], places[2]
    b0, b1, b2 = pattern[p0], pattern[p1], pattern[p2]
    for row in range(part[0], part[1]):
        at, stop = ends[row], ends[row + 1] - size
        while rows[row] and at <= stop and not found[row]:
            one = text[at + p0 : at + p0 + WIDTH]
            two = text[at + p1 : at + p1 + WIDTH]
            three = text[at + p2 : at + p2 + WIDTH]
            hit = np.uint8(0)
            for n in range(WIDTH):  # without a branch, so that the compiler makes vector instructions of it
                hit = max(hit, np.uint8(np.uint8((one[n] ^ b0) | (two[n] ^ b1) | (three[n] ^ b2)) == 0))
            if hit and size <= 3 and at + WIDTH <= stop + 1:
                found[row] = True  # all bytes of the pattern were compared
            elif hit:
                for place in range(at, min(at + WIDTH, stop + 1)):
                    if text[place + p0] == b0 and text[place + p1] == b1:
                        same = 0
                        while same < size and text[place + same] == pattern[same]:
                            same += 1
                        if same == size:
                            found[row] = True
                            break
            at += WIDTH
