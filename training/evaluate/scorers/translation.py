"""Translation: chrF of each reply, and BLEU and chrF of all replies together, by sacrebleu."""

from collections.abc import Sequence
from typing import Literal, Self

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written


class Translation(Written):
    """Score the chrF of a reply, 0 to 1: the F-score of its runs of up to six characters.

    The report has BLEU and chrF over all replies together. An item can have several right translations in its tag
    `answers`, a JSON list.

    Source: Popović 2015, chrF, WMT15; Papineni et al. 2002, BLEU, ACL; Post 2018, A Call for Clarity in Reporting BLEU
    Judgements, arXiv:1804.08771 (sacrebleu, which computes the values).
    """

    kind: Literal["translation"] = "translation"
    tokenize: Literal["auto", "13a", "zh", "char", "intl"] = "auto"
    """How BLEU splits texts into words. `auto` is `zh` if most right answers are Chinese, else `13a`."""

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with the way to split texts into words."""
        if self.tokenize != "auto":
            return self
        chinese = sum(item.chinese for item in items) * 2 > len(items)
        return self.model_copy(update={"tokenize": "zh" if chinese else "13a"})

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the chrF of one reply."""
        del shared
        from sacrebleu import sentence_chrf

        said = replies[0].text.strip()
        return {OWN: Judgement(sentence_chrf(said, list(item.answers)).score / 100, said)}
