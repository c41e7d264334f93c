"""Exact match: whether the reply is the right answer."""

from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import squad


class ExactMatch(Written):
    """Score 1 if the reply is a right answer, else 0.

    An item can have several right answers in its tag `answers` (a JSON list). Case, punctuation, articles and blanks do
    not count, unless `strict` is set.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1.
    """

    kind: Literal["exact_match"] = "exact_match"
    strict: bool = False
    """Whether every character counts, except blanks at the beginning and the end."""

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0."""
        del shared
        said = replies[0].text.strip()
        right = [answer.strip() for answer in item.answers]
        equal = said in right if self.strict else squad(said) in map(squad, right)
        return {OWN: Judgement(float(equal), said)}
