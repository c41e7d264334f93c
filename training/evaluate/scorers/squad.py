"""SQuAD: the F1 of the words that a reply and the right answer have in common, and their exact match."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import f1, squad, units


class Squad(Written):
    """Score the F1 of the words that the reply has in common with the right answer.

    Of several right answers (tag `answers`), the one with the highest F1 counts. Case, punctuation and articles do not
    count. Chinese and Japanese are compared by characters. `exact` is 1 if the reply equals a right answer, else 0.

    An item whose context has no answer is right if the reply is empty or `no_answer`, and wrong with any other reply.
    With such items, the measures are also given for items with an answer (`has_answer_f1`, `has_answer_exact`) and
    without one (`no_answer_exact`), as the script of SQuAD 2.0 gives them.

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1; no answers: Rajpurkar et al. 2018, SQuAD 2.0,
    arXiv:1806.03822, section 5; characters: Cui et al. 2019, CMRC 2018, arXiv:1810.07366, section 4. Departures:
    common characters count in any order; CMRC takes the longest common subsequence.
    """

    kind: Literal["squad"] = "squad"
    unanswerable: ClassVar[bool] = True

    no_answer: str = ""
    """Reply that says that the context has no answer, such as `unanswerable`. An empty reply always says so."""

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return F1 and `exact`."""
        del shared
        said, right = replies[0].text.strip(), self.right(item)
        told = "" if squad(said) == squad(self.no_answer) else said
        exact = squad(told) in map(squad, right)
        value = max(words_f1(told, answer) for answer in right)
        return {OWN: Judgement(value, said), "exact": Judgement(float(exact))}

    def right(self, item: Item) -> tuple[str, ...]:
        """Return the right answers of an item; only the empty text if its context has none."""
        return tuple("" if squad(answer) == squad(self.no_answer) else answer for answer in item.answers)


def by_answer(f1s: Sequence[float], exact: Sequence[float], answerable: Sequence[bool]) -> dict[str, float]:
    """Return the mean values over the items with an answer and over those without; nothing if all are of one kind."""
    if all(answerable) or not any(answerable):
        return {}
    having = [place for place, has in enumerate(answerable) if has]
    lacking = [place for place, has in enumerate(answerable) if not has]
    return {
        "has_answer_f1": sum(f1s[place] for place in having) / len(having),
        "has_answer_exact": sum(exact[place] for place in having) / len(having),
        "no_answer_exact": sum(exact[place] for place in lacking) / len(lacking),
    }


def words_f1(said: str, answer: str) -> float:
    """Return the F1 of the words that two texts have in common."""
    found, wanted = (Counter(units(squad(text))) for text in (said, answer))
    return f1((found & wanted).total(), found.total(), wanted.total())
