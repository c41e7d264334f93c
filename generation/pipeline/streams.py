"""Random streams that are seeded when they are first drawn from: it takes 20 microseconds, and many steps draw none."""

from functools import cached_property
from random import Random
from typing import Any, cast

from gristmill.cluster.contract import ids


class _Late:
    """Stands for a stream until something is asked of it."""

    def __init__(self, parts: tuple[object, ...]) -> None:
        self._parts = parts

    @cached_property
    def _stream(self) -> Random:
        return ids.stream(*self._parts)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of a stream
        return getattr(self._stream, name)


def stream(*parts: object) -> Random:
    """Return the stream that `gristmill.cluster.contract.ids.stream` gives for the parts."""
    return cast(Random, _Late(parts))
