"""Batches: values that come during a computation are computed together in the next computation."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Found = TypeVar("Found")


class Batches(Generic[Asked, Found]):
    """A blocking function of many values, for coroutines that have one value each. One thread computes at a time."""

    def __init__(self, compute: Callable[[Sequence[Asked]], Sequence[Found]], most: int | None = None) -> None:
        """Take the function, which returns one result for each value. It gets up to `most` values, or all that wait."""
        self._compute, self._most = compute, most
        self._waiting: list[tuple[Asked, asyncio.Future[Found]]] = []
        self._running: asyncio.Task[None] | None = None

    async def of(self, value: Asked) -> Found:
        """Return the result of a value. An error of the function is raised for every value of the batch."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((value, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # let every row that is ready in this turn of the event loop ask first
        while self._waiting:
            taken = self._waiting[: self._most]
            del self._waiting[: len(taken)]
            try:
                found = await asyncio.to_thread(self._compute, [value for value, _ in taken])
            except Exception as error:  # noqa: BLE001 - raised for every value of the batch
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(taken, found, strict=True):
                if not future.done():
                    future.set_result(result)
