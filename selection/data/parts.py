"""Parts: values that belong together, such as the shards of a dataset, and work on each of them.

A part is in this process, or in Ray's object store near the process that made it. The work is the same function in both
cases, so its results are the same. Only the place of the work differs: this process, or tasks of Ray.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from typing import Any

import pyarrow as pa

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.runtime.deaths import advice, deaths, ended
from gristmill.cluster.store.store import Shard, Store
from gristmill.selection import kernels

Read = Callable[[Sequence[str]], pa.Table]
"""Reads the named columns of a part of a dataset. Every call gives the same rows in the same order."""
PART_ROWS = 1 << 16
PART_BYTES = 1 << 26
"""Consecutive shards form one part as long as they have at most `PART_ROWS` rows and `PART_BYTES` bytes together."""
MOST_PARTS = 1024
"""A dataset with more parts than this gets parts of more rows, because an exchange makes an object for each pair of
parts."""
AHEAD = 2
"""Number of tasks that are started for each core before the result of the first is taken."""


@dataclass(frozen=True)
class Tasks:
    """Tasks of Ray, each with one core."""

    num: int
    """Most tasks that run, or wait to run, whose results come to this process."""

    def start(self, function: Any, value: "_Value", more: Sequence[Any], pieces: int = 1) -> Any:  # noqa: ANN401
        """Start one task, and return the reference of its result, or of each of several pieces of it."""
        task = _task().options(num_returns=pieces)
        return task.remote(function, value.joined, len(value.pieces), *value.pieces, *more)


@cache
def _task() -> Any:  # noqa: ANN401 - Ray's functions have no type
    """Return the function of all tasks; Ray sends it to its processes once."""
    import ray

    return ray.remote(num_cpus=1, max_retries=3)(_in_task)


@dataclass(frozen=True)
class _Value:
    """One part: a value, or the list of the pieces that an exchange brought together."""

    pieces: Sequence[Any]
    joined: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """Values, one for each part."""

    values: Sequence[_Value]
    tasks: Tasks | None = None
    """Where work is done: in tasks of Ray, or in this process if it is None."""

    @staticmethod
    def of(values: Iterable[Any], tasks: Tasks | None = None) -> "Parts":
        """Return parts with these values, which are in this process."""
        return Parts([_Value((value,)) for value in values], tasks)

    def __len__(self) -> int:
        return len(self.values)

    def here(self) -> "Parts":
        """Return the same parts, for work in this process."""
        return replace(self, tasks=None)

    def map(self, function: Callable[..., Any], further: Iterable[Sequence[Any]] | None = None) -> Iterator[Any]:
        """Yield the result of a function for each part, in the order of the parts.

        Args:
            function: called with the value of a part, and with the further arguments for this part. It must not depend
                on anything else, because Ray may call it twice, in any process.
            further: further arguments for each part.

        Raises:
            GristmillError: if the function raised it.
            RunError: if the process of a task died, and died again in each of three further tries.
        """
        rest = further if further is not None else repeat(())
        if self.tasks is None:
            for value, more in zip(self.values, rest, strict=False):
                yield _call(function, value.joined, value.pieces, more)
            return
        import ray

        shared, flying = ray.put(function), deque[Any]()
        for value, more in zip(self.values, rest, strict=False):
            flying.append(self.tasks.start(shared, value, more))
            if len(flying) >= self.tasks.num:
                yield _get(flying.popleft())
        while flying:
            yield _get(flying.popleft())

    def hold(self, function: Callable[..., Any], further: Iterable[Sequence[Any]] | None = None) -> "Parts":
        """Return the results of a function as parts, which stay where they were made; see `map`."""
        rest = further if further is not None else repeat(())
        if self.tasks is None:
            return Parts.of(self.map(function, rest))
        import ray

        shared = ray.put(function)
        made = (self.tasks.start(shared, value, more) for value, more in zip(self.values, rest, strict=False))
        return Parts.of(made, self.tasks)

    def exchange(self, function: Callable[..., Any], num: int, further: Iterable[Sequence[Any]]) -> "Parts":
        """Cut each part into `num` pieces, and return `num` parts: part j is the list of all pieces j.

        The function returns the pieces of a part; see `map` for its arguments. In a list, pieces are in the order of
        the parts that they come from.
        """
        if self.tasks is None:
            cut = [tuple(pieces) for pieces in self.map(function, further)]
        else:
            import ray

            shared = ray.put(function if num > 1 else _Only(function))
            made = [self.tasks.start(shared, v, more, num) for v, more in zip(self.values, further, strict=False)]
            cut = [tuple(pieces) if num > 1 else (pieces,) for pieces in made]
        return Parts([_Value([pieces[place] for pieces in cut], joined=True) for place in range(num)], self.tasks)


@dataclass(frozen=True)
class _Only:
    """A function that returns the only piece of another one, because Ray returns a list of one piece as it is."""

    function: Callable[..., Any]

    def __call__(self, *given: Any) -> Any:  # noqa: ANN401 - of the function
        (piece,) = self.function(*given)
        return piece


def _call(function: Callable[..., Any], joined: bool, pieces: Sequence[Any], more: Sequence[Any]) -> Any:  # noqa: ANN401
    return function(list(pieces) if joined else pieces[0], *more)


def _in_task(function: Callable[..., Any], joined: bool, num: int, *given: Any) -> Any:  # noqa: ANN401
    """Call a function in a process of Ray, with one thread: the core of the task."""
    kernels.use_threads(1)
    found = _call(function, joined, given[:num], given[num:])
    return tuple(found) if isinstance(found, list) else found


def _get(reference: Any) -> Any:  # noqa: ANN401 - of the task
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except deaths() as error:
        raise RunError(f"select: {ended('a task that reads samples', error)}; {advice('')}") from error


@dataclass(frozen=True)
class Shards:
    """Reads some shards of a complete dataset, one after the other."""

    store: Store
    dataset: str
    shards: tuple[Shard, ...]

    def __call__(self, columns: Sequence[str]) -> pa.Table:
        """Return the named columns of all rows."""
        return pa.concat_tables([self.store.read_shard(self.dataset, shard, columns) for shard in self.shards])


def parts_of(store: Store, dataset: str, tasks: Tasks | None = None) -> Parts:
    """Return the parts of a complete dataset, as functions that read them."""
    manifest = store.manifest(dataset)
    most = max(PART_ROWS, -(-manifest.rows // MOST_PARTS))
    groups: list[list[Shard]] = []
    rows = size = 0
    for shard in manifest.shards:
        rows, size = rows + shard.rows, size + shard.bytes
        if not groups or rows > most or size > PART_BYTES:
            groups.append([])
            rows, size = shard.rows, shard.bytes
        groups[-1].append(shard)
    return Parts.of((Shards(store, dataset, tuple(group)) for group in groups), tasks)
