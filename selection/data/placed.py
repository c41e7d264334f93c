"""Values of rows that stay in the parts where they were made, and comparisons of pairs of rows near these values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.parts import Parts

MOST_GROUPS = 256
"""Most groups of pairs in one comparison; with more pairs, groups are larger."""


def _same(value: Any) -> Any:  # noqa: ANN401 - of any part
    return value


@dataclass(frozen=True, eq=False)
class Placed:
    """The values of [n] rows: arrays that are cut into parts. A value is found by its place in all parts together."""

    parts: Parts
    at: NDArray[np.int32]
    """[n] place of each row's value: in all parts, one after the other."""
    ends: Int
    """[parts + 1] place at which each part begins; the last entry is the number of all places."""
    open: Callable[..., Any] = _same
    """Returns the values of a part, such as texts that have to be read first."""
    asks: Sequence[Sequence[Any]] = field(default_factory=list)
    """Further arguments of `open` for each part; empty if it needs none."""

    @staticmethod
    def of(values: Any, num: int) -> "Placed":  # noqa: ANN401 - as `parts`
        """Return the values of `num` rows, which are in this process, as one part."""
        return Placed(Parts.of([values]), np.arange(num, dtype=np.int32), np.array([0, num], np.int64))

    def cut(self, values: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield, for each part, some values of its rows; `values` is [n]."""
        row = np.empty(len(self.at), np.int32)
        row[self.at] = np.arange(len(self.at), dtype=np.int32)
        for begin, end in zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True):
            yield values[row[begin:end]]

    def compare(
        self,
        take: Callable[[Any, Int], Any],
        left: Int,
        right: Int,
        compare: Callable[[list[Any], Int, Int], NDArray[Any]],
        kind: type[np.generic],
        group: int,
    ) -> NDArray[Any]:
        """Return [pairs] the result of a comparison of the values of two rows.

        Pairs are compared in groups, so that the values of one group fit in memory. The values of a group are brought
        together, and only results come to this process. A result must not depend on the other pairs of the group.

        Args:
            take: returns the values at some places of a part, in the same order.
            left: [pairs] one row of each pair.
            right: [pairs] the other row.
            compare: gets the values of a group (a list with those from each part) and, for each pair, the place of the
                left and of the right row among these.
            kind: type of a result.
            group: number of pairs in a group.
        """
        result = np.empty(len(left), kind)
        if not len(left):
            return result
        num = min(MOST_GROUPS, -(-len(left) // group))
        order = np.argsort(self.at[left], kind="stable")  # a row is then in few groups
        groups = np.array_split(order, num)
        wanted: list[list[Int]] = [[] for _ in range(len(self.parts))]
        places: list[tuple[Int, Int]] = []
        for pairs in groups:
            one, other = self.at[left[pairs]], self.at[right[pairs]]
            used = np.unique(np.concatenate([one, other]))
            bounds = np.searchsorted(used, self.ends)
            for part, asked in enumerate(wanted):
                asked.append(used[bounds[part] : bounds[part + 1]] - self.ends[part])
            places.append((np.searchsorted(used, one), np.searchsorted(used, other)))
        asks = self.asks or [()] * len(self.parts)
        further = ((asked, *ask) for asked, ask in zip(wanted, asks, strict=True))
        together = self.parts.exchange(partial(_pieces, self.open, take), num, further)
        for pairs, found in zip(groups, together.map(partial(_compare, compare), places), strict=True):
            result[pairs] = found
        return result


def _pieces(
    open_: Callable[..., Any],
    take: Callable[[Any, Int], Any],
    value: Any,  # noqa: ANN401 - of any part
    wanted: Sequence[Int],
    *ask: Any,  # noqa: ANN401
) -> list[Any]:
    """Return the pieces of one part: the values at the wanted places, for each group of pairs."""
    values = open_(value, *ask) if any(map(len, wanted)) else None
    return [None if values is None else take(values, places) for places in wanted]


def _compare(
    compare: Callable[[list[Any], Int, Int], NDArray[Any]], pieces: Sequence[Any], left: Int, right: Int
) -> NDArray[Any]:
    return compare([piece for piece in pieces if piece is not None], left, right)
