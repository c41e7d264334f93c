"""Batches: those who ask while a computation runs share the next one."""

import asyncio
from collections.abc import Sequence

import pytest

from gristmill.generation.prompting.batches import Batches


def test_what_is_asked_together_is_computed_together_up_to_the_most() -> None:
    seen: list[list[int]] = []

    def double(values: Sequence[int]) -> list[int]:
        seen.append(list(values))
        return [2 * value for value in values]

    async def all_of(batches: Batches[int, int]) -> list[int]:
        return await asyncio.gather(*(batches.of(value) for value in range(5)))

    assert asyncio.run(all_of(Batches(double, 2))) == [0, 2, 4, 6, 8]
    assert asyncio.run(all_of(Batches(double))) == [0, 2, 4, 6, 8]
    assert seen == [[0, 1], [2, 3], [4], [0, 1, 2, 3, 4]]


def test_an_error_goes_to_those_who_asked_and_the_next_batch_runs() -> None:
    def picky(values: Sequence[int]) -> Sequence[int]:
        if 0 in values:
            raise ValueError("zero")
        return values

    async def ask() -> list[int | BaseException]:
        batches = Batches(picky, 2)
        return await asyncio.gather(*(batches.of(value) for value in (0, 1, 2)), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, ValueError) and first is second and third == 2
    with pytest.raises(ValueError, match="zero"):
        asyncio.run(Batches(picky).of(0))
