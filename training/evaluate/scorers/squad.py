"""SQuAD: the F1 of the words that a reply and the right answer have in common, and their exact match."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import f1, squad, units


class Squad(Written):
    """Score the F1 of the words that the reply has in common with the right answer.

    Of several right answers (tag `answers`), the one with the highest F1 counts. Case, punctuation and articles do not
    count. Chinese and Japanese are compared by characters. `exact` is 1 if the reply equals a right answer, else 0.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1; characters: Cui et al. 2019, CMRC 2018,
    arXiv:1810.07366, section 4. Departures: common characters count in any order; CMRC takes the longest common
    subsequence.
    """

    kind: Literal["squad"] = "squad"

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return F1 and `exact`."""
        del shared
        said = replies[0].text.strip()
        exact = squad(said) in map(squad, item.answers)
        value = max(words_f1(said, answer) for answer in item.answers)
        return {OWN: Judgement(value, said), "exact": Judgement(float(exact))}


def words_f1(said: str, answer: str) -> float:
    """Return the F1 of the words that two texts have in common."""
    found, wanted = (Counter(units(squad(text))) for text in (said, answer))
    return f1((found & wanted).total(), found.total(), wanted.total())
