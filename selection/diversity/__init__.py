"""Choosing a budget of rows that are unlike each other, or represent all others: pure functions over a Matrix."""

from typing import NamedTuple

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64


class Spread(NamedTuple):
    """What was chosen, and which chosen row represents every row."""

    chosen: Int
    """[k] rows in the order of choice."""
    worth: Float64
    """[k] what each was worth when it was chosen; see each method."""
    stand_in: Int
    """[n] the chosen row that represents a row, itself for a chosen one; -1 where none does."""
    figures: dict[str, float]
    """What people will want to know: a radius, the value of the objective."""
