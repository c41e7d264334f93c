"""Summary: ROUGE of a reply, compared with a summary by people."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import f1, units

T = TypeVar("T")


class Summary(Written):
    """Score the ROUGE-L of a reply: F1 of the longest common subsequence of words.

    `rouge1` and `rouge2` are further values. Words are runs of letters and digits in lower case, without stemming. So
    English texts have the values of the package `rouge-score`. Chinese and Japanese are compared by characters; that
    package gives 0 for them. Chinese can also be compared by the words of jieba. Of several right answers (tag
    `answers`), the one with the highest value counts.

    Source: Lin 2004, ROUGE, ACL workshop Text Summarization Branches Out, sections 2 and 3.
    """

    kind: Literal["summary"] = "summary"
    chinese: Literal["characters", "words"] = "characters"
    """The units in which Chinese text is compared. `words` are those of jieba."""

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return ROUGE-L, `rouge1` and `rouge2`."""
        del shared
        said = replies[0].text.strip()
        found = [self.rouge(said, answer) for answer in item.answers]
        best = {name: max(values[name] for values in found) for name in found[0]}
        return {OWN: Judgement(best.pop("rougeL"), said), **{name: Judgement(value) for name, value in best.items()}}

    def rouge(self, said: str, answer: str) -> dict[str, float]:
        """Return the F1 of `rouge1`, `rouge2` and `rougeL` of two texts."""
        left, right = (self._units(text) for text in (said, answer))
        pairs = [Counter(pairwise(side)) for side in (left, right)]
        return {
            "rouge1": _overlap(Counter(left), Counter(right)),
            "rouge2": _overlap(*pairs),
            "rougeL": _f1(_common(left, right), len(left), len(right)),
        }

    def _units(self, text: str) -> list[str]:
        if self.chinese == "characters":
            return units(text)
        import jieba

        return [word.lower() for word in jieba.cut(text) if units(word)]


def _overlap(left: Counter[T], right: Counter[T]) -> float:
    return _f1((left & right).total(), left.total(), right.total())


def _f1(hits: float, found: float, wanted: float) -> float:
    """Return F1; 0 if one of the texts is empty, as `rouge-score` does."""
    return f1(hits, found, wanted) if found and wanted else 0.0


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for one in left:
        before = 0
        for place, other in enumerate(right, 1):
            before, row[place] = row[place], before + 1 if one == other else max(row[place], row[place - 1])
    return row[-1]
