"""Choice of rows that are unlike each other, or that represent all other rows: pure functions over a Matrix."""

from typing import NamedTuple

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64


class Spread(NamedTuple):
    """The chosen rows, and for each row the chosen row that represents it."""

    chosen: Int
    """[k] rows in the order of choice."""
    worth: Float64
    """[k] the worth of each row when it was chosen; each method measures it in its own way."""
    stand_in: Int
    """[n] the chosen row that represents each row, -1 if there is none. A chosen row represents itself."""
    figures: dict[str, float]
    """Figures for the report, by name, such as a radius or the value of the objective."""
