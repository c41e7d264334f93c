"""Decorators that compile loops over numbers: those of numba have no types, so they are wrapped here once.

A kernel is compiled at its first call. The compiled code is stored on disk for other processes. A kernel runs without
the interpreter lock.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a loop that runs on one core."""
    return kernel_with()(function)


def parallel(function: Function) -> Function:
    """Compile a loop whose `prange` runs on all cores; no iteration may write where another one does."""
    return kernel_with(parallel=True)(function)


def kernel_with(**options: Any) -> Callable[[Function], Function]:  # noqa: ANN401 - numba's
    """Return a decorator that compiles with further options of numba, such as `fastmath`."""
    made: Callable[[Function], Function] = numba.njit(cache=True, nogil=True, **options)
    return made


_threads = [0]


def use_threads(num: int) -> None:
    """Let this process use so many threads for work on texts and vectors; 0 means one for each core."""
    _threads[0] = num
    numba.set_num_threads(num or numba.config.NUMBA_NUM_THREADS)


def threads() -> int:
    """Return the number of threads for work on texts and vectors: one for each core, but one in a task of Ray."""
    return _threads[0] or len(os.sched_getaffinity(0))
