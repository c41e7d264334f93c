"""Translation: chrF of each reply, and BLEU and chrF of all, by sacrebleu."""

from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written


class Translation(Written):
    """Score the chrF of a reply, 0 to 1: shared runs of up to six characters. The report has BLEU and chrF of all.

    Further right translations are in the item's tag `answers`, a JSON list.

    Source: Popović 2015, chrF, WMT15; Papineni et al. 2002, BLEU, ACL; Post 2018, A Call for Clarity in Reporting BLEU
    Judgements, arXiv:1804.08771 (sacrebleu, whose values these are).
    """

    kind: Literal["translation"] = "translation"
    tokenize: Literal["auto", "13a", "zh", "char", "intl"] = "auto"
    """How BLEU cuts texts into words; `auto` takes `zh` where most right answers are Chinese, else `13a`."""

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the chrF of one reply."""
        del shared
        from sacrebleu import sentence_chrf

        said = replies[0].text.strip()
        return {OWN: Judgement(sentence_chrf(said, list(item.answers)).score / 100, said)}
