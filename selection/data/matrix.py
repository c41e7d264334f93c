"""Matrix: [n, d] unit rows on disk or in memory, read block by block. All selectors with vectors use it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
BLOCK_ROWS = 8192
"""Number of rows in a block, which take 12 MiB as float32 with 384 dimensions."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Some rows of an array in memory or of a memory map, of float16 or float32; they are returned as float32."""

    base: NDArray[np.floating]
    """[N, d] the array from which rows are chosen."""
    chosen: Int | None = None
    """[n] rows of the base that form this matrix; None means all rows."""
    readable: NDArray[np.bool_] | None = None
    """[N] whether the encoder knows the script of the text of each row of the base; None means that it knows all
    scripts."""
    encoder: str = ""
    """Name of the model that made the vectors, empty if it is not known; thresholds of cosines depend on the model."""

    def __len__(self) -> int:
        return len(self.base) if self.chosen is None else len(self.chosen)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.base.shape[1])

    @property
    def known(self) -> NDArray[np.bool_]:
        """[n] whether the encoder knows the script of a row's text, so that the row may be compared with others."""
        if self.readable is None:
            return np.ones(len(self), np.bool_)
        return self.readable if self.chosen is None else self.readable[self.chosen]

    def block(self, start: int, stop: int) -> Float32:
        """Return the rows [start, stop), in memory; an array of float32 that is in memory is not copied."""
        rows = self.base[start:stop] if self.chosen is None else self.base[self.chosen[start:stop]]
        return np.ascontiguousarray(rows, np.float32)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Float32]]:
        """Yield (first row, block of at most `rows` rows) from the beginning to the end."""
        for start in range(0, len(self), rows):
            yield start, self.block(start, min(start + rows, len(self)))

    def take(self, rows: Int) -> Float32:
        """Return [len(rows), d] these rows, in memory."""
        return np.ascontiguousarray(self.base[rows if self.chosen is None else self.chosen[rows]], np.float32)

    def at(self, rows: Int) -> "Matrix":
        """Return the matrix of these rows; the rows are not read."""
        rows = np.asarray(rows, np.int64) if self.chosen is None else self.chosen[rows]
        return Matrix(self.base, rows, self.readable, self.encoder)

    def whole(self) -> Float32:
        """Return all rows in memory."""
        return self.block(0, len(self))
