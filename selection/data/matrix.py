"""Matrix: [n, d] unit rows on disk or in memory, read block by block; all selectors compute on it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
BLOCK_ROWS = 8192
"""Rows of a block: 12 MiB of float32 at 384 dimensions."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Rows of an array that may be a memory map of float16 or float32; they are read as float32."""

    base: NDArray[np.floating]
    """[N, d]."""
    chosen: Int | None = None
    """[n] rows of the base that form this matrix; None for all of them."""
    readable: NDArray[np.bool_] | None = None
    """[N] whether the text of a row of the base is in a script that the encoder knows; None if it knows all."""
    encoder: str = ""
    """Name of the model that made the vectors, if it is known; thresholds of cosines depend on the model."""

    def __len__(self) -> int:
        return len(self.base) if self.chosen is None else len(self.chosen)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.base.shape[1])

    @property
    def known(self) -> NDArray[np.bool_]:
        """[n] whether a row may be compared with others: its text is in a script that the encoder knows."""
        if self.readable is None:
            return np.ones(len(self), np.bool_)
        return self.readable if self.chosen is None else self.readable[self.chosen]

    def block(self, start: int, stop: int) -> Float32:
        """Return rows [start, stop) in memory; rows that are in memory as float32 are not copied."""
        rows = self.base[start:stop] if self.chosen is None else self.base[self.chosen[start:stop]]
        return np.ascontiguousarray(rows, np.float32)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Float32]]:
        """Yield (first row, block) from the beginning to the end."""
        for start in range(0, len(self), rows):
            yield start, self.block(start, min(start + rows, len(self)))

    def take(self, rows: Int) -> Float32:
        """Return these rows in memory, [len(rows), d]."""
        return np.ascontiguousarray(self.base[rows if self.chosen is None else self.chosen[rows]], np.float32)

    def at(self, rows: Int) -> "Matrix":
        """Return the matrix of these rows, without reading them."""
        rows = np.asarray(rows, np.int64) if self.chosen is None else self.chosen[rows]
        return Matrix(self.base, rows, self.readable, self.encoder)

    def whole(self) -> Float32:
        """Return all rows in memory."""
        return self.block(0, len(self))
