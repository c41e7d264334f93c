"""Choosing a budget of rows that are unlike each other, or represent all others: pure functions over a Matrix."""

from typing import NamedTuple

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64


class Spread(NamedTuple):
    """The chosen rows, and the chosen row that represents every row."""

    chosen: Int
    """[k] rows in the order of choice."""
    worth: Float64
    """[k] the worth of each row when it was chosen; each method has its own measure."""
    stand_in: Int
    """[n] the chosen row that represents each row; a chosen row represents itself; -1 without one."""
    figures: dict[str, float]
    """Figures for the report: a radius, the value of the objective."""
