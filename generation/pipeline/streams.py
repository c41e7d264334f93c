"""Random streams that are seeded at their first draw: seeding takes 20 microseconds, and many steps draw nothing."""

from functools import cached_property
from random import Random
from typing import Any, cast

from gristmill.cluster.contract import ids


class _Late:
    """A random stream that is seeded at its first use."""

    def __init__(self, parts: tuple[object, ...]) -> None:
        self._parts = parts

    @cached_property
    def _stream(self) -> Random:
        return ids.stream(*self._parts)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of a stream
        return getattr(self._stream, name)


def stream(*parts: object) -> Random:
    """Return the same stream as `gristmill.cluster.contract.ids.stream`."""
    return cast(Random, _Late(parts))
