"""Numeric: whether the final number of a reply is that of the right answer."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field

from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.finals import NUMBER, final_answer
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written


class Numeric(Written):
    r"""Score 1 if the final number of the reply is that of the right answer, else 0.

    The final number is in `\boxed{}`, after `####` or `the answer is`, or in the last line. If there is none, it is the
    last number of the reply. The right answer may be a complete solution, as in GSM8K.

    Source: Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168 (`####`); last number:
    the filter `flexible-extract` of lm-evaluation-harness. Departures: numbers are compared as fractions: 0.5 is 1/2.
    """

    kind: Literal["numeric"] = "numeric"
    tolerance: float = Field(default=0.0, ge=0)
    """Largest difference that still counts as right, as a share of the right number."""

    def refuse(self, item: Item) -> str:
        """Refuse an item if its answer has no number."""
        return "" if number_of(item.answer) is not None else "answer has no number"

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0."""
        del shared
        said, right = number_of(replies[0].text), number_of(item.answer)
        near = said is not None and right is not None and abs(said - right) <= abs(right) * Fraction(self.tolerance)
        return {OWN: Judgement(float(near), replies[0].text.strip())}


def number_of(text: str) -> Fraction | None:
    """Return the final number of a text, or None if it has no number."""
    marked = _fraction(final_answer(text) or "")
    if marked is not None:
        return marked
    found = NUMBER.findall(text)
    return _fraction(found[-1]) if found else None


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").replace("−", "-").replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return None
