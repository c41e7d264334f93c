"""Multi-label: all labels of a text, of which it may have several or none."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.replies import json_in
from gristmill.cluster.text.words import whole
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import f1, squad


class MultiLabel(Written):
    """Score the F1 of the labels of an item; 1 if it has none and the reply has none.

    The right answer is a JSON list of labels, such as `["urgent", "billing"]` or `[]`, or one label. The reply may be
    such a list, or a text: then each label counts that is in it as whole words. A list may have labels that are none of
    the suite's; they are wrong ones. `exact` is 1 if all labels are right and none is missing. Over all items the
    report has precision, recall and F1 over all decisions (micro) and as means over the labels (macro), and the F1 of
    each label.

    Source: Tsoumakas & Katakis 2007, Multi-Label Classification: An Overview, IJDWM 3(3), section 4 (measures by
    item); micro, macro and samples averages as in scikit-learn.
    """

    kind: Literal["multi_label"] = "multi_label"
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl", "labels": ["urgent", "billing", "praise"]}
    labels: tuple[str, ...] = Field(default=(), max_length=200)
    """All labels. The default is all labels that the items have."""
    max_tokens: int = Field(default=64, gt=0)
    """Largest number of tokens in a reply."""

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with all labels of the items."""
        found = {label for item in items for label in labels_in(item.answer)}
        return self if self.labels else self.model_copy(update={"labels": tuple(sorted(found))})

    def refuse(self, item: Item) -> str:
        """Refuse an item with a label that is not in the setting `labels`."""
        known = not self.labels or set(labels_in(item.answer)) <= set(self.labels)
        return "" if known else "answer has a label that is none of the labels"

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the F1 of the labels, with the labels that the reply has as a JSON list, and `exact`."""
        del shared
        right, said = set(labels_in(item.answer)), set(labels_said(replies[0].text, self.labels))
        value = f1(len(right & said), len(said), len(right))
        told = json.dumps(sorted(said), ensure_ascii=False)
        return {OWN: Judgement(value, told), "exact": Judgement(float(said == right))}


def labels_in(text: str) -> list[str]:
    """Return the labels of a JSON list of texts; any other text is one label."""
    text = text.strip()
    if text.startswith("["):
        try:
            value = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
            return list(dict.fromkeys(str(one).strip() for one in value))
    return [text] if text else []


def labels_said(text: str, labels: Sequence[str]) -> list[str]:
    """Return the labels in a reply: the entries of a JSON list in it, else the labels that it has as whole words.

    Case and punctuation do not matter. An entry of a list that is none of the labels is returned as it is.
    """
    value = json_in(text)
    if isinstance(value, list):
        known = {squad(label): label for label in labels}
        entries = [str(one).strip() for one in value if isinstance(one, str | int | float)]
        return list(dict.fromkeys(known.get(squad(one), one) for one in entries))
    lower = unicodedata.normalize("NFKC", text).casefold()
    return [one for one in labels if re.search(whole(unicodedata.normalize("NFKC", one).casefold()), lower)]
